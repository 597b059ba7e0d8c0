"""Copies of structures, and structures that cannot be labelled, found before anything is selected."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any, Final, Protocol

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from ase.geometry import complete_cell
from jaxtyping import Float
from vesin import NeighborList

from surefield.errors import ConfigError, DataError, nearest
from surefield.selection.selection import Dropped

__all__ = ["HELD_OUT", "Structure", "find_duplicates", "sanity_filter", "structure_key"]

#: Where structures are that have labels and are not trained on.
HELD_OUT: Final = "held-out set"
#: Cells in Å and fractional coordinates are compared after rounding to this.
ROUNDING = 1e-5


class Structure(Protocol):
    """What is read of a structure: `ase.Atoms` has it all."""

    @property
    def numbers(self) -> Any:
        """(n_atoms,) atomic numbers."""

    @property
    def positions(self) -> Any:
        """(n_atoms, 3) in Å."""

    @property
    def cell(self) -> Any:
        """(3, 3) row vectors in Å."""

    @property
    def pbc(self) -> Any:
        """(3,) whether periodic."""


def structure_key(atoms: Structure, where: str = "structure") -> bytes:
    """Digest that copies of one structure share, whatever the order of the atoms and the images chosen.

    Made of pbc, the periodic cell vectors rounded to 1e-5 Å, and the sorted list of atomic number and
    coordinates: along periodic vectors wrapped fractions rounded to 1e-5; else Å relative to the centroid.
    Cell vectors that are not periodic mean nothing and do not count.

    Args:
        atoms: `ase.Atoms` or alike; not changed.
        where: name of the structure in error messages.

    Raises:
        DataError: numbers that are not finite, or a periodic cell without volume.
    """
    numbers, positions, cell, pbc = _arrays(atoms)
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()) or _is_flat(cell[pbc]):
        fault = "positions or cell are not finite, or the periodic cell has no volume"
        raise DataError(fault, where=where, fix="remove such frames with sanity_filter first")
    frame = np.where(pbc[:, None], cell, 0.0)
    vectors = complete_cell(frame)
    # Row by row, not by BLAS, and sums over sorted values: equal atoms give equal digits in any order.
    places = np.einsum("ij,jk->ik", positions, np.linalg.inv(vectors)) / ROUNDING
    lengths = np.linalg.norm(vectors, axis=1)
    centered = (places - np.sort(places, axis=0).mean(axis=0)) * lengths
    grid = np.rint(np.where(pbc, places, centered)).astype(np.int64)
    grid = np.where(pbc, grid % round(1 / ROUNDING), grid)
    table = np.column_stack([numbers, grid])
    table = table[np.lexsort(table.T[::-1])]
    digest = hashlib.sha256(pbc.astype(np.uint8).tobytes())
    digest.update(np.rint(frame / ROUNDING).astype("<i8").tobytes())
    digest.update(np.ascontiguousarray(table, dtype="<i8").tobytes())
    return digest.digest()


def find_duplicates(
    pool: Sequence[Structure], train: Sequence[Structure] = (), held_out: Sequence[Structure] = ()
) -> list[Dropped]:
    """Structures of the pool that are copies of one that is labelled or of an earlier one of the pool.

    Two structures are copies if their `structure_key` is the same. The lowest index stays.

    Args:
        pool: candidates.
        train: labelled structures.
        held_out: further ones, that are not trained on.
    """
    kept: dict[bytes, tuple[int, str]] = {}
    for where, labelled in (("train", train), (HELD_OUT, held_out)):
        for index, atoms in enumerate(labelled):
            kept.setdefault(structure_key(atoms, f"{where} frame {index}"), (index, where))
    dropped = []
    for index, atoms in enumerate(pool):
        other, where = kept.setdefault(structure_key(atoms, f"pool frame {index}"), (index, "pool"))
        if (other, where) != (index, "pool"):
            dropped.append(Dropped(index, f"copy of structure {other} of {where}", other, where))
    return dropped


def sanity_filter(
    frames: Sequence[Structure],
    min_distance_factor: float = 0.5,
    elements: Collection[str | int] | None = None,
    max_force: float | None = None,
) -> tuple[list[int], list[Dropped]]:
    """Sort out frames that nobody should pay a label for.

    Refused are: numbers that are not finite, a periodic cell without volume, unknown elements, two atoms (or
    an atom and its own image) closer than `min_distance_factor` times the sum of their covalent radii, and
    model forces above `max_force`.

    Args:
        frames: `ase.Atoms` or alike; not changed. A frame that cannot even be read is refused, too.
        min_distance_factor: 0 allows any distance.
        elements: symbols or atomic numbers that are allowed; None allows all.
        max_force: largest force on an atom in eV/Å; forces are read from the results of `frame.calc`.

    Returns:
        Indices of the frames to keep, and the refused ones with the reason.

    Raises:
        ConfigError: an option is out of range, or `max_force` is given and no frame has forces.
    """
    if not (np.isfinite(min_distance_factor) and min_distance_factor >= 0):
        raise ConfigError("min_distance_factor must be at least 0", got=min_distance_factor)
    if max_force is not None:
        if not max_force > 0:
            raise ConfigError("max_force must be positive", got=max_force, expected="eV/Å")
        if len(frames) and all(_forces(atoms) is None for atoms in frames):
            raise ConfigError(
                "max_force needs forces, and no frame has a calculator with forces among its results"
            )
    allowed = None if elements is None else {_atomic_number(element) for element in elements}
    kept, rejected = [], []
    for index, atoms in enumerate(frames):
        try:
            reason = _fault(atoms, min_distance_factor, allowed, max_force)
        except (AttributeError, TypeError, ValueError, IndexError) as error:
            reason = f"cannot be read as a structure: {' '.join(str(error).split())}"
        if reason is None:
            kept.append(index)
        else:
            rejected.append(Dropped(index, reason))
    return kept, rejected


def _fault(atoms: Structure, factor: float, allowed: set[int] | None, max_force: float | None) -> str | None:
    numbers, positions, cell, pbc = _arrays(atoms)
    if not len(numbers):
        return "no atoms"
    for name, values in (("positions", positions), ("cell", cell)):
        if not np.isfinite(values).all():
            return f"{name} are not finite"
    for number in np.unique(numbers):
        if not 0 < number < len(covalent_radii):
            return f"unknown element with atomic number {number}"
        if allowed is not None and int(number) not in allowed:
            return f"element {chemical_symbols[number]} is not among the known ones"
    if _is_flat(cell[pbc]):
        return "the periodic cell has no volume"
    contact = _contact(numbers, positions, cell, pbc, factor)
    if contact is not None:
        return contact
    if max_force is None:
        return None
    forces = _forces(atoms)
    if forces is None:
        return "no forces to compare with max_force"
    if forces.shape != positions.shape or not np.isfinite(forces).all():
        return "forces are not finite, or not one vector per atom"
    largest = float(np.linalg.norm(forces, axis=1).max())
    return f"force of {largest:.3g} eV/Å is above {max_force:g}" if largest > max_force else None


def _contact(
    numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, factor: float
) -> str | None:
    """Describe the pair of atoms that is closest relative to its limit, if it is below the limit."""
    radii = factor * covalent_radii[numbers]
    if not radii.any():
        return None
    lengths = np.linalg.norm(cell[pbc], axis=1)
    if len(lengths) and lengths.min() < 2 * radii.min():
        # Also keeps the search below from listing thousands of images.
        return f"cell vector of {lengths.min():.3g} Å puts atoms upon their own images"
    pairs = NeighborList(cutoff=2 * float(radii.max()), full_list=False)
    first, second, distances = pairs.compute(
        points=positions, box=np.where(pbc[:, None], cell, 0.0), periodic=pbc, quantities="ijd"
    )
    first, second = first.astype(np.int64), second.astype(np.int64)
    gap = distances - (radii[first] + radii[second])
    if not len(gap) or gap.min() >= 0:
        return None
    worst = int(np.argmin(gap))
    names = [f"{chemical_symbols[numbers[atom]]}{atom}" for atom in (first[worst], second[worst])]
    limit = radii[first[worst]] + radii[second[worst]]
    return f"atoms {names[0]} and {names[1]} are {distances[worst]:.3g} Å apart, less than {limit:.3g} Å"


def _arrays(atoms: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    numbers = np.array(atoms.numbers, dtype=np.int64)
    positions = np.array(atoms.positions, dtype=np.float64)
    cell = np.zeros((3, 3)) if atoms.cell is None else np.array(atoms.cell, dtype=np.float64)
    pbc = np.broadcast_to(np.asarray(atoms.pbc, dtype=bool), (3,)).copy()
    if positions.shape != (len(numbers), 3) or cell.shape != (3, 3):
        raise ValueError(f"{len(numbers)} atomic numbers, positions {positions.shape}, cell {cell.shape}")
    return numbers, positions, cell, pbc


def _forces(atoms: Structure) -> np.ndarray | None:
    results = getattr(getattr(atoms, "calc", None), "results", None)
    if not isinstance(results, dict) or results.get("forces") is None:
        return None
    return np.array(results["forces"], dtype=np.float64)


def _is_flat(vectors: Float[np.ndarray, "n_periodic 3"]) -> bool:
    """Whether the periodic vectors span no length, area or volume."""
    if not len(vectors):
        return False
    lengths = np.linalg.norm(vectors, axis=1)
    if not lengths.all():
        return True
    return bool(np.linalg.svd(vectors / lengths[:, None], compute_uv=False).min() < 1e-8)


def _atomic_number(element: str | int) -> int:
    if isinstance(element, str):
        if element not in atomic_numbers:
            raise ConfigError(f"unknown element {element!r}: {nearest(element, atomic_numbers)}")
        return atomic_numbers[element]
    return int(element)
