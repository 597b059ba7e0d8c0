"""The kernel K = φφᵀ of stacked feature rows, one column at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from surefield.errors import DataError
from surefield.selection.distances import squared_distances
from surefield.selection.features import checked_rows, positive_int

__all__ = ["KernelMatrix"]


@dataclass(frozen=True, eq=False, init=False)
class KernelMatrix:
    """K = φφᵀ of train rows 0..n_train−1 followed by the pool; K itself is never formed.

    Immutable, also under selection; `g` is the caller's array, cast to float64 and exposed read-only.

    Attributes:
        g: (n_train + n_pool, n_features) feature rows, train first.
        n_train: number of training rows; at least one row must be left for the pool.
        diagonal: (n_train + n_pool,) K_ii.

    Raises:
        DataError: `g` is not a finite matrix, or `n_train` leaves no pool.
        ConfigError: `n_train` is not a whole number of at least 0.
    """

    g: Float[np.ndarray, "n_rows n_features"]
    n_train: int
    diagonal: Float[np.ndarray, " n_rows"] = field(repr=False)

    def __init__(self, g: ArrayLike, n_train: int) -> None:
        rows, norms = checked_rows(g, "g")
        count = positive_int(n_train, "n_train", smallest=0)
        if count >= len(rows):
            raise DataError(
                "n_train leaves no pool",
                got=f"n_train = {count} for {len(rows)} rows",
                expected=f"0 to {len(rows) - 1}",
                fix="stack train rows first, then the pool",
            )
        for name, value in {"g": rows, "n_train": count, "diagonal": norms}.items():
            object.__setattr__(self, name, value)

    @property
    def num_columns(self) -> int:
        """Rows of `g`: train and pool together."""
        return len(self.g)

    def compute_column(self, i: int) -> Float[np.ndarray, " n_rows"]:
        """K_·i: the kernel of every row with row i of `g` (train first)."""
        return np.einsum("ij,j->i", self.g, self.g[self._row(i)])

    def score(self, i: int) -> Float[np.ndarray, " n_rows"]:
        """d² of every row to row i of `g`: at least 0, exactly 0 for copies."""
        row = self._row(i)
        return squared_distances(self.g, self.diagonal, self.g[row], float(self.diagonal[row]))

    def _row(self, i: int) -> int:
        row = positive_int(i, "row index", smallest=0)
        if row >= self.num_columns:
            raise DataError("no such row", got=row, expected=f"0 to {self.num_columns - 1}")
        return row
