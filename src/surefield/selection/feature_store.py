"""Feature rows on disk: shards with a key and a checksum each, so that interrupted work goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.execution.executor import get_executor
from surefield.execution.in_flight import TasksInFlight
from surefield.files import json_text, read_json, write_atomic
from surefield.selection.features import checked_rows

__all__ = ["SHARD_ROWS", "FeatureStore"]

#: Rows of a shard.
SHARD_ROWS: Final = 16_384
_FORMAT: Final = "surefield-features-1"
_INDEX: Final = "index.json"
_FIX: Final = "fill the store again: only what is damaged is computed"
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
        executor: Executor | str | None = None,
    ) -> int:
        """Have the rows of some structures in the store; only shards that are not there are computed.

        Each shard is on disk, whole, as soon as it is computed; the store becomes the new array in the end.
        Shards of earlier contents are deleted then.

        Args:
            contents: a hash of each structure, in the order of the rows.
            how: everything else that the rows follow from: model, feature map, seed.
            compute: `compute(start, stop)` gives the rows of structures start to stop − 1.
            advance: called with the number of rows of every shard that is done.
            executor: where shards are computed, see `get_executor`; for worker processes `compute` must be
                picklable. In this process, one after the other, by default.

        Returns:
            Number of shards that were computed.

        Raises:
            ConfigError: no structures.
            DataError: rows that are not finite, or of another number or width.
            ExecutionError: the disk is full, the folder cannot be written, or the executor lost its workers.
        """
        if not len(contents):
            raise ConfigError("a feature store needs at least one structure")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExecutionError(f"cannot make the folder {self.path}", got=error.strerror) from None
        ranges = [(i, min(i + SHARD_ROWS, len(contents))) for i in range(0, len(contents), SHARD_ROWS)]
        keys = [self._key(how, contents[start:stop]) for start, stop in ranges]
        known = [self._known(key, stop - start) for key, (start, stop) in zip(keys, ranges, strict=True)]
        left = [k for k, shard in enumerate(known) if shard is None]
        for k in (k for k, shard in enumerate(known) if shard is not None):
            advance(ranges[k][1] - ranges[k][0])
        for k, rows in _results(compute, {k: ranges[k] for k in left}, executor):
            known[k] = self._write(keys[k], *ranges[k], rows)
            advance(ranges[k][1] - ranges[k][0])
        shards = [shard for shard in known if shard is not None]
        _check_widths(shards)
        table = {"format": _FORMAT, "dtype": str(self.dtype), "shards": shards}
        write_atomic(self.path / _INDEX, json_text(table, indent=1))
        self._read_index()
        names = {shard["key"] for shard in shards}
        for file in (*self.path.glob("*.rows"), *self.path.glob("*.json")):
            if file.name != _INDEX and file.stem not in names:
                file.unlink(missing_ok=True)
        return len(left)

    def _key(self, how: str, contents: Sequence[str]) -> str:
        text = json_text([_FORMAT, str(self.dtype), how, list(contents)])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

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
        path, count = self._file(shard["key"]), (high - low) * width
        try:
            # Not a memory map: the pages of a map count as memory of the process.
            data = np.fromfile(path, self.dtype, count, offset=low * width * self.dtype.itemsize)
        except OSError:
            data = np.zeros(0, self.dtype)
        if len(data) != count:  # cut off or removed since it was verified
            raise DataError(f"{path} is missing or damaged", fix=_FIX)
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
            raise DataError(f"{path} is missing or damaged", fix=_FIX)
        self._verified.add(shard["key"])

    def _file(self, key: str) -> Path:
        return self.path / f"{key}.rows"


class _Job:
    """`compute` with its two numbers as one argument."""

    def __init__(self, compute: Callable[[int, int], ArrayLike]) -> None:
        self._compute = compute

    def __call__(self, part: tuple[int, int]) -> ArrayLike:
        return self._compute(*part)


def _results(
    compute: Callable[[int, int], ArrayLike],
    parts: Mapping[int, tuple[int, int]],
    executor: Executor | str | None,
) -> Iterator[tuple[int, ArrayLike]]:
    """Number and rows of every part, as they are done; few are held at a time."""
    workers = get_executor(executor)
    try:
        with TasksInFlight(workers, _Job(compute)) as tasks:
            waiting = list(parts.items())[::-1]
            while waiting or len(tasks):
                while waiting and not tasks.full:
                    tasks.submit(*waiting.pop())
                done = tasks.next()
                if done.error is not None:
                    raise done.error
                assert done.value is not None
                yield done.key, done.value
    finally:
        if workers is not executor:
            workers.shutdown()


def _check_widths(shards: Sequence[Mapping[str, Any]]) -> None:
    row = 0
    for shard in shards:
        if shard["n_features"] != shards[0]["n_features"]:
            got = f"{shard['n_features']} columns from row {row} on, {shards[0]['n_features']} before"
            raise DataError("features must have one width", got=got)
        row += shard["rows"]
