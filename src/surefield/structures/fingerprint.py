"""Invariant fingerprints of structures: the same for rotated, mirrored, renumbered and repeated cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import gcd

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from surefield.errors import DataError
from surefield.structures.geometry import vectors_within
from surefield.structures.isometry import is_same_structure
from surefield.structures.read import Frames

__all__ = ["Fingerprints", "duplicate_groups", "equal_pairs", "fingerprints"]


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Fingerprints of some structures, all of them over the same elements.

    Attributes:
        frames: the structures.
        values: (n_structures, n_numbers) in Å; moving every atom by d changes no number by more than 2 d.
        compositions: (n_structures, n_elements) fractions.
        formulas: reduced formula of each structure, e.g. "H2O".
    """

    frames: tuple[Atoms, ...]
    values: np.ndarray
    compositions: np.ndarray
    formulas: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)


def fingerprints(
    frames: Frames | Sequence[Atoms],
    *,
    cutoff: float = 6.0,
    n_neighbors: int = 24,
    elements: Iterable[int] | None = None,
) -> Fingerprints:
    """Describe each structure by the distances from its atoms to their nearest neighbours.

    For each pair of elements (a, b) and k = 1 ... n_neighbors: the mean over the atoms a of the distance to
    the k-th nearest atom b, and the standard deviation over the atoms a; distances end at the cutoff. The
    means are the average minimum distances of D. Widdowson et al., MATCH Commun. Math. Comput. Chem. 87, 529
    (2022): they do not change under rotation, reflection, permutation or repetition of the cell, and change
    continuously with the positions. The standard deviations tell apart most structures of equal means, not
    all: `equal_pairs` and `duplicate_groups` compare atom by atom what the numbers cannot separate.

    Args:
        frames: structures.
        cutoff: longest distance, Å.
        n_neighbors: number of distances of each pair of elements.
        elements: atomic numbers to make room for; those of the structures by default. Give it when several
            sets are to be compared.
    """
    present = {int(z) for atoms in frames for z in np.unique(atoms.numbers)}
    species = np.array(sorted(present if elements is None else set(elements) | present), dtype=int)
    rows = [_distances(atoms, species, cutoff, n_neighbors) for atoms in frames]
    fractions = [
        (atoms.numbers[:, None] == species[None, :]).mean(axis=0) if len(atoms) else np.zeros(len(species))
        for atoms in frames
    ]
    width = 2 * len(species) ** 2 * n_neighbors
    return Fingerprints(
        tuple(frames),
        np.array(rows, dtype=np.float64).reshape(len(rows), width),
        np.array(fractions, dtype=np.float64).reshape(len(rows), len(species)),
        tuple(_reduced_formula(atoms) for atoms in frames),
    )


def equal_pairs(first: Fingerprints, second: Fingerprints, tolerance: float = 3e-4) -> np.ndarray:
    """Find structures of two sets that are the same but for rotation, reflection, order and choice of cell.

    Args:
        first: fingerprints of one set.
        second: those of the other; made with the same `elements`.
        tolerance: largest difference in Å of any number of the fingerprints. Those that pass are compared
            atom by atom, since different decorations of one lattice can share all their distances.

    Returns:
        (n_pairs, 2) indices into first and second.
    """
    candidates = _candidates(first, second, tolerance)
    same = [is_same_structure(first.frames[a], second.frames[b]) for a, b in candidates.tolist()]
    return candidates[np.array(same, dtype=bool)]


def duplicate_groups(prints: Fingerprints, tolerance: float = 3e-4) -> np.ndarray:
    """Number the distinct geometries: (n_structures,) integers, equal for structures that are the same.

    Sameness and `tolerance` as in `equal_pairs`; groups are numbered by their first structure.
    """
    group = np.arange(len(prints))
    candidates = _candidates(prints, prints, tolerance)
    for a, b in candidates[candidates[:, 0] < candidates[:, 1]].tolist():
        if group[a] != group[b] and is_same_structure(prints.frames[a], prints.frames[b]):
            low, high = sorted((group[a], group[b]))
            group[group == high] = low
    return np.unique(group, return_inverse=True)[1]


def _candidates(first: Fingerprints, second: Fingerprints, tolerance: float) -> np.ndarray:
    """Pairs of equal formula and equal fingerprint, (n_pairs, 2), in order."""
    if first.values.shape[1] != second.values.shape[1]:
        raise DataError("fingerprints to compare must be made for the same elements; pass elements=")
    columns: list[np.ndarray] = [np.zeros((0, 2), dtype=np.int64)]
    for formula in set(first.formulas) & set(second.formulas):
        left = np.array([i for i, name in enumerate(first.formulas) if name == formula])
        right = np.array([i for i, name in enumerate(second.formulas) if name == formula])
        # The mean number is as continuous as the numbers themselves: a sorted sweep finds the candidates.
        key_left, key_right = first.values[left].mean(axis=1), second.values[right].mean(axis=1)
        order = np.argsort(key_right, kind="stable")
        low = np.searchsorted(key_right[order], key_left - tolerance)
        high = np.searchsorted(key_right[order], key_left + tolerance)
        for a, start, stop in zip(left.tolist(), low.tolist(), high.tolist(), strict=True):
            near = right[order[start:stop]]
            difference = np.abs(second.values[near] - first.values[a]).max(axis=1, initial=0.0)
            same = near[difference <= tolerance]
            columns.append(np.column_stack([np.full(len(same), a), same]))
    pairs = np.concatenate(columns)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _distances(atoms: Atoms, species: np.ndarray, cutoff: float, n_neighbors: int) -> np.ndarray:
    """Means and standard deviations of the sorted distances, (2 n_species^2 n_neighbors,)."""
    n_species = len(species)
    kind = np.searchsorted(species, atoms.numbers)
    first, second, _, distance = vectors_within(atoms, cutoff)
    # Row = one atom and one neighbour species; distances of a row sorted, the nearest kept.
    row = first * n_species + kind[second]
    order = np.lexsort((distance, row))
    row, distance = row[order], distance[order]
    counts = np.bincount(row, minlength=len(atoms) * n_species)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = place < n_neighbors
    table = np.full((len(atoms) * n_species, n_neighbors), cutoff)
    table[row[kept], place[kept]] = distance[kept]
    table = table.reshape(len(atoms), n_species, n_neighbors)
    result = np.zeros((2, n_species, n_species, n_neighbors))
    for a in np.unique(kind):
        result[0, a] = table[kind == a].mean(axis=0)
        result[1, a] = table[kind == a].std(axis=0)
    return result.ravel()


def _reduced_formula(atoms: Atoms) -> str:
    numbers, counts = np.unique(atoms.numbers, return_counts=True)
    # A molecule is not repeated: two of them are another structure than one.
    divisor = reduce(gcd, counts.tolist(), 0) if atoms.pbc.any() else 1
    return "".join(
        f"{chemical_symbols[z]}{n // max(divisor, 1)}" for z, n in zip(numbers, counts.tolist(), strict=True)
    ) + ("" if atoms.pbc.any() else " molecule")
