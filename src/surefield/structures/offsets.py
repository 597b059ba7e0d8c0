"""Energy of each element that is subtracted before a fit: from isolated atoms, or by least squares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import ArrayLike

from surefield import keys
from surefield.errors import DataError, PotentialError, nearest
from surefield.structures.labels import resolve_labels
from surefield.structures.read import Frames, read_frames

__all__ = [
    "Intercepts",
    "OffsetCalculator",
    "energy_offsets",
    "is_isolated_atom",
    "isolated_atom_energies",
    "least_squares_intercepts",
]

_MARKS = {"isolatedatom", "isolatedatoms", "isoatom", "isoatoms", "freeatom", "freeatoms", "e0", "e0s"}


def is_isolated_atom(atoms: Atoms) -> bool:
    """Whether a structure is a free atom: one atom, and either no periodic direction or marked as such.

    Marks are "isolated_atom", "free_atom" or "e0" (any case and punctuation) in `config_type` or `split`.
    """
    if len(atoms) != 1:
        return False
    words = (str(atoms.info.get(name, "")) for name in (keys.CONFIG_TYPE, "split"))
    marked = any("".join(filter(str.isalnum, word)).lower() in _MARKS for word in words)
    return marked or not atoms.pbc.any()


def isolated_atom_energies(
    frames: Frames | Sequence[Atoms], energies: Sequence[float | None] | None = None
) -> dict[int, float]:
    """Collect the energies of the free atoms among some structures.

    Args:
        frames: structures, free atoms or not.
        energies: (n_structures,) in eV, None where unknown; by default what `resolve_labels` finds.

    Returns:
        Atomic number to energy in eV, elements without a free atom left out.

    Raises:
        DataError: two free atoms of one element differ by more than 1 meV.
    """
    frames = read_frames(frames)
    if energies is None:
        energies = [labels.energy for labels in resolve_labels(frames, require=())[0]]
    lowest: dict[int, tuple[float, int]] = {}
    for i, (atoms, energy) in enumerate(zip(frames, energies, strict=True)):
        if energy is None or not is_isolated_atom(atoms):
            continue
        number = int(atoms.numbers[0])
        known = lowest.setdefault(number, (float(energy), i))
        if abs(known[0] - energy) > 1e-3:
            raise DataError(
                f"free atoms of {chemical_symbols[number]} disagree: {known[0]:.6f} eV in "
                f"{frames.origin(known[1])}, {energy:.6f} eV in {frames.origin(i)}; keep one"
            )
    return {number: energy for number, (energy, _) in lowest.items()}


def energy_offsets(
    compositions: Sequence[ArrayLike | Mapping[int, int]],
    energies: ArrayLike,
    isolated_atoms: Mapping[str | int, float] | None = None,
) -> dict[int, float]:
    """Find one energy per element such that sums over the atoms come near the total energies.

    Free atoms fix their elements; the others are fitted by least squares of the energies per atom, in
    float64. Where the compositions do not determine them (a single composition, always equal counts) the fit
    starts from one common energy per atom and adds the smallest changes that are needed: structures of one
    composition give equal offsets.

    Args:
        compositions: per structure its atomic numbers (n_atoms,), or a mapping from atomic number to count.
        energies: (n_structures,) total energies in eV.
        isolated_atoms: energy in eV of free atoms, by symbol or atomic number.

    Returns:
        Atomic number to offset in eV, for all elements that occur in the structures or are given.

    Raises:
        DataError: lengths differ, energies are not finite, a structure is empty or an element is unknown.
    """
    energies = np.asarray(energies, dtype=np.float64)
    if energies.shape != (len(compositions),):
        raise DataError(f"energies must be ({len(compositions)},), one per structure, got {energies.shape}")
    if not np.isfinite(energies).all():
        raise DataError(f"energy of structure {np.flatnonzero(~np.isfinite(energies))[0]} is not finite")
    isolated = {_number(element): float(value) for element, value in (isolated_atoms or {}).items()}
    counts, elements = _count_matrix(compositions)
    totals = counts.sum(axis=1)
    if len(totals) and totals.min() == 0:
        raise DataError(f"structure {int(np.argmin(totals))} has no atoms")
    known = np.array([isolated.get(z, 0.0) for z in elements])
    free = np.array([z not in isolated for z in elements], dtype=bool)
    offsets = dict(isolated)
    if free.any():
        rows = counts[:, free] / totals[:, None]
        target = (energies - counts @ known) / totals
        used = rows.any(axis=1)
        rows, target = rows[used], target[used]
        common = float(rows.sum(axis=1) @ target / np.sum(rows.sum(axis=1) ** 2))
        change = np.linalg.lstsq(rows, target - common * rows.sum(axis=1), rcond=1e-8)[0]
        offsets |= {
            z: common + float(d) for z, d in zip(np.array(elements)[free].tolist(), change, strict=True)
        }
    return dict(sorted(offsets.items()))


def _count_matrix(compositions: Sequence[ArrayLike | Mapping[int, int]]) -> tuple[np.ndarray, list[int]]:
    """Counts (n_structures, n_elements) and the atomic numbers of the columns."""
    tallies: list[dict[int, int]] = []
    for entry in compositions:
        if isinstance(entry, Mapping):
            tallies.append({int(z): int(n) for z, n in entry.items() if n})
        else:
            unique, number = np.unique(np.asarray(entry, dtype=int), return_counts=True)
            tallies.append(dict(zip(unique.tolist(), number.tolist(), strict=True)))
    elements = sorted({z for tally in tallies for z in tally})
    column = {z: k for k, z in enumerate(elements)}
    counts = np.zeros((len(tallies), len(elements)))
    for i, tally in enumerate(tallies):
        for z, n in tally.items():
            counts[i, column[z]] = n
    return counts, elements


def _number(element: str | int) -> int:
    if isinstance(element, str):
        if element not in atomic_numbers:
            raise DataError(f"unknown element {element!r}; {nearest(element, chemical_symbols[1:])}")
        return atomic_numbers[element]
    return int(element)


class OffsetCalculator:
    """Energy of a structure as a sum over its atoms of one number per element.

    Args:
        scalings: element to energy in eV.
    """

    def __init__(self, scalings: Mapping[str, float]) -> None:
        self.scalings = {element: float(energy) for element, energy in scalings.items()}

    def get_potential_energy(self, atoms: Atoms) -> float:
        """Sum of scalings over the atoms, eV.

        Raises:
            PotentialError: an element of the structure has no scaling.
        """
        symbols = atoms.get_chemical_symbols()
        unknown = sorted(set(symbols) - set(self.scalings))
        if unknown:
            known = ", ".join(sorted(self.scalings)) or "none"
            raise PotentialError("no offset", where="scalings", got=", ".join(unknown), expected=known)
        return math.fsum(self.scalings[symbol] for symbol in symbols)


class Intercepts(NamedTuple):
    """Energy per element from a fit, and what the compositions leave open.

    Attributes:
        intercepts: element to energy in eV.
        rank: number of independent compositions, at most the number of elements.
        undetermined: combinations along which the intercepts could move without changing any energy, as
            "4 Cu - Pt" (add 4 x to Cu's and subtract x from Pt's); empty at full rank.
    """

    intercepts: dict[str, float]
    rank: int
    undetermined: tuple[str, ...]


def least_squares_intercepts(
    images: Mapping[str, Atoms] | Sequence[Atoms] | Sequence[Mapping[str, int]], energies: ArrayLike
) -> Intercepts:
    """Minimise sum_i ((E_i - E_off,i)/N_i)^2 over one energy per element, exactly.

    If the compositions do not determine the energies, they are the mean energy per atom plus the least-norm
    correction, so that images of one composition give equal intercepts.

    Args:
        images: structures, or compositions as element to number of atoms.
        energies: (n_structures,) total energies in eV.

    Raises:
        DataError: no images, numbers of images and energies differ, energies not finite, unknown element.
    """
    values = images.values() if isinstance(images, Mapping) else images
    counts = [
        Counter(image.get_chemical_symbols()) if isinstance(image, Atoms) else Counter(image)
        for image in values
    ]
    if not counts:
        raise DataError("intercepts need at least one image, got none")
    unknown = sorted({name for count in counts for name in count} - set(chemical_symbols[1:]))
    if unknown:
        raise DataError(f"unknown element {unknown[0]!r}; {nearest(unknown[0], chemical_symbols[1:])}")
    compositions = [{atomic_numbers[name]: n for name, n in count.items()} for count in counts]
    offsets = energy_offsets(compositions, energies)
    elements = sorted({name for count in counts for name, n in count.items() if n})
    rows = _reduced_rows({tuple(count[name] for name in elements) for count in counts}, len(elements))
    return Intercepts(
        {name: offsets[atomic_numbers[name]] for name in elements},
        len(rows),
        tuple(_combination(vector, elements) for vector in _null_vectors(rows, len(elements))),
    )


def _reduced_rows(compositions: Iterable[Sequence[int]], width: int) -> list[list[Fraction]]:
    """Reduced row echelon form in exact arithmetic, so that the rank needs no tolerance."""
    rows: list[list[Fraction]] = []
    for composition in compositions:
        if len(rows) == width:
            break
        row = [Fraction(n) for n in composition]
        for known in rows:
            factor = row[_pivot(known)]
            row = [a - factor * b for a, b in zip(row, known, strict=True)]
        if any(row):
            pivot = _pivot(row)
            row = [a / row[pivot] for a in row]
            rows = [[a - known[pivot] * b for a, b in zip(known, row, strict=True)] for known in rows]
            rows.append(row)
    return rows


def _pivot(row: Sequence[Fraction]) -> int:
    return next(place for place, value in enumerate(row) if value)


def _null_vectors(rows: Sequence[Sequence[Fraction]], width: int) -> list[list[int]]:
    """Smallest integers that every reduced row takes to zero, one vector per column without a pivot."""
    pivots = {_pivot(row): row for row in rows}
    vectors = []
    for free in sorted(set(range(width)) - set(pivots)):
        vector = [-pivots[k][free] if k in pivots else Fraction(k == free) for k in range(width)]
        scale = math.lcm(*(value.denominator for value in vector))
        sign = 1 if vector[_pivot(vector)] > 0 else -1
        vectors.append([int(sign * scale * value) for value in vector])
    return vectors


def _combination(vector: Sequence[int], elements: Sequence[str]) -> str:
    """Write (4, -1) as "4 Cu - Pt"."""
    text = ""
    for n, element in zip(vector, elements, strict=True):
        if n:
            text += (" - " if n < 0 else " + ") if text else ""
            text += (f"{abs(n)} " if abs(n) > 1 else "") + element
    return text
