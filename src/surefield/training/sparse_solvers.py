"""Exact sparse linear regression on reduced rows: lasso, least-angle regression, relevance determination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float
from scipy import linalg

from surefield.errors import ConfigError

__all__ = ["ArdSettings", "Sparse", "ard", "lars", "lasso"]

#: Optimality conditions are met if no gradient misses them by more than this share of the penalty.
OPTIMALITY: Final = 1e-6
#: A column counts as dependent on others if less than this share of it is left beside them.
_DEPENDENT: Final = 1e-10
#: The active-set method takes at most so many steps a column; it needs one to three.
_STEPS: Final = 50


@dataclass(frozen=True)
class Sparse:
    """Coefficients, and in words what of their conditions is not met (empty: all are)."""

    x: Float[np.ndarray, " n_columns"]
    problem: str = ""


@dataclass(frozen=True)
class ArdSettings:
    """Settings of automatic relevance determination, with the names and defaults of scikit-learn.

    Attributes:
        alpha_1: shape of the gamma prior of the noise's precision.
        alpha_2: rate of it.
        lambda_1: shape of the gamma prior of each coefficient's precision.
        lambda_2: rate of it.
        threshold_lambda: columns with a higher precision are dropped.
        max_iter: at most so many updates.
        tol: the coefficients have converged when the sum of their changes is below.
    """

    alpha_1: float = 1e-6
    alpha_2: float = 1e-6
    lambda_1: float = 1e-6
    lambda_2: float = 1e-6
    threshold_lambda: float = 1e4
    max_iter: int = 300
    tol: float = 1e-3

    def __post_init__(self) -> None:
        priors = (self.alpha_1, self.alpha_2, self.lambda_1, self.lambda_2)
        if min(priors) < 0 or min(self.threshold_lambda, self.tol) <= 0 or self.max_iter < 1:
            raise ConfigError(
                "settings of 'ard' out of range", got=self, expected="positive numbers, max_iter >= 1"
            )


def lasso(
    r: Float[np.ndarray, "n_kept n_columns"], q: Float[np.ndarray, " n_kept"], penalty: float
) -> Sparse:
    """Minimum of 1/2 |Rx - q|^2 + penalty sum |x| by an active-set method.

    Columns enter one at a time, the one whose gradient exceeds the penalty most; the equations of the columns
    inside are solved exactly for given signs, and a coefficient that would change its sign leaves at zero
    (Lee, Battle, Raina, Ng, NIPS 2006, with the line search stopped at the first change of sign).

    Args:
        r: rows, reduced or not.
        q: right side.
        penalty: above 0.

    Returns:
        The coefficients; `problem` says by how much a condition is missed if it is (1e-6 of the penalty).
    """
    n_columns = r.shape[1]
    inside = _Columns(r)
    x = np.zeros(n_columns)
    signs = np.zeros(n_columns)
    slack = penalty * OPTIMALITY / 1e3
    value, last = np.inf, -1
    for _ in range(_STEPS * n_columns):
        residual = q - r @ x
        pull = r.T @ residual
        before, value = value, 0.5 * float(residual @ residual) + penalty * float(np.abs(x).sum())
        excess = np.abs(pull) - penalty
        excess[inside.indices] = -np.inf
        new = int(np.argmax(excess))
        if excess[new] <= slack or (new == last and value >= before):  # done, or rounding turns in a circle
            break
        last = new
        signs[new] = np.sign(pull[new])
        if not inside.add(new):
            _exchange(inside, x, signs, new)
        _settle(inside, q, penalty, x, signs)
    if inside.indices:  # once more without the rounding that updates have gathered
        x[inside.indices] = _Columns(r, inside.indices).solve(q, penalty * signs[inside.indices])
    return Sparse(x, _missed(r, q, x, penalty, np.sign(x)))


def lars(r: Float[np.ndarray, "n_kept n_columns"], q: Float[np.ndarray, " n_kept"], penalty: float) -> Sparse:
    """Least-angle regression, stopped when the largest correlation |R^T(q - Rx)| has fallen to the penalty.

    Unlike `lasso` no column leaves again (Efron, Hastie, Johnstone, Tibshirani, Ann. Stat. 32, 407, 2004,
    section 2), so that a coefficient may have the sign opposite to its correlation. Columns that depend on
    those inside are passed over.

    Args:
        r: rows, reduced or not.
        q: right side.
        penalty: above 0.
    """
    inside = _Columns(r)
    x = np.zeros(r.shape[1])
    free = np.ones(r.shape[1], dtype=bool)
    pull = r.T @ q
    level = np.abs(pull).max()
    signs = np.zeros(r.shape[1])
    while level > penalty and free.any():
        new = int(np.argmax(np.where(free, np.abs(pull), -1.0)))
        free[new] = False
        if not inside.add(new):
            continue
        signs[new] = np.sign(pull[new])
        columns = inside.indices
        direction = inside.equiangular(signs[columns])
        change = r.T @ (r[:, columns] @ direction)
        step = _first_meeting(pull[free], change[free], level, level - penalty)
        x[columns] += step * direction
        level -= step
        pull = r.T @ (q - r @ x)
    columns = inside.indices
    if columns:
        x[columns] = inside.solve(q, min(level, penalty) * signs[columns])
    return Sparse(x, _missed(r, q, x, penalty, signs))


def ard(
    r: Float[np.ndarray, "n_kept n_columns"],
    q: Float[np.ndarray, " n_kept"],
    rest: float,
    n_rows: int,
    settings: ArdSettings,
) -> Sparse:
    """Automatic relevance determination: one precision a coefficient, found by maximising the evidence.

    MacKay's fixed-point updates (Neural Comput. 4, 415, 1992) with gamma priors, as in scikit-learn's
    ARDRegression without intercept; noise is estimated from all rows.

    Args:
        r: reduced rows.
        q: right side.
        rest: squared residual outside them.
        n_rows: rows before the reduction.
        settings: priors and limits.
    """
    n_columns = r.shape[1]
    x, old = np.zeros(n_columns), np.zeros(n_columns)
    kept = np.ones(n_columns, dtype=bool)
    precision = np.ones(n_columns)
    total = float(q @ q) + rest
    noise = n_rows / total if total > 0 else 1 / np.finfo(float).eps
    problem = f"'ard' has not converged in {settings.max_iter} updates; raise max_iter"
    for iteration in range(settings.max_iter):
        x[kept], variance = _posterior(r[:, kept], q, noise, precision[kept])
        squared = float(np.sum((q - r @ x) ** 2)) + rest
        gamma = 1.0 - precision[kept] * variance
        precision[kept] = (gamma + 2 * settings.lambda_1) / (x[kept] ** 2 + 2 * settings.lambda_2)
        noise = (n_rows - gamma.sum() + 2 * settings.alpha_1) / (squared + 2 * settings.alpha_2)
        kept = precision < settings.threshold_lambda
        x[~kept] = 0.0
        if not kept.any() or (iteration > 0 and np.abs(x - old).sum() < settings.tol):
            problem = ""
            break
        old = x.copy()
    if kept.any():
        x[kept], _ = _posterior(r[:, kept], q, noise, precision[kept])
    else:
        problem = "'ard' has dropped all columns; raise threshold_lambda"
    return Sparse(x, problem)


@final
class _Columns:
    """Some columns of a matrix and their QR decomposition, updated as columns come and go."""

    def __init__(self, matrix: np.ndarray, indices: list[int] | None = None) -> None:
        self._matrix = matrix
        self.indices: list[int] = list(indices or [])
        self._q, self._t = np.zeros((len(matrix), 0)), np.zeros((0, 0))
        if self.indices:
            self._q, self._t = np.linalg.qr(matrix[:, self.indices])

    def add(self, index: int) -> bool:
        """Take a column, unless it depends on those inside."""
        column = self._matrix[:, index]
        along, beside = self._split(column)
        length = float(np.linalg.norm(beside))
        if len(self.indices) >= len(column) or length <= _DEPENDENT * float(np.linalg.norm(column)):
            return False
        n = len(self.indices)
        t = np.zeros((n + 1, n + 1))
        t[:n, :n], t[:n, n], t[n, n] = self._t, along, length
        self._q, self._t = np.column_stack([self._q, beside / length]), t
        self.indices.append(index)
        return True

    def drop(self, position: int) -> None:
        """Let the column at a position of `indices` go."""
        del self.indices[position]
        n = len(self.indices)
        if n:  # as many columns as rows count as a full decomposition, whose last column is not needed
            q, t = linalg.qr_delete(self._q, self._t, position, which="col")  # type: ignore[attr-defined]
            self._q, self._t = q[:, :n], t[:n]
        else:
            self._q, self._t = self._q[:, :0], self._t[:0, :0]

    def combination(self, index: int) -> np.ndarray:
        """Coefficients of the columns inside that make up a column which depends on them."""
        return linalg.solve_triangular(self._t, self._split(self._matrix[:, index])[0])

    def solve(self, target: np.ndarray, pull: np.ndarray) -> np.ndarray:
        """Coefficients z with C^T (target - C z) = pull."""
        shift = linalg.solve_triangular(self._t, pull, trans=1)
        return linalg.solve_triangular(self._t, self._q.T @ target - shift)

    def equiangular(self, signs: np.ndarray) -> np.ndarray:
        """Direction z with C^T C z = signs."""
        return linalg.solve_triangular(self._t, linalg.solve_triangular(self._t, signs, trans=1))

    def _split(self, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Parts of a column along the orthonormal ones and beside them; twice is enough for orthogonality."""
        along = self._q.T @ column
        beside = column - self._q @ along
        again = self._q.T @ beside
        return along + again, beside - self._q @ again


def _settle(inside: _Columns, q: np.ndarray, penalty: float, x: np.ndarray, signs: np.ndarray) -> None:
    """Go to the minimum for the present signs; what would change its sign on the way leaves."""
    while inside.indices:
        columns = inside.indices
        step = inside.solve(q, penalty * signs[columns]) - x[columns]
        crosses = (x[columns] + step) * signs[columns] < 0
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(crosses, -x[columns] / step, np.inf)
        first = int(np.argmin(reach))
        if not crosses.any():
            x[columns] += step
            return
        x[columns] += reach[first] * step
        x[columns[first]] = signs[columns[first]] = 0.0
        inside.drop(first)


def _exchange(inside: _Columns, x: np.ndarray, signs: np.ndarray, new: int) -> None:
    """Bring in a column that depends on those inside: the fit stays, one of them reaches zero and leaves."""
    columns = inside.indices
    step = -signs[new] * inside.combination(new)
    falling = x[columns] * step < 0
    if not falling.any():  # no column to exchange: only rounding let it look worth while
        signs[new] = 0.0
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(falling, -x[columns] / step, np.inf)
    first = int(np.argmin(reach))
    leaving = columns[first]
    x[columns] += reach[first] * step
    x[new] = reach[first] * signs[new]
    x[leaving] = signs[leaving] = 0.0
    inside.drop(first)
    if not inside.add(new):
        x[new] = signs[new] = 0.0


def _first_meeting(pull: np.ndarray, change: np.ndarray, level: float, most: float) -> float:
    """Shortest step after which a free column correlates as much as those inside; at most `most`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.concatenate([(level - pull) / (1 - change), (level + pull) / (1 + change)])
    ahead = steps[np.isfinite(steps) & (steps > 1e-14 * level)]
    return float(min(ahead.min(initial=most), most))


def _missed(r: np.ndarray, q: np.ndarray, x: np.ndarray, penalty: float, signs: np.ndarray) -> str:
    """By how much the optimality conditions are missed, in words; empty if they are met."""
    pull = r.T @ (q - r @ x)
    miss = np.where(x != 0, np.abs(pull - penalty * signs), np.abs(pull) - penalty)
    worst = float(miss.max()) / penalty
    if worst <= OPTIMALITY:
        return ""
    return (
        f"the optimality conditions are missed by {worst:.1e} of the penalty (column {np.argmax(miss)}); "
        f"allowed are {OPTIMALITY:g}; scale the columns or raise alpha"
    )


def _posterior(
    r: np.ndarray, q: np.ndarray, noise: float, precision: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variances of the coefficients, by QR of rows and prior together."""
    n = r.shape[1]
    stacked = np.concatenate([np.sqrt(noise) * r, np.diag(np.sqrt(precision))])
    orthonormal, t = np.linalg.qr(stacked)
    x = linalg.solve_triangular(t, orthonormal[: len(r)].T @ (np.sqrt(noise) * q))
    inverse = linalg.solve_triangular(t, np.eye(n))
    return x, np.sum(inverse**2, axis=1)
