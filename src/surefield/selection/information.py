"""BAIT where a label is many numbers: rows are information matrices of structures, such as of their forces.

A structure with the rows J of a linear model, three for each atom, adds G = JᵀJ to the precision of the
weights, and the variance of its predictions is tr(M G) summed. `Features.information` says that rows are such
matrices, packed.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, Int

from surefield.selection.batch import GrowingBatch
from surefield.selection.features import Features
from surefield.selection.request import Picks, Request
from surefield.sensitivity.packed_matrices import packed, unpacked

__all__ = ["bait_of_information"]

#: Matrices that are unpacked at once.
_AT_ONCE: Final = 512


def bait_of_information(request: Request) -> Picks:
    """Largest drop of the mean ln σ of all predictions of pool and train (BAIT, forward).

    With M = (Σ_S G + σ²I)⁻¹ the mean variance of the n_i numbers of structure i is v_i = tr(M G_i)/n_i, and
    what falls is Σ_i n_i ln v_i. Its slope weighs the variances, so that the drop by a structure is
    tr((M − M′) Σ_i G_i/v_i) with M′ after its label, as in `bait_f`, where all weights are 1. Logarithms,
    because with the variances themselves the structures of the largest forces decide everything, and the
    mean absolute error of the others is lost (`benchmarks/README.md`). The gain is half the drop over Σ n_i.
    """
    features, weights = request.features, request.weights()
    train = features.train if request.mode == "tp" else features.train[:0]
    batch, copies = GrowingBatch(request), features.first_copies()
    precision = unpacked(train.sum(axis=0)[None])[0]
    precision += request.sigma**2 * np.eye(len(precision))
    free = weights > 0
    while not batch.full:
        candidates = batch.candidates(free)
        if candidates is None:
            break
        covariance = np.linalg.inv(precision)
        covariance = 0.5 * (covariance + covariance.T)
        target, count = _target(features, covariance)
        # Only first copies are computed: equal rows must have equal values.
        asked = np.unique(copies[candidates])
        drops = np.zeros(features.n_pool)
        drops[asked] = 0.5 * _drops(features.pool, asked, covariance, target) / count
        values = weights * drops[copies]
        index = int(np.argmax(np.where(candidates, batch.per_cost(values), -np.inf)))
        batch.add(index, float(values[index]))
        free[index] = False
        precision += unpacked(features.pool[index][None])[0]
    return batch.picks("zero_scores")


def _target(
    features: Features, covariance: Float[np.ndarray, "k k"]
) -> tuple[Float[np.ndarray, "k k"], float]:
    """Sum of G_i/v_i over pool and train, and that of the n_i."""
    total, count = np.zeros(features.n_features), 0.0
    flat = packed(covariance)
    for rows, sizes in ((features.train, features.n_atoms_train), (features.pool, features.n_atoms_pool)):
        n = np.ones(len(rows)) if sizes is None else 3.0 * sizes
        variances = rows @ flat / n
        # A structure whose label says nothing has nothing to gain.
        some = variances > np.finfo(float).tiny
        total += (1.0 / variances[some]) @ rows[some]
        count += float(n.sum())
    return unpacked(total[None])[0], count


def _drops(
    pool: Float[np.ndarray, "n_pool n_packed"],
    asked: Int[np.ndarray, " n"],
    covariance: Float[np.ndarray, "k k"],
    target: Float[np.ndarray, "k k"],
) -> Float[np.ndarray, " n"]:
    """tr((M − M′) C) for each row asked for, with M′ = (M⁻¹ + G)⁻¹ and C the target."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    inside, unit = root.T @ target @ root, np.eye(len(root))
    result = np.empty(len(asked))
    for start in range(0, len(asked), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        white = root.T @ unpacked(pool[asked[part]]) @ root
        # M − M′ = R (I + W)⁻¹ W Rᵀ with M = R Rᵀ and W = Rᵀ G R.
        result[part] = np.einsum("nij,ji->n", np.linalg.solve(unit + white, white), inside)
    return result
