"""Where the labels of one structure may be: calculator, info, arrays; and what they are called there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from surefield import keys
from surefield.quantities import labelled, names, quantity

__all__ = [
    "FREE_ENERGY",
    "candidate_keys",
    "has_stale_results",
    "is_reference",
    "keys_present",
    "look_up",
    "results_of",
    "spellings",
    "without_labels",
]

#: Prefix of a key that means a result of the attached calculator.
CALCULATOR: Final = "calculator."
#: With smeared electrons the free energy is another quantity than the energy: it stands in, never competes.
FREE_ENERGY: Final = "free_energy"


def candidate_keys(kind: str) -> tuple[str, ...]:
    """Keys that are looked for without a mapping, in order: REF_*, the calculator's results, aliases."""
    reference = (keys.REFERENCE_PREFIX + kind,)
    aliases = (kind, *(quantity(kind).aliases or ()))
    if quantity(kind).source == "strain":
        reference += tuple(k for k in keys.VIRIAL_ALIASES if is_reference(k))
        aliases += tuple(k for k in keys.VIRIAL_ALIASES if not is_reference(k))
    last = (CALCULATOR + FREE_ENERGY,) if quantity(kind).source == "energy" else ()
    return (*reference, CALCULATOR + kind, *dict.fromkeys(aliases), *last)


def is_reference(key: str) -> bool:
    """Whether a label was written on purpose: it wins over all but an explicit mapping."""
    return key.upper().startswith(keys.REFERENCE_PREFIX)


def look_up(atoms: Atoms, kind: str, candidates: Sequence[str], *, explicit: bool) -> dict[str, Any]:
    """Find the values that a structure has under some keys.

    Args:
        atoms: the structure.
        kind: name of the quantity.
        candidates: keys, best first; "calculator.x" is the result x, others are in info (of values of atoms:
            arrays), whatever their case.
        explicit: the user named the keys: they are spelled like that, and may be results of the calculator.

    Returns:
        Key to value, in the order of the candidates; words that say that there is none are left out.
    """
    results = results_of(atoms)
    places = [atoms.arrays, atoms.info] if quantity(kind).per == "atom" else [atoms.info]
    if explicit:
        places.append(results)
    alike = spellings(name for place in places for name in place)
    values: dict[str, Any] = {}
    for key in candidates:
        if key.startswith(CALCULATOR):
            entries = {key: results.get(key.removeprefix(CALCULATOR))}
        else:
            spelled = [key] if explicit else sorted(alike.get(key.lower(), ()), key=key.__ne__)
            entries = {n: next((p[n] for p in places if p.get(n) is not None), None) for n in spelled}
        values |= {name: value for name, value in entries.items() if not _says_none(value)}
    return values


def spellings(names: Iterable[Any]) -> dict[str, list[str]]:
    """Names by what they are in lower case."""
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        if isinstance(name, str):
            alike.setdefault(name.lower(), []).append(name)
    return alike


def _says_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in ("", "none", "null", "n/a"))


def keys_present(atoms: Atoms) -> str:
    """Text for messages: all keys of a structure under which a label could be."""
    present = [*(CALCULATOR + k for k in results_of(atoms)), *map(str, atoms.info)]
    present += [k for k in atoms.arrays if k not in ("numbers", "positions")]
    return ", ".join(present) or "none"


def has_stale_results(atoms: Atoms) -> bool:
    """Whether the attached calculator holds results of another geometry (atoms moved, calculator shared)."""
    results = getattr(atoms.calc, "results", None)
    return bool(results) and not _fits(atoms)


def results_of(atoms: Atoms) -> dict[str, Any]:
    """Results of the attached calculator that belong to this geometry."""
    results = getattr(atoms.calc, "results", None)
    if not results or not _fits(atoms):
        return {}
    return {k: v for k, v in results.items() if v is not None}


def _fits(atoms: Atoms) -> bool:
    """Whether a calculator's results are those of this geometry."""
    known = getattr(atoms.calc, "atoms", None)
    if known is None:
        check: Callable[[Atoms], Sequence[str]] | None = getattr(atoms.calc, "check_state", None)
        try:
            return check is None or not check(atoms)
        except (AttributeError, PropertyNotImplementedError):
            return True
    return (
        np.array_equal(known.numbers, atoms.numbers)
        and np.array_equal(known.positions, atoms.positions, equal_nan=True)
        and np.array_equal(known.cell.array, atoms.cell.array, equal_nan=True)
        and np.array_equal(known.pbc, atoms.pbc)
    )


def without_labels(atoms: Atoms, extra: Sequence[str] = ()) -> Atoms:
    """Copy of a structure without calculator and without entries that count as its energy, forces or stress.

    Args:
        atoms: the structure; it is not changed.
        extra: further keys of `info` and `arrays` to leave out.
    """
    copy = atoms.copy()
    alike = spellings([*copy.info, *copy.arrays])
    labels = [
        n for kind in labelled(names()) for key in candidate_keys(kind) for n in alike.get(key.lower(), ())
    ]
    for key in {*labels, *extra}:
        copy.info.pop(key, None)
        if key not in ("numbers", "positions"):
            copy.arrays.pop(key, None)
    return copy
