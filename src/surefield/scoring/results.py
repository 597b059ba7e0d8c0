"""Results of scores on structures and in files: copies with everything they had, numbers bit by bit."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import DataError
from surefield.files import json_text, read_json, write_atomic
from surefield.structures.label_sources import results_of
from surefield.structures.read import read_frames, write_frames

__all__ = [
    "JSON_FILE",
    "METADATA",
    "XYZ_FILE",
    "check_finite_rows",
    "labelled_copy",
    "plain",
    "read_labelled",
    "read_value",
    "write_labelled",
    "write_value",
]

#: Files of results, of structures and of single numbers.
XYZ_FILE: Final = "score_results.xyz"
JSON_FILE: Final = "score_results.json"
#: Entry that says what determined a number: of JSON, and by key of `info`.
METADATA: Final = "_metadata"

Place = Literal["arrays", "info"]


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as they are read back from a file."""
    return json.loads(json_text(metadata))


def labelled_copy(
    atoms: Atoms,
    place: Place,
    key: str,
    value: Any,
    metadata: Mapping[str, Any],
    extras: Mapping[str, np.ndarray] | None = None,
) -> Atoms:
    """Copy of a structure with a result: info, arrays, constraints and a calculator's results are kept.

    Args:
        atoms: not changed.
        place: where the result goes.
        key: its name.
        value: the result.
        metadata: what determined it, for `info['_metadata'][key]`.
        extras: further arrays of the atoms.

    Raises:
        DataError: the structure has something else under `_metadata`.
    """
    known = atoms.info.get(METADATA, {})
    if not isinstance(known, Mapping):
        what = f"info[{METADATA!r}] holds something else than metadata by key"
        raise DataError(what, got=type(known).__name__, fix="rename this entry of the structures")
    labelled = atoms.copy()
    labelled.info = copy.deepcopy(atoms.info)
    results = results_of(atoms)
    if results:
        calculator: Any = SinglePointCalculator(labelled)
        calculator.results = copy.deepcopy(results)
        calculator.name = str(getattr(atoms.calc, "name", None) or "unknown")
        labelled.calc = calculator
    if place == "arrays":
        labelled.arrays[key] = np.array(value, np.float64)
    else:
        labelled.info[key] = np.array(value, np.float64) if np.ndim(value) else float(value)
    for name, array in (extras or {}).items():
        labelled.arrays[name] = np.array(array)
    labelled.info[METADATA] = copy.deepcopy({**known, key: plain(metadata)})
    return labelled


def write_labelled(folder: Path, frames: Sequence[Atoms]) -> Path:
    """Write `score_results.xyz`, whole or not at all; every number comes back bit by bit."""
    folder.mkdir(parents=True, exist_ok=True)
    write_frames(folder / XYZ_FILE, frames)
    return folder / XYZ_FILE


def read_labelled(folder: Path) -> list[Atoms]:
    """Structures of `write_labelled`."""
    return list(read_frames(folder / XYZ_FILE))


def write_value(folder: Path, key: str, value: Any, metadata: Mapping[str, Any]) -> Path:
    """Write `score_results.json`: the number or matrix under its key, and the metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {key: np.asarray(value, np.float64), METADATA: plain(metadata)}
    write_atomic(folder / JSON_FILE, json_text(content, indent=1) + "\n")
    return folder / JSON_FILE


def read_value(folder: Path, key: str) -> dict[str, Any]:
    """What `write_value` wrote; a matrix is an array."""
    content = read_json(folder / JSON_FILE)
    value = np.asarray(content[key], np.float64)
    return {**content, key: value if value.ndim else float(value)}


def check_finite_rows(rows: np.ndarray, name: str, configuration: int | None = None) -> None:
    """Refuse NaN and inf, with the configuration and the atom (or row) of the first.

    Args:
        rows: (n_atoms, ...) numbers.
        name: of the numbers, for the message.
        configuration: their place in the list of configurations; None: rows of no configuration.

    Raises:
        DataError: a number that is not finite.
    """
    finite = np.isfinite(rows)
    if finite.all():
        return
    first = np.argwhere(~finite)[0]
    value = rows[tuple(first)]
    atom = f"{'row' if configuration is None else 'atom'} {first[0]}" if rows.ndim else "the value"
    where = atom if configuration is None else f"configuration {configuration}, {atom}"
    raise DataError(f"{name} must be finite", where=where, got=value)
