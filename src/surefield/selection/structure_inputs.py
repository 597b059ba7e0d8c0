"""Structures as feature functions read them: graphs of single structures, stacked, of few shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import jax
import numpy as np
from ase import Atoms
from jaxtyping import Int

from surefield.errors import ConfigError, DataError
from surefield.selection.features import positive_int
from surefield.structures.geometry import check_geometry
from surefield.structures.graph import Graph, bucket_size, collate
from surefield.structures.neighbors import Neighborhood, neighborhood
from surefield.structures.read import Frames, Source, read_frames

__all__ = ["OTFInMemoryDataset", "common_size", "input_shapes", "stacked"]

#: Neighbours, padded ones included, of the structures of a batch: what is computed of them at once is held.
_MOST_EDGES: Final = 2**18
#: To compile another program takes about as long as this many neighbours.
_COMPILING: Final = 2_000_000


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


@dataclass(frozen=True)
class InputShape:
    """What structures are padded to; every shape is compiled once.

    Attributes:
        members: which structures.
        n_atoms: atoms of each.
        n_neighbors: neighbours of each atom.
        n_structures: structures in a batch.
    """

    members: Int[np.ndarray, " n_members"]
    n_atoms: int
    n_neighbors: int
    n_structures: int


def input_shapes(
    structures: Sequence[Neighborhood], batch_size: int, n_atoms: int | None
) -> list[InputShape]:
    """Few shapes for all structures: one more only where it saves more than compiling it costs.

    Args:
        structures: whose sizes count.
        batch_size: structures in a batch, at most.
        n_atoms: of all structures, if it is the same; None: they are padded.
    """
    atoms = np.array([s.n_atoms if n_atoms is None else n_atoms for s in structures])
    width = np.array([s.n_neighbors for s in structures])
    order = np.argsort(atoms * np.maximum(width, 1), kind="stable")
    shapes = []
    for members in _groups(order, atoms, width):
        most = int(atoms[members].max())
        padded = most if n_atoms is not None else bucket_size(most)
        neighbors = bucket_size(int(width[members].max()))
        fits = max(1, _MOST_EDGES // (padded * neighbors))
        size = min(batch_size, fits, next(8**k for k in range(9) if 8**k >= len(members)))
        shapes.append(InputShape(members, padded, neighbors, size))
    return shapes


def _groups(
    order: Int[np.ndarray, " n"], atoms: Int[np.ndarray, " m"], width: Int[np.ndarray, " m"]
) -> list[Int[np.ndarray, " n_members"]]:
    """Structures of rising size, cut in two where that saves most, as long as it saves enough."""

    def edges(members: Int[np.ndarray, " n"]) -> int:
        return len(members) * int(atoms[members].max()) * max(int(width[members].max()), 4)

    cuts = np.unique(np.linspace(0, len(order), 34).astype(int)[1:-1])
    costs = {int(cut): edges(order[:cut]) + edges(order[cut:]) for cut in cuts if 0 < cut < len(order)}
    best = min(costs, key=lambda cut: costs[cut], default=None)
    if best is None or edges(order) - costs[best] < _COMPILING:
        return [order]
    return [*_groups(order[:best], atoms, width), *_groups(order[best:], atoms, width)]


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
