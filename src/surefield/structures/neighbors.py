"""Neighbour lists (vesin) in the dense layout of the package, with the index of every reversed edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import ase
import numpy as np
from ase.geometry import complete_cell
from jaxtyping import Bool, Float, Int
from vesin import NeighborList

from surefield.errors import ConfigError
from surefield.structures.tensors import volume

__all__ = ["Neighborhood", "neighborhood"]

#: Atoms beyond are searched for inside the cell, so that numbers of cells stay small, Å.
_FAR = 100.0
#: Neighbours of an atom beyond which a cutoff is none of a potential: 39 Å in copper.
_MOST = 20_000


@dataclass(frozen=True)
class Neighborhood:
    """Neighbours of one structure, dense: row i holds the neighbours of atom i, then padding.

    Attributes:
        numbers: (n_atoms,) atomic numbers.
        positions: (n_atoms, 3) in Å.
        cell: (3, 3) row vectors in Å; zeros for a molecule.
        periodic: whether the cell is three-dimensionally periodic, so that a stress is defined.
        counts: (n_atoms,) neighbours of each atom.
        neighbors: (n_atoms, n_neighbors) index of the neighbour.
        vectors: (n_atoms, n_neighbors, 3) from atom to neighbour in Å, zero where padded.
        reverse: (n_atoms, n_neighbors) column of the same edge in the row of the neighbour.
        inputs: further numbers of the structure that its potential reads, such as an electrode potential.
    """

    numbers: Int[np.ndarray, " n_atoms"]
    positions: Float[np.ndarray, "n_atoms 3"]
    cell: Float[np.ndarray, "3 3"]
    periodic: bool
    counts: Int[np.ndarray, " n_atoms"]
    neighbors: Int[np.ndarray, "n_atoms n_neighbors"]
    vectors: Float[np.ndarray, "n_atoms n_neighbors 3"]
    reverse: Int[np.ndarray, "n_atoms n_neighbors"]
    inputs: Mapping[str, float] = field(default_factory=dict)

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.numbers)

    @property
    def n_neighbors(self) -> int:
        """Largest number of neighbours of an atom (width of the dense rows)."""
        return self.neighbors.shape[1]

    @property
    def shortest(self) -> float:
        """Distance of the two nearest neighbours in Å; infinite where there are none."""
        squares = np.einsum("ijk,ijk->ij", self.vectors, self.vectors)
        real = np.arange(self.n_neighbors) < self.counts[:, None]
        return float(np.sqrt(squares.min(where=real, initial=np.inf)))


def neighborhood(atoms: ase.Atoms, cutoff: float) -> Neighborhood:
    """Find all neighbours within `cutoff` (Å), periodic copies included, each pair from both sides.

    Raises:
        ConfigError: more neighbours of each atom than any potential has.
    """
    positions = np.array(atoms.positions, dtype=np.float64)
    cell = np.array(atoms.cell.array, dtype=np.float64)
    pbc = np.asarray(atoms.pbc, dtype=bool)
    _check_number(len(positions), cell, pbc, cutoff)
    # Pairs are found once and turned round here, so that every edge is known with its reverse.
    found = NeighborList(cutoff=cutoff, full_list=False)
    first, second, shifts, vectors = found.compute(
        points=_near_origin(positions, cell, pbc), box=cell, periodic=pbc, quantities="ijSD", copy=False
    )
    first, second = first.astype(np.int64), second.astype(np.int64)
    first, second = np.concatenate([first, second]), np.concatenate([second, first])
    shifts = shifts.astype(np.int64)
    shifts = np.concatenate([shifts, -shifts])
    vectors = np.concatenate([vectors, 0.0 - vectors])  # no negative zeros
    n_atoms, n_edges = len(positions), len(first)
    order = np.argsort(_edge_key(first, second, shifts, n_atoms), kind="stable")
    place = np.empty(n_edges, dtype=np.int64)
    place[order] = np.arange(n_edges)
    back = place[(order + n_edges // 2) % n_edges] if n_edges else place
    first = first[order]
    counts = np.bincount(first, minlength=n_atoms)
    column = np.arange(n_edges) - (np.cumsum(counts) - counts)[first]
    width = int(counts.max(initial=0))
    entry = first * width + column
    neighbors = np.zeros((n_atoms, width), dtype=np.int32)
    dense = np.zeros((n_atoms, width, 3))
    reverse = np.zeros((n_atoms, width), dtype=np.int32)
    neighbors.reshape(-1)[entry] = second[order]
    dense.reshape(-1, 3)[entry] = vectors[order]
    reverse.reshape(-1)[entry] = column[back]
    return Neighborhood(
        numbers=np.array(atoms.numbers, dtype=np.int32),
        positions=positions,
        cell=cell,
        periodic=bool(pbc.all()),
        counts=counts.astype(np.int32),
        neighbors=neighbors,
        vectors=dense,
        reverse=reverse,
    )


def _check_number(
    n_atoms: int, cell: Float[np.ndarray, "3 3"], pbc: Bool[np.ndarray, " 3"], cutoff: float
) -> None:
    """Raise `ConfigError` before neighbours are searched for that fill the memory."""
    size = volume(cell)
    expected = n_atoms / size * 4 / 3 * np.pi * cutoff**3 if pbc.all() and size else 0.0
    if expected > _MOST:
        raise ConfigError(
            f"a cutoff of {cutoff:g} Å has about {expected:.2g} neighbours of each atom",
            got=f"{n_atoms} atoms in a cell of {size:.4g} Å^3",
            expected=f"at most {_MOST}",
            fix="cutoffs are 3 to 10 Å; or is the cell in another unit?",
        )


def _near_origin(
    positions: Float[np.ndarray, "n_atoms 3"], cell: Float[np.ndarray, "3 3"], pbc: Bool[np.ndarray, " 3"]
) -> Float[np.ndarray, "n_atoms 3"]:
    """Periodic images in the cell of atoms that are far away; all others as they are."""
    if not pbc.any() or np.abs(positions).max(initial=0.0) < _FAR:
        return positions
    vectors = complete_cell(np.where(pbc[:, None], cell, 0.0))
    return positions - np.where(pbc, np.floor(positions @ np.linalg.inv(vectors)), 0.0) @ vectors


def _edge_key(first: np.ndarray, second: np.ndarray, shifts: np.ndarray, n_atoms: int) -> np.ndarray:
    reach = int(np.abs(shifts).max(initial=0))
    base = 2 * reach + 1
    key = first * n_atoms + second
    for axis in range(3):
        key = key * base + (shifts[:, axis] + reach)
    return key
