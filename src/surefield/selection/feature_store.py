"""Feature rows on disk: shards with a key and a checksum each, so that interrupted work goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.files import json_text, read_json, write_atomic
from surefield.selection.features import checked_rows

__all__ = ["SHARD_ROWS", "FeatureStore"]

#: Rows of a shard.
SHARD_ROWS: Final = 16_384
_FORMAT: Final = "surefield-features-1"
_INDEX: Final = "index.json"
_TYPES: Final = ("float32", "float64")


@final
class FeatureStore:
    """A folder with an (n_rows, n_features) array of features, read in parts and written shard by shard.

    A shard is a file of raw numbers named by its key: a hash of the structures of its rows and of how
    features are made. What has another key is never mixed in.

    Args:
        path: folder; made by `fill`.
        dtype: of the numbers on disk, `float32` or `float64`; an existing store keeps its own.

    Raises:
        ConfigError: another type.
        DataError: the folder holds something else, or a damaged index.
    """

    def __init__(self, path: str | os.PathLike[str], dtype: str = "float32") -> None:
        if str(dtype) not in _TYPES:
            raise ConfigError("unknown dtype of a feature store", got=dtype, expected=" or ".join(_TYPES))
        self.path = Path(path)
        self.dtype = np.dtype(dtype)
        self._shards: list[dict[str, Any]] = []
        self._n_features = 0
        self._verified: set[str] = set()
        if (self.path / _INDEX).exists():
            self._read_index()

    @property
    def shape(self) -> tuple[int, int]:
        """(n_rows, n_features)."""
        return sum(shard["rows"] for shard in self._shards), self._n_features

    @property
    def ndim(self) -> int:
        """Two."""
        return 2

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | ArrayLike) -> np.ndarray:
        """Rows by index, by a slice of step 1, or by an array of indices."""
        n_rows = len(self)
        if isinstance(rows, slice):
            start, stop, step = rows.indices(n_rows)
            if step != 1:
                return self[np.arange(start, stop, step)]
            parts = [self._part(k, start, stop) for k in range(start // SHARD_ROWS, -(-stop // SHARD_ROWS))]
            return np.concatenate(parts) if parts else np.zeros((0, self._n_features), self.dtype)
        if np.ndim(rows) == 0:  # pyright: ignore[reportArgumentType]
            return self[np.array([rows])][0]
        indices = np.asarray(rows)
        if indices.dtype == bool:
            indices = np.flatnonzero(indices)
        if len(indices) and not (-n_rows <= indices.min() and indices.max() < n_rows):
            raise IndexError(f"rows {indices.min()} to {indices.max()} of a store with {n_rows}")
        indices = np.where(indices < 0, indices + n_rows, indices).astype(np.int64)
        result = np.empty((len(indices), self._n_features), self.dtype)
        for place, index in enumerate(indices.tolist()):
            result[place] = self._part(index // SHARD_ROWS, index, index + 1)
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    def fill(
        self,
        contents: Sequence[str],
        how: str,
        compute: Callable[[int, int], ArrayLike],
        advance: Callable[[int], object] = lambda rows: None,
    ) -> int:
        """Have the rows of some structures in the store; only shards that are not there are computed.

        Each shard is on disk, whole, as soon as it is computed; the store becomes the new array in the end.
        Shards of earlier contents are deleted then.

        Args:
            contents: a hash of each structure, in the order of the rows.
            how: everything else that the rows follow from: model, feature map, seed.
            compute: `compute(start, stop)` gives the rows of structures start to stop − 1.
            advance: called with the number of rows of every shard that is done.

        Returns:
            Number of shards that were computed.

        Raises:
            ConfigError: no structures.
            DataError: rows that are not finite, or of another number or width.
            ExecutionError: the disk is full or the folder cannot be written.
        """
        if not len(contents):
            raise ConfigError("a feature store needs at least one structure")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExecutionError(f"cannot make the folder {self.path}", got=error.strerror) from None
        shards, computed = [], 0
        for start in range(0, len(contents), SHARD_ROWS):
            stop = min(start + SHARD_ROWS, len(contents))
            text = json_text([_FORMAT, str(self.dtype), how, list(contents[start:stop])])
            key = hashlib.sha256(text.encode()).hexdigest()[:32]
            shard = self._known(key, stop - start)
            if shard is None:
                shard = self._write(key, start, stop, compute(start, stop))
                computed += 1
            if shards and shard["n_features"] != shards[0]["n_features"]:
                got = f"{shard['n_features']} columns from row {start} on, {shards[0]['n_features']} before"
                raise DataError("features must have one width", got=got)
            shards.append(shard)
            advance(stop - start)
        table = {"format": _FORMAT, "dtype": str(self.dtype), "shards": shards}
        write_atomic(self.path / _INDEX, json_text(table, indent=1))
        self._read_index()
        names = {shard["key"] for shard in shards}
        for file in (*self.path.glob("*.rows"), *self.path.glob("*.json")):
            if file.name != _INDEX and file.stem not in names:
                file.unlink(missing_ok=True)
        return computed

    def _write(self, key: str, start: int, stop: int, values: ArrayLike) -> dict[str, Any]:
        rows, _ = checked_rows(values, f"features of structures {start} to {stop - 1}")
        if len(rows) != stop - start:
            raise DataError("one row per structure is needed", got=len(rows), expected=stop - start)
        with np.errstate(over="ignore"):
            data = np.ascontiguousarray(rows, self.dtype)
        if not np.isfinite(data).all():
            raise DataError(f"features are too large for {self.dtype}", fix="a store with dtype='float64'")
        raw = data.tobytes()
        checksum = hashlib.sha256(raw).hexdigest()
        shard = {"key": key, "rows": len(rows), "n_features": rows.shape[1], "checksum": checksum}
        write_atomic(self._file(key), raw)
        write_atomic(self._file(key).with_suffix(".json"), json_text(shard))
        return shard

    def _known(self, key: str, n_rows: int) -> dict[str, Any] | None:
        """The record of a shard that is there and whole."""
        record = self._file(key).with_suffix(".json")
        try:
            shard = read_json(record)
            if shard["key"] != key or shard["rows"] != n_rows:
                return None
            self._verify(shard)
        except (DataError, KeyError, TypeError):
            return None
        return shard

    def _read_index(self) -> None:
        try:
            table = read_json(self.path / _INDEX)
            if table["format"] != _FORMAT or table["dtype"] not in _TYPES:
                raise KeyError
            shards = table["shards"]
            self._n_features = int(shards[0]["n_features"])
            self.dtype = np.dtype(table["dtype"])
            self._shards = list(shards)
        except (KeyError, TypeError, IndexError, AttributeError):
            fix = "fill it again, or use another folder"
            raise DataError(f"{self.path} is no feature store of this version", fix=fix) from None

    def _part(self, k: int, start: int, stop: int) -> np.ndarray:
        """Those of rows start to stop − 1 that are in shard k, read from the file."""
        shard, first = self._shards[k], k * SHARD_ROWS
        low, high = max(start - first, 0), min(stop - first, shard["rows"])
        if shard["key"] not in self._verified:
            self._verify(shard)
        width = self._n_features
        # Not a memory map: the pages of a map count as memory of the process.
        data = np.fromfile(
            self._file(shard["key"]),
            dtype=self.dtype,
            count=(high - low) * width,
            offset=low * width * self.dtype.itemsize,
        )
        return data.reshape(high - low, width)

    def _verify(self, shard: dict[str, Any]) -> None:
        path, total = self._file(shard["key"]), hashlib.sha256()
        try:
            with path.open("rb") as file:
                while block := file.read(2**20):
                    total.update(block)
        except OSError:
            total = hashlib.sha256(b"missing")
        if total.hexdigest() != shard["checksum"]:
            fix = "fill the store again: only what is damaged is computed"
            raise DataError(f"{path} is missing or damaged", fix=fix)
        self._verified.add(shard["key"])

    def _file(self, key: str) -> Path:
        return self.path / f"{key}.rows"
