"""What a training gives back, also when it is read again from the folder of its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from surefield.potentials.potential import Potential
from surefield.trainers.handle import PotentialHandle
from surefield.training.breakdown import ErrorTable
from surefield.training.problem import Weights

__all__ = ["FORCE_ERRORS", "Call", "FitResult", "TrainingResult", "TrainingWarning"]

#: Folder of the log of force errors in that of a run.
FORCE_ERRORS: Final = "force_errors"


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
        groups: errors of each group of configurations (`info['config_type']` or `info['group']`).
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
    groups: Mapping[str, ErrorTable] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Potential | ErrorTable]:
        yield self.potential.model
        yield self.errors


@dataclass(frozen=True, eq=False)
class FitResult:
    """What `Trainer.fit` gives back.

    Attributes:
        model: the best potential seen.
        success: whether the fit converged.
        message: of the solver or optimiser, for the log and the result.
        history: one record per epoch or evaluation.
        n_evals: evaluations of the loss, 1 for exact solutions.
        notes: further facts for result.json, such as rank and condition; numbers, texts, lists, dicts.
    """

    model: Potential
    success: bool
    message: str
    history: tuple[Mapping[str, Any], ...] = ()
    n_evals: int = 1
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """Arguments of `Trainer.train`, all with their final values; fit for JSON."""

    path_type: str
    eweight: float = 1.0
    fweight: float = 1.0
    vweight: float = 1.0
    per_atom_weights: Any = False
    upload_to_kimkit: bool = True
    training_split: float = 1.0
    split: Mapping[str, list[str]] | str | None = None
    seed: int = 0
    registry: str | None = None
    fork_potential: bool = False
    force_error_log: bool = False

    @property
    def weights(self) -> Weights:
        """Weights of the residuals."""
        return Weights(self.eweight, self.fweight, self.vweight)
