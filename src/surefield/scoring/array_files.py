"""Array arguments of scores, which may be files, and what says in metadata which arrays they were."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from surefield.errors import DataError
from surefield.execution.identity import digest
from surefield.files import read_json

__all__ = ["content_hash", "described_array", "is_path", "load_array", "load_arrays"]

#: Entries that are hashed at once.
_BLOCK: Final = 2**22


def is_path(value: Any) -> bool:
    """Whether an array argument is the name of a file."""
    return isinstance(value, str | Path)


def load_array(value: Any, name: str, *, mmap: bool = False, json_key: str | None = None) -> np.ndarray:
    """Array of an argument; of another type than numbers or truth values is refused.

    Args:
        value: an array, a nested list, or a path: `.npy` (never unpickled), `.txt` or `.dat`
            (`numpy.loadtxt`), and with `json_key` `.json`.
        name: of the argument, for messages.
        mmap: map a `.npy` file into memory in place of reading it.
        json_key: entry of a `.json` file that holds the array.

    Returns:
        The array in its type; that of the caller is not copied and must not be changed.

    Raises:
        DataError: no such file, an unreadable one, or no array of numbers.
    """
    array = _from_file(Path(value), name, mmap, json_key) if is_path(value) else _as_array(value, name)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} is no array of numbers", got=f"{array.dtype} {array.shape}")
    return array


def load_arrays(value: Any, name: str, *, mmap: bool = False) -> list[np.ndarray]:
    """Arrays of an argument that may be one array or file, or a list of them (`load_array`).

    A nested list of numbers is one array.
    """
    listed = isinstance(value, Sequence) and not is_path(value) and len(value) > 0
    if listed and all(is_path(v) or (isinstance(v, np.ndarray) and v.ndim) for v in value):
        return [load_array(v, f"{name}[{i}]", mmap=mmap) for i, v in enumerate(value)]
    return [load_array(value, name, mmap=mmap)]


def _as_array(value: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of several lengths
        raise DataError(f"{name} is no array", got=error) from None


def _from_file(path: Path, name: str, mmap: bool, json_key: str | None) -> np.ndarray:
    where = Path(path).absolute()
    if not where.is_file():
        raise DataError(f"there is no file for {name}", got=str(where))
    suffix = where.suffix.lower()
    try:
        if suffix == ".npy":
            return np.load(where, mmap_mode="r" if mmap else None, allow_pickle=False)
        if suffix in (".txt", ".dat"):
            return np.loadtxt(where)
    except Exception as error:  # whatever damaged files make NumPy stumble over
        cause = f"{type(error).__name__}: {error}"
        raise DataError(f"the file of {name} cannot be read", where=where, got=cause) from None
    if suffix == ".json" and json_key is not None:
        content = read_json(where)
        if not isinstance(content, Mapping) or json_key not in content:
            keys = sorted(content) if isinstance(content, Mapping) else type(content).__name__
            raise DataError(f"the file of {name} has no {json_key!r}", where=where, got=keys)
        return _as_array(content[json_key], f"{name} ({where})")
    expected = ".npy, .txt or .dat" + (" or .json" if json_key else "")
    raise DataError(f"unknown type of file for {name}", got=str(where), expected=expected)


def content_hash(array: np.ndarray) -> str:
    """Hash of the numbers and the shape, 32 hexadecimal digits, in blocks; the type does not matter."""
    array = np.atleast_1d(array)
    if array.size <= _BLOCK:
        return digest(array)
    total = hashlib.sha256(f"{array.shape}".encode())
    step = max(1, _BLOCK * len(array) // array.size)
    for first in range(0, len(array), step):
        total.update(np.ascontiguousarray(array[first : first + step], "<f8").tobytes())
    return total.hexdigest()[:32]


def described_array(value: Any, name: str, array: np.ndarray | None = None) -> dict[str, Any]:
    """What metadata says of an array argument: hash, shape and type, and the path of a file.

    Args:
        value: of the argument.
        name: of the argument.
        array: of the argument, where it has been loaded.
    """
    loaded = load_array(value, name, mmap=True) if array is None else array
    place = {"path": str(Path(value).absolute())} if is_path(value) else {}
    return {**place, "hash": content_hash(loaded), "shape": list(loaded.shape), "dtype": str(loaded.dtype)}
