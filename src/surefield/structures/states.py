"""Charge and spin states that structures are in: their energies depend on them, most potentials do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from ase import Atoms

from surefield.keys import CHARGE_KEYS, SPIN_KEYS
from surefield.structures.labels import Labels
from surefield.structures.read import Frames

__all__ = ["MixedStates", "mixed_states", "state"]

State = tuple[tuple[str, float | str], ...]
#: Energies of one geometry that are nearer are one energy, eV per atom.
_SAME = 1e-4
#: Of one geometry that are compared.
_MOST_COPIES = 20


@dataclass(frozen=True)
class MixedStates:
    """Structures that agree in all that a potential reads, and differ in charge or spin.

    Attributes:
        message: one sentence, with a pair of structures.
        difference: of their energies, eV: median over equal geometries, else between the means of the states.
        frames: indices of the structures concerned.
    """

    message: str
    difference: float
    frames: tuple[int, ...]


def state(atoms: Atoms) -> State:
    """What a structure states of its charge (0 where it says nothing) and of its spin, by name."""
    entries = {str(key).lower(): value for key, value in atoms.info.items()}
    known = {name: _plain(entries[name]) for name in SPIN_KEYS if entries.get(name) is not None}
    charges = [_plain(entries[name]) for name in CHARGE_KEYS if entries.get(name) is not None]
    if not charges and "initial_charges" in atoms.arrays:
        charges = [float(np.rint(atoms.arrays["initial_charges"].sum()))]
    return ("charge", charges[0] if charges else 0.0), *known.items()


def mixed_states(frames: Frames, labels: Sequence[Labels]) -> MixedStates | None:
    """Structures of one composition, best of one geometry, whose energies differ by their states.

    Args:
        frames: structures.
        labels: theirs; those without an energy take no part.
    """
    states = [state(atoms) for atoms in frames]
    # A spin that only some state says nothing of the others.
    everywhere = set.intersection(*({name for name, _ in entries} for entries in states)) if states else set()
    states = [tuple(entry for entry in entries if entry[0] in everywhere) for entries in states]
    moments = [atoms.arrays.get("initial_magmoms") for atoms in frames]
    if len(set(states)) < 2 and not any(m is not None and m.any() for m in moments):
        return None
    groups: dict[bytes, list[int]] = defaultdict(list)
    geometries: dict[tuple[bytes, ...], list[int]] = defaultdict(list)
    for i, (atoms, label) in enumerate(zip(frames, labels, strict=True)):
        if label.energy is not None and np.isfinite(label.energy):
            groups[np.sort(atoms.numbers).tobytes()].append(i)
            places = (np.round(array, 5) + 0.0 for array in (atoms.positions, atoms.cell.array))
            geometries[(atoms.numbers.tobytes(), *(array.tobytes() for array in places))].append(i)
    energies = {i: float(labels[i].energy or 0.0) for members in groups.values() for i in members}
    pairs = [
        (i, k)
        for members in geometries.values()
        for i, k in combinations(members[:_MOST_COPIES], 2)
        if (states[i] != states[k] or not _same_moments(moments[i], moments[k]))
        and abs(energies[i] - energies[k]) > _SAME * len(frames[i])
    ]
    if pairs:
        difference = float(np.median([abs(energies[i] - energies[k]) for i, k in pairs]))
        count = len({frames[i].positions.tobytes() for i, _ in pairs})
        words, example = _words(frames, states, pairs[0])
        several = f"{count} geometries have" if count > 1 else "one geometry has"
        text = f"{several} several energies, about {difference:.3g} eV apart, which differ in {words} only"
        return MixedStates(f"{text} ({example})", difference, tuple(sorted({i for p in pairs for i in p})))
    for members in groups.values():
        by_state: dict[State, list[int]] = defaultdict(list)
        for i in members:
            by_state[states[i]].append(i)
        if len(by_state) > 1:
            first, second, *_ = by_state.values()
            means = [float(np.mean([energies[i] for i in part])) for part in (first, second)]
            if abs(means[1] - means[0]) <= _SAME * len(frames[first[0]]):
                continue
            words, example = _words(frames, states, (first[0], second[0]))
            formula = frames[first[0]].get_chemical_formula()
            text = (
                f"{len(members)} structures {formula} are in {len(by_state)} states, which differ in "
                f"{words}, and their mean energies are {abs(means[1] - means[0]):.3g} eV apart"
            )
            return MixedStates(f"{text} ({example})", abs(means[1] - means[0]), tuple(members))
    return None


def _plain(value: object) -> float | str:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)
    # Sums of partial charges are whole numbers but for their last digits.
    return round(number, 2) + 0.0


def _same_moments(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.allclose(one, other, atol=0.2)


def _words(frames: Frames, states: Sequence[State], pair: tuple[int, int]) -> tuple[str, str]:
    """Names of what differs, and the two structures with it."""
    one, other = (dict(states[i]) for i in pair)
    names = [name for name in (one | other) if one.get(name) != other.get(name)]
    values = (
        ", ".join(
            f"{name} {known[name]:g}" if isinstance(known.get(name), float) else f"{name} {known.get(name)}"
            for name in names
        )
        for known in (one, other)
    )
    if not names:
        return "initial magnetic moments", " and ".join(frames.origin(i) for i in pair)
    return " and ".join(names), "; ".join(
        f"{frames.origin(i)}: {text}" for i, text in zip(pair, values, strict=True)
    )
