"""Posterior covariance of the weights of a linear regression, row by row."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve

from surefield.errors import DataError

__all__ = ["WeightPosterior"]

#: Changes after which the covariance is computed anew, and the loss of one that makes it so at once.
_REFRESH: Final = 64
_LOSS: Final = 1e4


class WeightPosterior:
    """M = σ²(Φ_SᵀΦ_S + σ²I)⁻¹: covariance of weights with the prior N(0, I), after labels with noise σ.

    The variance of a prediction φ is φᵀMφ. Rows are added and removed by the formula of Sherman and Morrison.

    Args:
        rows: (n_rows, n_features) that are labelled at the start.
        sigma: σ > 0, in units of the features.

    Raises:
        DataError: σ² is below the rounding of ΦᵀΦ.
    """

    def __init__(self, rows: Float[np.ndarray, "n_rows n_features"], sigma: float) -> None:
        self.variance = sigma**2
        self._precision = rows.T @ rows + self.variance * np.eye(rows.shape[1])
        self._changes = 0
        self.matrix = np.eye(rows.shape[1])
        if len(rows):
            self.refresh()

    def refresh(self) -> None:
        """Compute M from the sum of all rows, which frees it from the rounding of the changes."""
        trace = float(np.trace(self._precision))
        if self.variance <= np.finfo(float).eps * trace:
            raise DataError(
                "sigma is too small for features of this size",
                got=f"sigma² = {self.variance:.3g} for summed squares of {trace:.3g}",
                fix="raise sigma, or scale the features",
            )
        inverse = cho_solve(cho_factor(self._precision, lower=True), np.eye(len(self._precision)))
        self.matrix = 0.5 * self.variance * (inverse + inverse.T)
        self._changes = 0

    def add(self, row: Float[np.ndarray, " n_features"]) -> None:
        """Label one more row."""
        self._change(row, 1.0)

    def remove(self, row: Float[np.ndarray, " n_features"]) -> None:
        """Take back the label of a row."""
        self._change(row, -1.0)

    def _change(self, row: Float[np.ndarray, " n_features"], sign: float) -> None:
        self._precision += sign * np.outer(row, row)
        v = self.matrix @ row
        total = self.variance + sign * float(row @ v)
        self._changes += 1
        if self._changes >= _REFRESH or not self.variance / _LOSS < total < self.variance * _LOSS:
            self.refresh()
        else:
            self.matrix -= (sign / total) * np.outer(v, v)
