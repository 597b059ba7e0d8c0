"""Which structures share a padded batch: few shapes, little padding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from surefield.structures.graph import Graph, bucket_size, collate
from surefield.structures.neighbors import Neighborhood

__all__ = ["Shape", "chunks", "padded_batches", "plan_blocks", "plan_shapes", "streamed_batches"]

#: Blocks of atoms that consecutive structures fill before any is taken from behind them.
_WINDOW = 8


@dataclass(frozen=True)
class Shape:
    """Sizes a batch is padded to; every `Shape` is compiled once."""

    n_atoms: int
    n_neighbors: int
    n_structures: int


def plan_shapes(
    structures: Sequence[Neighborhood], batch_size: int, *, buckets: bool = False
) -> list[tuple[Shape, Int[np.ndarray, " n_members"]]]:
    """Group structures by number of neighbours, and choose one shape per group.

    A group reaches down to 2/3 of its widest neighbour list, so at most a third of the rows is padding.
    Batches are filled up to the atoms of `batch_size` average structures.

    Args:
        structures: all structures that will be batched.
        batch_size: structures per batch, about.
        buckets: round sizes up to geometric steps, so that other data meet the same shapes again.

    Returns:
        Shape of each group, and the indices of its structures.
    """
    atoms = np.array([s.n_atoms for s in structures])
    groups = []
    for members, widest in _groups(structures):
        sizes = np.sort(atoms[members])[::-1]
        count = min(batch_size, len(members))
        full = max(math.ceil(1.1 * count * sizes.mean()), int(sizes[0]))
        full = min(full, int(sizes[:count].sum()))
        most = 2 * count if len(members) > count else count
        if buckets:
            shape = Shape(bucket_size(full), bucket_size(widest), bucket_size(most, 2.0, 1))
        else:
            shape = Shape(4 * math.ceil(full / 4), 4 * math.ceil(widest / 4), most)
        groups.append((shape, members))
    return groups


def plan_blocks(
    structures: Sequence[Neighborhood], n_atoms: int
) -> list[tuple[Shape, Int[np.ndarray, " n_members"]]]:
    """Group structures as `plan_shapes`, into batches of a number of atoms whatever the data are.

    Larger structures are in groups of their own, whose largest has at most 3/2 the atoms of the smallest.
    """
    atoms = np.array([s.n_atoms for s in structures])
    groups = []
    for members, widest in _groups(structures, np.maximum(atoms, n_atoms)):
        largest, total = int(atoms[members].max()), int(atoms[members].sum())
        full = bucket_size(max(largest, min(total, n_atoms)))
        full = full if largest > n_atoms else min(full, n_atoms)
        # Few structures and many small ones shall meet the same shape; places for structures cost little.
        most = min(len(members), max(full // 4, 1))
        groups.append((Shape(full, bucket_size(widest), bucket_size(most, 2.0, 1)), members))
    return groups


def _groups(
    structures: Sequence[Neighborhood], sizes: Int[np.ndarray, " n_structures"] | None = None
) -> Iterator[tuple[Int[np.ndarray, " n_members"], int]]:
    """Structures whose neighbour lists, and sizes, reach down to 2/3 of the largest; their widest list."""
    # Rows are never padded to less than 4, so shorter ones form no groups of their own.
    width = np.array([max(s.n_neighbors, 4) for s in structures])
    sizes = np.ones_like(width) if sizes is None else sizes
    left = np.arange(len(structures))
    while len(left):
        near = 3 * sizes[left] >= 2 * sizes[left].max()
        widest = int(width[left][near].max())
        near &= 3 * width[left] >= 2 * widest
        yield left[near], widest
        left = left[~near]


def chunks(
    structures: Sequence[Neighborhood], order: Sequence[int] | np.ndarray, shape: Shape
) -> Iterator[list[int]]:
    """Cut an order of structures into batches that fit a shape."""
    chunk: list[int] = []
    total = 0
    for index in order:
        n = structures[index].n_atoms
        if chunk and (total + n > shape.n_atoms or len(chunk) == shape.n_structures):
            yield chunk
            chunk, total = [], 0
        chunk.append(int(index))
        total += n
    if chunk:
        yield chunk


def padded_batches(
    structures: Sequence[Neighborhood], batch_size: int, dtype: np.typing.DTypeLike, *, buckets: bool = True
) -> Iterator[tuple[list[int], Graph]]:
    """All structures in padded batches of few shapes, with their indices; `buckets` as in `plan_shapes`."""
    for shape, members in plan_shapes(structures, batch_size, buckets=buckets):
        for chunk in chunks(structures, members, shape):
            yield chunk, _filled([structures[i] for i in chunk], shape, dtype)


def streamed_batches(
    structures: Sequence[Neighborhood], n_atoms: int, dtype: np.typing.DTypeLike
) -> Iterator[tuple[list[int], Graph]]:
    """All structures in padded batches of `plan_blocks`, with their indices, nearly in order.

    No structure comes before one that is more than a few blocks of atoms ahead of it, so that results which
    are to be in order need not be kept for long.
    """
    groups = plan_blocks(structures, n_atoms)
    start = total = 0
    for stop, structure in enumerate(structures, 1):
        total += structure.n_atoms
        if total < _WINDOW * n_atoms and stop < len(structures):
            continue
        for shape, members in groups:
            for chunk in chunks(structures, members[(members >= start) & (members < stop)], shape):
                yield chunk, _filled([structures[i] for i in chunk], shape, dtype)
        start, total = stop, 0


def _filled(structures: Sequence[Neighborhood], shape: Shape, dtype: np.typing.DTypeLike) -> Graph:
    return collate(
        structures,
        n_atoms=shape.n_atoms,
        n_neighbors=shape.n_neighbors,
        n_structures=shape.n_structures,
        dtype=dtype,
    )
