"""Weighted linear least squares in bounded memory: rows are reduced by QR as they come, then solved once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
from jaxtyping import Float
from scipy import linalg

from surefield.errors import ConfigError, DataError, nearest
from surefield.training.sparse_solvers import ArdSettings, ard, lars, lasso

__all__ = ["ALGORITHMS", "RIDGE_ALPHAS", "LinearSolution", "Reduced", "StreamedRows", "solve"]

#: What `solve` knows; 'lasso' and 'lassolars' give the same minimum.
ALGORITHMS: Final = ("svd", "fast_svd", "ridge", "ridgecv", "ard", "lasso", "lassolars", "lars")
#: Alphas among which 'ridgecv' chooses.
RIDGE_ALPHAS: Final = (1e-6, 3.2e-6, 1e-5, 3.2e-5, 1e-4, 3.2e-4, 1e-3, 3.2e-3)

_ALIASES: Final = {"dlars": "lars", "dlasso": "lassolars"}
#: Rows kept before a reduction, as a multiple of the columns: work grows by the inverse of it.
_BUFFER: Final = 4
_LEAST_BUFFER: Final = 2048


@dataclass(frozen=True)
class Reduced:
    """A least-squares problem of many rows in at most n_columns rows: |Ax - b|^2 = |Rx - q|^2 + rest.

    Attributes:
        R: upper triangle, or the rows themselves where there are no more than columns.
        q: right side.
        rest: what no x can remove.
        n_rows: number of rows of A.
    """

    R: Float[np.ndarray, "n_kept n_columns"]
    q: Float[np.ndarray, " n_kept"]
    rest: float
    n_rows: int

    def rss(self, x: Float[np.ndarray, " n_columns"]) -> float:
        """Sum of squared residuals |Ax - b|^2."""
        return float(np.sum((self.R @ x - self.q) ** 2)) + self.rest


@dataclass(frozen=True)
class LinearSolution:
    """Coefficients of a least-squares problem and how well they are determined.

    Attributes:
        x: coefficients.
        rank: singular values kept ('svd', 'fast_svd'), else those above rounding.
        condition: largest over smallest singular value of the weighted rows; inf if that is zero.
        singular_values: of the weighted rows, falling.
        rss: |Ax - b|^2 of the weighted rows.
        n_rows: number of rows.
        n_parameters: rank ('svd', 'fast_svd'), else coefficients that are not zero.
        alpha: of the penalty; the chosen one for 'ridgecv'; None where there is none.
        converged: whether the optimality conditions are met.
        message: rank deficiency, choice of alpha, conditions missed; empty if there is nothing to say.
    """

    x: Float[np.ndarray, " n_columns"]
    rank: int
    condition: float
    singular_values: Float[np.ndarray, " n_values"]
    rss: float
    n_rows: int
    n_parameters: int
    alpha: float | None = None
    converged: bool = True
    message: str = ""

    @property
    def rmse(self) -> float:
        """Root mean square of the weighted residuals."""
        return math.sqrt(self.rss / self.n_rows)

    @property
    def bic(self) -> float:
        """Bayesian information criterion M ln(rss/M) + k ln M; M rows, k parameters, -inf if rss is 0."""
        rows = self.n_rows
        if self.rss == 0:
            return -math.inf
        return rows * math.log(self.rss / rows) + self.n_parameters * math.log(rows)


@final
class StreamedRows:
    """Rows (A, b) of a least-squares problem that are given piece by piece and kept in bounded memory.

    Rows are gathered in a buffer of a few times `n_columns` rows and reduced with it by Householder QR, never
    by normal equations, so that a condition of 1e8 costs eight digits and not all. The result depends on the
    order of the rows, not on the pieces in which they come. A problem with fewer rows than columns is kept
    as it is.

    Args:
        n_columns: number of coefficients.
        n_folds: rows are kept apart by fold, for cross-validation.

    Raises:
        ConfigError: fewer than one column or fold.
    """

    def __init__(self, n_columns: int, n_folds: int = 1) -> None:
        if n_columns < 1 or n_folds < 1:
            raise ConfigError(
                "too few columns or folds", got=f"{n_columns} columns, {n_folds} folds", expected=">= 1"
            )
        self.n_columns, self.n_folds = n_columns, n_folds
        self._folds = [_Buffer(n_columns + 1) for _ in range(n_folds)]

    def add(
        self, a: Float[np.ndarray, "n_rows n_columns"], b: Float[np.ndarray, " n_rows"], fold: int = 0
    ) -> None:
        """Take rows that are already multiplied by their weights.

        Raises:
            DataError: shapes that do not fit, or an entry that is not finite.
            ConfigError: no such fold.
        """
        a, b = np.asarray(a, float), np.asarray(b, float)
        if a.ndim != 2 or a.shape[1] != self.n_columns or b.shape != a.shape[:1]:
            expected = f"(m, {self.n_columns}) and (m,)"
            raise DataError("rows of a wrong shape", got=f"{a.shape} and {b.shape}", expected=expected)
        if not 0 <= fold < self.n_folds:
            raise ConfigError("no such fold", got=fold, expected=f"0 to {self.n_folds - 1}")
        bad = ~(np.isfinite(a).all(axis=1) & np.isfinite(b))
        if bad.any():
            first = self._folds[fold].n_rows + int(np.argmax(bad))
            raise DataError(
                f"{int(bad.sum())} rows are not finite",
                got=f"the first is row {first}" + (f" of fold {fold}" if self.n_folds > 1 else ""),
                fix="check labels, weights and structures with atoms that nearly coincide",
            )
        self._folds[fold].add(a, b)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is kept, from which `go_on_from` goes on bit by bit; large arrays are not copied."""
        kept = {f"rows {k}": fold.rows for k, fold in enumerate(self._folds)}
        return kept | {"n_rows": np.array([fold.n_rows for fold in self._folds])}

    def go_on_from(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take what `arrays` gave in place of the rows so far."""
        for k, fold in enumerate(self._folds):
            fold.restore(arrays[f"rows {k}"], int(arrays["n_rows"][k]))

    def reduced(self, leave_out: int | None = None) -> Reduced:
        """The problem of all rows given so far, or of all but one fold.

        Raises:
            ConfigError: no such fold.
            DataError: there are no rows.
        """
        if leave_out is not None and not 0 <= leave_out < self.n_folds:
            raise ConfigError("no such fold", got=leave_out, expected=f"0 to {self.n_folds - 1}")
        return _joined([fold for k, fold in enumerate(self._folds) if k != leave_out])

    def cross_validation(self) -> list[tuple[Reduced, Reduced]]:
        """For each fold that has rows: the problem without it, and the problem of it alone.

        Raises:
            DataError: fewer than two folds have rows.
        """
        filled = [k for k, fold in enumerate(self._folds) if fold.n_rows]
        if len(filled) < 2:
            raise DataError(
                "nothing to cross-validate", got=f"{len(filled)} folds with rows", expected="2 or more"
            )
        return [(self.reduced(leave_out=k), _joined([self._folds[k]])) for k in filled]


@final
class _Buffer:
    """Rows of [A | b], of which the first may be the triangle that earlier rows were reduced to."""

    def __init__(self, width: int) -> None:
        self.n_rows = 0
        self._width = width
        self._used = 0
        # The system gives memory to those pages only that are written.
        self._rows = np.empty((max((_BUFFER + 1) * width, _LEAST_BUFFER), width), order="F")

    @property
    def rows(self) -> Float[np.ndarray, "n_kept width"]:
        """What is kept, at most the buffer."""
        return self._rows[: self._used]

    def restore(self, rows: np.ndarray, n_rows: int) -> None:
        self.n_rows, self._used = n_rows, len(rows)
        self._rows[: len(rows)] = rows

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        self.n_rows += len(a)
        start = 0
        while start < len(a):
            if self._used == len(self._rows):
                self._rows = _reduced_in_place(self._rows)
                self._used = self._width
            count = min(len(a) - start, len(self._rows) - self._used)
            target = self._rows[self._used : self._used + count]
            target[:, :-1] = a[start : start + count]
            target[:, -1] = b[start : start + count]
            self._used += count
            start += count


def solve(
    rows: Reduced,
    algorithm: str = "svd",
    *,
    eps: float = 1e-5,
    alpha: float = 1e-4,
    folds: Sequence[tuple[Reduced, Reduced]] = (),
    ard_settings: ArdSettings | None = None,
) -> LinearSolution:
    """Coefficients that minimise |Ax - b|^2, rows being weighted already, with or without a penalty.

    Args:
        rows: the reduced problem.
        algorithm: one of

            - 'svd': minimum norm; singular values below eps times the largest are dropped.
            - 'fast_svd': the same from the eigenvalues of the normal matrix, below eps^2 times the largest;
              about half the digits are lost.
            - 'ridge': |Ax - b|^2 + alpha |x|^2.
            - 'ridgecv': ridge with that alpha of `RIDGE_ALPHAS` which predicts left-out folds best.
            - 'ard': automatic relevance determination (`sparse_solvers.ard`).
            - 'lasso', 'lassolars': 1/(2 n_rows) |Ax - b|^2 + alpha sum |x|, exactly.
            - 'lars': least-angle regression up to max |A^T(b - Ax)|/n_rows = alpha.
        eps: relative cut of 'svd' and 'fast_svd'.
        alpha: strength of the penalty.
        folds: of 'ridgecv', `StreamedRows.cross_validation`.
        ard_settings: of 'ard'.

    Raises:
        ConfigError: unknown algorithm, a number out of range, 'ridgecv' without folds.
    """
    name = _ALIASES.get(algorithm, algorithm)
    if name not in ALGORITHMS:
        raise ConfigError(f"unknown algorithm {algorithm!r}; {nearest(algorithm, (*ALGORITHMS, *_ALIASES))}")
    if not 0 <= eps < 1:
        raise ConfigError("eps out of range", got=eps, expected="0 <= eps < 1")
    if name in ("svd", "fast_svd"):
        return _cut(rows, eps, _normal_values if name == "fast_svd" else _singular_values)
    if name == "ard":
        sparse = ard(rows.R, rows.q, rows.rest, rows.n_rows, ard_settings or ArdSettings())
        return _regularised(rows, sparse.x, None, sparse.problem)
    if name == "ridgecv":
        return _cross_validated(rows, folds)
    if not (math.isfinite(alpha) and (alpha > 0 or (alpha == 0 and name == "ridge"))):
        raise ConfigError(f"alpha of {algorithm!r} out of range", got=alpha, expected="alpha > 0")
    if name == "ridge":
        return _regularised(rows, _ridge(rows, [alpha])[0], alpha)
    sparse = (lars if name == "lars" else lasso)(rows.R, rows.q, alpha * rows.n_rows)
    return _regularised(rows, sparse.x, alpha, sparse.problem)


Factors = tuple[np.ndarray, np.ndarray, np.ndarray]


def _singular_values(rows: Reduced) -> Factors:
    """V^T, falling s, and U^T q of R = U s V^T."""
    u, s, vt = linalg.svd(rows.R, full_matrices=False)
    return vt, s, u.T @ rows.q


def _normal_values(rows: Reduced) -> Factors:
    """The same from the eigenvalues of R^T R."""
    values, vectors = linalg.eigh(rows.R.T @ rows.R)
    s = np.sqrt(np.maximum(values[::-1], 0.0))
    vt = vectors[:, ::-1].T
    return vt, s, vt @ (rows.R.T @ rows.q) / np.where(s > 0, s, 1.0)


def _cut(rows: Reduced, eps: float, factorise: Callable[[Reduced], Factors]) -> LinearSolution:
    vt, s, target = factorise(rows)
    kept = s > max(eps, np.finfo(float).tiny) * s[0]
    x = vt[kept].T @ (target[kept] / s[kept])
    rank = int(kept.sum())
    message = ""
    if rank < rows.R.shape[1]:
        message = (
            f"rank {rank} of {rows.R.shape[1]} columns: singular values below {eps:g} of the largest dropped"
        )
    return LinearSolution(x, rank, _condition(rows, s), s, rows.rss(x), rows.n_rows, rank, message=message)


def _regularised(rows: Reduced, x: np.ndarray, alpha: float | None, problem: str = "") -> LinearSolution:
    s = np.linalg.svd(rows.R, compute_uv=False)
    rank = int(np.sum(s > s[0] * max(rows.R.shape) * np.finfo(float).eps))
    message = problem
    if problem:
        warnings.warn(problem, stacklevel=3)
    elif rank < rows.R.shape[1]:
        message = f"rank {rank} of {rows.R.shape[1]} columns before the penalty"
    nonzero = int(np.count_nonzero(x))
    return LinearSolution(
        x, rank, _condition(rows, s), s, rows.rss(x), rows.n_rows, nonzero, alpha, not problem, message
    )


def _ridge(rows: Reduced, alphas: Sequence[float]) -> list[np.ndarray]:
    """Coefficients for several penalties from one factorisation."""
    vt, s, target = _singular_values(rows)
    solutions = []
    for alpha in alphas:
        bottom = s**2 + alpha
        shrunk = np.where(bottom > 0, s / np.where(bottom > 0, bottom, 1.0), 0.0)
        solutions.append(vt.T @ (shrunk * target))
    return solutions


def _cross_validated(rows: Reduced, folds: Sequence[tuple[Reduced, Reduced]]) -> LinearSolution:
    if len(folds) < 2:
        fix = "add the rows of each configuration to one of several folds of StreamedRows"
        raise ConfigError("'ridgecv' needs folds", got=len(folds), expected="2 or more", fix=fix)
    left_out = np.zeros(len(RIDGE_ALPHAS))
    for others, held in folds:
        left_out += [held.rss(x) for x in _ridge(others, RIDGE_ALPHAS)]
    best = int(np.argmin(left_out))
    solution = _regularised(rows, _ridge(rows, [RIDGE_ALPHAS[best]])[0], RIDGE_ALPHAS[best])
    rmse = math.sqrt(left_out[best] / sum(held.n_rows for _, held in folds))
    choice = f"alpha {RIDGE_ALPHAS[best]:g} of {len(folds)} folds, rmse of the left-out rows {rmse:.6g}"
    return replace(solution, message="; ".join(filter(None, [choice, solution.message])))


def _condition(rows: Reduced, s: np.ndarray) -> float:
    deficient = len(s) < rows.R.shape[1] or s[-1] == 0
    return math.inf if deficient else float(s[0] / s[-1])


def _joined(folds: Sequence[_Buffer]) -> Reduced:
    n_rows = sum(fold.n_rows for fold in folds)
    if not n_rows:
        raise DataError("no rows were given, there is nothing to fit")
    stacked = np.asfortranarray(np.concatenate([fold.rows for fold in folds]))
    n_columns = stacked.shape[1] - 1
    rest = 0.0
    if len(stacked) > n_columns:
        stacked = _reduced_in_place(stacked)[: n_columns + 1]
        rest = float(stacked[n_columns, n_columns] ** 2)
        stacked = stacked[:n_columns]
    return Reduced(np.array(stacked[:, :-1]), np.array(stacked[:, -1]), rest, n_rows)


def _reduced_in_place(rows: np.ndarray) -> np.ndarray:
    """Replace the first rows by the triangle of a QR decomposition; the others hold no data any more."""
    width = rows.shape[1]
    decompose, workspace = linalg.get_lapack_funcs(("geqrf", "geqrf_lwork"), (rows,))
    lwork = int(workspace(*rows.shape)[0].real)
    factored, _, _, info = decompose(rows, lwork=lwork, overwrite_a=True)
    if info:
        raise DataError("QR decomposition failed", got=f"LAPACK info {info}")
    factored[:width] = np.triu(factored[:width])
    return factored
