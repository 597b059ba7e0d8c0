"""The loop: rounds of fit, exploration, audit, selection and labels, journalled and resumable.

Every round trains anew from the labels it has, so a round depends on the journal alone: a loop that was
killed repeats the step it was in and ends with the same journal, but for times, as one that was not.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from ase import Atoms

from surefield.acquisition.candidate_scores import candidate_scores
from surefield.acquisition.config import FeatureMap
from surefield.acquisition.explanation import feature_map, reasons_of
from surefield.acquisition.select import select
from surefield.acquisition.transform_config import make_transforms
from surefield.errors import ConfigError, ExecutionError, PotentialError
from surefield.execution.progress import Track, track
from surefield.files import write_arrays
from surefield.loop.audit import audit
from surefield.loop.candidate_features import candidate_features
from surefield.loop.candidates import CandidateSource, PoolCandidates
from surefield.loop.config import LoopConfig
from surefield.loop.ending import affordable, end_before_picks, end_for_lack_of_gain, node_hours
from surefield.loop.failures import AGAIN, due_again, first_places
from surefield.loop.fit_plan import FitPlan
from surefield.loop.journal import Journal
from surefield.loop.ledger import LabelLedger
from surefield.loop.oracles.oracle import Oracle
from surefield.loop.oracles.replay import POOL_INDEX
from surefield.loop.settings import begin, with_selection
from surefield.potentials.potential import HasPotential, Potential
from surefield.potentials.saving import content_hash
from surefield.selection.methods import METHODS
from surefield.selection.selection import Selection
from surefield.structures.images import image_key
from surefield.structures.read import Frames, read_frames, write_frames
from surefield.training.config import TrainConfig
from surefield.training.dataset import LabelledSet, prepare
from surefield.uncertainty.build import load_uncertainty
from surefield.uncertainty.config import LLPRConfig, UncertaintyConfig
from surefield.uncertainty.evaluation import evaluate_uncertainty
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["POTENTIAL", "Loop", "round_folder"]

_log = logging.getLogger(__name__)
_LLPR: Final = LLPRConfig()
POTENTIAL: Final = "potential.npz"
#: Labels: one to fit and one to calibrate.
_FEWEST: Final = 2
IMPORTED: Final = "imported.xyz"
PREDICTIONS: Final = "predictions.npz"
AUDITS: Final = "audits.npz"


def round_folder(folder: Path, number: int) -> Path:
    """Where the potential, the candidates and the picks of a round are kept."""
    return folder / "rounds" / f"{number:03d}"


@final
class Loop:
    """One loop in a folder; `run` does what is left to do.

    Structures that are labelled in a round are picked by the potential that was fitted to all labels before,
    and by random for the audit of this potential; all of them are fitted from then on. In the end the
    potential is fitted to every label, with sigmas as calibrated on a share held out (`FitPlan.fit_all`).

    Args:
        folder: holds journal.jsonl, labels/, rounds/ and, in the end, potential.npz, labelled.xyz and
            predictions.npz.
        config: rounds, method, when to stop; one method and one seed.
        potential: untrained; with `training.start_from` its elements count alone.
        training: how each round trains, and from which trained potential, if from any.
        oracle: who labels.
        candidates: where they come from, or a pool.
        test: labelled structures for the errors; None: audits tell them.
        isolated_atoms: energies of free atoms, eV; with them element offsets do not depend on the labels.
        uncertainty: which one each round fits.
        imported: labels that are there already, of the same oracle.
        executor: where labels, members of ensembles and features of many candidates are computed; None: in
            this process.
        watch: is called after everything that a page shows.

    Raises:
        ConfigError: several methods or seeds (`MethodComparison`), no potential, no candidates, features that
            the uncertainty lacks, or a pool smaller than the labels that are wanted.
        DataError: a structure of pool or test set that cannot be computed, see `check_geometry`.
    """

    def __init__(
        self,
        folder: Path,
        config: LoopConfig,
        potential: Potential | HasPotential,
        training: TrainConfig,
        oracle: Oracle,
        candidates: CandidateSource | Sequence[Atoms],
        test: Sequence[Atoms] | LabelledSet | None = None,
        isolated_atoms: Mapping[str | int, float] | None = None,
        uncertainty: UncertaintyConfig = _LLPR,
        *,
        imported: Sequence[Atoms] = (),
        executor: Executor | None = None,
        watch: Callable[[], None] | None = None,
    ) -> None:
        if config.compares:
            what = "a loop has one method and one seed; several are compared by MethodComparison"
            raise ConfigError(what, got=f"methods {', '.join(config.methods)}; seeds {config.seeds}")
        self.folder = Path(folder)
        options: Any = {"features": config.features, "isolated_atoms": isolated_atoms, "executor": executor}
        self.plan = FitPlan.of(potential, training, uncertainty, config.validation, **options)
        self.config, features = with_selection(config, self.plan.potential, uncertainty)
        self.features: FeatureMap = features
        self.method, self.seed = self.config.methods[0], config.seeds[0]
        if not isinstance(candidates, CandidateSource):
            candidates = PoolCandidates(candidates)
        self.candidates = candidates
        if test is not None and not isinstance(test, LabelledSet):
            named = Frames(tuple(test), tuple(f"test {i}" for i in range(len(test))))
            test = prepare(named, self.plan.potential)
        self.test, self.imported = test, imported
        self.n_audit = config.audits(test is not None)
        self.watch = watch or (lambda: None)
        self.journal = Journal(self.folder / "journal.jsonl")
        self.executor = executor
        self.ledger = LabelLedger(self.folder, self.journal, oracle, executor, self.watch)
        self._current: tuple[int, Uncertainty] | None = None

    def run(self, progress: bool | None = None) -> dict[str, Any]:
        """Do all that the journal does not have yet, and return the summary.

        Raises:
            ConfigError: the journal is that of a loop that cannot be gone on with: another oracle, potential,
                pool or test set.
            ExecutionError: no label of a round could be computed, or exploration found nothing.
            PotentialError: a training that gives no potential, such as one without an epoch that was better
                than the start; the loop goes on from there with other settings of it.
        """
        config = self.config
        begin(self.journal, config, self.plan, self.ledger.oracle, self.candidates, self.test)
        self._import()
        wanted = config.n_initial + config.n_rounds * (config.n_per_round + self.n_audit) + self.n_audit
        with track(wanted, "labels", progress, done=self.ledger.paid) as bar:
            self._begin_labels(bar)
            number, reason = 0, ""
            while not reason:
                reason = self._round(number, bar)
                number += not reason
            self._again(number + 1, bar)
        event = {"event": "end", "method": self.method, "seed": self.seed, "round": number}
        event |= {"n_labels": len(self.ledger), "reason": reason}
        self.journal.append(event, once=["event", "round", "n_labels", "reason"])
        _log.info("end in round %d: %s", number, reason)
        return self._finish(reason)

    def _import(self) -> None:
        """Labels of files, which are kept in the folder: the files may not be there the next time."""
        path = self.folder / IMPORTED
        frames = list(read_frames(path)) if path.exists() else []
        known = {image_key(atoms) for atoms in frames}
        new = {key: atoms for atoms in self.imported if (key := image_key(atoms)) not in known}
        if new:
            frames += new.values()
            write_frames(path, frames)
        if frames:
            self.ledger.take(frames, "loop.labelled")

    def _begin_labels(self, bar: Track) -> None:
        """The first labels, where those that were imported are not enough."""
        known = self.journal.last(event="initial")
        if known is None and len(self.ledger) >= self.config.n_initial:
            return
        path = self._stage_file("initial", 0)
        if known is None:
            wanted = affordable(self.config.n_initial - len(self.ledger), self.ledger, self.config)
            frames = self._new(self.candidates.initial(self.config.n_initial, self.seed))[:wanted]
            write_frames(path, list(frames))
            self._journal_picks("initial", 0, frames, {"picks": _places(frames, range(len(frames)))})
        self._label(_read(path), "initial", 0, bar)
        if len(self.ledger) < _FEWEST:
            causes = dict.fromkeys(event["cause"] for event in self.journal.find(event="failed"))
            raise ExecutionError(
                f"{len(self.ledger)} label of {self.config.n_initial} first structures, and a fit needs two",
                got="; ".join(causes),
                fix="mend what failed, and start anew with --overwrite, or name labels that are there",
            )

    def _round(self, number: int, bar: Track) -> str:
        """One round; why the loop ends with it, or nothing."""
        self._again(number, bar)
        self._fit(number)
        if self.n_audit or self.journal.find(event="drawn", round=number):
            self._audit(number, bar)
        path = self._stage_file("pick", number)
        if not self.journal.find(event="picked", round=number):
            reason = end_before_picks(self.journal, self.ledger, self.config, number)
            reason = reason or self._pick(number, path)
            if reason:
                return reason
        self._label(_read(path), "pick", number, bar)
        return ""

    def _again(self, number: int, bar: Track) -> None:
        """Labels of structures that have failed before and are due again, before the fit of a round."""
        for event in self.journal.find(event=AGAIN, round=number):
            self._label(self._failed_frames(event["structures"]), AGAIN, number, bar)
        if self.journal.find(event="round", round=number):
            return
        due = due_again(self.journal)
        structures = [*due][: affordable(len(due), self.ledger, self.config)]
        if structures:
            event = {"event": AGAIN, "round": number, "structures": structures}
            self.journal.append({**event, "why": [due[key] for key in structures]})
            self.watch()
            self._label(self._failed_frames(structures), AGAIN, number, bar)

    def _failed_frames(self, structures: list[str]) -> Frames:
        """Structures that have failed, from the files of what was chosen."""
        frames = []
        for place in first_places(self.journal, structures):
            frames.append(_read(self._stage_file(place["purpose"], place["round"]))[place["index"]])
        return Frames(tuple(frames), tuple(f"failed structure {i}" for i in range(len(frames))))

    def _stage_file(self, purpose: str, number: int) -> Path:
        """What was chosen for a purpose in a round."""
        if purpose == "initial":
            return self.folder / "initial.xyz"
        return round_folder(self.folder, number) / {"audit": "audits.xyz", "pick": "picked.xyz"}[purpose]

    def _fit(self, number: int) -> None:
        """Fit the potential of a round; what it is and how well it does is journalled."""
        if self.journal.find(event="round", round=number):
            return
        folder = round_folder(self.folder, number)
        folder.mkdir(parents=True, exist_ok=True)
        with self._fitting(f"round {number}"):
            uncertainty, fitted = self.plan.fit(self.ledger.frames, self.seed)
        uncertainty.save(folder / POTENTIAL)
        uncertainty = self._potential(number)
        event = {"event": "round", "method": self.method, "seed": self.seed, "round": number}
        event |= {"n_labels": len(self.ledger), "potential": content_hash(folder / POTENTIAL)}
        event |= {"fitted": list(fitted), "test": {}, "calibration": {}}
        if self.test is not None:
            comparison = evaluate_uncertainty(uncertainty, self.test, fitted)
            event |= {"test": comparison.test(), "calibration": comparison.calibration(uncertainty)}
        self.journal.append(event)
        self.watch()

    @contextmanager
    def _fitting(self, which: str) -> Iterator[None]:
        """A fit that gives no potential is told in the journal and ends the loop until settings change."""
        try:
            yield
        except PotentialError as error:
            event = {"event": "unfitted", "method": self.method, "seed": self.seed, "fit": which}
            event |= {"n_labels": len(self.ledger), "cause": str(error)}
            self.journal.append(event, once=[*event])
            self.watch()
            what = f"{which} has no potential: {error}"
            kept = (
                f"all {len(self.ledger)} labels are kept: change the training and run again, it goes on here"
            )
            raise PotentialError(what, fix=kept) from error

    def _potential(self, number: int) -> Uncertainty:
        """Potential of a round, from its file: a loop that was killed has it from there, too.

        A file that is damaged or gone is made again, from the labels that it was fitted to.

        Raises:
            ExecutionError: what was fitted again is another potential than that of the journal.
        """
        path = round_folder(self.folder, number) / POTENTIAL
        if self._current is None or self._current[0] != number:
            fit = self.journal.last(event="round", round=number)
            if fit is not None and _hash_of(path) != fit["potential"]:
                _log.warning("%s is damaged or gone: fitted again", path)
                self.plan.fit(self.ledger.frames[: fit["n_labels"]], self.seed)[0].save(path)
                if _hash_of(path) != fit["potential"]:
                    what = f"{path} was damaged, and a new fit does not give the potential of the journal"
                    fix = "restore the file, or start another loop with labelled: [labelled.xyz] of this one"
                    raise ExecutionError(what, got=_hash_of(path), expected=fit["potential"], fix=fix)
            self._current = number, load_uncertainty(path)
        return self._current[1]

    def _candidates(self, number: int) -> Frames:
        """Candidates of a round that are neither labelled nor have failed, each once."""
        folder = round_folder(self.folder, number)
        path = folder / "candidates.xyz"
        if self.journal.find(event="explored", round=number) and path.exists():
            return self._new(_read(path))
        frames, told = self.candidates.of_round(number, self._potential(number), folder)
        if not isinstance(self.candidates, PoolCandidates):
            write_frames(path, list(frames))
            frames = _read(path)
        self.journal.append({"event": "explored", "round": number, **told}, once=["event", "round"])
        self.watch()
        return self._new(frames)

    def _new(self, frames: Frames) -> Frames:
        known = {event["structure"] for event in self.journal.find(event="failed")}
        places = []
        for place, atoms in enumerate(frames):
            key = image_key(atoms)
            if key not in known and atoms not in self.ledger:
                places.append(place)
                known.add(key)
        return frames[places]

    def _audit(self, number: int, bar: Track) -> None:
        """Random candidates, labelled before the potential sees them: what it makes of them is its error."""
        path = self._stage_file("audit", number)
        if not self.journal.find(event="drawn", round=number):
            n = affordable(self.n_audit, self.ledger, self.config)
            frames = self._candidates(number) if n else Frames((), ())
            rng = np.random.Generator(np.random.Philox(key=[self.seed, number]))
            drawn = rng.permutation(len(frames))[:n].tolist()
            if not drawn:
                return
            write_frames(path, [frames[i] for i in drawn])
            self._journal_picks("drawn", number, frames[drawn], {"picks": _places(frames, drawn)})
        labelled = self._label(_read(path), "audit", number, bar)
        if labelled and not self.journal.find(event="audited", round=number):
            (fit,) = self.journal.find(event="round", round=number)
            scores, comparison = audit(self._potential(number), labelled, fit["fitted"])
            comparison.save(round_folder(self.folder, number) / AUDITS)
            event = {"event": "audited", "method": self.method, "seed": self.seed, "round": number}
            self.journal.append({**event, "n_labels": fit["n_labels"], **scores})
            self.watch()

    def _pick(self, number: int, path: Path) -> str:
        """Choose what to label; why the loop ends instead, or nothing."""
        config, uncertainty, known = self.config, self._potential(number), self.ledger.frames
        candidates = self._candidates(number)
        if not len(candidates):
            return "exhausted: all candidates are labelled, or cannot be"
        n = affordable(config.n_per_round, self.ledger, config)
        score = config.score if METHODS[self.method].uses_features else None
        of_sigma = score if isinstance(score, str) else None
        (fit,) = self.journal.find(event="round", round=number)
        seed = 1000 * self.seed + number
        features = candidate_features(
            round_folder(self.folder, number) / POTENTIAL,
            fit["potential"],
            uncertainty,
            candidates,
            self.features,
            of_sigma,
            seed=seed,
            executor=self.executor,
        )
        scores = None if features.scores is None else {str(of_sigma): features.scores}
        if score is not None and of_sigma is None:
            scores = candidate_scores(score, uncertainty, candidates, known, config.per_structure)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # `stopped` says it
            batch = select(
                uncertainty,
                known,
                candidates,
                self.method,
                min(n, len(candidates)),
                features=self.features,
                transforms=make_transforms(config.transforms),
                scores=scores,
                constraints=config.constraints.of(candidates, self.ledger.timed()),
                sigma=config.sigma,
                seed=seed,
                pool_rows=features.rows if features.rows.shape[1] else None,
            )
        if reason := end_for_lack_of_gain(self.journal, config, batch):
            return reason
        write_frames(path, [candidates[i] for i in batch])
        entries = {
            "method": self.method,
            "seed": self.seed,
            "potential": fit["potential"],
            "n_fitted": fit["n_labels"],
            "n_labels": len(known),
            "n_candidates": len(candidates),
            "picks": _places(candidates, list(batch)),
            "gains": batch.gains,
            "stopped": batch.stopped,
            "squared_distances": batch.squared_distances,
            "reasons": reasons_of(batch, known, candidates, uncertainty),
        }
        self._journal_picks("picked", number, candidates[batch.indices], entries)
        self._map(batch)
        return ""

    def _journal_picks(self, event: str, number: int, frames: Frames, entries: Mapping[str, Any]) -> None:
        told = {"event": event, "method": self.method, "seed": self.seed, "round": number}
        told["structures"] = [image_key(atoms) for atoms in frames]
        told["formulas"] = [atoms.get_chemical_formula() for atoms in frames]
        self.journal.append({**told, **entries})
        self.watch()

    def _map(self, batch: Selection) -> None:
        """Where the latest picks lie among labels and candidates, for the page."""
        if batch.g_pool is not None and batch.g_train is not None:
            squares = self.features == "ll_force"
            drawn = feature_map(batch.g_train, batch.g_pool, squares=squares) | {"picks": batch.indices}
            write_arrays(self.folder / "map.npz", drawn)

    def _label(self, frames: Frames, purpose: str, number: int, bar: Track) -> list[Atoms]:
        before = self.ledger.paid
        labelled = self.ledger.obtain(frames, purpose, number, needed=purpose in ("initial", "pick"))
        if self.ledger.paid > before:
            bar.advance(self.ledger.paid - before, labels=len(self.ledger), round=number)
        return labelled

    def _finish(self, reason: str) -> dict[str, Any]:
        """Fit once more, on every label: the potential the user takes home."""
        self.ledger.write()
        path, n_labels = self.folder / POTENTIAL, len(self.ledger)
        known = self.journal.last(event="final")
        if known is None or known["n_labels"] != n_labels or known["potential"] != _hash_of(path):
            with self._fitting("the last fit"):
                uncertainty, fitted = self.plan.fit_all(self.ledger.frames, self.seed)
            uncertainty.save(path)
            uncertainty = load_uncertainty(path)
            event = {"event": "final", "method": self.method, "seed": self.seed, "n_labels": n_labels}
            event |= {"potential": content_hash(path), "fitted": list(fitted), "test": {}, "calibration": {}}
            if self.test is not None:
                comparison = evaluate_uncertainty(uncertainty, self.test, fitted)
                comparison.save(self.folder / PREDICTIONS)
                event |= {"test": comparison.test(), "calibration": comparison.calibration(uncertainty)}
            self.journal.append(event, once=["event", "n_labels", "potential"])
            known = event
        return self._summary(known, reason)

    def _summary(self, final: Mapping[str, Any], reason: str) -> dict[str, Any]:
        structures = {event["structure"] for event in self.journal.find(event="failed")}
        failed = len([key for key in structures if not self.journal.find(event="labelled", structure=key)])
        paid = self.ledger.paid
        summary: dict[str, Any] = {
            "verb": "loop",
            "n_labels": len(self.ledger),
            "n_paid": paid,
            "n_failed": failed,
            "node_hours": node_hours(self.ledger, self.config),
            "reason": reason,
            "potential": final["potential"],
        }
        audits = self.journal.find(event="audited")
        if self.test is not None:
            summary |= {"test": dict(final["test"]), "calibration": final["calibration"], "evaluated": "test"}
        elif audits:
            last = audits[-1]
            summary |= {"audit": last["test"], "calibration": last["calibration"], "evaluated": "audit"}
        summary["verdict"] = _verdict(summary, audits)
        return summary


def _verdict(summary: Mapping[str, Any], audits: Sequence[Mapping[str, Any]]) -> str:
    text = f"One potential from {summary['n_labels']} labels ({summary['n_paid']} paid for here"
    text += f", {summary['n_failed']} failed)" if summary["n_failed"] else ")"
    errors = summary.get("test") or summary.get("audit") or {}
    if "forces_mae" in errors:
        where = (
            "the test set"
            if summary.get("test")
            else f"{audits[-1]['n']} random candidates of the last round"
        )
        text += f"; the force error on {where} is {1e3 * errors['forces_mae']:.3g} meV/Å"
    return f"{text}. It ended by {summary['reason']}."


def _hash_of(path: Path) -> str | None:
    """Content of the file of a potential; None if there is none that can be read."""
    try:
        return content_hash(path)
    except PotentialError:
        return None


def _places(frames: Frames, chosen: Sequence[int]) -> list[int]:
    """Where structures are in the pool, or among the candidates of a round."""
    return [int(frames[i].info.get(POOL_INDEX, i)) for i in chosen]


def _read(path: Path) -> Frames:
    frames = read_frames(path)
    return Frames(tuple(frames), tuple(f"{path.stem} {i}" for i in range(len(frames))))
