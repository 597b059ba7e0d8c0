"""Which structures share a padded batch: few shapes, little padding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from surefield.structures.graph import Graph, bucket_size, collate
from surefield.structures.neighbors import Neighborhood

__all__ = ["Shape", "chunks", "padded_batches", "plan_shapes"]


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
    # Rows are never padded to less than 4, so shorter ones form no groups of their own.
    width = np.array([max(s.n_neighbors, 4) for s in structures])
    atoms = np.array([s.n_atoms for s in structures])
    left = np.arange(len(structures))
    groups = []
    while len(left):
        widest = int(width[left].max())
        near = 3 * width[left] >= 2 * widest
        members, left = left[near], left[~near]
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
            yield (
                chunk,
                collate(
                    [structures[i] for i in chunk],
                    n_atoms=shape.n_atoms,
                    n_neighbors=shape.n_neighbors,
                    n_structures=shape.n_structures,
                    dtype=dtype,
                ),
            )
