"""MaxDet: the batch with the largest determinant of the kernel, greedily."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_factor, solve_triangular

from surefield.errors import ConfigError
from surefield.selection.batch import GrowingBatch
from surefield.selection.request import Picks, Request
from surefield.selection.weight_posterior import WeightPosterior

__all__ = ["SMALL_NOISE", "best_alone", "better_of", "max_det", "max_det_by_columns", "max_det_by_features"]

#: A residual below this fraction of the largest diagonal entry is rounding (σ = 0).
_RANK: Final = 1e-12
#: Fraction σ²/‖φ‖² down to which inverses of ΦᵀΦ + σ²I keep six digits.
SMALL_NOISE: Final = 1e-10


def max_det(request: Request) -> Picks:
    """Largest residual d_i of K + σ²I after train (mode `tp`) and picks (MaxDet; P-greedy, D-optimal design).

    d_i is the posterior variance of label i, and ½ ln(d_i/σ²) what the pick adds to ½ ln det(I + K/σ²). The
    form of the algebra follows the shape of the features; both pick the same.

    Holzmüller et al., JMLR 24 (2023) 164, section 4.2.
    """
    features = request.features
    n_train = features.n_train if request.mode == "tp" else 0
    largest = max(features.pool_norms.max(), features.train_norms[:n_train].max(initial=0.0))
    many = features.n_features < n_train + request.batch_size
    if many and request.sigma**2 > SMALL_NOISE * largest:
        return max_det_by_features(request)
    return max_det_by_columns(request)


def max_det_by_columns(request: Request) -> Picks:
    """`max_det` as a pivoted Cholesky factorisation of K + σ²I: N(n + b) numbers, σ = 0 allowed.

    The gain is ½ ln d_i for σ = 0, and it ends where all that are left are combinations of train and picks.

    Raises:
        ConfigError: scores or costs with σ = 0, whose gains may be negative.
    """
    features, variance = request.features, request.sigma**2
    costly = request.limits is not None and request.limits.cost is not None
    if (request.scores is not None or costly) and not variance:
        what = "cost" if costly else "scores"
        raise ConfigError(f"{what} with max_det need a sigma above 0", fix="give the noise of a label")
    n_train = features.n_train if request.mode == "tp" else 0
    train = _factors_of_train(request, n_train)
    pool = features.pool
    # One row per candidate, so that products sum every row alike, wherever it stands.
    factors = np.empty((features.n_pool, train.shape[1] + min(request.batch_size, features.n_pool)))
    width = train.shape[1]
    factors[:, :width] = train[features.first_copies()]
    residual = features.pool_norms + variance
    smallest = _RANK * max(residual.max(), features.train_norms[:n_train].max(initial=0.0) + variance)
    residual -= np.einsum("ij,ij->i", factors[:, :width], factors[:, :width])

    def add(index: int) -> None:
        nonlocal width
        column = np.einsum("ij,j->i", pool, pool[index])
        column -= np.einsum("ij,j->i", factors[:, :width], factors[index, :width])
        column /= np.sqrt(residual[index])
        factors[:, width] = column
        width += 1
        np.subtract(residual, column**2, out=residual)

    return _greedy(request, residual, add, 0.0 if variance else smallest)


def max_det_by_features(request: Request) -> Picks:
    """`max_det` with the covariance M of the weights: d_i = φᵀMφ + σ², N + F² numbers, σ > 0."""
    features, variance = request.features, request.sigma**2
    train = features.train if request.mode == "tp" else features.train[:0]
    posterior = WeightPosterior(train, request.sigma)
    pool, copies = features.pool, features.first_copies()

    def variances() -> Float[np.ndarray, " n_pool"]:
        return (np.einsum("ij,ij->i", pool @ posterior.matrix, pool) + variance)[copies]

    residual = variances()
    scale = residual.max()

    def add(index: int) -> None:
        nonlocal scale
        v = posterior.matrix @ pool[index]
        total = float(pool[index] @ v) + variance
        residual[:] -= np.einsum("ij,j->i", pool, v) ** 2 / total
        posterior.add(pool[index])
        if residual.max() < 1e-6 * scale:
            # What is left is small beside what it was computed from.
            residual[:] = variances()
            scale = residual.max()

    return _greedy(request, residual, add, 0.0)


def _greedy(
    request: Request, residual: Float[np.ndarray, " n_pool"], add: Callable[[int], None], smallest: float
) -> Picks:
    """Pick by the largest residual, or by weighted gains per cost; `add` lowers the residuals in place."""
    weights = request.weights()
    unit = request.sigma**2 or 1.0
    batch = GrowingBatch(request)
    by_gain = request.scores is not None or batch.costly

    def gains() -> Float[np.ndarray, " n_pool"]:
        return weights * 0.5 * np.log(np.maximum(residual / unit, 1.0))

    stopped = "zero_scores"
    best = best_alone(request, gains())
    while not batch.full:
        if batch.candidates(weights > 0) is None:
            break
        candidates = batch.candidates((weights > 0) & (residual > smallest))
        if candidates is None:
            stopped = "rank_exhausted"
            break
        values = batch.per_cost(gains()) if by_gain else residual
        index = int(np.argmax(np.where(candidates, values, -np.inf)))
        gain = 0.5 * float(np.log(residual[index] / unit))
        batch.add(index, float(weights[index]) * (max(gain, 0.0) if request.sigma else gain))
        add(index)
    return better_of(batch, best, stopped)


def best_alone(request: Request, gains: Float[np.ndarray, " n_pool"]) -> tuple[int, float] | None:
    """The single pick of the largest gain that a budget allows; None without a budget."""
    if request.limits is None or request.limits.budget == np.inf or not request.sigma:
        return None
    candidates = GrowingBatch(request).candidates(request.weights() > 0)
    if candidates is None:
        return None
    index = int(np.argmax(np.where(candidates, gains, -np.inf)))
    return index, float(gains[index])


def better_of(batch: GrowingBatch, best: tuple[int, float] | None, stopped: str) -> Picks:
    """The batch, or the single pick if that has the larger gain.

    The better of both has at least (1 − 1/e)/2 of the largest gain within the budget: Leskovec et al.,
    KDD 2007, section 3.
    """
    if best is None or best[1] <= sum(batch.gains):
        return batch.picks(stopped)
    alone = GrowingBatch(batch.request, measure=False)
    alone.add(*best)
    alone.notes = [*batch.notes, "one label alone is worth more than what the budget buys beside it"]
    return alone.picks("budget")


def _factors_of_train(request: Request, n_train: int) -> Float[np.ndarray, "n_pool rank"]:
    """Columns U of the pool with K_PT (K_TT + σ²I)⁻¹ K_TP = U Uᵀ, in one block."""
    features, variance = request.features, request.sigma**2
    train, pool = features.train[:n_train], features.pool
    if not n_train:
        return np.zeros((len(pool), 0))
    if variance:
        try:
            lower, _ = cho_factor(train @ train.T + variance * np.eye(n_train), lower=True)
            return solve_triangular(lower, train @ pool.T, lower=True).T
        except np.linalg.LinAlgError:
            pass  # σ² is below the rounding of K: the limit is that of σ = 0
    _, values, right = np.linalg.svd(train, full_matrices=False)
    return pool @ right[values > np.sqrt(_RANK) * values[0]].T if values[0] else np.zeros((len(pool), 0))
