"""Checks of geometry that come before everything else: cells, positions, atoms on top of each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from vesin import NeighborList

from surefield.errors import DataError
from surefield.structures.read import Frames, read_frames

__all__ = ["check_geometry", "closest_pair", "vectors_within"]

_SHORTEST_SEARCH = 2.0


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


def check_geometry(frames: Frames | Sequence[Atoms], *, min_distance: float = 0.3) -> None:
    """Refuse structures that no potential can be evaluated on.

    Args:
        frames: structures.
        min_distance: nearer atoms (Å), periodic images included, are an error.

    Raises:
        DataError: no atoms, positions or cell not finite, a cell without volume under periodic boundaries,
            atoms too close; names the structure, the atoms and the distance.
    """
    frames = read_frames(frames)
    for i, atoms in enumerate(frames):
        where = frames.origin(i)
        if len(atoms) == 0:
            raise DataError(f"no atoms in {where}")
        bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
        if len(bad):
            raise DataError(f"position of atom {bad[0]} is not finite in {where} ({len(bad)} atoms)")
        _check_cell(atoms, where)
        pair = closest_pair(atoms, min_distance)
        if pair is not None:
            a, b, distance = pair
            symbols = atoms.get_chemical_symbols()
            raise DataError(
                f"atoms {a} ({symbols[a]}) and {b} ({symbols[b]}) are {distance:.3f} Å apart in {where}; "
                f"expected at least {min_distance:g} Å; remove the structure, or check the units of its "
                "positions and whether its cell and pbc belong together"
            )


def _check_cell(atoms: Atoms, where: str) -> None:
    cell = atoms.cell.array
    if not np.isfinite(cell).all():
        raise DataError(f"cell is not finite in {where}")
    if not atoms.pbc.any():
        return
    vectors = cell[atoms.pbc]
    lengths = np.linalg.norm(vectors, axis=1)
    # Squared volume per product of lengths: does not depend on the size of the cell.
    if lengths.min() < 1e-6 or np.linalg.det(vectors @ vectors.T) < 1e-12 * np.prod(lengths**2):
        directions = "".join("xyz"[k] for k in np.flatnonzero(atoms.pbc))
        raise DataError(
            f"cell has no volume although periodic along {directions} in {where}; got cell vectors "
            f"{np.round(cell, 4).tolist()}; give the cell, or set pbc to False for a molecule"
        )
