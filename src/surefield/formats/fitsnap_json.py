"""Training folders of FitSNAP, one JSON file per structure in a folder per group: read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols

from surefield.errors import DataError, nearest
from surefield.structures.tensors import to_voigt
from surefield.units import (
    ANGSTROM_PER_BOHR,
    EV_A3_PER_BAR,
    EV_A3_PER_GPA,
    EV_A3_PER_KBAR,
    EV_PER_HARTREE,
    EV_PER_KCAL_MOL,
    EV_PER_RYDBERG,
)

__all__ = ["read_fitsnap_json"]

_LENGTH: Final = {"metal": 1.0, "angstrom": 1.0, "angstroms": 1.0, "ang": 1.0} | dict.fromkeys(
    ("atomic", "bohr", "au"), ANGSTROM_PER_BOHR
)
_ENERGY: Final = {
    **dict.fromkeys(("metal", "ev", "electronvolt"), 1.0),
    **dict.fromkeys(("atomic", "hartree", "ha", "eh"), EV_PER_HARTREE),
    **dict.fromkeys(("ryd", "ry", "rydberg"), EV_PER_RYDBERG),
    **dict.fromkeys(("kcalmol", "kcalpermol"), EV_PER_KCAL_MOL),
}
#: Names of units by the property whose 'Style' states them, without case, spaces, '_'; '/' is 'per'.
_STYLES: Final[Mapping[str, Mapping[str, float]]] = {
    "Positions": _LENGTH,
    "Lattice": _LENGTH,
    "Energy": _ENERGY,
    "Forces": {
        f"{energy}per{length}": e / a
        for energy, e in _ENERGY.items()
        for length, a in _LENGTH.items()
        if "metal" not in (energy, length) and "atomic" not in (energy, length)
    }
    | {"metal": 1.0, "atomic": EV_PER_HARTREE / ANGSTROM_PER_BOHR},
    "Stress": {
        **dict.fromkeys(("metal", "bar", "bars"), EV_A3_PER_BAR),
        **dict.fromkeys(("kb", "kbar", "kilobar"), EV_A3_PER_KBAR),
        **dict.fromkeys(("gpa", "gigapascal"), EV_A3_PER_GPA),
    },
}
#: Styles of what has no unit, as FitSNAP's files state them.
_PLAIN: Final = {"AtomType": "chemicalsymbol", "AtomTypes": "chemicalsymbol"}


def read_fitsnap_json(path: str | Path) -> list[Atoms]:
    """Structures with their labels as results of a calculator, in eV, Å and ASE's sign.

    The group of each, the name of its folder, stands in `info['config_type']`, where `FitSnapTrainer` finds
    its weights; the file in `info['file']`. Rows of `Lattice` are cell vectors; stress is positive in
    compression there.

    Args:
        path: folder with a folder for each group (`dataPath` of FitSNAP), one such folder, or one file.

    Raises:
        DataError: no such folder, no files in it, a file that is malformed or has units that are not known.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted((*path.glob("*.json"), *path.glob("*/*.json")))
    if not files:
        expected = "JSON/GROUP/NAME.json, as FitSNAP has them"
        raise DataError(f"no JSON files of FitSNAP at {path.resolve()}", expected=expected)
    return [_structure(data, file) for file in files for data in _configurations(file)]


def _configurations(file: Path) -> list[dict[str, Any]]:
    """Dictionaries of the structures in a file, those of the whole file taken along."""
    try:
        text = file.read_text("utf-8")
        # FitSNAP's files may begin with a line of comment.
        text = text if text.lstrip().startswith("{") else text.partition("\n")[2]
        content = json.loads(text)["Dataset"]
        shared = {key: value for key, value in content.items() if key != "Data"}
        if not content["Data"]:
            raise ValueError("no configuration")
        return [shared | data for data in content["Data"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = f"{type(error).__name__} {error}"
        raise DataError(
            "not a JSON file of FitSNAP", where=file, got=what, expected="Dataset, Data"
        ) from None


def _structure(data: Mapping[str, Any], file: Path) -> Atoms:
    symbols = data.get("AtomTypes")
    if not isinstance(symbols, list) or not symbols or any(s not in chemical_symbols[1:] for s in symbols):
        raise DataError("AtomTypes must be chemical symbols", where=file, got=f"{symbols!r:.80}")
    for key, style in data.items():
        name = key.removesuffix("Style")
        if key.endswith("Style") and name in _PLAIN and style != _PLAIN[name]:
            raise DataError(f"{key} is not supported", where=file, got=style, expected=_PLAIN[name])
    n = len(symbols)
    if data.get("NumAtoms", n) != n:
        raise DataError(f"NumAtoms is {data['NumAtoms']}, {n} AtomTypes are there", where=file)
    values = {}
    for name, shape in {
        "Positions": (n, 3), "Lattice": (3, 3), "Energy": (), "Forces": (n, 3), "Stress": (3, 3)
    }.items():  # fmt: skip
        if name in data:
            values[name] = _quantity(data, name, shape, file)
        elif name in ("Positions", "Lattice"):
            raise DataError(f"there are no {name}", where=file, got=sorted(data))
    atoms = Atoms(symbols, positions=values["Positions"], cell=values["Lattice"], pbc=True)
    atoms.info |= {"config_type": file.resolve().parent.name, "file": file.name}
    labels = {key.lower(): values[key] for key in ("Energy", "Forces") if key in values}
    if "Stress" in values:
        labels["stress"] = -to_voigt(values["Stress"])
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def _quantity(data: Mapping[str, Any], name: str, shape: tuple[int, ...], file: Path) -> np.ndarray | float:
    """Values in units of the package."""
    style = str(data.get(f"{name}Style", "metal"))
    unit = re.sub(r"[\s_]", "", style.replace("/", "per")).lower()
    units = _STYLES[name]
    if unit not in units:
        raise DataError(
            f"unit of {name} is not known", where=file, got=repr(style), expected=nearest(unit, units)
        )
    try:
        values = np.asarray(data[name], np.float64)
    except (ValueError, TypeError):
        values = np.full(1, np.nan)
    if name == "Energy" and values.size == 1:
        values = values.reshape(())
    if values.shape != shape or not np.isfinite(values).all():
        raise DataError(
            f"unusable {name}", where=file, got=f"{data[name]!r:.80}", expected=f"{shape} numbers"
        )
    return values * units[unit] if shape else float(values) * units[unit]
