"""Nearest rows by a graph of neighbours (HNSW of faiss): for many more rows than an exact search can look at.

Malkov and Yashunin, IEEE Trans. Pattern Anal. Mach. Intell. 42, 824 (2020). The only module that imports
`faiss`, of the extra `[ann]`. Up to some ten thousand rows the exact search is faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float, Int

from surefield.errors import ConfigError
from surefield.selection.distances import DIFFERENCE_ENTRIES, k_nearest

__all__ = ["CompressedRows", "NeighborGraph", "check_faiss"]

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


@dataclass(frozen=True, eq=False)
class _Centred:
    """Rows about their mean: single precision is what faiss has, and its digits are those of differences."""

    rows: Float[np.ndarray, "n n_features"]
    origin: Float[np.ndarray, " n_features"]

    @classmethod
    def of(cls, rows: Float[np.ndarray, "n n_features"]) -> _Centred:
        """Rows in double precision and their mean."""
        rows = np.asarray(rows, np.float64)
        return cls(rows, rows.mean(axis=0))

    def single(self, rows: Float[np.ndarray, "m n_features"]) -> Float[np.ndarray, "m n_features"]:
        """Any rows as faiss has them."""
        return np.ascontiguousarray(rows - self.origin, np.float32)


@final
class NeighborGraph:
    """Rows that are searched for the nearest ones, approximately; distances are those of the rows.

    Args:
        rows: (n, n_features).
        links: of each row.
        at_making: rows that are looked at when the graph is made.
        at_search: when it is searched; at least 2k.

    Raises:
        ConfigError: faiss is not installed, or it refuses the arguments.
    """

    def __init__(
        self,
        rows: Float[np.ndarray, "n n_features"],
        links: int = LINKS,
        at_making: int = AT_MAKING,
        at_search: int = AT_SEARCH,
    ) -> None:
        self._centred, self._at_search = _Centred.of(rows), at_search
        with _refusals():
            self._graph = _graph(self.rows.shape[1], links, at_making)
            self._graph.add(self._centred.single(self.rows))

    @property
    def rows(self) -> Float[np.ndarray, "n n_features"]:
        """All rows, float64."""
        return self._centred.rows

    def nearest(
        self, rows: Float[np.ndarray, "m n_features"], k: int
    ) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
        """Squared distances to k rows that are nearly always the nearest, ascending, and their indices."""
        self._graph.hnsw.efSearch = max(self._at_search, 2 * k)
        return _at_exact_distances(self._graph.search(self._centred.single(rows), k)[1], rows, self.rows, k)


@final
class CompressedRows:
    """Rows that are searched by coarse cells and products of short codes: for rows that fill the memory.

    Jegou, Douze, Schmid, IEEE Trans. Pattern Anal. Mach. Intell. 33, 117 (2011); cells are found by a graph.

    Args:
        rows: (n, n_features).
        cells: of the coarse division; None: about 4 sqrt(n), at least 39 rows each.
        parts: into which each row is cut, a divisor of n_features; None: the largest that leaves four or more
            features to a part.
        bits: of the code of a part.
        links, at_making, at_search: see `NeighborGraph`, of the graph of cells; as many cells are searched.

    Raises:
        ConfigError: faiss is not installed, or it refuses the arguments.
    """

    def __init__(
        self,
        rows: Float[np.ndarray, "n n_features"],
        cells: int | None = None,
        parts: int | None = None,
        bits: int = 8,
        links: int = LINKS,
        at_making: int = AT_MAKING,
        at_search: int = AT_SEARCH,
    ) -> None:
        self._centred = _Centred.of(rows)
        n, width = self.rows.shape
        cells = cells or max(1, min(int(4 * n**0.5), n // 39))
        parts = parts or max(m for m in range(1, max(2, width // 4 + 1)) if width % m == 0)
        with _refusals():
            self._coarse = _graph(width, links, at_making)
            self._coarse.hnsw.efSearch = at_search
            self._index = check_faiss().IndexIVFPQ(self._coarse, width, cells, parts, bits)
            single = self._centred.single(self.rows)
            self._index.train(single)
            self._index.add(single)
        self._index.nprobe = min(cells, at_search)

    @property
    def rows(self) -> Float[np.ndarray, "n n_features"]:
        """All rows, float64."""
        return self._centred.rows

    def nearest(
        self, rows: Float[np.ndarray, "m n_features"], k: int
    ) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
        """Squared distances to k rows that are often the nearest, ascending, and their indices.

        Codes choose ten times as many, of which the distances decide.
        """
        wanted = min(len(self.rows), max(10 * k, 64))
        return _at_exact_distances(
            self._index.search(self._centred.single(rows), wanted)[1], rows, self.rows, k
        )


def _at_exact_distances(
    which: Int[np.ndarray, "m wanted"], rows: np.ndarray, others: np.ndarray, k: int
) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
    """The k nearest of those that a search has named, ascending; of equals the lower index."""
    which = which.astype(np.int64)
    distances = np.empty(which.shape)
    step = max(1, DIFFERENCE_ENTRIES // max(which.shape[1] * rows.shape[1], 1))
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        distances[part] = np.sum((rows[part, None] - others[which[part]]) ** 2, axis=-1)
    distances[which < 0] = np.inf
    order = np.lexsort((which, distances), axis=1)[:, :k]
    distances, which = np.take_along_axis(distances, order, axis=1), np.take_along_axis(which, order, axis=1)
    # Where the search has led to fewer than k.
    lost = np.flatnonzero((which < 0).any(axis=1))
    if len(lost):
        distances[lost], which[lost] = k_nearest(rows[lost], others, k)
    return distances, which


def _graph(width: int, links: int, at_making: int) -> Any:
    """Empty graph of neighbours."""
    graph = check_faiss().IndexHNSWFlat(width, links)
    graph.hnsw.efConstruction = at_making
    return graph


@contextmanager
def _refusals() -> Iterator[None]:
    """What faiss refuses, as an error of this package."""
    try:
        yield
    except RuntimeError as error:
        cause = str(error).strip().splitlines()[-1]
        raise ConfigError("faiss cannot make this index", got=cause) from error
