"""extxyz text: cut into frames with every count checked, and composed so that ASE and we read the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.io.extxyz import REV_PROPERTY_NAME_MAP, per_atom_properties, per_config_properties

from surefield.errors import DataError
from surefield.structures.extxyz_comment import (
    ARRAYS,
    INFO,
    beside_text,
    entry_text,
    is_data,
    is_numeric,
    parse_comment,
    quoted,
    same,
    tensor,
)
from surefield.structures.label_sources import results_of
from surefield.structures.tensors import to_voigt

__all__ = ["check_read_back", "cut_frames", "extxyz_text", "frame_of", "is_per_atom", "lines_of"]

#: Column names that ASE takes for something else than an array of that name.
_RESERVED: Final = {*REV_PROPERTY_NAME_MAP, "positions", "numbers", "symbols", "move_mask"}
_TRUTH: Final = {"T": True, "F": False, "True": True, "False": False}
#: Integers that ASE's reader takes in a column of integers, and those that a column of reals holds exactly.
_INT32: Final = 2**31 - 1
_EXACT: Final = 2**53
_MISSING: Final = object()


@dataclass(frozen=True)
class Piece:
    """One frame as text, its counts checked.

    Attributes:
        info: entries of the comment line that do not say how to read the frame.
        cell: (3, 3), or None where the comment has none.
        pbc: (3,), or None where the comment does not say.
        columns: name, kind (R, I, S, L) and width of each.
        rows: the words of each atom.
        vectors: words of the cell vectors that stand behind the atoms (`VEC1 x y z`).
    """

    info: dict[str, Any]
    cell: np.ndarray | None
    pbc: list[bool] | None
    columns: list[tuple[str, str, int]]
    rows: list[list[str]]
    vectors: list[list[str]]


def lines_of(text: str) -> list[str]:
    """Lines of a text that end as a file's lines do, not at the other characters that Python knows."""
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def cut_frames(lines: list[str], path: Path) -> Iterator[Piece]:
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
        try:
            info, cell, pbc, columns, named = _head(lines[start + 1])
        except (ValueError, RecursionError) as error:
            raise DataError(
                "unreadable comment line", where=f"{where} (line {start + 2})", got=error
            ) from None
        width = sum(column[2] for column in columns)
        rows = [line.split() for line in lines[start + 2 : stop]]
        for i, row in enumerate(rows):
            # Columns that are not named may follow the positions.
            if len(row) < width or (named and len(row) > width):
                raise DataError(
                    "truncated extxyz or wrong number of atoms",
                    where=f"{where} (line {start + 3 + i})",
                    got=repr(lines[start + 2 + i][:60]),
                    expected=f"{width} columns, {n_atoms} atoms",
                    fix="blanks within a text count as columns" if len(row) > width else "",
                )
        vectors = []
        while stop < end and lines[stop].lstrip().startswith("VEC"):
            vectors.append(lines[stop].split())
            stop += 1
        yield Piece(info, cell, pbc, columns, rows, vectors)
        start, number = stop, number + 1


def _head(line: str) -> tuple[dict[str, Any], np.ndarray | None, list[bool] | None, list[Any], bool]:
    """Entries, cell, periodic directions and columns of a comment line; and whether it names the columns."""
    info = parse_comment(line)
    cell = pbc = None
    key = _spelling(info, "Lattice")
    if key == "Lattice" or (key and is_numeric(info[key])):  # `lattice=fcc` is no cell
        value = np.asarray(info.pop(key))
        if not is_numeric(value) or value.size != 9:
            raise ValueError(f"{key} must be nine numbers")
        cell = (value.T if value.ndim == 2 else value.reshape(3, 3)).astype(np.float64)
    key = _spelling(info, "pbc")
    if key:
        values = np.ravel(info[key]).tolist()
        if len(values) in (1, 3) and all(value in (0, 1) for value in values):
            del info[key]
            pbc = [bool(value) for value in values] * (3 // len(values))
        elif key == "pbc":
            raise ValueError('pbc must look like "T T F"')
    key = _spelling(info, "Properties")
    fields = str(info.pop(key) if key else "species:S:1:pos:R:3").split(":")
    names = fields[::3]
    spelled = {_spelling(names, name): name for name in ("species", "pos")}
    columns = [
        (REV_PROPERTY_NAME_MAP.get(spelled.get(name, name), name), kind.upper(), int(n))
        for name, kind, n in zip(names, fields[1::3], fields[2::3], strict=True)
    ]
    widths = {name: n for name, _, n in columns}
    if not {"symbols", "numbers"} & {*widths} or widths.get("positions") != 3 or len(widths) < len(columns):
        raise ValueError(f"no symbols and positions, or a name twice, in Properties={':'.join(fields)}")
    if any(kind not in ("R", "I", "S", "L") or n < 0 for _, kind, n in columns):
        raise ValueError(f"columns are R, I, S or L and a number of them, in Properties={':'.join(fields)}")
    return info, cell, pbc, columns, key is not None


def _spelling(names: Iterable[str], wanted: str) -> str | None:
    """The name itself if it is there, else the first that differs in case alone."""
    names = list(names)
    return wanted if wanted in names else next((n for n in names if n.lower() == wanted.lower()), None)


def frame_of(piece: Piece) -> Atoms:
    """The structure of one piece.

    Raises:
        ValueError, KeyError, OverflowError: words that are no numbers, truth values or symbols.
    """
    arrays: dict[str, Any] = {}
    first = 0
    for name, kind, width in piece.columns:
        words = [row[first : first + width] for row in piece.rows]
        array = _parsed(words, kind).reshape(len(words), width)
        arrays[name] = array[:, 0] if width == 1 else array
        first += width
    kept = piece.info.pop(ARRAYS, {})
    for name, value in kept.items():
        if isinstance(value, list) and name in arrays:
            arrays[name] = arrays[name].astype(value[0]).reshape(-1, *value[1])
    symbols = [symbol.capitalize() for symbol in arrays.pop("symbols", ())]
    cell, pbc = _cell_of(piece.vectors) if piece.vectors else (piece.cell, piece.pbc)
    atoms = Atoms(
        arrays.pop("numbers", symbols),
        arrays.pop("positions"),
        charges=arrays.pop("initial_charges", None),
        cell=cell,
        pbc=cell is not None if pbc is None else pbc,
        info=piece.info,
    )
    mask = arrays.pop("move_mask", None)
    if mask is not None and mask.ndim == 1:
        atoms.set_constraint(FixAtoms(mask=~mask.astype(bool)))
    elif mask is not None:
        atoms.set_constraint([FixCartesian(i, mask=~row) for i, row in enumerate(mask.astype(bool))])
    for name, value in kept.items():
        if isinstance(value, np.ndarray) and value.shape[:1] == (
            len(atoms),
        ):  # else another program has changed the atoms since
            arrays.setdefault(name, value)
    results = {name: arrays.pop(name) for name in per_atom_properties if is_numeric(arrays.get(name, ""))}
    for name in per_config_properties:
        value = atoms.info.get(name, "")
        if is_numeric(value) and (name != "stress" or np.size(value) == 6 or _is_symmetric(value)):
            results[name] = atoms.info.pop(name)
    if np.shape(results.get("stress", ())) == (3, 3):
        results["stress"] = to_voigt(results["stress"])
    for name, array in arrays.items():
        atoms.new_array(name, array)
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    for name, value in atoms.info.pop(INFO, {}).items():
        atoms.info.setdefault(name, value)
    return atoms


def _is_symmetric(value: Any) -> bool:
    """Whether nine numbers are a stress; others stay where labels are refused."""
    if np.size(value) != 9:
        return False
    tensor = np.reshape(value, (3, 3))
    with np.errstate(invalid="ignore"):
        asymmetry = np.nanmax(np.abs(tensor - tensor.T), initial=0.0)
    return bool(asymmetry <= 1e-3 * np.nanmax(np.abs(tensor), initial=0.0) + 1e-6)


def _parsed(words: list[list[str]], kind: str) -> np.ndarray:
    if kind == "S":
        return np.array(words, dtype=object)
    if kind == "L":
        return np.array([[_TRUTH[word] for word in row] for row in words], dtype=bool)
    if any("_" in word for row in words for word in row):
        raise ValueError("a number with an underscore")  # which Python takes for a separator of thousands
    return np.array(words, dtype=np.float64 if kind == "R" else np.int64)


def _cell_of(vectors: list[list[str]]) -> tuple[np.ndarray, list[bool]]:
    cell, pbc = np.zeros((3, 3)), [False] * 3
    for name, *words in vectors:
        place = int(name.removeprefix("VEC")) - 1
        if not 0 <= place < 3 or pbc[place]:
            raise ValueError(f"cell vectors are VEC1, VEC2 and VEC3 once each, got {name}")
        cell[place], pbc[place] = np.array(words, dtype=np.float64), True
    return cell, pbc


def is_per_atom(name: str, value: np.ndarray, n_atoms: int) -> bool:
    """Whether a result has one row per atom, so that it is stored with the atoms."""
    if name in per_config_properties or f"{name}_".startswith(("stress_", "energy_")):
        return False
    return value.ndim in (1, 2) and value.shape[0] == n_atoms


def extxyz_text(atoms: Atoms, where: str) -> tuple[str, list[str]]:
    """Write one structure as extxyz, with as many digits as float64 needs to come back bit by bit.

    What ASE's reader would read as something else, or not at all, is kept for ours in entries of its own.

    Returns:
        The text, and the names of what is no data and was left out.

    Raises:
        DataError: a result contradicts an entry of the same name, or an element has no symbol.
    """
    arrays, info = _contents(atoms, where)
    try:
        fields = [[[symbol] for symbol in atoms.get_chemical_symbols()], _words(atoms.positions)]
    except IndexError:
        raise DataError(f"an element without a symbol in {where}", got=int(max(atoms.numbers))) from None
    properties, kept = ["species:S:1", "pos:R:3"], {}
    mask = _move_mask(atoms)
    if mask is not None:
        properties.append("move_mask:L:1")
        fields.append(_words(mask))
    taken = {"species", "pos0", "pos1", "pos2"}  # ASE's name of a column is that of the array and a number
    for name, array in arrays.items():
        kind = _kind(name, array)
        width = array.shape[1] if array.ndim == 2 else 1
        names = {name} if width == 1 else {f"{name}{i}" for i in range(width)}
        if kind is None or names & taken:
            kept[name] = array
            continue
        taken |= names
        properties.append(f"{name}:{kind}:{width}")
        fields.append(_words(array.astype(np.float64) if kind == "R" else array))
        if array.shape[1:] == (1,) or (kind == "R" and array.dtype.kind != "f"):
            kept[name] = [str(array.dtype), list(array.shape[1:])]
    head = f"Properties={quoted(':'.join(properties))}"
    if atoms.cell.array.any():
        head = f'Lattice="{" ".join(map(repr, atoms.cell.array.ravel().tolist()))}" {head}'
    entries = {name: entry_text(name, value) for name, value in info.items()}
    beside = {ARRAYS: kept, INFO: {name: info[name] for name, entry in entries.items() if entry is None}}
    left_out: list[str] = []
    for key, values in beside.items():
        data = {name: value for name, value in values.items() if is_data(name, value)}
        left_out += [str(name) for name in values if name not in data]
        if data:
            entries[key] = f"{key}={quoted('_JSON ' + beside_text(data))}"
    head = " ".join(
        [head, *filter(None, entries.values()), f'pbc="{" ".join(word for (word,) in _words(atoms.pbc))}"']
    )
    rows = "".join(" ".join(part for field in fields for part in field[i]) + "\n" for i in range(len(atoms)))
    return f"{len(atoms)}\n{head}\n{rows}", left_out


def check_read_back(atoms: Atoms, back: Atoms, left_out: Iterable[str], where: str) -> None:
    """Compare a structure with what was read from the file that it was written to.

    Raises:
        DataError: something is not the same.
    """
    wanted, got = _all_contents(atoms, where), _all_contents(back, where)
    for (place, name), value in wanted.items():
        back_value = got.get((place, name), _MISSING)
        if name not in left_out and not same(back_value, value):
            raise DataError(
                f"{name!r} of {where} is not read back as it was written", got=back_value, expected=value
            )


def _all_contents(atoms: Atoms, where: str) -> dict[tuple[str, str], Any]:
    arrays, info = _contents(atoms, where)
    arrays |= {
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
    }
    return {("arrays", k): v for k, v in arrays.items()} | {("info", str(k)): v for k, v in info.items()}


def _contents(atoms: Atoms, where: str) -> tuple[dict[str, np.ndarray], dict[Any, Any]]:
    """Arrays and info with the results in their place; tensors that ASE knows as (3, 3)."""
    arrays = {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")}
    info = dict(atoms.info)
    for key in {"stress", "virial"} & {*info}:
        whole = tensor(key, info[key])
        info[key] = info[key] if whole is None else whole
    for name, value in results_of(atoms).items():
        try:
            array = np.asarray(value)
        except ValueError:  # lists of several lengths
            array = np.empty((), dtype=object)
            array[()] = value
        if name == "stress":
            array = array if (whole := tensor(name, array)) is None else whole
        place = arrays if is_per_atom(name, array, len(atoms)) else info
        if name in place and not same(np.asarray(place[name]), array):
            raise DataError(f"{where}: the calculator's {name!r} contradicts the structure's own {name!r}")
        place[name] = array if array.ndim else array.item()
    for name, array in arrays.items():
        if array.dtype.kind == "S" and all(text.isascii() for text in array.ravel().tolist()):
            arrays[name] = array.astype(str)
    return arrays, info


def _kind(name: str, array: np.ndarray) -> str | None:
    """Kind of the column of an array, or None if ASE's reader would read none as the same."""
    if not (name.isprintable() and name and ":" not in name) or name in _RESERVED:
        return None
    if array.ndim > 2 or array.shape[1:] == (0,):
        return None
    if array.dtype.kind in "USO":
        if name in all_properties:
            return None  # ASE takes it for numbers
        return "S" if all(_is_word(text) for text in array.ravel().tolist()) else None
    if array.dtype.kind in "iu":
        largest = max(abs(int(array.min())), abs(int(array.max()))) if array.size else 0
        return "I" if largest <= _INT32 else "R" if largest <= _EXACT else None
    if array.dtype.kind == "f":
        return "R" if array.dtype.itemsize <= 8 else None
    return "L" if array.dtype.kind == "b" else None


def _is_word(text: Any) -> bool:
    return isinstance(text, str) and text.isprintable() and text.split() == [text]


def _words(array: np.ndarray) -> list[list[str]]:
    """Text of each number, (n_atoms, width); that of a float is the shortest that gives it again."""
    rows = [row if isinstance(row, list) else [row] for row in array.tolist()]
    if array.dtype.kind == "b":
        return [["T" if v else "F" for v in row] for row in rows]
    return [[repr(v) if isinstance(v, float) else str(v) for v in row] for row in rows]


def _move_mask(atoms: Atoms) -> np.ndarray | None:
    fixed = [c.index for c in atoms.constraints if type(c).__name__ == "FixAtoms"]
    if not fixed:
        return None
    mask = np.ones(len(atoms), dtype=bool)
    for index in fixed:
        mask[index] = False
    return mask
