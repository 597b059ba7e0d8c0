"""Nearest rows by a graph of neighbours (HNSW of faiss): for many more rows than an exact search can look at.

Malkov and Yashunin, IEEE Trans. Pattern Anal. Mach. Intell. 42, 824 (2020). The only module that imports
`faiss`, of the extra `[ann]`. Up to some ten thousand rows the exact search is faster.
"""

from __future__ import annotations

from typing import Any, Final, final

import numpy as np
from jaxtyping import Float, Int

from surefield.errors import ConfigError
from surefield.selection.distances import k_nearest

__all__ = ["NeighborGraph", "check_faiss"]

#: Neighbours of each row in the graph.
LINKS: Final = 32
#: Rows that are looked at when the graph is made, and when it is searched.
AT_MAKING: Final = 200
AT_SEARCH: Final = 64


def check_faiss() -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import faiss  # pyright: ignore[reportMissingImports]
    except ImportError:
        fix = "pip install 'surefield[ann]', or index 'exact'"
        raise ConfigError("index 'faiss' needs the package faiss, which is not installed", fix=fix) from None
    return faiss


@final
class NeighborGraph:
    """Rows that are searched for the nearest ones, approximately; distances are those of the rows.

    Args:
        rows: (n, n_features).

    Raises:
        ConfigError: faiss is not installed.
    """

    def __init__(self, rows: Float[np.ndarray, "n n_features"]) -> None:
        faiss = check_faiss()
        self.rows = np.asarray(rows, np.float64)
        # Single precision is what faiss has: about the mean, digits are those of differences.
        self._origin = self.rows.mean(axis=0)
        self._graph = faiss.IndexHNSWFlat(self.rows.shape[1], LINKS)
        self._graph.hnsw.efConstruction = AT_MAKING
        self._graph.add(self._single(self.rows))

    def _single(self, rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(rows - self._origin, np.float32)

    def nearest(
        self, rows: Float[np.ndarray, "m n_features"], k: int
    ) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
        """Squared distances to k rows that are nearly always the nearest, ascending, and their indices."""
        self._graph.hnsw.efSearch = max(AT_SEARCH, 2 * k)
        which = self._graph.search(self._single(rows), k)[1]
        distances = np.sum((rows[:, None] - self.rows[which]) ** 2, axis=-1)
        # Where the graph has led to fewer than k.
        lost = np.flatnonzero((which < 0).any(axis=1))
        if len(lost):
            distances[lost], which[lost] = k_nearest(rows[lost], self.rows, k)
        order = np.argsort(distances, axis=1, kind="stable")
        return np.take_along_axis(distances, order, axis=1), np.take_along_axis(which, order, axis=1)
