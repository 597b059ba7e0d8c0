"""Whether two structures are the same but for rotation, reflection, shift, order and choice of the cell."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell

from surefield.structures.geometry import vectors_within

__all__ = ["is_same_structure"]

_REACH = 6.0
_SLACK = 0.02


def is_same_structure(first: Atoms, second: Atoms, tolerance: float = 0.02) -> bool:
    """Search for an isometry that carries every atom of one structure onto an atom of the other.

    One atom and up to three of its neighbours are laid onto every fitting set of neighbours of the second
    structure; each such isometry is tried on all atoms and on their copies one cell further.

    Args:
        first: structure, molecule or crystal.
        second: structure of the same reduced formula and the same atoms per volume.
        tolerance: how far (Å) an atom may lie from its image.
    """
    numbers, counts = np.unique(first.numbers, return_counts=True)
    origin = int(np.flatnonzero(first.numbers == numbers[np.argmin(counts)])[0])
    shifts = np.vstack([np.zeros(3), first.cell.array[first.pbc]])
    queries = (first.positions[None] - first.positions[origin] + shifts[:, None]).reshape(-1, 3)
    kinds = np.tile(first.numbers, len(shifts))
    near_kinds, near = _around(first, vectors_within(first, _REACH), origin)
    basis = _basis(near)
    pairs = vectors_within(second, _REACH)
    inverse = np.linalg.pinv(complete_cell(second.cell.array)) if second.pbc.any() else np.zeros((3, 3))
    for target in np.flatnonzero(second.numbers == first.numbers[origin]):
        images = _around(second, pairs, int(target))
        for rotation in _rotations(near[basis], near_kinds[basis], *images):
            if _maps(queries @ rotation, kinds, second, int(target), inverse, tolerance):
                return True
    return False


def _around(
    atoms: Atoms, pairs: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], center: int
) -> tuple[np.ndarray, np.ndarray]:
    """Elements and vectors (n, 3) of the neighbours of an atom, nearest first."""
    first, second, vector, distance = pairs
    mine = np.flatnonzero(first == center)
    mine = mine[np.argsort(distance[mine], kind="stable")]
    return atoms.numbers[second[mine]], vector[mine]


def _basis(vectors: np.ndarray) -> list[int]:
    """The nearest vectors that are well independent: at most three indices."""
    chosen: list[int] = []
    left = vectors.copy()
    for _ in range(3):
        clear = np.flatnonzero(np.linalg.norm(left, axis=1) > 0.3 * np.linalg.norm(vectors, axis=1))
        if len(clear) == 0:
            break
        chosen.append(int(clear[0]))
        unit = left[clear[0]] / np.linalg.norm(left[clear[0]])
        left = left - np.outer(left @ unit, unit)
    return chosen


def _rotations(
    basis: np.ndarray, basis_kinds: np.ndarray, kinds: np.ndarray, vectors: np.ndarray
) -> Iterator[np.ndarray]:
    """Orthogonal matrices R (row vectors: v R) that carry the basis onto neighbours of the other one."""
    lengths = np.linalg.norm(vectors, axis=1)
    choices = [
        np.flatnonzero((kinds == kind) & (np.abs(lengths - np.linalg.norm(vector)) < _SLACK))
        for kind, vector in zip(basis_kinds, basis, strict=True)
    ]
    inner = basis @ basis.T
    slack = 4.0 * _SLACK * np.sqrt(inner.max(initial=1.0))
    for images in product(*(choice.tolist() for choice in choices)):
        image = vectors[list(images)]
        if np.abs(image @ image.T - inner).max(initial=0.0) > slack:
            continue
        u, _, vt = np.linalg.svd(_completed(basis).T @ _completed(image))
        yield u @ vt


def _completed(vectors: np.ndarray) -> np.ndarray:
    """Three independent vectors from up to three: those missing stand upright on the others."""
    if len(vectors) == 3:
        return vectors
    if len(vectors) == 2:
        return np.vstack([vectors, np.cross(*vectors)])
    if len(vectors) == 1:
        upright = np.cross(vectors[0], np.eye(3)[np.argmin(np.abs(vectors[0]))])
        return np.vstack([vectors, upright, np.cross(vectors[0], upright)])
    return np.eye(3)


def _maps(
    moved: np.ndarray, kinds: np.ndarray, second: Atoms, target: int, inverse: np.ndarray, tolerance: float
) -> bool:
    """Whether every moved atom lies on an atom of its element."""
    places = moved + second.positions[target]
    # A few atoms refuse most isometries; all of them are asked only then.
    for part in (slice(0, len(places), max(len(places) // 6, 1)), slice(None)):
        offset = places[part, None] - second.positions[None]
        if second.pbc.any():
            turns = np.round(offset @ inverse) * second.pbc
            offset = offset - turns @ complete_cell(second.cell.array)
        near = (offset**2).sum(axis=-1) < tolerance**2
        if not (near & (kinds[part, None] == second.numbers[None])).any(axis=1).all():
            return False
    return True
