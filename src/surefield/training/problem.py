"""What a trainer is given: labelled configurations, their weights, the split, and the folder of the run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float

from surefield.files import append_line, write_atomic
from surefield.potentials.potential import Potential
from surefield.potentials.saving import arrays_hash
from surefield.training.checkpoint import PartialSums, identity_of
from surefield.training.dataset import Sample

__all__ = [
    "EVALUATIONS",
    "ROW_SUMS",
    "Problem",
    "ResidualWeights",
    "TrainingRun",
    "Weights",
    "problem_hash",
    "residual_weights",
]

#: Files of a run that was interrupted while rows were summed, or while a loss was minimised.
ROW_SUMS: Final = "row-sums.npz"
EVALUATIONS: Final = "evaluations.npz"


class Weights(NamedTuple):
    """Weights of the residuals of a call (eV/atom, eV/Å, eV/Å^3); the loss goes with their squares."""

    energy: float = 1.0
    forces: float = 1.0
    stress: float = 1.0


class ResidualWeights(NamedTuple):
    """What the residuals of one configuration are multiplied by; 0 where there is no label."""

    energy: float
    forces: Float[np.ndarray, " n_atoms"]
    stress: Float[np.ndarray, " 6"]


@dataclass(frozen=True)
class TrainingRun:
    """The folder of one run; everything a training writes goes there."""

    folder: Path

    def path(self, name: str) -> Path:
        """Path of a file of the run."""
        return self.folder / name

    def log(self, text: str) -> None:
        """Add a line with the time to log.txt."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        append_line(self.path("log.txt"), f"{stamp} {text}".replace("\n", " "))

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Add a row to metrics.csv; the first one sets the columns."""
        path = self.path("metrics.csv")
        if not path.exists():
            write_atomic(path, _line(list(row)) + "\n")
        append_line(path, _line(list(row.values())))


def _line(values: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([repr(v) if isinstance(v, float) else v for v in values])
    return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class Problem:
    """What `Trainer.fit` minimises.

    Attributes:
        train: configurations that are fitted, in stored order.
        validation: the others, likewise.
        weights: eweight, fweight, vweight of the call.
        seed: of everything random.
        run: folder of the run.
        handle: of the potential, with its settings; None where the potential came without.
    """

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    weights: Weights
    seed: int
    run: TrainingRun
    handle: Any = None

    def residual_weights(self, sample: Sample) -> ResidualWeights:
        """Weights of the residuals of one configuration; 0 where it has no such label."""
        return residual_weights(sample, self.weights)

    def kept(self, file: str, model: Potential, settings: str = "") -> PartialSums:
        """What keeps the state of a fit while it goes on.

        Args:
            file: of the run, such as `ROW_SUMS`.
            model: that is fitted.
            settings: of the trainer, as far as the state depends on them, as a digest.
        """
        identity = identity_of(rows=problem_hash(self), start=arrays_hash(model), settings=settings)
        return PartialSums(self.run.path(file), identity)


def residual_weights(sample: Sample, weights: Weights) -> ResidualWeights:
    """Weights of the residuals of one configuration; 0 where it has no such label."""
    energy, forces, stress = (
        weight * sample.weight * sample.factors.get(kind, 1.0) if kind in sample.labels else 0.0
        for kind, weight in zip(Weights._fields, weights, strict=True)
    )
    whole = sample.known("forces").all(axis=1)
    return ResidualWeights(energy, forces * sample.weights_of_atoms * whole, stress * sample.known("stress"))


def problem_hash(problem: Problem) -> str:
    """Hash of ids, labels and weights of all configurations."""
    digest = hashlib.sha256()
    for c in (*problem.train, None, *problem.validation):
        if c is None:
            digest.update(b"validation")
            continue
        weights = problem.residual_weights(c)
        digest.update(json.dumps([c.id, c.labels.energy, weights.energy, weights.stress.max()]).encode())
        for values in (
            c.structure.positions,
            c.structure.cell,
            c.labels.forces,
            c.labels.stress,
            weights.forces,
        ):
            digest.update(b"-" if values is None else np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:32]
