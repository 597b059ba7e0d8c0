"""Arguments of a call as data: JSON with arrays, structures and potentials as files beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms

from surefield.errors import ConfigError
from surefield.files import atomic_path
from surefield.potentials.potential import Potential
from surefield.potentials.saving import load_potential, save_potential
from surefield.structures.read import Frames, read_frames, write_frames

__all__ = ["read_arguments", "store_arguments"]

_ARRAY: Final = "@array"
_STRUCTURES: Final = "@structures"
_POTENTIAL: Final = "@potential"
_NUMBER: Final = "@number"
_PAIRS: Final = "@pairs"


def store_arguments(
    arguments: Mapping[str, Any], array_arguments: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Arguments as JSON has them; arrays are written to `.npy`, one file each, and named by path.

    Args:
        arguments: by name; they are not changed.
        array_arguments: names of those in which a text is a path, which is made absolute.
        folder: of the files, made if missing.

    Raises:
        ConfigError: what is no data, such as a function.
        ExecutionError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {name: _Store(folder, name in array_arguments).form(v, name) for name, v in arguments.items()}


def read_arguments(stored: Mapping[str, Any], array_arguments: Sequence[str]) -> dict[str, Any]:
    """Arguments that `store_arguments` wrote; those that may be files are given as paths."""
    return {name: _read(form, name in array_arguments) for name, form in stored.items()}


class _Store:
    def __init__(self, folder: Path, paths: bool) -> None:
        self.folder = folder
        self.paths = paths

    def form(self, value: Any, name: str) -> Any:
        if isinstance(value, Enum):
            return value.name
        if isinstance(value, Path) or (isinstance(value, str) and self.paths):
            return str(Path(value).absolute())
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            return {_NUMBER: str(value)}
        if value is None or isinstance(value, str | bool | int | float):
            return value
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            return {_ARRAY: str(self._array(value, name))}
        if isinstance(value, Mapping):
            return self._mapping(value, name)
        if isinstance(value, Frames) or (
            isinstance(value, list | tuple) and len(value) and all(isinstance(v, Atoms) for v in value)
        ):
            write_frames(self.folder / f"{name}.extxyz", list(value))
            return {_STRUCTURES: str(self.folder / f"{name}.extxyz")}
        if isinstance(value, list | tuple):
            return [self.form(entry, f"{name}_{i}") for i, entry in enumerate(value)]
        potential = value if isinstance(value, Potential) else getattr(value, "potential", None)
        if isinstance(potential, Potential):
            save_potential(self.folder / f"{name}.npz", potential)
            return {_POTENTIAL: str(self.folder / f"{name}.npz")}
        kind = getattr(value, "__qualname__", None) or type(value).__name__
        fix = "give numbers, texts, arrays, structures, a potential or a dictionary, or compute it here"
        raise ConfigError(f"{name} cannot be given to a job", got=kind, fix=fix)

    def _array(self, array: np.ndarray, name: str) -> Path:
        path = self.folder / f"{name}.npy"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        return path

    def _mapping(self, value: Mapping[Any, Any], name: str) -> dict[str, Any]:
        entries = [(key, self.form(entry, f"{name}_{key}")) for key, entry in value.items()]
        if all(isinstance(key, str) and not key.startswith("@") for key, _ in entries):
            return dict(entries)
        return {_PAIRS: [[key, entry] for key, entry in entries]}


def _read(form: Any, paths: bool) -> Any:
    if isinstance(form, list):
        return [_read(entry, paths) for entry in form]
    if not isinstance(form, Mapping):
        return form
    if len(form) == 1:
        ((tag, value),) = form.items()
        if tag == _ARRAY:
            return value if paths else np.load(value, allow_pickle=False)
        if tag == _STRUCTURES:
            return list(read_frames(value))
        if tag == _POTENTIAL:
            return load_potential(value)
        if tag == _NUMBER:
            return float(value)
        if tag == _PAIRS:
            return {key: _read(entry, paths) for key, entry in value}
    return {key: _read(entry, paths) for key, entry in form.items()}
