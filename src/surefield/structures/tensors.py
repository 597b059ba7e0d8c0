"""Symmetric tensors and their Voigt components, volumes, and the rows of each structure in long arrays."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from jaxtyping import Float

__all__ = ["VOIGT", "VOIGT_COLUMNS", "VOIGT_ROWS", "from_voigt", "row_slices", "to_voigt", "volume"]

if TYPE_CHECKING:
    # Readers of files and workers import this module, and need no JAX.
    import jax

    Array = TypeVar("Array", np.ndarray, jax.Array)
else:
    Array = TypeVar("Array")

#: Components of a symmetric tensor, in ASE's order.
VOIGT: Final = ("xx", "yy", "zz", "yz", "xz", "xy")
#: Row and column of each component.
VOIGT_ROWS: Final = np.array([0, 1, 2, 1, 0, 0])
VOIGT_COLUMNS: Final = np.array([0, 1, 2, 2, 2, 1])
_COMPONENT: Final = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])


def to_voigt(tensor: Array) -> Array:
    """Voigt components (..., 6) of tensors (..., 3, 3), of which the upper triangle is read."""
    return tensor[..., VOIGT_ROWS, VOIGT_COLUMNS]


def from_voigt(components: Array) -> Array:
    """Symmetric tensors (..., 3, 3) of Voigt components (..., 6); off-diagonal ones are not halved."""
    return components[..., _COMPONENT]


def volume(cell: Float[np.ndarray, "3 3"]) -> float:
    """Volume of a cell of either handedness, Å^3."""
    return float(abs(np.linalg.det(cell)))


def row_slices(counts: Iterable[int]) -> list[slice]:
    """Rows of each structure in an array that holds the atoms of all, one structure after the other.

    Args:
        counts: number of atoms of each structure.
    """
    return [slice(start, stop) for start, stop in pairwise(accumulate(counts, initial=0))]
