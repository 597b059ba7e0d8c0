"""Pairs, triplets and quadruplets of structures, every distinct cluster once, on the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float, Int

from surefield.descriptors.chimes.power_sets import PAIRS
from surefield.descriptors.chimes.settings import ChimesSettings, CoefficientBlock
from surefield.structures.neighbors import Neighborhood

__all__ = [
    "Clusters",
    "HalfEdges",
    "TypeTables",
    "clusters",
    "is_positive",
    "type_of_number",
    "type_tables",
]

#: Candidates for clusters that are held at a time, about.
_CANDIDATES = 400_000


def type_of_number(settings: ChimesSettings) -> Int[np.ndarray, " n_elements"]:
    """Type of each atomic number; 0 where there is none."""
    table = np.zeros(len(chemical_symbols), np.int64)
    for place, symbol in enumerate(settings.types):
        table[chemical_symbols.index(symbol)] = place
    return table


@dataclass(frozen=True, eq=False)
class TypeTables:
    """What follows from the types of m atoms, by their code sum_k type_k n_types^(m - 1 - k).

    Attributes:
        block: (n_codes,) place of the block among those of m atoms; their number where there is none.
        order: (n_codes, m) which atoms stand first, second, ... in the block.
        outer: (n_blocks, n_pairs) outer cutoffs, Å.
        reach: (n_types, n_types) largest outer cutoff of two types in any block of m atoms, Å.
    """

    block: Int[np.ndarray, " n_codes"]
    order: Int[np.ndarray, "n_codes m"]
    outer: Float[np.ndarray, "n_blocks n_pairs"]
    reach: Float[np.ndarray, "n_types n_types"]


@lru_cache(maxsize=64)
def type_tables(settings: ChimesSettings, m: int) -> TypeTables:
    """Tables of clusters of m atoms."""
    n = len(settings.types)
    blocks = settings.blocks(m)
    rank = np.argsort(np.argsort(np.array(settings.types)))
    kinds = np.indices((n,) * m).reshape(m, -1).T
    order = np.argsort(rank[kinds], axis=1, kind="stable")
    place = {b.types: i for i, b in enumerate(blocks)}
    sorted_kinds = np.take_along_axis(kinds, order, axis=1)
    block = np.array([place.get(tuple(k), len(blocks)) for k in sorted_kinds.tolist()])
    outer = np.array([b.outer for b in blocks]).reshape(-1, len(PAIRS[m]))
    reach = np.zeros((n, n))
    for b in blocks:
        for (i, j), limit in zip(PAIRS[m], b.outer, strict=True):
            for pair in ((b.types[i], b.types[j]), (b.types[j], b.types[i])):
                reach[pair] = max(reach[pair], limit)
    return TypeTables(block, order, outer, reach)


@dataclass(frozen=True, eq=False)
class HalfEdges:
    """Every distinct pair of neighbours once, of several structures whose atoms are counted through.

    The atoms of a periodic structure are ordered by index, copies of one atom by position (x, then y, then
    z). An edge goes from the lower atom to the higher one; rows of one centre lie together.

    Attributes:
        centre: (n_edges,) index of the lower atom.
        other: (n_edges,) index of the higher one.
        vector: (n_edges, 3) from one to the other, Å.
        types: (n_atoms,) types of the atoms.
        structure: (n_atoms,) structure of each atom.
        n_structures: how many.
    """

    centre: Int[np.ndarray, " n_edges"]
    other: Int[np.ndarray, " n_edges"]
    vector: Float[np.ndarray, "n_edges 3"]
    types: Int[np.ndarray, " n_atoms"]
    structure: Int[np.ndarray, " n_atoms"]
    n_structures: int

    @classmethod
    def of(cls, settings: ChimesSettings, structures: Sequence[Neighborhood]) -> HalfEdges:
        """Edges of all structures."""
        table = type_of_number(settings)
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        start = 0
        for s in structures:
            real = np.arange(s.n_neighbors) < s.counts[:, None]
            atom = np.broadcast_to(np.arange(s.n_atoms)[:, None], real.shape)
            keep = real & ((s.neighbors > atom) | ((s.neighbors == atom) & is_positive(s.vectors)))
            parts.append((atom[keep] + start, s.neighbors[keep].astype(np.int64) + start, s.vectors[keep]))
            start += s.n_atoms
        centre, other, vector = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        counts = [s.n_atoms for s in structures]
        types = table[np.concatenate([s.numbers for s in structures])]
        owner = np.repeat(np.arange(len(counts)), counts)
        return cls(centre, other, vector, types, owner, len(counts))

    @property
    def n_atoms(self) -> int:
        """Atoms of all structures."""
        return len(self.types)

    def within(self, reach: Float[np.ndarray, "n_types n_types"]) -> HalfEdges:
        """Edges shorter than a limit that depends on the types."""
        r = np.sqrt(np.sum(self.vector**2, axis=1))
        near = r < reach[self.types[self.centre], self.types[self.other]]
        return HalfEdges(
            self.centre[near],
            self.other[near],
            self.vector[near],
            self.types,
            self.structure,
            self.n_structures,
        )


def is_positive(vectors: Any) -> Any:
    """Whether the first component (..., 3) that is not zero is positive; of NumPy or of JAX."""
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of one block, with all pairs closer than their outer cutoffs.

    Attributes:
        block: the block.
        atoms: (n_clusters, m) indices of the atoms, in the order of the block's types.
        vectors: (n_pairs, n_clusters, 3) of the pairs, Å.
        distances: (n_pairs, n_clusters) Å.
    """

    block: CoefficientBlock
    atoms: Int[np.ndarray, "n_clusters m"]
    vectors: Float[np.ndarray, "n_pairs n_clusters 3"]
    distances: Float[np.ndarray, "n_pairs n_clusters"]


def clusters(settings: ChimesSettings, edges: HalfEdges, m: int) -> Iterator[Clusters]:
    """Clusters of m atoms by block, ordered by their lowest atoms, in pieces of bounded size."""
    blocks = settings.blocks(m)
    if not blocks:
        return
    tables = type_tables(settings, m)
    near = edges.within(tables.reach)
    later = np.searchsorted(near.centre, near.centre, side="right") - np.arange(len(near.centre)) - 1
    work = np.cumsum(np.maximum(later, 1) ** (m - 2))
    cuts = np.flatnonzero(np.diff(work // _CANDIDATES)) + 1
    for members in np.split(np.arange(len(near.centre))[:, None], cuts):
        for _ in range(m - 2):
            members = _extended(near, members, later, tables.reach)
        yield from _by_block(settings, near, members, tables)


def _by_block(
    settings: ChimesSettings, near: HalfEdges, members: Int[np.ndarray, "n_clusters k"], tables: TypeTables
) -> Iterator[Clusters]:
    """Clusters (edges of one centre) in the atoms' order of their blocks, those too wide left out."""
    m = members.shape[1] + 1
    atoms = np.column_stack([near.centre[members[:, 0]], near.other[members]])
    positions = np.concatenate([np.zeros((len(members), 1, 3)), near.vector[members]], axis=1)
    code = near.types[atoms] @ len(settings.types) ** np.arange(m)[::-1]
    order = tables.order[code]
    atoms = np.take_along_axis(atoms, order, axis=1)
    positions = np.take_along_axis(positions, order[..., None], axis=1)
    which = tables.block[code]
    for place, block in enumerate(settings.blocks(m)):
        members_of_block = which == place
        p = positions[members_of_block]
        vectors = np.stack([p[:, b] - p[:, a] for a, b in PAIRS[m]])
        distances = np.sqrt(np.sum(vectors**2, axis=-1))
        keep = np.all(distances < tables.outer[place][:, None], axis=0)
        if keep.any():
            yield Clusters(block, atoms[members_of_block][keep], vectors[:, keep], distances[:, keep])


def _extended(
    edges: HalfEdges,
    members: Int[np.ndarray, "n_clusters k"],
    later: Int[np.ndarray, " n_edges"],
    reach: Float[np.ndarray, "n_types n_types"],
) -> Int[np.ndarray, "n_longer k_plus_1"]:
    """Clusters (edges of one centre, rising) with one more edge each, near all of the others."""
    last = members[:, -1]
    counts = later[last]
    owner = np.repeat(np.arange(len(members)), counts)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    new = last[owner] + 1 + step
    near = np.ones(len(owner), bool)
    for k in range(members.shape[1]):
        old = members[owner, k]
        r = np.sqrt(np.sum((edges.vector[new] - edges.vector[old]) ** 2, axis=1))
        near &= r < reach[edges.types[edges.other[old]], edges.types[edges.other[new]]]
    return np.column_stack([members[owner[near]], new[near]])
