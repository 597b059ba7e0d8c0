"""Where the labels of one structure may be: calculator, info, arrays; and what they are called there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from surefield import keys
from surefield.quantities import labelled, names, quantity

__all__ = ["candidate_keys", "has_stale_results", "keys_present", "look_up", "results_of", "without_labels"]

#: Prefix of a key that means a result of the attached calculator.
CALCULATOR: Final = "calculator."
#: With smeared electrons the free energy is another quantity than the energy: it stands in, never competes.
FREE_ENERGY: Final = "free_energy"


def candidate_keys(kind: str) -> tuple[str, ...]:
    """Keys that are looked for without a mapping, in order: REF_*, the calculator's results, aliases."""
    reference = (keys.REFERENCE_PREFIX + kind,)
    aliases = (kind, *(quantity(kind).aliases or ()))
    if quantity(kind).source == "strain":
        reference += tuple(k for k in keys.VIRIAL_ALIASES if k.startswith(keys.REFERENCE_PREFIX))
        aliases += tuple(k for k in keys.VIRIAL_ALIASES if not k.startswith(keys.REFERENCE_PREFIX))
    last = (CALCULATOR + FREE_ENERGY,) if quantity(kind).source == "energy" else ()
    return (*reference, CALCULATOR + kind, *dict.fromkeys(aliases), *last)


def look_up(atoms: Atoms, kind: str, candidates: Sequence[str], *, anywhere: bool) -> dict[str, Any]:
    """Find the values that a structure has under some keys.

    Args:
        atoms: the structure.
        kind: name of the quantity.
        candidates: keys, best first; "calculator.x" is the result x, others are in info (of values of atoms:
            arrays).
        anywhere: whether a key that is not there may also be a result of the calculator.

    Returns:
        Key to value, in the order of the candidates.
    """
    results = results_of(atoms)
    values: dict[str, Any] = {}
    for key in candidates:
        if key.startswith(CALCULATOR):
            value = results.get(key.removeprefix(CALCULATOR))
        else:
            value = atoms.arrays.get(key) if quantity(kind).per == "atom" else None
            value = atoms.info.get(key) if value is None else value
            value = results.get(key) if value is None and anywhere else value
        if value is not None and not (FREE_ENERGY in key and values and not anywhere):
            values[key] = value
    return values


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
        and np.array_equal(known.cell.array, atoms.cell.array)
        and np.array_equal(known.pbc, atoms.pbc)
    )


def without_labels(atoms: Atoms, extra: Sequence[str] = ()) -> Atoms:
    """Copy of a structure without calculator and without entries that count as its energy, forces or stress.

    Args:
        atoms: the structure; it is not changed.
        extra: further keys of `info` and `arrays` to leave out.
    """
    copy = atoms.copy()
    for key in {*(key for kind in labelled(names()) for key in candidate_keys(kind)), *extra}:
        copy.info.pop(key, None)
        if key not in ("numbers", "positions"):
            copy.arrays.pop(key, None)
    return copy
