"""BAIT: the batch after which the predictions of all structures vary least."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float

from surefield.errors import ConfigError
from surefield.selection.batch import GrowingBatch
from surefield.selection.chunked_features import ChunkedFeatures
from surefield.selection.features import Features
from surefield.selection.information import bait_of_information
from surefield.selection.request import Picks, Request
from surefield.selection.weight_posterior import WeightPosterior

__all__ = ["bait_f", "bait_fb"]

#: Variances below this fraction of those they were computed from are computed anew.
_REFRESH: Final = 1e-6


def bait_f(request: Request) -> Picks:
    """Largest drop of tr(C M), the summed posterior variance of pool and train (BAIT, forward).

    C is the sum of φφᵀ over pool and train, M the posterior covariance of the weights. The gain is the drop.

    Rows that are information matrices: see `bait_of_information`.

    Ash, Goel, Krishnamurthy, Kakade, NeurIPS 34 (2021); Holzmüller et al., JMLR 24 (2023) 164, section 4.2.
    """
    if getattr(request.features, "information", False):
        return bait_of_information(request)
    batch = GrowingBatch(request)
    _forward(batch)
    return batch.picks("zero_scores")


def bait_fb(request: Request) -> Picks:
    """`bait_f` with more picks than wanted, of which then those are removed that tr(C M) needs least.

    The picks keep their order and the gains that they were made for. Quotas and budget may be exceeded as
    much as the size of the batch on the way; of labels with a cost the least loss per cost is taken back.

    Raises:
        ConfigError: rows that are information matrices.
    """
    if getattr(request.features, "information", False):
        raise ConfigError("bait_fb takes rows, not information matrices", fix="method 'bait_f'")
    batch = GrowingBatch(request, round(request.overselect * request.batch_size), scale=request.overselect)
    posterior = _forward(batch)
    total, weights = _sum_of_squares(request.features), request.weights()
    posterior.refresh()
    while (surplus := batch.surplus()) is not None:
        chosen = np.array(batch.indices)
        rows = request.features.pool[chosen]
        v = rows @ posterior.matrix
        # What a row leaves of the noise is at least σ⁴/(σ² + ‖φ‖²); rounding must not make it negative.
        left = posterior.variance - np.einsum("ij,ij->i", rows, v)
        left = np.maximum(left, np.finfo(float).eps * posterior.variance)
        loss = np.zeros(request.features.n_pool)
        loss[chosen] = weights[chosen] * np.einsum("ij,ij->i", v @ total, v) / left
        worst = int(np.argmin(np.where(surplus, batch.per_cost(loss)[chosen], np.inf)))
        posterior.remove(rows[worst])
        batch.take_back(worst)
    # Places passed on among more picks than asked for say nothing of those that stay.
    batch.notes = list(batch.limits.notes)
    return batch.picks("zero_scores")


def _forward(batch: GrowingBatch) -> WeightPosterior:
    """Fill a batch by the largest drops; the posterior after it."""
    request = batch.request
    features, weights = request.features, request.weights()
    pool, copies = features.pool, features.first_copies()
    train = features.train if request.mode == "tp" else features.train[:0]
    posterior = WeightPosterior(train, request.sigma)
    total = _sum_of_squares(features)
    free = weights > 0

    def variances() -> tuple[Float[np.ndarray, " n_pool"], Float[np.ndarray, " n_pool"]]:
        drop, spread = np.empty(features.n_pool), np.empty(features.n_pool)
        for part in features.passes():
            v = pool[part] @ posterior.matrix
            drop[part] = np.einsum("ij,ij->i", v @ total, v)
            spread[part] = np.einsum("ij,ij->i", v, pool[part])
        return drop[copies], spread[copies] + posterior.variance

    # Both are kept for every candidate and lowered with each pick: N F operations instead of N F².
    drops, spread = variances()
    scale = drops.max()
    while not batch.full:
        candidates = batch.candidates(free)
        if candidates is None:
            break
        values = weights * drops / spread
        index = int(np.argmax(np.where(candidates, batch.per_cost(values), -np.inf)))
        batch.add(index, values[index])
        free[index] = False
        picked = pool[index]
        v = posterior.matrix @ picked
        cv = total @ v
        mcv, variance = posterior.matrix @ cv, float(picked @ v) + posterior.variance
        for part in features.passes():
            rows = pool[part]
            along = np.einsum("ij,j->i", rows, v)
            share = along / variance
            drops[part] += share * (share * float(v @ cv) - 2.0 * np.einsum("ij,j->i", rows, mcv))
            spread[part] -= along * share
        posterior.add(picked)
        if free.any() and drops[free].max() < _REFRESH * scale:
            drops, spread = variances()
            scale = drops[free].max()
    return posterior


def _sum_of_squares(
    features: Features | ChunkedFeatures,
) -> Float[np.ndarray, "n_features n_features"]:
    total = features.train.T @ features.train
    for part in features.passes():
        rows = features.pool[part]
        total += rows.T @ rows
    return total
