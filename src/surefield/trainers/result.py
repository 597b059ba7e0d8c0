"""What a training gives back, also when it is read again from the folder of its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surefield.potentials.potential import Potential
from surefield.trainers.handle import PotentialHandle
from surefield.trainers.losses import ErrorTable

__all__ = ["TrainingResult", "TrainingWarning"]


class TrainingWarning(UserWarning):
    """A training went on, and something about it should be known."""


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """Outcome of a training; unpacks as `model, errors = trainer.train(...)`.

    Attributes:
        potential: the handle that was given, with the trained model.
        success: whether the fit converged; the best parameters seen are kept either way.
        message: of the solver.
        loss: weighted loss of the training configurations.
        errors: table of energy, force and stress errors.
        split: {'train': ids, 'validation': ids}.
        path: folder of the run.
        kim_id: id in the registry; None if it was not kept there.
        history: one record per epoch or evaluation.
        rows: rows used per kind of label.
        seed: of the run.
        n_evals: evaluations of the loss.
        notes: further facts of the solver, such as rank and condition.
    """

    potential: PotentialHandle
    success: bool
    message: str
    loss: float
    errors: ErrorTable
    split: Mapping[str, list[str]]
    path: Path
    kim_id: str | None
    history: tuple[Mapping[str, Any], ...]
    rows: Mapping[str, int]
    seed: int
    n_evals: int
    notes: Mapping[str, Any]

    def __iter__(self) -> Iterator[Potential | ErrorTable]:
        yield self.potential.model
        yield self.errors
