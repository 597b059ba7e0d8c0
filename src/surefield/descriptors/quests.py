"""The QUESTS descriptor: distances to the nearest neighbours of an atom, and among these, sorted."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import ase
import numpy as np
from jaxtyping import Float

from surefield.errors import ConfigError
from surefield.structures.geometry import MIN_DISTANCE, check_contact, check_numbers, vectors_within
from surefield.structures.stated_units import check_stated_lengths

__all__ = ["QUESTSDescriptor"]

#: Atoms whose neighbours are compared with each other at once: 256 x 32 x 32 float64 is 2 MiB.
_ATOMS: Final = 256


@final
@dataclass(frozen=True)
class QUESTSDescriptor:
    """Environments of atoms as 2k - 1 numbers in 1/Å, for entropies of data sets.

    Schwalbe-Koda et al., Nature Communications 16, 4014 (2025). With the weight w(r) = (1 - (r/rc)²)² of the
    k nearest neighbours within rc, sorted by distance r:

    - entries 1 to k: w(r_j)/r_j, zero where there are fewer than k neighbours;
    - entries k + 1 to 2k - 1: rows of sqrt(w(r_j) w(r_l))/|r_j - r_l|, each sorted in descending order, then
      averaged over the k rows.

    **The descriptor does not see elements**: atoms of other elements at the same places look the same.

    Attributes:
        num_nearest_neighbors: k, the most neighbours that are looked at.
        cutoff: rc in Å.

    Raises:
        ConfigError: k below 2, or a cutoff that is not positive.
    """

    num_nearest_neighbors: int = 32
    cutoff: float = 5.0

    #: Name of the array that holds descriptors of atoms.
    key: ClassVar[str] = "quests_descriptor_descriptors"

    def __post_init__(self) -> None:
        try:
            k = operator.index(self.num_nearest_neighbors)
        except TypeError:
            k = 0
        if k < 2:
            raise ConfigError(
                "num_nearest_neighbors must be a whole number, at least 2",
                got=repr(self.num_nearest_neighbors),
            )
        if not (np.isfinite(self.cutoff) and self.cutoff > 0):
            raise ConfigError("cutoff must be a positive number of Å", got=repr(self.cutoff))

    @property
    def n_features(self) -> int:
        """Length of a descriptor: 2k - 1."""
        return 2 * self.num_nearest_neighbors - 1

    def config(self) -> dict[str, Any]:
        """All that determines the numbers, for metadata."""
        return {"descriptor": "quests", **dataclasses.asdict(self)}

    def compute(self, atoms: ase.Atoms) -> Float[np.ndarray, "n_atoms n_features"]:
        """Descriptors of one structure, (n_atoms, 2k - 1) in 1/Å.

        Periodic along the axes that `atoms.pbc` says, each on its own.

        Raises:
            ConfigError: a list instead of one structure.
            DataError: a structure that cannot be computed, see `check_geometry`.
        """
        if not isinstance(atoms, ase.Atoms):
            raise ConfigError(
                "compute takes one ase.Atoms", got=type(atoms).__name__, fix="use compute_batch"
            )
        return next(self._of([atoms]))

    def compute_batch(
        self, list_of_atoms: Sequence[ase.Atoms]
    ) -> list[Float[np.ndarray, "n_atoms n_features"]]:
        """Descriptors of many structures, in their order; see `compute`."""
        return list(self._of(list_of_atoms))

    def described(self, list_of_atoms: Sequence[ase.Atoms]) -> list[ase.Atoms]:
        """Copies of structures with their descriptors in `arrays['quests_descriptor_descriptors']`.

        Calculators of the structures are kept.
        """
        copies = []
        for atoms, rows in zip(list_of_atoms, self._of(list_of_atoms), strict=True):
            copy = atoms.copy()
            copy.calc = atoms.calc
            copy.arrays[self.key] = rows
            copies.append(copy)
        return copies

    def _of(self, frames: Sequence[ase.Atoms]) -> Iterator[Float[np.ndarray, "n_atoms n_features"]]:
        """Small structures together: the arrays of one alone are too short to be fast."""
        start = 0
        while start < len(frames):
            stop, total = start, 0
            while stop < len(frames) and (stop == start or total + len(frames[stop]) <= _ATOMS):
                total += len(frames[stop])
                stop += 1
            near = [self._near(frames[i], i) for i in range(start, stop)]
            vectors = np.concatenate([vectors for vectors, _ in near])
            distances = np.concatenate([distances for _, distances in near])
            rows = np.concatenate(
                [
                    self._rows(vectors[first : first + _ATOMS], distances[first : first + _ATOMS])
                    for first in range(0, max(len(vectors), 1), _ATOMS)
                ]
            )
            first = 0
            for i in range(start, stop):
                yield rows[first : first + len(frames[i])].copy()
                first += len(frames[i])
            start = stop

    def _near(
        self, atoms: ase.Atoms, index: int
    ) -> tuple[Float[np.ndarray, "n_atoms k 3"], Float[np.ndarray, "n_atoms k"]]:
        """Vectors to the k nearest neighbours, ascending; their lengths, infinite where there are fewer."""
        k, n_atoms = self.num_nearest_neighbors, len(atoms)
        if n_atoms:
            check_stated_lengths(atoms, f"structure {index}")
            check_numbers(atoms, f"structure {index}")
        vectors, distances = np.zeros((n_atoms, k, 3)), np.full((n_atoms, k), np.inf)
        if not n_atoms:
            return vectors, distances
        first, _, between, lengths = vectors_within(atoms, self.cutoff)
        if lengths.min(initial=np.inf) < MIN_DISTANCE:
            check_contact(atoms, f"structure {index}")
        order = np.lexsort((lengths, first))
        first, between, lengths = first[order], between[order], lengths[order]
        counts = np.bincount(first, minlength=n_atoms)
        column = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = column < k
        vectors[first[kept], column[kept]] = between[kept]
        distances[first[kept], column[kept]] = lengths[kept]
        return vectors, distances

    def _rows(
        self, vectors: Float[np.ndarray, "n_atoms k 3"], distances: Float[np.ndarray, "n_atoms k"]
    ) -> Float[np.ndarray, "n_atoms n_features"]:
        k = self.num_nearest_neighbors
        real = np.isfinite(distances)
        weights = np.where(real, 1.0 - (np.where(real, distances, 0.0) / self.cutoff) ** 2, 0.0) ** 2
        squares = np.zeros((len(vectors), k, k))
        for axis in range(3):
            component = vectors[:, :, axis]
            squares += (component[:, :, None] - component[:, None, :]) ** 2
        # Missing neighbours lie all at the atom; their weights are zero, their distances must not be.
        squares[:, np.arange(k), np.arange(k)] = np.inf
        squares[~(real[:, :, None] & real[:, None, :])] = np.inf
        roots = np.sqrt(weights)
        pairs = (roots[:, :, None] * roots[:, None, :]) / np.sqrt(squares, out=squares)
        pairs.sort(axis=2)
        among = pairs.mean(axis=1)[:, :0:-1]
        return np.concatenate([weights / distances, among], axis=1)
