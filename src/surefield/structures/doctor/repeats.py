"""Structures that occur more than once, also rotated, and test structures that are in the training set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from surefield.structures.doctor.finding import Finding
from surefield.structures.fingerprint import duplicate_groups, equal_pairs, fingerprints
from surefield.structures.labels import Labels
from surefield.structures.read import Frames
from surefield.structures.states import mixed_states, state

__all__ = ["check_leakage", "check_repeats", "check_states"]

#: Largest energy difference of two copies, eV.
_ENERGY = 1e-5
#: Entries of `info` that make two structures of equal geometry different calculations, besides their state.
_CONDITIONS = ("electrode_potential", "target_potential", "excess_electrons")


def check_states(frames: Frames, labels: Sequence[Labels]) -> list[Finding]:
    """Report energies that differ by charge or spin, of which potentials know nothing; and charges at all."""
    mixed = mixed_states(frames, labels)
    if mixed is not None:
        remedy = (
            "train on one state, or one potential for each: none here reads charge or spin (those of an "
            "electrode read its potential)"
        )
        return [
            Finding(
                "charge and spin states", "warning", mixed.message, mixed.frames, mixed.difference, remedy
            )
        ]
    charged = tuple(i for i, atoms in enumerate(frames) if dict(state(atoms))["charge"] != 0)
    if not charged:
        return []
    message = f"{len(charged)} of {len(frames)} structures are charged, first {frames.origin(charged[0])}"
    remedy = "no potential here reads the charge: a system of given atoms has one only"
    return [Finding("charged structures", "note", message, charged, float(len(charged)), remedy)]


def check_repeats(frames: Frames, labels: Sequence[Labels]) -> list[Finding]:
    """Report copies (equal formula, energy and invariant fingerprint), and copies whose energies disagree."""
    findings = _contradictions(frames, labels)
    near = _with_energy_partner(frames, labels)
    if len(near) == 0:
        return findings
    chosen = frames[near]
    groups = duplicate_groups(fingerprints(chosen))
    copies = []
    for group in range(int(groups.max()) + 1):
        members = [i for g, i in zip(groups.tolist(), near, strict=True) if g == group]
        copies += _split_by_energy(members, labels)
    if not copies:
        return findings
    surplus = tuple(sorted(i for group in copies for i in group[1:]))
    exact = sum(_same_positions(frames[group[0]], frames[i]) for group in copies for i in group[1:])
    largest = max(copies, key=len)
    message = (
        f"{len(surplus)} structures repeat an earlier one ({exact} with equal positions, "
        f"{len(surplus) - exact} as symmetry copies): {len(copies)} geometries occur more than once, "
        f"one of them {len(largest)} times ({', '.join(map(frames.origin, largest[:4]))}"
        f"{' ...' if len(largest) > 4 else ''})"
    )
    remedy = "keep copies on one side of every split; drop them, or divide their weight by their number"
    return [*findings, Finding("repeats", "warning", message, surplus, float(len(surplus)), remedy)]


def check_leakage(
    frames: Frames,
    labels: Sequence[Labels],
    reference: Frames,
    reference_labels: Sequence[Labels],
    name: str = "test",
) -> list[Finding]:
    """Report structures of `frames` that are in `reference` (the training set), also as symmetry copies."""
    both, both_labels = reference + frames, [*reference_labels, *labels]
    near = np.array(_with_energy_partner(both, both_labels), dtype=int)
    left, right = near[near < len(reference)], near[near >= len(reference)]
    if len(left) == 0 or len(right) == 0:
        return []
    elements = {int(z) for atoms in both for z in atoms.numbers}
    pairs = equal_pairs(
        fingerprints(both[left], elements=elements), fingerprints(both[right], elements=elements)
    )
    leaked: dict[int, int] = {}
    for a, b in zip(left[pairs[:, 0]].tolist(), right[pairs[:, 1]].tolist(), strict=True):
        if abs(_energy(both_labels[a]) - _energy(both_labels[b])) <= _ENERGY:
            leaked.setdefault(b - len(reference), a)
    if not leaked:
        return []
    first = min(leaked)
    message = (
        f"{len(leaked)} of {len(frames)} {name} structures have a copy, possibly rotated, in the training "
        f"set; e.g. {frames.origin(first)} is {reference.origin(leaked[first])}"
    )
    remedy = "report errors with and without them, or remove the copies from the training set"
    return [Finding("leakage", "warning", message, tuple(sorted(leaked)), float(len(leaked)), remedy)]


def _split_by_energy(members: list[int], labels: Sequence[Labels]) -> list[list[int]]:
    """Cut equal geometries where energies are more than the tolerance apart; leave out single ones."""
    order = sorted(members, key=lambda i: (_energy(labels[i]), i))
    cuts = np.flatnonzero(np.diff([_energy(labels[i]) for i in order]) > _ENERGY) + 1
    return [sorted(part.tolist()) for part in np.split(np.array(order), cuts) if len(part) > 1]


def _energy(label: Labels) -> float:
    return np.nan if label.energy is None else label.energy


def _with_energy_partner(frames: Frames, labels: Sequence[Labels]) -> list[int]:
    """Structures for which another has the same formula and energy, in their order."""
    energies = np.array([_energy(label) for label in labels])
    groups: dict[str, list[int]] = defaultdict(list)
    for i, atoms in enumerate(frames):
        if np.isfinite(energies[i]):
            groups[atoms.get_chemical_formula()].append(i)
    partners: set[int] = set()
    for members in groups.values():
        order = np.array(members)[np.argsort(energies[members], kind="stable")]
        close = np.flatnonzero(np.diff(energies[order]) <= _ENERGY)
        partners.update(order[close].tolist(), order[close + 1].tolist())
    return sorted(partners)


def _same_positions(one: Atoms, other: Atoms) -> bool:
    return (
        np.array_equal(one.numbers, other.numbers)
        and np.allclose(one.cell.array, other.cell.array, atol=1e-5)
        and np.allclose(one.positions, other.positions, atol=1e-4)
    )


def _contradictions(frames: Frames, labels: Sequence[Labels]) -> list[Finding]:
    """Equal positions (to 1e-6 Å) under equal conditions, but other energies."""
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, atoms in enumerate(frames):
        if labels[i].energy is None or not np.isfinite(_energy(labels[i])):
            continue
        rounded = [np.round(array, 6) + 0.0 for array in (atoms.positions, atoms.cell.array)]
        moments = atoms.arrays.get("initial_magmoms")
        conditions = (*(str(atoms.info.get(name)) for name in _CONDITIONS), state(atoms), str(moments))
        key = (atoms.numbers.tobytes(), *(array.tobytes() for array in rounded), conditions)
        groups[key].append(i)
    spans = {
        tuple(group): float(np.ptp([_energy(labels[i]) for i in group]))
        for group in groups.values()
        if len(group) > 1
    }
    wrong = {group: span for group, span in spans.items() if span > 1e-3 * len(frames[group[0]])}
    if not wrong:
        return []
    worst = max(wrong, key=lambda group: wrong[group])
    message = (
        f"{len(wrong)} geometries have several energies; the largest difference is {wrong[worst]:.4g} eV "
        f"({', '.join(map(frames.origin, worst[:4]))})"
    )
    remedy = "two levels of theory or unconverged calculations are mixed: keep one label per geometry"
    chosen = tuple(sorted(i for group in wrong for i in group))
    return [Finding("contradicting labels", "error", message, chosen, wrong[worst], remedy)]
