"""The active-learning loop: rounds of fit, uncertainty, selection and labels, journalled and resumable.

Every round trains anew from the labels it has, so a round depends on the journal alone: a run that was
killed repeats the round it was in and ends with the same journal as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from ase import Atoms

from surefield.acquisition.select import feature_rows, score_frames
from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.execution.progress import Track, track
from surefield.files import atomic_path
from surefield.loop.config import LoopConfig
from surefield.loop.journal import Journal
from surefield.loop.oracle import Oracle
from surefield.potentials.potential import Potential
from surefield.potentials.prediction import Prediction
from surefield.selection.select_rows import select_rows
from surefield.structures.read import Frames, read_frames, write_frames
from surefield.structures.splits import split_frames
from surefield.training.config import TrainConfig
from surefield.training.dataset import LabelledSet, prepare
from surefield.training.train import fit_samples
from surefield.uncertainty.llpr import LLPR
from surefield.uncertainty.metrics import uq_metrics

__all__ = ["Loop", "Predicted", "predict_test"]

_log = logging.getLogger(__name__)
#: Of `LLPR.fit`: a round holds out a few energies only, and they steer the early stop as well.
SHARED_ALPHA = 10.0


@dataclass(frozen=True, eq=False)
class Predicted:
    """Labels, predictions and uncertainties of the test set, flat: the content of `predictions.npz`."""

    arrays: dict[str, np.ndarray]

    def residuals(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Residuals and sigmas, energies per atom, components that vanish by symmetry left out."""
        a = self.arrays
        if kind == "energy":
            return (a["energy"] - a["energy_reference"]) / a["n_atoms"], a["energy_uncertainty"] / a[
                "n_atoms"
            ]
        keep = a[f"{kind}_uncertainty"] > 0
        return (a[kind] - a[f"{kind}_reference"])[keep], a[f"{kind}_uncertainty"][keep]

    def test(self) -> dict[str, float]:
        """Errors: eV/atom, eV/Å."""
        a = self.arrays
        energy = (a["energy"] - a["energy_reference"]) / a["n_atoms"]
        forces = a["forces"] - a["forces_reference"]
        return {
            "energy_mae": float(np.abs(energy).mean()),
            "energy_rmse": float(np.sqrt((energy**2).mean())),
            "forces_mae": float(np.abs(forces).mean()),
            "forces_rmse": float(np.sqrt((forces**2).mean())),
        }

    def calibration(self, llpr: LLPR) -> dict[str, dict[str, float]]:
        """Coverage, miscalibration area, NLL beside that of the best constant sigma, per kind."""
        found = {}
        for kind in ("energy", "forces"):
            r, sigma = self.residuals(kind)
            metrics = uq_metrics(r, sigma)
            constant = float(np.sqrt(np.mean(r**2)))
            found[kind] = {
                "coverage_68": float(np.mean(np.abs(r) <= sigma)),
                "miscalibration_area": metrics["miscalibration_area"],
                "nll": metrics["nll"],
                "nll_constant": float(0.5 * np.log(2 * np.pi * constant**2) + 0.5),
                "alpha": float(getattr(llpr.maps[kind], "alpha", np.nan)),
            }
        return found


def predict_test(llpr: LLPR, test: LabelledSet, found: Sequence[Prediction] | None = None) -> Predicted:
    """Predict a labelled set with the uncertainties of energies and forces, unless `found` holds them."""
    found = llpr.predict(test.frames, forces=True) if found is None else found
    labels = [sample.labels for sample in test.samples]
    pick: Callable[[str], np.ndarray] = lambda name: np.concatenate([getattr(p, name).ravel() for p in found])  # noqa: E731
    return Predicted(
        {
            "n_atoms": np.array([sample.structure.n_atoms for sample in test.samples]),
            "energy_reference": np.array([label.energy for label in labels]),
            "energy": np.array([p.energy for p in found]),
            "energy_uncertainty": np.array([p.energy_uncertainty for p in found]),
            "forces_reference": np.concatenate(
                [np.ravel(cast(np.ndarray, label.forces)) for label in labels]
            ),
            "forces": pick("forces"),
            "forces_uncertainty": pick("forces_uncertainty"),
            "species": np.concatenate([sample.structure.numbers for sample in test.samples]),
        }
    )


class Loop:
    """One loop in a folder; `run` does what is left to do.

    Args:
        folder: holds journal.jsonl, labels/ and, in the end, predictions.npz, potential.npz, summary.json.
        config: rounds, methods, seeds.
        potential: untrained.
        training: how each round trains.
        oracle: who labels.
        pool: candidates without labels.
        test: labelled structures for the errors.
        isolated_atoms: energies of free atoms, eV; with them element offsets do not depend on the labels.
    """

    def __init__(
        self,
        folder: Path,
        config: LoopConfig,
        potential: Potential,
        training: TrainConfig,
        oracle: Oracle,
        pool: Sequence[Atoms],
        test: Sequence[Atoms],
        isolated_atoms: Mapping[str | int, float] | None = None,
    ) -> None:
        needed = config.n_initial + config.n_rounds * config.n_per_round
        if needed > len(pool):
            raise ConfigError(f"the loop wants {needed} labels, but the pool holds {len(pool)} structures")
        self.folder, self.config, self.potential, self.training = folder, config, potential, training
        self.oracle, self.pool = oracle, Frames(tuple(pool), tuple(f"pool {i}" for i in range(len(pool))))
        self.test = prepare(Frames(tuple(test), tuple(f"test {i}" for i in range(len(test)))), potential)
        self.isolated_atoms = isolated_atoms or {}
        self.journal = Journal(folder / "journal.jsonl")
        self._labels: dict[int, Atoms] = {}

    def run(self, progress: bool | None = None) -> dict[str, Any]:
        """Do all rounds that the journal does not have yet, and write the summary."""
        config = self.config
        self.journal.append(self._start(), once=["event"])
        fits = [(seed, method) for seed in config.seeds for method in config.methods]
        total = len(fits) * (config.n_rounds + 1)
        with track(total, "active learning", progress) as bar:
            for seed, method in fits:
                self._arm(method, seed, bar)
        summary = summarise(self.journal, config)
        final = self.folder / "predictions.npz"
        if not final.exists():
            self._final(config.methods[0], config.seeds[0])
        return summary

    def _start(self) -> dict[str, Any]:
        settings = [self.config.model_dump(mode="json"), self.training.model_dump(mode="json")]
        return {
            "event": "start",
            "version": 1,
            "config_hash": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16],
            "n_pool": len(self.pool),
            "n_test": len(self.test),
            "methods": list(self.config.methods),
            "seeds": list(self.config.seeds),
            "oracle": self.oracle.name,
        }

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
            test = event["test"]
            bar.advance(
                1, method=method, seed=seed, labels=event["n_labels"], **{"F MAE eV/Å": test["forces_mae"]}
            )
            chosen = chosen + self._label(event["picks"], arm, number + 1)
        self.journal.append({"event": "end", **arm}, once=["event", "method", "seed"])

    def _round(self, method: str, seed: int, number: int, chosen: list[int]) -> dict[str, Any]:
        twin = self.journal.find(event="round", round=0, seed=seed) if number == 0 else []
        # All methods of a seed share the first round, and random selection needs no potential.
        llpr = None if twin and method == "random" else self._fit(chosen, seed)
        if twin:
            scores = {key: twin[0][key] for key in ("test", "calibration")}
        else:
            assert llpr is not None
            predicted = predict_test(llpr, self.test)
            scores = {"test": predicted.test(), "calibration": predicted.calibration(llpr)}
        if number == self.config.n_rounds:
            return {**scores, "picks": [], "gains": [], "reasons": []}
        left = np.setdiff1d(np.arange(len(self.pool)), chosen)
        kind, variances = self.config.features, None
        if llpr is None or method == "random":
            pool, train = np.arange(len(left), dtype=float)[:, None], None
        else:
            pool = feature_rows(llpr, self.pool[left], kind)
            train = feature_rows(llpr, self.pool[chosen], kind)
            if self.config.score is not None:
                variances = {self.config.score: score_frames(llpr, self.pool[left], self.config.score)}
        picked = select_rows(
            method, pool, train, self.config.n_per_round, seed=1000 * seed + number, scores=variances
        )
        return {
            **scores,
            "picks": [int(left[i]) for i in picked],
            "gains": [float(g) for g in picked.gains],
            "reasons": [str(reason) for reason in picked.reasons],
        }

    def _fit(self, chosen: list[int], seed: int) -> LLPR:
        data = prepare([self._labels[i] for i in chosen], self.potential)
        fitted, held = split_frames(data.frames, self.config.validation, seed=seed)
        fit = fit_samples(
            self.potential,
            data[fitted],
            data[held],
            self.training,
            isolated_atoms=self.isolated_atoms,
            progress=False,
        )
        return LLPR.fit(fit.potential, data[fitted], data[held], shared_alpha=SHARED_ALPHA, progress=False)

    def _label(self, picks: Sequence[int], arm: dict[str, Any], number: int) -> list[int]:
        """Label structures of the pool; a label is computed once and shared by all arms."""
        folder = self.folder / "labels"
        folder.mkdir(exist_ok=True)
        done = []
        for index in picks:
            path = folder / f"{index:06d}.xyz"
            if index not in self._labels:
                if not path.exists():
                    (labelled,) = self.oracle.label([self.pool[index]])
                    if labelled is None:
                        _log.warning("structure %d of the pool could not be labelled", index)
                        continue
                    write_frames(path, [labelled])
                self._labels[index] = read_frames(path)[0]
            energy = float(self._labels[index].get_potential_energy())
            event = {"event": "labelled", **arm, "round": number, "index": int(index), "energy": energy}
            self.journal.append(event, once=["event", "method", "seed", "index"])
            done.append(int(index))
        if not done and len(picks):
            raise ExecutionError(f"{self.oracle.name} could not label any of {len(picks)} structures")
        return done

    def _final(self, method: str, seed: int) -> None:
        """Fit once more on all labels of the first arm: the potential the user takes home."""
        chosen = [e["index"] for e in self.journal.find(event="labelled", method=method, seed=seed)]
        if not chosen:
            raise DataError("the journal holds no labels")
        for index in chosen:
            self._labels.setdefault(index, read_frames(self.folder / "labels" / f"{index:06d}.xyz")[0])
        llpr = self._fit(chosen, seed)
        llpr.save(self.folder / "potential.npz")
        arrays = predict_test(llpr, self.test).arrays
        with atomic_path(self.folder / "predictions.npz") as path, path.open("wb") as file:
            np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]


def summarise(journal: Journal, config: LoopConfig) -> dict[str, Any]:
    """Final errors, and how many labels each method needs for the final force error of random selection."""

    def curves(method: str) -> tuple[np.ndarray, np.ndarray]:
        """Labels and force errors, (n_seeds, n_rounds)."""
        rounds = [journal.find(event="round", method=method, seed=seed) for seed in config.seeds]
        labels = [[e["n_labels"] for e in events] for events in rounds]
        return np.array(labels), np.array([[e["test"]["forces_mae"] for e in events] for events in rounds])

    def share(labels: np.ndarray, error: np.ndarray, target: float, budget: float) -> float | None:
        needed = labels_to_reach(labels, error, target) / budget
        return float(needed) if np.isfinite(needed) else None

    random_labels, random_error = curves("random")
    budget, target = random_labels[:, -1], random_error[:, -1]
    methods: dict[str, Any] = {}
    for method in config.methods:
        if method == "random":
            continue
        labels, error = curves(method)
        # Single curves are noisy enough to miss a single target, or to meet it by luck.
        averaged = np.exp(np.log(error).mean(axis=0))
        methods[method] = {
            "fraction": share(labels.mean(axis=0), averaged, np.exp(np.log(target).mean()), budget.mean()),
            "per_seed": [share(*row) for row in zip(labels, error, target, budget, strict=True)],
        }
    main = config.methods[0]
    last = journal.find(event="round", method=main, seed=config.seeds[0])[-1]
    summary: dict[str, Any] = {"verb": "loop", "test": last["test"], "calibration": last["calibration"]}
    if main in methods:
        summary["labels_to_match_random"] = methods[main]
        summary["per_method"] = methods
        summary["verdict"] = verdict(main, methods[main])
    return summary


def labels_to_reach(labels: np.ndarray, error: np.ndarray, target: float) -> float:
    """Labels at which an error curve first meets a target, by linear interpolation; infinity if never."""
    below = np.flatnonzero(error <= target)
    if not len(below):
        return float("inf")
    i = int(below[0])
    if i == 0:
        return float(labels[0])
    share = (error[i - 1] - target) / (error[i - 1] - error[i])
    return float(labels[i - 1] + share * (labels[i] - labels[i - 1]))


def verdict(method: str, found: dict[str, Any]) -> str:
    """One honest sentence about a method against random selection."""
    n, missed = len(found["per_seed"]), sum(share is None for share in found["per_seed"])
    goal = "the final force error of random selection"
    curves = f"mean curves of {n} repetitions" if n > 1 else "one repetition"
    alone = f"; {missed} of {n} alone did not reach it" if missed and n > 1 else ""
    if found["fraction"] is None:
        return f"{method} did not reach {goal} ({curves})."
    percent = f"{100 * found['fraction']:.0f} %"
    if found["fraction"] < 1:
        return f"{method} reaches {goal} with {percent} of its labels ({curves}{alone})."
    return f"{method} shows no saving over random selection: it needs {percent} of the labels ({curves})."
