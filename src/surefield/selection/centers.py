"""Distances of the pool to the nearest of train and picks, and which of these that is."""

from __future__ import annotations

import numpy as np

from surefield.selection import distances
from surefield.selection.chunked_features import ChunkedFeatures
from surefield.selection.features import Features

__all__ = ["Centers"]


class Centers:
    """Squared distance of every pool row to the nearest center, and which center that is.

    Args:
        features: train and pool rows.
        train: whether the training rows are centers from the start.

    Attributes:
        distances: (n_pool,) d² to the nearest center; inf without any.
        nearest: (n_pool,) index of that center, training rows first, then picks in order.
        count: centers so far.
    """

    def __init__(self, features: Features | ChunkedFeatures, train: bool) -> None:
        self.features = features
        self.count = features.n_train if train else 0
        rows, norms = features.train[: self.count], features.train_norms[: self.count]
        self.distances = np.empty(features.n_pool)
        self.nearest = np.zeros(features.n_pool, dtype=np.int32)
        for part in features.passes():
            self.distances[part], self.nearest[part] = distances.nearest(
                features.pool[part], features.pool_norms[part], rows, norms
            )

    def add(self, index: int) -> None:
        """Make a pool row the next center; a row that is equally near to an older center stays there."""
        features = self.features
        point, norm = features.pool[index], float(features.pool_norms[index])
        for part in features.passes():
            nearest, which = self.distances[part], self.nearest[part]
            new = distances.squared_distances(
                features.pool[part], features.pool_norms[part], point, norm, ceiling=nearest
            )
            closer = new < nearest
            nearest[closer] = new[closer]
            which[closer] = self.count
        self.count += 1
