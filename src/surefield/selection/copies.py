"""Rows of features that are copies of others, for structures that no key tells to be equal."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from surefield.selection.distances import squared_norms
from surefield.selection.features import Features
from surefield.selection.request import generator
from surefield.selection.selection import Dropped

__all__ = ["find_copies"]

#: Rows with d² ≤ this (K_ii + K_jj) are copies.
_COPY: Final = 1e-10


def find_copies(features: Features, without: Container[int] = ()) -> list[Dropped]:
    """Rows of the pool with d² ≤ 1e-10 (K_ii + K_jj) to a training row or an earlier row that stays.

    Args:
        features: of train and pool.
        without: rows of the pool that are not considered, and of which nothing is a copy.
    """
    n_train = features.n_train
    rows = np.concatenate([features.train, features.pool])
    norms = np.concatenate([features.train_norms, features.pool_norms])
    first, second = _near_pairs(rows, norms)
    order = np.lexsort((first, second))
    dropped: dict[int, Dropped] = {}
    for kept, index in zip(first[order].tolist(), (second[order] - n_train).tolist(), strict=True):
        other = kept - n_train
        if index < 0 or index in dropped or index in without or other in dropped or other in without:
            continue
        where, number = ("pool", other) if other >= 0 else ("train", kept)
        dropped[index] = Dropped(index, f"features of structure {number} of {where}", number, where)
    return [dropped[index] for index in sorted(dropped)]


def _near_pairs(
    rows: Float[np.ndarray, "m n_features"], norms: Float[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """All pairs i < j of copies. Copies have nearly the same place on any line: only those are compared."""
    direction = generator(0).normal(size=rows.shape[1])
    places = np.einsum("ij,j->i", rows, direction / np.linalg.norm(direction))
    order = np.argsort(places, kind="stable")
    places, largest = places[order], norms.max()
    # d ≤ 1e-5 √(K_ii + K_jj), and rounding of the places.
    reach = np.sqrt(_COPY * (norms[order] + largest)) + 1e-14 * np.sqrt(largest)
    pairs: list[Int[np.ndarray, "2 found"]] = []
    active = np.arange(len(rows) - 1)
    lag = 1
    while len(active):
        active = active[active + lag < len(rows)]
        active = active[places[active + lag] - places[active] <= reach[active]]
        i, j = order[active], order[active + lag]
        if len(i):
            near = squared_norms(rows[i] - rows[j]) <= _COPY * (norms[i] + norms[j])
            pairs.append(np.stack([np.minimum(i, j)[near], np.maximum(i, j)[near]]))
        lag += 1
    first, second = np.concatenate([np.zeros((2, 0), dtype=np.int64), *pairs], axis=1)
    return first, second
