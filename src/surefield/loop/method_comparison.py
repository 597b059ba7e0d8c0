"""Several selection methods and seeds beside one another, each with labels of its own, as a benchmark.

Every round trains anew from the labels it has, so a round depends on the journal alone: a run that was
killed repeats the round it was in and ends with the same journal as one that was not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from ase import Atoms

from surefield.acquisition.candidate_scores import candidate_scores
from surefield.acquisition.config import FeatureMap
from surefield.acquisition.explanation import feature_map, reasons_of
from surefield.acquisition.select import feature_rows, features_of
from surefield.acquisition.transform_config import make_transforms
from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.execution.identity import check_table, digest
from surefield.execution.progress import Track, track
from surefield.files import json_text, write_arrays
from surefield.loop.config import LoopConfig
from surefield.loop.fit_plan import FitPlan
from surefield.loop.journal import Journal
from surefield.loop.oracles.oracle import Oracle
from surefield.loop.oracles.replay import POOL_INDEX
from surefield.loop.settings import with_selection
from surefield.potentials.potential import Potential
from surefield.selection.features import Features
from surefield.selection.label_share import LabelShare, label_share, most_gained, saving_sentence
from surefield.selection.replay_result import HEADLINE
from surefield.selection.select_rows import select_features
from surefield.selection.transforms import transform_features
from surefield.structures.contents import frame_contents, frame_digest, geometry_of
from surefield.structures.geometry import check_geometry
from surefield.structures.label_sources import results_of
from surefield.structures.read import Frames, read_frames, write_frames
from surefield.training.checkpoint import sample_contents
from surefield.training.config import TrainConfig
from surefield.training.dataset import LabelledSet, prepare
from surefield.uncertainty.config import LLPRConfig, UncertaintyConfig
from surefield.uncertainty.evaluation import evaluate_uncertainty
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["MethodComparison", "check_size"]

_log = logging.getLogger(__name__)
#: Settings that a comparison is made of, besides those that `_later` gives.
_COMPARED: Final = {
    *("pool", "methods", "features", "score", "seeds"),
    *("n_initial", "n_per_round", "n_rounds", "validation"),
}
_LLPR: Final = LLPRConfig()
_FIX: Final = "run the loop in another folder, or start anew with --overwrite"


@final
class MethodComparison:
    """Methods and seeds compared in a folder; `run` does what is left to do.

    A label is computed once, whichever arms ask for it, and the potential that is left in the end is fitted
    on all labels of all arms.

    Args:
        folder: holds journal.jsonl, labels/ and, in the end, potential.npz, labelled.xyz, map.npz
            (`feature_map`, with the picks of each method with the first seed), predictions.npz.
        config: rounds, methods, seeds.
        potential: untrained; with `training.start_from` its elements count alone.
        training: how each round trains, and from which trained potential each starts, if from any.
        oracle: who labels.
        pool: candidates without labels.
        test: labelled structures for the errors.
        isolated_atoms: energies of free atoms, eV; with them element offsets do not depend on the labels.
        uncertainty: which one each round fits.

    Raises:
        ConfigError: no potential, a pool smaller than the labels that are wanted, or features that the
            uncertainty lacks.
        DataError: a structure of pool or test set that cannot be computed, see `check_geometry`.
    """

    def __init__(
        self,
        folder: Path,
        config: LoopConfig,
        potential: Potential,
        training: TrainConfig,
        oracle: Oracle,
        pool: Sequence[Atoms],
        test: Sequence[Atoms] | LabelledSet,
        isolated_atoms: Mapping[str | int, float] | None = None,
        uncertainty: UncertaintyConfig = _LLPR,
    ) -> None:
        check_size(config, len(pool))
        self.folder = folder
        options: Any = {"features": config.features, "isolated_atoms": isolated_atoms}
        self.plan = FitPlan.of(potential, training, uncertainty, config.validation, **options)
        self.config, features = with_selection(config, self.plan.potential, uncertainty)
        self.features: FeatureMap = features
        self.methods = compared_methods(self.config)
        self.oracle, self.pool = oracle, Frames(tuple(pool), tuple(f"pool {i}" for i in range(len(pool))))
        check_geometry(pool if isinstance(pool, Frames) else self.pool)
        if not isinstance(test, LabelledSet):
            test = prepare(Frames(tuple(test), tuple(f"test {i}" for i in range(len(test)))), potential)
        self.test = test
        self.journal = Journal(folder / "journal.jsonl")
        self._labels: dict[int, Atoms] = {}

    def run(self, progress: bool | None = None) -> dict[str, Any]:
        """Do all rounds that the journal does not have yet, and write the summary.

        Raises:
            ConfigError: the journal is that of a loop with another pool, test set or potential, or with other
                settings or labels.
        """
        config = self.config
        self._begin()
        fits = [(seed, method) for seed in config.seeds for method in self.methods]
        total = len(fits) * (config.n_rounds + 1)
        done = len(self.journal.find(event="round"))
        with track(total, "active learning", progress, done=done) as bar:
            for seed, method in fits:
                self._arm(method, seed, bar)
        summary = summarise(self.journal, config)
        final = self.folder / "predictions.npz"
        if not final.exists():
            self._final(self.methods[0], config.seeds[0])
        return summary

    def _begin(self) -> None:
        """Write what the loop is made from, or check that the journal is of the same."""
        oracle = {"name": self.oracle.name, **self.oracle.settings}
        labels = oracle.pop("labels", None)
        plain = {key: v if isinstance(v, str | int | float) else digest(v) for key, v in oracle.items()}
        inputs = {
            "loop": self.config.model_dump(mode="json", include=_COMPARED | _later(self.config))
            | {"methods": list(self.methods)},
            "oracle": plain,
            **self.plan.inputs(),
            "pool": frame_contents(self.pool, (POOL_INDEX,)),
            "pool's labels": labels,
            "test set": sample_contents(self.test.samples),
        }
        sizes = {
            "n_pool": len(self.pool),
            "n_test": len(self.test),
            "methods": list(self.methods),
            "seeds": list(self.config.seeds),
            "oracle": self.oracle.name,
        }
        start = {"event": "start", "version": 1, "fits_all": True, **sizes, "inputs": inputs}
        if not self.journal.append(start, once=["event"]):
            known = self.journal.find(event="start")[0]
            what = f"{self.journal.path} is the journal of another loop"
            fix = f"{_FIX}, or restore what changed"
            check_table(what, known.get("inputs", {}), json.loads(json_text(inputs)), fix)
            check_table(what, known, sizes, fix)

    def _arm(self, method: str, seed: int, bar: Track) -> None:
        config = self.config
        arm = {"method": method, "seed": seed}
        rng = np.random.Generator(np.random.Philox(key=seed))
        first = rng.permutation(len(self.pool))[: config.n_initial].tolist()
        self.journal.append({"event": "initial", **arm, "picks": first}, once=["event", "method", "seed"])
        chosen = self._label(first, arm, 0)
        for number in range(config.n_rounds + 1):
            known = self.journal.find(event="round", round=number, **arm)
            if known:
                event = known[0]
            else:
                event = {"event": "round", **arm, "round": number, "n_labels": len(chosen)}
                event |= self._round(method, seed, number, chosen)
                self.journal.append(event, once=["event", "method", "seed", "round"])
                _log.info("%s, seed %d, round %d: %s", method, seed, number, event["test"])
                error = event["test"].get("forces_mae", np.nan)
                bar.advance(1, method=method, seed=seed, labels=event["n_labels"], **{"F MAE eV/Å": error})
            chosen = chosen + self._label(event["picks"], arm, number + 1)
        self.journal.append({"event": "end", **arm}, once=["event", "method", "seed"])

    def _round(self, method: str, seed: int, number: int, chosen: list[int]) -> dict[str, Any]:
        twin = self.journal.find(event="round", round=0, seed=seed) if number == 0 else []
        # All methods of a seed share the first round, and random selection needs no potential.
        uncertainty, fitted = (None, ()) if twin and method == "random" else self._fit(chosen, seed)
        if twin:
            scores = {key: twin[0][key] for key in ("test", "tails", "calibration") if key in twin[0]}
        else:
            assert uncertainty is not None
            evaluation = evaluate_uncertainty(uncertainty, self.test, fitted)
            scores = {"test": evaluation.test(), "tails": evaluation.tails()}
            scores["calibration"] = evaluation.calibration(uncertainty)
        if number == self.config.n_rounds:
            return {**scores, "picks": [], "gains": [], "reasons": []}
        left = np.setdiff1d(np.arange(len(self.pool)), chosen)
        of_pool = None
        if uncertainty is None or method == "random":
            features = Features(None, np.arange(len(left), dtype=float)[:, None])
        else:
            features = features_of(uncertainty, self.pool[chosen], self.pool[left], self.features)
            features = transform_features(features, make_transforms(self.config.transforms))
            if self.config.score is not None:
                sets = self.pool[left], self.pool[chosen]
                of_pool = candidate_scores(self.config.score, uncertainty, *sets, self.config.per_structure)
        picked = select_features(
            method,
            features,
            self.config.n_per_round,
            sigma=self.config.sigma * features.root_mean_square(),
            seed=1000 * seed + number,
            scores=of_pool,
        )
        if not features.n_train or uncertainty is None:
            reasons = [reason.to_dict() for reason in picked.reasons]
        else:
            reasons = reasons_of(picked, self.pool[chosen], self.pool[left], uncertainty)
        return {
            **scores,
            "picks": [int(left[i]) for i in picked],
            "gains": [float(g) for g in picked.gains],
            "reasons": reasons,
        }

    def _fit(self, chosen: list[int], seed: int) -> tuple[Uncertainty, Sequence[str]]:
        """Train on labels; the quantities that counted in the loss beside the uncertainty."""
        return self.plan.fit([self._labels[i] for i in chosen], seed)

    def _label(self, picks: Sequence[int], arm: dict[str, Any], number: int) -> list[int]:
        """Label structures of the pool; a label is computed once and shared by all arms."""
        (self.folder / "labels").mkdir(exist_ok=True)
        done = []
        for index in picks:
            labelled = self._labelled(index)
            if labelled is None:
                _log.warning("structure %d of the pool could not be labelled", index)
                continue
            event = {
                "event": "labelled",
                **arm,
                "round": number,
                "index": int(index),
                "energy": float(labelled.get_potential_energy()),
                "label": digest(results_of(labelled)),
            }
            if not self.journal.append(event, once=["event", "method", "seed", "index"]):
                (known,) = self.journal.find(event="labelled", **arm, index=int(index))
                what = f"the label of structure {index} of the pool is no longer that of the journal"
                check_table(what, known, {key: event[key] for key in ("energy", "label")}, _FIX)
            done.append(int(index))
        if not done and len(picks):
            raise ExecutionError(f"{self.oracle.name} could not label any of {len(picks)} structures")
        return done

    def _labelled(self, index: int) -> Atoms | None:
        """A structure of the pool with its label, which is kept under the structure's own hash.

        Raises:
            DataError: the file of the label is of another structure.
        """
        if index in self._labels:
            return self._labels[index]
        atoms, folder = self.pool[index], self.folder / "labels"
        path = folder / f"{frame_digest(atoms, (POOL_INDEX,))}.xyz"
        older = folder / f"{index:06d}.xyz"  # its name in version 0.1
        if older.exists() and not path.exists():
            path = older
        if not path.exists():
            (labelled,) = self.oracle.label([atoms])
            if labelled is None:
                return None
            write_frames(path, [labelled])
        labelled = read_frames(path)[0]
        if digest(list(geometry_of(labelled))) != digest(list(geometry_of(atoms))):
            what = f"{path} is the label of another structure than number {index} of the pool"
            raise DataError(what, fix=_FIX)
        return self._labels.setdefault(index, labelled)

    def _final(self, method: str, seed: int) -> None:
        """Fit once more on the labels of all arms: the potential the user takes home."""
        events = self.journal.find(event="labelled")
        first_arm = [e["index"] for e in self.journal.find(event="labelled", method=method, seed=seed)]
        if not first_arm:
            raise DataError("the journal holds no labels")
        chosen = list(dict.fromkeys([*first_arm, *(event["index"] for event in events)]))
        frames = [self._labelled(index) for index in chosen]
        write_frames(self.folder / "labelled.xyz", [atoms for atoms in frames if atoms is not None])
        if self.journal.find(event="start", fits_all=True):
            uncertainty, fitted = self.plan.fit_all([self._labels[i] for i in chosen], seed)
        else:  # the loops of version 0.1 end as they were begun
            uncertainty, fitted = self._fit(first_arm, seed)
        uncertainty.save(self.folder / "potential.npz")
        (initial,) = self.journal.find(event="initial", method=method, seed=seed)
        first = [index for index in first_arm if index in initial["picks"]]
        # By features of the final potential: those of the rounds cannot be compared with one another.
        rows = feature_rows(uncertainty, self.pool, self.features)
        drawn = feature_map(rows[first], rows, squares=self.features == "ll_force")
        for name in self.methods:
            picked = [event["index"] for event in self.journal.find(event="labelled", method=name, seed=seed)]
            later = np.array([index for index in picked if index not in initial["picks"]], np.int64)
            drawn |= {"picks": later} if name == method else {}
            drawn[f"picks_{name}"] = later
        write_arrays(self.folder / "map.npz", drawn)
        evaluate_uncertainty(uncertainty, self.test, fitted).save(self.folder / "predictions.npz")


def _later(config: LoopConfig) -> set[str]:
    """Settings that version 0.1 did not have; they count where they are set, so that its loops go on."""
    defaults = LoopConfig.model_fields
    return {name for name in ("sigma", "transforms") if getattr(config, name) != defaults[name].default}


def compared_methods(config: LoopConfig) -> tuple[str, ...]:
    """Methods of a comparison: those that are named, then random."""
    return (*(method for method in config.methods if method != "random"), "random")


def check_size(config: LoopConfig, n_pool: int) -> None:
    """Raise `ConfigError` if a pool has fewer structures than labels are wanted."""
    needed = config.n_initial + config.n_rounds * config.n_per_round
    if needed > n_pool:
        raise ConfigError(f"the loop wants {needed} labels, but the pool holds {n_pool} structures")


def summarise(journal: Journal, config: LoopConfig) -> dict[str, Any]:
    """Final errors, and how many labels each method needs for the final force errors of random selection.

    `labels_to_match_random` is that for the force MAE, with `by_error` the shares for the other errors and
    `most`, the error in which most was gained.
    """
    rounds = {
        method: [journal.find(event="round", method=method, seed=seed) for seed in config.seeds]
        for method in compared_methods(config)
    }
    methods = {
        method: _described(shares)
        for method in rounds
        if method != "random" and (shares := _shares(rounds[method], rounds["random"]))
    }
    main = compared_methods(config)[0]
    last = journal.find(event="round", method=main, seed=config.seeds[0])[-1]
    summary: dict[str, Any] = {"verb": "loop", "test": last["test"], "calibration": last["calibration"]}
    if last.get("tails"):
        summary["tails"] = last["tails"]
    if main in methods:
        summary["labels_to_match_random"] = methods[main]
        summary["per_method"] = methods
        summary["verdict"] = " ".join(
            saving_sentence(method, _shares(rounds[method], rounds["random"])) for method in methods
        )
    return summary


Rounds = Sequence[Sequence[Mapping[str, Any]]]


def _shares(of_method: Rounds, of_random: Rounds) -> dict[str, LabelShare]:
    """Shares of labels by force error; of those that every round has: journals of 0.1 have no tails."""
    labels = [np.array([[e["n_labels"] for e in seed] for seed in of]) for of in (of_method, of_random)]
    shares = {}
    for error in HEADLINE:
        curves = [
            np.array([[_score(event, f"forces_{error}") for event in seed] for seed in of])
            for of in (of_method, of_random)
        ]
        if all(np.all(curve > 0) for curve in curves):
            shares[error] = label_share(labels[0], curves[0], labels[1], curves[1])
    return shares


def _score(event: Mapping[str, Any], name: str) -> float:
    value = {**event["test"], **(event.get("tails") or {})}.get(name)
    return np.nan if value is None else float(value)


def _described(shares: Mapping[str, LabelShare]) -> dict[str, Any]:
    entry = {key: value for key, value in shares["mae"].to_dict().items() if key != "interval"}
    by_error = {name: share.to_dict() for name, share in shares.items()}
    return {**entry, "by_error": by_error, "most": most_gained(shares)}
