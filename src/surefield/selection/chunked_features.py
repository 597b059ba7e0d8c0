"""Features of a pool that is larger than memory, read chunk by chunk."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from surefield.errors import DataError
from surefield.selection import distances
from surefield.selection.features import Features, checked_rows, positive_int

__all__ = ["CHUNK_ROWS", "ChunkedFeatures"]

#: Rows of a chunk where none are given: 64 columns are 8 MiB.
CHUNK_ROWS: Final = 16_384


class ChunkedFeatures:
    """What `Features` is for arrays, for a memory map or a `FeatureStore`.

    One pass over the pool checks its rows and keeps their norms, 8 bytes each. Rows are cast to float64 as
    they are read.

    Args:
        train: (n_train, n_features) in memory; None stands for no training rows.
        pool: (n_pool, n_features) that gives rows by slices and by arrays of indices, as an array.
        chunk_size: rows of a chunk.
        n_atoms_pool: (n_pool,) atoms per structure, if known.
        spec: how the features were made, in words.

    Raises:
        ConfigError: `chunk_size` is no whole number of at least 1.
        DataError: as `Features`.
    """

    def __init__(
        self,
        train: ArrayLike | None,
        pool: Any,
        chunk_size: int = CHUNK_ROWS,
        n_atoms_pool: ArrayLike | None = None,
        spec: str = "array",
    ) -> None:
        size = positive_int(chunk_size, "chunk_size")
        if getattr(pool, "ndim", 0) == 2 and not len(pool):
            store = getattr(pool, "path", None)
            fix = "" if store is None else "fill the store first"
            raise DataError("the pool is empty: there is nothing to select from", where=store, fix=fix)
        if getattr(pool, "ndim", 0) != 2 or 0 in pool.shape:
            raise DataError(
                "pool features must be 2-D, and not empty",
                got=f"shape {getattr(pool, 'shape', None)}",
                expected="(n_structures, n_features)",
            )
        # A pool of one row stands for all while the rest is checked: widths, types and numbers of atoms.
        first = Features(train, pool[:1], spec=spec)
        self.train, self.train_norms, self.spec = first.train, first.train_norms, first.spec
        self.transforms = first.transforms  # none: they need all rows at once
        self.n_train, self.n_pool, self.n_features = first.n_train, len(pool), first.n_features
        self.source = pool
        # Parts of a memory map are cheaper to take from a plain view of it.
        self._plain = np.asarray(pool) if isinstance(pool, np.ndarray) else pool
        self.pool = _Rows(self._plain)
        self.n_atoms_train = None
        self.n_atoms_pool = None
        if n_atoms_pool is not None:
            self.n_atoms_pool = np.asarray(n_atoms_pool, dtype=np.float64)
            if self.n_atoms_pool.shape != (self.n_pool,):
                raise DataError("n_atoms_pool must have one entry per row", got=self.n_atoms_pool.shape)
        self.chunks = [slice(i, min(i + size, self.n_pool)) for i in range(0, self.n_pool, size)]
        self.pool_norms = np.empty(self.n_pool)
        differ = False
        for part in self.passes():
            rows = self.pool[part]
            self.pool_norms[part] = norms = distances.squared_norms(rows)
            if not np.all(norms < np.inf):
                bad = int(np.flatnonzero(~(norms < np.inf))[0])
                checked_rows(rows[bad : bad + 1], f"pool features (row 0 is row {part.start + bad})")
            differ = differ or not np.array_equal(rows, np.broadcast_to(first.pool, rows.shape))
        self._informed = (differ or first.carry_information()) and bool(
            self.pool_norms.any() or self.train_norms.any()
        )

    def rows(self, part: slice, chosen: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m n_features"]:
        """Some rows of a part of the pool, by their places in the part."""
        return np.ascontiguousarray(self._plain[part][chosen], dtype=np.float64)

    def passes(self) -> list[slice]:
        """Parts of the pool for work that reads all of it: multiples of a chunk, large enough to read."""
        size = self.chunks[0].stop
        size *= max(1, CHUNK_ROWS // size)
        return [slice(i, min(i + size, self.n_pool)) for i in range(0, self.n_pool, size)]

    def of(self, kept: Int[np.ndarray, " n_kept"]) -> ChunkedFeatures:
        """The same of some rows of the pool, in their order, read from where all are."""
        sizes = None if self.n_atoms_pool is None else self.n_atoms_pool[kept]
        chunk = self.chunks[0].stop
        return ChunkedFeatures(self.train, _Chosen(self._plain, kept), chunk, sizes, self.spec)

    def first_copies(self) -> Int[np.ndarray, " n_pool"]:
        """For each row of the pool the index of the first one that equals it, told by 64 bits of each."""
        generator = np.random.Generator(np.random.Philox(key=1))
        factors = generator.integers(0, 2**64, size=self.n_features, dtype=np.uint64) | np.uint64(1)
        marks = np.empty(self.n_pool, dtype=np.uint64)
        for part in self.passes():
            bits = (self.pool[part] + 0.0).view(np.uint64)  # of -0 and 0 the same
            # The exponents, in the high bits, are to count in the low ones of the products.
            bits ^= bits >> np.uint64(32)
            bits *= factors
            bits ^= bits >> np.uint64(29)
            marks[part] = bits.sum(axis=1, dtype=np.uint64)
        _, first, copy = np.unique(marks, return_index=True, return_inverse=True)
        return first[copy.ravel()]

    def carry_information(self) -> bool:
        """Whether some row is not zero and, if there are two or more, some row differs from the others."""
        return self._informed

    def root_mean_square(self) -> float:
        """Root of the mean ‖φ‖² of the training rows, of the pool without any; 0 if all are 0."""
        return float(np.sqrt((self.train_norms if self.n_train else self.pool_norms).mean()))

    def size_correlation(self) -> float | None:
        """Correlation of ‖φ‖ with the number of atoms over the pool; None if unknown or one is constant."""
        if self.n_atoms_pool is None or np.ptp(self.n_atoms_pool) == 0 or np.ptp(self.pool_norms) == 0:
            return None
        return float(np.corrcoef(np.sqrt(self.pool_norms), self.n_atoms_pool)[0, 1])


class _Rows:
    """Rows of the pool as float64, as an array gives them."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __getitem__(self, rows: Any) -> Float[np.ndarray, "m n_features"]:
        return np.ascontiguousarray(self._source[rows], dtype=np.float64)


class _Chosen:
    """Some rows of a source; slices of it are read when they become arrays, as those of a memory map are."""

    ndim = 2

    def __init__(self, source: Any, places: Int[np.ndarray, " n_rows"]) -> None:
        self._source, self._places = source, places
        self.shape = (len(places), source.shape[1])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice):
            return _Chosen(self._source, self._places[rows])
        return np.asarray(self._source[self._places[rows]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._source[self._places], dtype=dtype)
