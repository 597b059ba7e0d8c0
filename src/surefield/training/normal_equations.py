"""Least squares from the normal equations: fast, in the memory of one square matrix, at half the digits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import numpy as np
from jaxtyping import Float
from scipy import linalg

from surefield.errors import DataError
from surefield.training.least_squares import LinearSolution

__all__ = ["NormalEquations"]

#: Entries of rows that are gathered for one product of matrices.
_GATHERED = 4_000_000


@final
class NormalEquations:
    """Sums A^T A and A^T b of rows that are given piece by piece.

    The sums are those of the rows themselves, not of rows that were reduced before: so a solution near the
    limit of the method carries the same rounding as that of other programs.

    Args:
        n_columns: number of coefficients.
    """

    n_folds = 1

    def __init__(self, n_columns: int) -> None:
        self.n_rows = 0
        self._gram, self._right = np.zeros((n_columns, n_columns)), np.zeros(n_columns)
        self._square = 0.0
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._size = 0

    def add(
        self, a: Float[np.ndarray, "n_rows n_columns"], b: Float[np.ndarray, " n_rows"], fold: int = 0
    ) -> None:
        """Take rows that are already multiplied by their weights; there is one fold only.

        Raises:
            DataError: an entry that is not finite.
        """
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise DataError(
                f"rows after row {self.n_rows} are not finite: check labels, weights and structures"
            )
        self._waiting.append((a, b))
        self._size += a.size
        self.n_rows += len(b)
        if self._size > _GATHERED:
            self._sum()

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is kept, from which `go_on_from` goes on bit by bit."""
        n = len(self._right)
        waiting = [np.concatenate(parts) for parts in zip(*self._waiting, strict=True)]
        a, b = waiting or (np.zeros((0, n)), np.zeros(0))
        sums = {"gram": self._gram, "right": self._right, "square": np.array(self._square)}
        return sums | {"n_rows": np.array(self.n_rows), "waiting a": a, "waiting b": b}

    def go_on_from(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take what `arrays` gave in place of the rows so far."""
        self._gram, self._right = arrays["gram"], arrays["right"]
        self._square, self.n_rows = float(arrays["square"]), int(arrays["n_rows"])
        a, b = arrays["waiting a"], arrays["waiting b"]
        self._waiting, self._size = ([(a, b)] if len(b) else []), a.size

    def _sum(self) -> tuple[np.ndarray, np.ndarray, float]:
        """A^T A, A^T b and b^T b of all rows so far."""
        if self._waiting:
            a, b = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
            self._gram += a.T @ a
            self._right += a.T @ b
            self._square += float(b @ b)
            self._waiting, self._size = [], 0
        return self._gram, self._right, self._square

    def sse(self, x: Float[np.ndarray, " n_columns"]) -> float:
        """Sum of squared residuals |Ax - b|^2."""
        gram, right, square = self._sum()
        return max(square - 2 * float(x @ right) + float(x @ gram @ x), 0.0)

    def solved(self, eps: float) -> LinearSolution:
        """Minimum-norm solution; eigenvalues of A^T A below eps^2 times the largest are dropped.

        Raises:
            DataError: there are no rows.
        """
        if not self.n_rows:
            raise DataError("no rows were given, there is nothing to fit")
        gram, right, _ = self._sum()
        u, values, vt = linalg.svd(gram, lapack_driver="gesvd")
        kept = values > max(eps**2, np.finfo(float).tiny) * values[0]
        x = vt[kept].T @ ((u[:, kept].T @ right) / values[kept])
        rank, n = int(kept.sum()), len(x)
        s = np.sqrt(values)
        condition = float(s[0] / s[-1]) if s[-1] > 0 else math.inf
        message = ""
        if rank < n:
            message = f"rank {rank} of {n} columns: singular values below {eps:g} of the largest dropped"
        return LinearSolution(x, rank, condition, s, self.sse(x), self.n_rows, rank, message=message)
