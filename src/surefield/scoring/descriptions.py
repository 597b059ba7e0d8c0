"""Arguments of a score as metadata: what determines a number, in a form that JSON has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
from ase import Atoms

from surefield.errors import DataError
from surefield.execution.identity import digest
from surefield.files import json_text
from surefield.potentials.potential import Potential
from surefield.potentials.saving import arrays_hash
from surefield.scoring.array_files import content_hash, described_array
from surefield.structures.contents import frame_contents
from surefield.structures.read import Frames, read_frames

__all__ = ["described", "picked"]


def described(arguments: Mapping[str, Any], array_arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments by name, as JSON has them: arrays by hash, shape and type, and by path if they are files.

    Args:
        arguments: by name; potentials are described by class and hash, structures by the hash of their
            contents, functions and objects by name.
        array_arguments: names of arguments whose text is the path of a file.
    """
    return {
        name: _array_argument(value, name) if name in array_arguments else _plain(value)
        for name, value in arguments.items()
    }


def _array_argument(value: Any, name: str) -> Any:
    if value is None or isinstance(value, int | float | Mapping) or _is_structures(value):
        return _plain(value)
    if isinstance(value, list | tuple) and not all(isinstance(v, int | float | np.number) for v in value):
        return [_array_argument(v, f"{name}[{i}]") for i, v in enumerate(value)]
    return described_array(value, name)


def _is_structures(value: Any) -> bool:
    return isinstance(value, Frames) or (
        isinstance(value, list | tuple) and bool(value) and all(isinstance(v, Atoms) for v in value)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, np.ndarray):
        return {"hash": content_hash(value), "shape": list(value.shape), "dtype": str(value.dtype)}
    if _is_structures(value):
        return {"structures": len(value), "hash": digest(frame_contents(read_frames(value)))}
    potential = value if isinstance(value, Potential) else getattr(value, "potential", None)
    if isinstance(potential, Potential):
        return {"class": type(potential).__name__, "hash": arrays_hash(potential)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    try:
        json_text(value)
    except DataError:
        kind = value if hasattr(value, "__qualname__") else type(value)
        return f"{kind.__module__}.{kind.__qualname__}"
    return value


def picked(
    arguments: Mapping[str, Any], names: Sequence[str], which: Sequence[int], n: int
) -> dict[str, Any]:
    """Arguments of a part of the configurations.

    Args:
        arguments: of all configurations; they are not changed.
        names: of those that may hold one entry per configuration: `list_of_mask` must if it is there;
            `evaluate_kwargs.compute_energy`, an entry of a dictionary, may also hold one value for all.
        which: configurations of the part.
        n: number of all configurations.

    Raises:
        DataError: another number of entries.
    """
    part = dict(arguments)
    for dotted in names:
        name, _, entry = dotted.partition(".")
        if entry and isinstance(part.get(name), Mapping) and entry in part[name]:
            part[name] = {**part[name], entry: _entries(part[name][entry], dotted, which, n, shared=True)}
        elif not entry and part.get(name) is not None:
            part[name] = _entries(part[name], name, which, n, shared=False)
    return part


def _entries(value: Any, name: str, which: Sequence[int], n: int, *, shared: bool) -> Any:
    if not (isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim)):
        if shared:
            return value
        raise DataError(f"{name} needs one entry per configuration", got=type(value).__name__, expected=n)
    if shared and len(value) == 1:
        return value
    if len(value) != n:
        raise DataError(f"{name} needs one entry per configuration", got=len(value), expected=n)
    return [value[i] for i in which]
