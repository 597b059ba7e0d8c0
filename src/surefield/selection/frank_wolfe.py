"""Frank-Wolfe: the batch whose weighted sum comes nearest to the sum of all features."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from surefield.selection.batch import GrowingBatch
from surefield.selection.request import Picks, Request

__all__ = ["frank_wolfe"]


def frank_wolfe(request: Request) -> Picks:
    """Direction that reduces the difference to the sum u of all features most (ACS-FW).

    A is the pool, in mode `tp` with train; v, which starts at 0, is a weighted sum of rows. Each pick has
    the largest φ·(u − v)/‖φ‖, its gain, and moves v towards r φ/‖φ‖ with r = Σ_A ‖φ‖. Rows of train are taken
    first, in their order. Rows that are 0 are never picked.

    Pinsler, Gordon, Nalisnick, Hernández-Lobato, NeurIPS 32 (2019); Holzmüller et al., JMLR 24 (2023) 164,
    section 4.2.
    """
    features, weights = request.features, request.weights()
    count = features.n_train if request.mode == "tp" else 0
    train = features.train[:count]
    lengths, train_lengths = np.sqrt(features.pool_norms), np.sqrt(features.train_norms[:count])
    radius = float(lengths.sum() + train_lengths.sum())
    goal = train.sum(axis=0)
    for part in features.passes():
        goal += features.pool[part].sum(axis=0)
    point = np.zeros_like(goal)

    def step(direction: Float[np.ndarray, " n_features"]) -> None:
        nonlocal point
        move = radius * direction - point
        squared = float(move @ move)
        if squared > 0:
            point = point + (float(move @ (goal - point)) / squared) * move

    for row, length in zip(train, train_lengths, strict=True):
        if length > 0:
            step(row / length)
    scale = np.where(lengths > 0, lengths, 1.0)
    along = np.empty(features.n_pool)
    viable = (lengths > 0) & (weights > 0)
    batch = GrowingBatch(request)
    while not batch.full:
        candidates = batch.candidates(viable)
        if candidates is None:
            break
        for part in features.passes():
            along[part] = np.einsum("ij,j->i", features.pool[part], goal - point)
        values = weights * along / scale
        index = int(np.argmax(np.where(candidates, batch.per_cost(values), -np.inf)))
        batch.add(index, values[index])
        step(features.pool[index] / scale[index])
    return batch.picks("zero_scores" if (lengths > 0).all() else "zero_features")
