"""extxyz text: cut into frames with every count checked, and composed without loss of digits."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.io.extxyz import key_val_dict_to_str

from surefield.errors import DataError
from surefield.structures.label_sources import results_of
from surefield.structures.tensors import from_voigt

__all__ = ["cut_frames", "extxyz_text", "is_per_atom"]

#: Columns that extxyz knows under another word.
_COLUMN_NAMES: Final = {"positions": "pos", "symbols": "species"}


def cut_frames(lines: list[str], path: Path) -> Iterator[str]:
    """Cut extxyz text into frames, checking that each has the atoms and columns that its head promises."""
    start, number, end = 0, 0, len(lines)
    while start < end:
        if not lines[start].strip():
            start += 1
            continue
        where = f"frame {number} of {path}"
        try:
            n_atoms = int(lines[start])
            if n_atoms < 0:
                raise ValueError
        except ValueError:
            after = f"; the head of frame {number - 1} may count too few atoms" if number else ""
            raise DataError(
                "no number of atoms",
                where=f"{where} (line {start + 1})",
                got=repr(lines[start][:60]),
                expected="an integer" + after,
            ) from None
        stop = start + 2 + n_atoms
        if stop > end:
            raise DataError(
                "truncated extxyz",
                where=where,
                got=f"{max(end - start - 2, 0)} atom lines before the end of the file",
                expected=n_atoms,
                fix="copy or write the file again, or drop its last frame",
            )
        columns = _columns(lines[start + 1])
        for row in range(start + 2, stop):
            if len(lines[row].split()) < columns:
                raise DataError(
                    "truncated extxyz or wrong number of atoms",
                    where=f"{where} (line {row + 1})",
                    got=repr(lines[row][:60]),
                    expected=f"{columns} columns, {n_atoms} atoms",
                )
        while stop < end and lines[stop].lstrip().startswith("VEC"):
            stop += 1
        yield "\n".join(lines[start:stop]) + "\n"
        start, number = stop, number + 1


def _columns(comment: str) -> int:
    """Columns that the comment line promises; 4 (symbol and position) for plain xyz."""
    _, separator, rest = comment.partition("Properties=")
    if not separator:
        return 4
    fields = rest.lstrip("\"'").split(maxsplit=1)[:1]
    counts = fields[0].strip("\"'").split(":")[2::3] if fields else []
    return sum(int(c) for c in counts if c.isdigit()) or 4


def is_per_atom(name: str, value: np.ndarray, n_atoms: int) -> bool:
    """Whether a result has one row per atom, so that it is stored with the atoms."""
    return value.ndim in (1, 2) and value.shape[0] == n_atoms and not name.startswith(("stress", "energy"))


def extxyz_text(atoms: Atoms, where: str) -> str:
    """Write one structure as extxyz, with as many digits as float64 needs to come back bit by bit."""
    info: dict[str, Any] = dict(atoms.info)
    columns: dict[str, np.ndarray] = {"symbols": np.array(atoms.get_chemical_symbols(), dtype=str)}
    columns["positions"] = atoms.positions
    columns |= {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")}
    mask = _move_mask(atoms)
    if mask is not None:
        columns["move_mask"] = mask
    for name, value in results_of(atoms).items():
        array = np.asarray(value)
        if name == "stress" and array.shape == (6,):
            array = from_voigt(array)
        place = columns if is_per_atom(name, array, len(atoms)) else info
        if name in place and not np.array_equal(np.asarray(place[name]), array):
            raise DataError(f"{where}: the calculator's {name!r} contradicts the structure's own {name!r}")
        place[name] = array if array.ndim else array.item()
    properties, widths = [], []
    for name, array in columns.items():
        if array.ndim > 2 or array.dtype.kind not in "fiubUSO":
            raise DataError(f"{where}: array {name!r} of shape {array.shape} cannot be a column of extxyz")
        widths.append(1 if array.ndim == 1 else array.shape[1])
        kind = {"f": "R", "i": "I", "u": "I", "b": "L"}.get(array.dtype.kind, "S")
        properties.append(f"{_COLUMN_NAMES.get(name, name)}:{kind}:{widths[-1]}")
    head = f"Properties={':'.join(properties)}"
    if atoms.cell.array.any():
        lattice = " ".join(repr(float(x)) for x in atoms.cell.array.ravel())
        head = f'Lattice="{lattice}" {head}'
    info = {name: _storable(value) for name, value in info.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ASE skips entries that are no data, such as objects
        head += " " + key_val_dict_to_str(info | {"pbc": atoms.pbc})
    fields = [_texts(array) for array in columns.values()]
    rows = "".join(" ".join(part for field in fields for part in field[i]) + "\n" for i in range(len(atoms)))
    return f"{len(atoms)}\n{head}\n{rows}"


def _texts(array: np.ndarray) -> list[list[str]]:
    rows = array.reshape(len(array), -1).tolist()
    if array.dtype.kind == "b":
        return [["T" if v else "F" for v in row] for row in rows]
    if array.dtype.kind == "f":
        return [[repr(v) for v in row] for row in rows]  # shortest text that gives the same float64
    return [[str(v) for v in row] for row in rows]


def _storable(value: Any) -> Any:
    """Arrays of more than one axis as nested lists: ASE's own text for them loses the shape."""
    if isinstance(value, np.ndarray) and value.ndim > 1 and value.shape != (3, 3):
        return json.loads(json.dumps(value.tolist()))
    return value


def _move_mask(atoms: Atoms) -> np.ndarray | None:
    fixed = [c.index for c in atoms.constraints if type(c).__name__ == "FixAtoms"]
    if not fixed:
        return None
    mask = np.ones(len(atoms), dtype=bool)
    for index in fixed:
        mask[index] = False
    return mask
