"""Units that structures state in words beside their labels: others than eV and Å are refused, not ignored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ase import Atoms

from surefield.errors import DataError
from surefield.keys import CONVERTED
from surefield.quantities import quantity
from surefield.units import ENERGY, Unit, parse_unit

__all__ = ["check_stated_lengths", "check_stated_units", "dimension", "is_length", "is_of_ev", "stated_in"]

#: `energy_unit`, `units_energy`, `forces units`, or `units` alone.
_KEY: Final = re.compile(r"(?:(.+?)[\W_]*)?(?:units?|units[\W_]+(.+))", re.IGNORECASE)
_LENGTHS: Final = ("length", "distance", "position", "pos", "coordinate", "cell", "lattice")
#: Systems of units by name; None: eV and Å.
_SYSTEMS: Final[Mapping[str, Unit | None]] = {
    **dict.fromkeys(("metal", "ase", "none", ""), None),
    **dict.fromkeys(("au", "a.u.", "atomic", "atomic units", "atomic_units"), parse_unit("Hartree")),
    "real": parse_unit("kcal/mol"),
}


def dimension(key: str, kind: str) -> tuple[int, int]:
    """Powers of energy and length in the unit of a label.

    Args:
        key: under which the label stands.
        kind: of the label.
    """
    strain = (1, 0 if "virial" in key.lower() else -3)
    return {"energy": (1, 0), "gradient": (1, -1), "strain": strain}.get(quantity(kind).source, (0, 0))


def check_stated_units(atoms: Atoms, where: object, labels: Mapping[str, str]) -> None:
    """Refuse labels beside which a structure states another unit than that of eV and Å.

    Args:
        atoms: structure.
        where: it is, for messages.
        labels: kind to key of its labels.

    Raises:
        DataError: another unit of a label, or one that is not known, or another one of lengths.
    """
    stated = list(stated_in(atoms.info))
    if not stated:
        return
    check_stated_lengths(atoms, where)
    for kind, key in labels.items():
        names = {key.lower().removeprefix("calculator."), kind, kind.removesuffix("s")}
        for name, entry, text in stated:
            if dimension(key, kind) == (0, 0) or name not in (*names, ""):
                continue
            unit, known = _read(text)
            if (not known and not name) or (unit is None and known):
                continue  # words that are about something else
            energy = next((n for n, f in ENERGY.items() if unit and abs(unit.factor / f - 1) < 1e-6), "...")
            raise DataError(
                f"the {kind} ({key!r}) is in {text!r}, as the entry {entry!r} says",
                where=where,
                expected="eV and Å",
                fix=f"declare the unit: convert_labels(source, energy_unit={energy!r}, ...), or data.units="
                f"{{energy: {energy}}} on the command line; or take the entry out, if it is wrong",
            )


def check_stated_lengths(atoms: Atoms, where: object) -> None:
    """Refuse a structure that states another unit of its positions than Å.

    Raises:
        DataError: another unit.
    """
    for name, entry, text in stated_in(atoms.info):
        if is_length(name) and _read(text)[0] is not None:
            fix = "convert positions and cell to Å, or take the entry out, if it is wrong"
            what = f"positions are in {text!r}, as the entry {entry!r} says"
            raise DataError(what, where=where, expected="Å", fix=fix)


def is_length(name: str) -> bool:
    """Whether the unit of this is that of positions."""
    return name.removesuffix("s") in _LENGTHS


def is_of_ev(text: str) -> bool:
    """Whether this is the unit of eV and Å, or no unit at all."""
    return _read(text)[0] is None


def stated_in(entries: Mapping[Any, Any]) -> Iterator[tuple[str, str, str]]:
    """What is stated ("" for everything), by which entry, and in which words; nothing of what was converted.

    Args:
        entries: `info` of a structure, or the metadata of a database.
    """
    if CONVERTED in entries:
        return
    for entry, value in entries.items():
        match = _KEY.fullmatch(entry) if isinstance(entry, str) and "unit" in entry.lower() else None
        if match is None:
            continue
        if isinstance(value, str):
            yield (match[1] or match[2] or "").lower(), entry, value
        elif isinstance(value, Mapping):
            for name, text in value.items():
                if isinstance(text, str):
                    yield str(name).lower(), entry, text


def _read(text: str) -> tuple[Unit | None, bool]:
    """A unit, None for that of eV and Å; and whether the words are known."""
    words = text.strip().lower()
    if words in _SYSTEMS:
        return _SYSTEMS[words], True
    try:
        unit = parse_unit(text)
    except DataError:
        return None, False
    return (None if abs(unit.factor - 1) < 1e-6 else unit), True
