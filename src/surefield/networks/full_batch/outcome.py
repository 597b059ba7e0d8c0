"""How a full-batch training ends, and what is known of it on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from jaxtyping import Float

from surefield.errors import ExecutionError

__all__ = ["ConvergenceOccurred", "Progress", "Status", "TrainingConvergenceError", "TrainingStopped"]

Status = Literal["converged", "maxiter", "stopped"]


class ConvergenceOccurred(Exception):
    """Raised by a loss function at the first evaluation at which all its criteria hold."""


class TrainingStopped(Exception):
    """Raised by a loss function when the training has to end without having converged.

    Attributes:
        status: 'maxiter' or 'stopped'.
        reason: one line for the log.
    """

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class TrainingConvergenceError(ExecutionError):
    """A training ended without having converged; the message says how."""


@dataclass(frozen=True, eq=False)
class Progress:
    """Evaluations of the loss so far, and the best of them.

    Attributes:
        step: number of evaluations.
        vector: parameters of the latest one; None before the first.
        loss: of the latest one.
        best_vector: parameters of the lowest loss, or of the lowest loss of the validation images where there
            are any; None before the first finite loss.
        best_loss: that loss.
        best_step: its evaluation, counted from 0.
        best_converged: whether all criteria held there.
    """

    step: int = 0
    vector: Float[np.ndarray, " n_parameters"] | None = None
    loss: float = np.nan
    best_vector: Float[np.ndarray, " n_parameters"] | None = None
    best_loss: float = np.inf
    best_step: int = -1
    best_converged: bool = False

    def after(
        self, vector: Float[np.ndarray, " n_parameters"], loss: float, compared: float, converged: bool
    ) -> Progress:
        """Progress after one more evaluation.

        Args:
            vector: parameters; not to be changed any more.
            loss: their loss.
            compared: the loss by which the best is chosen; never, if one of the two is not finite.
            converged: whether all criteria hold.
        """
        latest = replace(self, step=self.step + 1, vector=vector, loss=loss)
        if not (np.isfinite(loss) and compared < self.best_loss):
            return latest
        return replace(
            latest,
            best_vector=vector,
            best_loss=float(compared),
            best_step=self.step,
            best_converged=converged,
        )

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """As arrays with names that start with the prefix."""
        numbers = [self.step, self.loss, self.best_loss, self.best_step, self.best_converged]
        vectors = {"vector": self.vector, "best_vector": self.best_vector}
        arrays = {prefix + name: vector for name, vector in vectors.items() if vector is not None}
        return {**arrays, prefix + "numbers": np.array(numbers, np.float64)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> Self:
        """From what `arrays` gave."""
        step, loss, best_loss, best_step, converged = arrays[prefix + "numbers"].tolist()
        vector, best = arrays.get(prefix + "vector"), arrays.get(prefix + "best_vector")
        return cls(int(step), vector, loss, best, best_loss, int(best_step), bool(converged))
