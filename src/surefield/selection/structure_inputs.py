"""Structures as feature functions read them: graphs of single structures, stacked, of few shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from ase import Atoms

from surefield.errors import ConfigError, DataError
from surefield.selection.features import positive_int
from surefield.structures.batching import plan_blocks
from surefield.structures.geometry import check_geometry
from surefield.structures.graph import Graph, bucket_size, collate
from surefield.structures.neighbors import Neighborhood, neighborhood
from surefield.structures.read import Frames, Source, read_frames

__all__ = ["OTFInMemoryDataset", "common_size", "input_batches", "stacked"]

#: Neighbours, padded ones included, of the structures of a batch: what is computed of them at once is held.
_MOST_EDGES = 2**18


def stacked(
    structures: Sequence[Neighborhood],
    dtype: np.typing.DTypeLike,
    *,
    n_atoms: int | None = None,
    n_neighbors: int | None = None,
) -> Graph:
    """Graphs of single structures, padded to one shape, on a new first axis."""
    atoms = bucket_size(max(s.n_atoms for s in structures)) if n_atoms is None else n_atoms
    width = max(bucket_size(max(s.n_neighbors for s in structures)), n_neighbors or 0)
    graphs = [collate([s], n_atoms=atoms, n_neighbors=width, dtype=dtype) for s in structures]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *graphs)


def input_batches(
    structures: Sequence[Neighborhood], batch_size: int, n_atoms: int | None
) -> Iterator[tuple[list[int], int, int]]:
    """Which structures share a batch, and the numbers of atoms and of neighbours that they are padded to.

    Args:
        structures: whose sizes count.
        batch_size: structures in a batch, at most.
        n_atoms: of all structures, if it is the same; None: they are padded.
    """
    for shape, members in plan_blocks(structures, 1):
        atoms = shape.n_atoms if n_atoms is None else n_atoms
        size = max(1, min(batch_size, _MOST_EDGES // (atoms * shape.n_neighbors)))
        for start in range(0, len(members), size):
            yield members[start : start + size].tolist(), atoms, shape.n_neighbors


class OTFInMemoryDataset:
    """Structures as the inputs of feature functions, made when they are asked for; for scripts of apax.

    Labels are not read, and the structures are not changed.

    Args:
        atoms_list: structures, or files of them.
        cutoff: range of the neighbour lists, Å; that of the model, or more.
        bs: structures in a batch.
        n_epochs: 1; features need no more.
        pos_unit: "Ang"; structures are in Å.
        energy_unit: "eV"; features are of energies in eV.
        ignore_labels: either way: there are none.

    Raises:
        ConfigError: an argument out of range.
        DataError: structures that cannot be read or computed.
    """

    def __init__(
        self,
        atoms_list: Source,
        cutoff: float,
        bs: int = 1,
        n_epochs: int = 1,
        *,
        pos_unit: str = "Ang",
        energy_unit: str = "eV",
        ignore_labels: bool = True,
    ) -> None:
        if not (np.isfinite(cutoff) and cutoff > 0):
            raise ConfigError("cutoff must be a positive number (Å)", got=cutoff)
        fixed = {"n_epochs": (n_epochs, 1), "pos_unit": (pos_unit, "Ang"), "energy_unit": (energy_unit, "eV")}
        for name, (value, only) in fixed.items():
            if value != only:
                fix = "structures are read in eV and Å; surefield.structures.convert has other units"
                raise ConfigError(
                    f"{name} of a data set for features", got=repr(value), expected=only, fix=fix
                )
        self.frames: Frames = read_frames(atoms_list)
        if not len(self.frames):
            raise DataError("the data set has no structures")
        check_geometry(self.frames)
        self.cutoff, self.batch_size = float(cutoff), positive_int(bs, "bs")

    @property
    def n_data(self) -> int:
        """Number of structures."""
        return len(self.frames)

    def __len__(self) -> int:
        return len(self.frames)

    def batch(self, batch_size: int | None = None) -> Iterator[Graph]:
        """Inputs of feature functions, structures in order, `bs` of them at a time unless told otherwise."""
        size = self.batch_size if batch_size is None else positive_int(batch_size, "batch_size")
        atoms = common_size(self.frames)
        for start in range(0, len(self.frames), size):
            part = self.frames[start : start + size]
            yield stacked([neighborhood(a, self.cutoff) for a in part], np.float64, n_atoms=atoms)


def common_size(frames: Sequence[Atoms]) -> int | None:
    """Number of atoms of all structures, if it is the same."""
    sizes = {len(atoms) for atoms in frames}
    return sizes.pop() if len(sizes) == 1 else None
