"""Checks of geometry that come before everything else: cells, positions, atoms on top of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from vesin import NeighborList

from surefield.errors import DataError
from surefield.structures.read import Frames, read_frames
from surefield.structures.stated_units import check_stated_lengths

__all__ = [
    "MIN_DISTANCE",
    "check_contact",
    "check_geometry",
    "check_numbers",
    "closest_pair",
    "vectors_within",
]

#: Nearer atoms are on top of each other, Å.
MIN_DISTANCE: Final = 0.3
_SHORTEST_SEARCH = 2.0
#: Farther from the origin, digits of a position that forces depend on are lost, Å.
_FARTHEST = 1e9
#: Length, area and volume of the smallest cell whose images are all one unit apart.
_CLOSEST_PACKED = (1.0, np.sqrt(3) / 2, np.sqrt(0.5))


def vectors_within(
    atoms: Atoms, cutoff: float, *, full: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find all pairs of atoms within `cutoff` (Å), periodic images included.

    Returns:
        First and second atom, (n_pairs,) each, vector from first to second (n_pairs, 3) and its length in Å,
        (n_pairs,); with `full` every pair appears from both sides.
    """
    # vesin's bins are as wide as the cutoff, so a very short one costs far more than it saves.
    reach = max(cutoff, _SHORTEST_SEARCH)
    # Vectors that are not periodic mean nothing, and may well have no length or lie in the plane of a slab.
    cell = (
        complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))
        if atoms.pbc.any()
        else np.zeros((3, 3))
    )
    first, second, vector, distance = NeighborList(cutoff=reach, full_list=full).compute(
        points=np.asarray(atoms.positions, dtype=np.float64),
        box=np.asarray(cell, dtype=np.float64),
        periodic=np.asarray(atoms.pbc, dtype=bool),
        quantities="ijDd",
    )
    first, second = first.astype(np.int64), second.astype(np.int64)
    if reach == cutoff:
        return first, second, vector, distance
    near = distance <= cutoff
    return first[near], second[near], vector[near], distance[near]


def closest_pair(atoms: Atoms, cutoff: float) -> tuple[int, int, float] | None:
    """The two nearest atoms and their distance (Å), None when no two are within `cutoff`."""
    first, second, _, distance = vectors_within(atoms, cutoff, full=False)
    if len(distance) == 0:
        return None
    k = int(np.argmin(distance))
    return int(first[k]), int(second[k]), float(distance[k])


def check_geometry(frames: Frames | Sequence[Atoms], *, min_distance: float = MIN_DISTANCE) -> None:
    """Refuse structures that no potential can be evaluated on.

    Args:
        frames: structures.
        min_distance: nearer atoms (Å), periodic images included, are an error.

    Raises:
        DataError: no atoms, atoms of no element, positions or cell not finite, positions beyond 1e9 Å or
            stated not to be in Å, a cell without volume under periodic boundaries, atoms too close; names the
            structure, the atoms and the distance.
    """
    frames = read_frames(frames)
    for i, atoms in enumerate(frames):
        check_stated_lengths(atoms, frames.origin(i))
        check_numbers(atoms, frames.origin(i))
        check_contact(atoms, frames.origin(i), min_distance)


def check_contact(atoms: Atoms, where: object, min_distance: float = MIN_DISTANCE) -> None:
    """Refuse a structure with atoms nearer than `min_distance` (Å), periodic images included."""
    pair = closest_pair(atoms, min_distance)
    if pair is not None:
        a, b, distance = pair
        symbols = atoms.get_chemical_symbols()
        raise DataError(
            f"atoms {a} ({symbols[a]}) and {b} ({symbols[b]}) are {distance:.3f} Å apart in {where}; "
            f"expected at least {min_distance:g} Å; remove the structure, or check the units of its "
            "positions and whether its cell and pbc belong together"
        )


def check_numbers(atoms: Atoms, where: object) -> None:
    """Refuse a structure whose numbers alone say that it has no energy: no search for neighbours.

    Raises:
        DataError: as `check_geometry`, but for atoms too close; of these only cells that are too small for
            any atoms to keep their distance.
    """
    positions, cell = atoms.positions, atoms.cell.array
    if len(positions) == 0:
        raise DataError(f"no atoms in {where}")
    if not atoms.numbers.all():
        atom = int(np.argmin(atoms.numbers != 0))
        raise DataError(
            f"atom {atom} is of no element ('X') in {where}", fix="give its element, or take it out"
        )
    farthest = np.abs(positions).max()
    if not farthest <= _FARTHEST:
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        if len(bad):
            raise DataError(f"position of atom {bad[0]} is not finite in {where} ({len(bad)} atoms)")
        atom = int(np.abs(positions).max(axis=1).argmax())
        raise DataError(
            f"atom {atom} is {farthest:.3g} Å from the origin in {where}; expected at most {_FARTHEST:g} Å; "
            "the run that wrote it blew up, or the unit of the positions is another"
        )
    if not np.isfinite(cell).all():
        raise DataError(f"cell is not finite in {where}")
    pbc = atoms.pbc
    if not pbc.any():
        return
    vectors = cell[pbc]
    lengths = np.sqrt((vectors * vectors).sum(axis=1))
    # Squared volume per product of lengths: does not depend on the size of the cell.
    gram = np.linalg.det(vectors @ vectors.T)
    if lengths.min() < 1e-6 or gram < 1e-12 * np.prod(lengths**2):
        directions = "".join("xyz"[k] for k in np.flatnonzero(pbc))
        raise DataError(
            f"cell has no volume although periodic along {directions} in {where}; got cell vectors "
            f"{np.round(cell, 4).tolist()}; give the cell, or set pbc to False for a molecule"
        )
    # Otherwise the search for neighbours would list millions of images.
    k = len(vectors)
    share = np.sqrt(gram) / (len(positions) if k == 3 else 1)
    if share < _CLOSEST_PACKED[k - 1] * MIN_DISTANCE**k:
        raise DataError(
            f"cell is too small for {len(positions)} atoms in {where}; got cell vectors {cell.tolist()}; "
            "check its unit (Å) and that cell and positions belong together"
        )
