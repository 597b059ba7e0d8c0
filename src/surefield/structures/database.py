"""ASE's own stores (.db, .traj): what they would drop (extra arrays, uncertainties) travels as data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import DataError
from surefield.keys import CONVERTED
from surefield.quantities import labelled
from surefield.structures.extxyz import is_per_atom
from surefield.structures.extxyz_comment import (
    ARRAYS,
    INFO,
    beside_text,
    from_beside_text,
    is_data,
    is_numeric,
    same,
)
from surefield.structures.label_sources import candidate_keys, results_of
from surefield.structures.stated_units import dimension, is_length, is_of_ev, stated_in
from surefield.units import parse_unit

__all__ = ["read_database", "restore_arrays", "write_database", "write_trajectory"]

_log = logging.getLogger(__name__)
#: Entry with the text of what lists do not give back: arrays of lists, of which databases of ASE make others.
_BESIDE: Final = "surefield_beside"
#: Results that a trajectory of ASE stores.
_STORED: Final = {*all_properties}
#: Those of them that a database has no column for.
_WITHOUT_COLUMN: Final = {"energies", "stresses"}
#: Arrays that every format of ASE stores itself.
_OWN: Final = {"numbers", "positions", "tags", "momenta", "masses", "initial_magmoms", "initial_charges"}


def read_database(path: str | Path) -> list[Atoms]:
    """Read all rows; key-value pairs of a row become info, as do the entries that `write_database` stored.

    Units that the metadata state (SchNetPack's `_property_unit_dict` and `_distance_unit`, the third entry
    of ASE's `key_descriptions`, entries such as `energy_unit` or `units`) are converted: energies to eV,
    forces to eV/Å, stresses to eV/Å^3.

    Raises:
        DataError: the stated unit of a length or of a label is not known, or is none of its kind, or it is
            not said of what it is the unit.
    """
    frames = []
    database: Any = ase.db.connect(path)
    factors, length, stated = _stated_units(database.metadata or {}, path)
    for row in database.select():
        atoms = row.toatoms()
        data = row.data
        stored = set(data) == {"info", "arrays"}
        atoms.info = dict(row.key_value_pairs) | dict(data["info"] if stored else data)
        if stored:
            atoms.info[ARRAYS] = data["arrays"]
        restore_arrays(atoms)
        if stated:
            _convert(atoms, factors, length)
            atoms.info[CONVERTED] = stated
        frames.append(atoms)
    return frames


def _stated_units(metadata: Mapping[str, Any], path: str | Path) -> tuple[dict[str, float], float, str]:
    """Factors of properties and of lengths, and the stated units as text; "" where none are."""
    described = metadata.get("key_descriptions") or {}
    units = {name: texts[-1] for name, texts in described.items() if len(texts) == 3}
    units |= metadata.get("_property_unit_dict") or {}
    lengths = [metadata["_distance_unit"]] if metadata.get("_distance_unit") else []
    for name, entry, text in stated_in(metadata):
        if entry == "_distance_unit":
            continue
        if not name and not is_of_ev(text):
            raise DataError(
                f"{entry!r} in the metadata of {path} does not say what is in {text!r}",
                fix="state the unit of each label there, e.g. {'_property_unit_dict': {'energy': 'kcal/mol', "
                "'forces': 'kcal/mol/Ang'}, '_distance_unit': 'Ang'}, or take the entry out, if it is wrong",
            )
        if is_length(name):
            lengths.append(text)
        elif name:
            for key in _keys_of(name):
                units[key] = units.get(key) or text
                _check_one(key, [units[key], text], path)
    expected = {key.lower(): dimension(key, kind) for kind in labelled() for key in candidate_keys(kind)}
    factors, unknown = {}, []
    for name, text in units.items():
        wanted = expected.get(name.lower())
        try:
            unit = parse_unit(text) if text else None
        except DataError as error:
            if wanted is not None:
                raise DataError(f"unit of {name!r} in the metadata of {path}: {error}") from None
            unknown.append(f"{name} ({text})")
            continue
        if unit is None or (wanted is None and unit[1:] not in expected.values()):
            continue
        if wanted not in (None, unit[1:]) and isinstance(text, str):
            raise DataError(f"{text!r} is no unit of {name!r}", where=f"the metadata of {path}")
        factors[name] = unit.factor
    if unknown:
        _log.warning("units of %s in %s are not known: values as they stand", ", ".join(unknown), path)
    for text in lengths:
        if isinstance(text, str) and parse_unit(text)[1:] != (0, 1):
            raise DataError(f"{text!r} is no unit of lengths", where=f"the metadata of {path}")
    _check_one("a length", lengths, path)
    stated = [f"{name} {units[name]}" for name in factors] + [f"lengths {text}" for text in lengths[:1]]
    return factors, parse_unit(lengths[0]).factor if lengths else 1.0, ", ".join(stated)


def _check_one(what: str, texts: Sequence[str | float], path: str | Path) -> None:
    """Raise `DataError` where one thing is stated in two units."""
    if len(set(texts)) > 1 and len({parse_unit(text) for text in texts}) > 1:
        where, fix = f"the metadata of {path}", "take out the entry that is wrong"
        raise DataError(
            f"{what} is stated in two units", where=where, got=" and ".join(map(str, texts)), fix=fix
        )


def _keys_of(name: str) -> list[str]:
    """All keys of the labels that a word stands for, such as `force`, or the word itself."""
    kind = next((kind for kind in labelled() if name in (kind, kind.removesuffix("s"))), None)
    if kind is None:
        return [name]
    same = dimension(name, kind)
    return [name, *(key for key in candidate_keys(kind) if dimension(key, kind) == same)]


def _convert(atoms: Atoms, factors: Mapping[str, float], length: float) -> None:
    """Convert a freshly read structure to eV and Å."""
    results = results_of(atoms)
    for name, factor in factors.items():
        for place in (atoms.info, atoms.arrays, results):
            if is_numeric(place.get(name)):
                place[name] = np.asarray(place[name]) * factor
                break
    atoms.set_cell(atoms.cell.array * length)
    atoms.positions *= length
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)


def write_database(path: str | Path, frames: Sequence[Atoms]) -> list[list[str]]:
    """Write rows; info and extra arrays go to each row's data, the only place where a database keeps them.

    Returns:
        For each structure the names of what is no data and was left out.
    """
    packed = [_packed(atoms, _STORED - _WITHOUT_COLUMN) for atoms in frames]
    database: Any = ase.db.connect(path, append=False)
    with database:  # one transaction
        for row, arrays, _ in packed:
            database.write(row, data={"info": row.info, "arrays": arrays})
    return [left_out for _, _, left_out in packed]


def write_trajectory(path: str | Path, frames: Sequence[Atoms]) -> list[list[str]]:
    """Write a trajectory; extra arrays travel in info. Returns what `write_database` does."""
    packed = [_packed(atoms) for atoms in frames]
    for image, arrays, _ in packed:
        if arrays:
            image.info[ARRAYS] = arrays
    ase.io.write(path, [image for image, _, _ in packed], format="traj")
    return [left_out for _, _, left_out in packed]


def restore_arrays(atoms: Atoms) -> None:
    """Put the extra arrays of a freshly read structure back in their place, and what travelled as text."""
    beside = from_beside_text(atoms.info.pop(_BESIDE, "{}"))
    for name, value in (atoms.info.pop(ARRAYS, {}) | beside.get(ARRAYS, {})).items():
        atoms.set_array(name, np.asarray(value))
    atoms.info |= beside.get(INFO, {})


def _packed(atoms: Atoms, stored: set[str] = _STORED) -> tuple[Atoms, dict[str, Any], list[str]]:
    """Copy with results that ASE stores, the others in info; arrays that ASE would drop; what is no data."""
    packed = atoms.copy()
    results = results_of(atoms)
    known = {k: v for k, v in results.items() if k in stored}
    if known:
        packed.calc = SinglePointCalculator(packed, **known)
    arrays = {k: v for k, v in atoms.arrays.items() if k not in _OWN}
    info = dict(atoms.info)
    for name, value in results.items():
        if name not in stored:
            (arrays if is_per_atom(name, np.asarray(value), len(atoms)) else info)[name] = value
    left_out = [str(name) for values in (info, arrays) for name in values if not is_data(name, values[name])]
    info, arrays = ({k: v for k, v in values.items() if is_data(k, v)} for values in (info, arrays))
    packed.info = {k: plain for k, v in info.items() if same(plain := _without_text_arrays(v), v)}
    kept = {k: plain for k, v in arrays.items() if _is_array_of(plain := _without_text_arrays(v), v)}
    beside = {INFO: {k: v for k, v in info.items() if k not in packed.info}}
    beside |= {ARRAYS: {k: v for k, v in arrays.items() if k not in kept}}
    if any(beside.values()):
        packed.info[_BESIDE] = beside_text(beside)
    return packed, kept, left_out


def _without_text_arrays(value: Any) -> Any:
    """Lists for arrays of text, which databases of ASE cannot read again."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind not in "iufbc":
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _without_text_arrays(entry) for key, entry in value.items()}
    return [_without_text_arrays(entry) for entry in value] if isinstance(value, list | tuple) else value


def _is_array_of(value: Any, array: np.ndarray) -> bool:
    """Whether the array is made again of its list."""
    try:
        return same(np.asarray(value), array)
    except ValueError:  # lists of several lengths
        return False
