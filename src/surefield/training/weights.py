"""Weights of structures and atoms in a loss, as structures carry them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.errors import DataError, explain
from surefield.keys import ATOMIC_WEIGHTS, ENERGY_WEIGHT, FORCE_WEIGHT, STRUCTURE_WEIGHT, WEIGHT

__all__ = ["FrameWeights", "frame_weights"]


class FrameWeights(NamedTuple):
    """Factors of the squared residuals of one structure.

    Attributes:
        structure: of all its terms.
        energy: of its energy, besides.
        atoms: (n_atoms,) of the forces on each atom, besides; None: all 1.
        relative: whether `atoms` are relative to their sum (`force_weight`), or absolute (`atomic_weights`).
    """

    structure: float
    energy: float
    atoms: Float[np.ndarray, " n_atoms"] | None
    relative: bool


def frame_weights(atoms: Atoms, where: object) -> FrameWeights:
    """Read the weights of a structure; 1 where it has none.

    `weight`, `energy_weight` (info) and `force_weight` (arrays; info in formats that keep no arrays) multiply
    squared residuals; `structure_weight` (info) and `atomic_weights` (arrays) multiply residuals and are
    squared here.

    Args:
        atoms: the structure.
        where: its origin, for messages.

    Raises:
        DataError: a weight is negative, not finite or of the wrong shape, or both kinds are there.
    """
    squared = [key for key in (WEIGHT, ENERGY_WEIGHT, FORCE_WEIGHT) if key in {*atoms.info, *atoms.arrays}]
    plain = [key for key in (STRUCTURE_WEIGHT, ATOMIC_WEIGHTS) if key in {*atoms.info, *atoms.arrays}]
    if squared and plain:
        raise DataError(
            explain(
                "two kinds of weights",
                where=where,
                got=", ".join(squared + plain),
                expected=f"either {WEIGHT}, {ENERGY_WEIGHT}, {FORCE_WEIGHT} (of squared residuals) or "
                f"{STRUCTURE_WEIGHT}, {ATOMIC_WEIGHTS} (of residuals)",
            )
        )
    structure = _number(atoms, WEIGHT, where) * _number(atoms, STRUCTURE_WEIGHT, where) ** 2
    energy = _number(atoms, ENERGY_WEIGHT, where)
    forces, absolute = _per_atom(atoms, FORCE_WEIGHT, where), _per_atom(atoms, ATOMIC_WEIGHTS, where)
    if absolute is not None:
        return FrameWeights(structure, energy, absolute**2, relative=False)
    return FrameWeights(structure, energy, forces, relative=forces is not None)


def _number(atoms: Atoms, key: str, where: object) -> float:
    value: Any = atoms.info.get(key, 1.0)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not (np.isfinite(number) and number >= 0):
        raise DataError(
            explain(f"unusable {key}", where=where, got=repr(value), expected="a finite number >= 0")
        )
    return number


def _per_atom(atoms: Atoms, key: str, where: object) -> Float[np.ndarray, " n_atoms"] | None:
    found = atoms.arrays.get(key, atoms.info.get(key))
    if found is None:
        return None
    values = np.asarray(found)
    fine = values.shape == (len(atoms),) and values.dtype.kind in "iuf"
    if not fine or not np.all(np.isfinite(values)) or np.any(values < 0):
        expected = f"one finite number >= 0 for each of {len(atoms)} atoms"
        raise DataError(explain(f"unusable {key}", where=where, got=values, expected=expected))
    return values.astype(np.float64)
