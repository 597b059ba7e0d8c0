"""Displacements of a molecule as at a temperature, before there is a potential: springs between its atoms.

The spring of a pair is 40 eV/Å^2 at the sum of the covalent radii d and falls off as exp(-0.8 ((r/d)^2 -
1)), so that bonds are stiff, angles less and torsions soft; a weak one of 4 eV/Å^2 holds every atom at its
place. These numbers were chosen so that displaced molecules have the energy of equipartition at 500 K by
GFN2-xTB: malonaldehyde, ethanol, benzene and acetamide have 1.0 to 1.3 times as much, water twice.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from ase import Atoms, units
from ase.data import covalent_radii
from jaxtyping import Float

__all__ = ["spring_matrix", "thermal_displacements"]

_BOND: Final = 40.0
_DECAY: Final = 0.8
_PLACE: Final = 4.0


def spring_matrix(atoms: Atoms) -> Float[np.ndarray, "n_coordinates n_coordinates"]:
    """Second derivatives of the energy of the springs, eV/Å^2; of a structure without periodic images."""
    n = len(atoms)
    apart = atoms.positions[:, None] - atoms.positions[None]
    squares = np.sum(apart**2, axis=2) + np.eye(n)
    radii = covalent_radii[atoms.numbers]
    stiffness = _BOND * np.exp(-_DECAY * (squares / (radii[:, None] + radii[None]) ** 2 - 1.0))
    np.fill_diagonal(stiffness, 0.0)
    blocks = (stiffness / squares)[:, :, None, None] * apart[:, :, :, None] * apart[:, :, None, :]
    matrix = -blocks.transpose(0, 2, 1, 3)
    matrix[np.arange(n), :, np.arange(n), :] += blocks.sum(axis=1)
    return matrix.reshape(3 * n, 3 * n) + _PLACE * np.eye(3 * n)


def thermal_displacements(
    atoms: Atoms, temperature: float, rng: np.random.Generator
) -> Float[np.ndarray, "n_atoms 3"]:
    """Displacements drawn from the Boltzmann distribution of the springs.

    Args:
        atoms: a molecule; not changed.
        temperature: K.
        rng: source of randomness.
    """
    lower = np.linalg.cholesky(spring_matrix(atoms))
    drawn = np.linalg.solve(lower.T, rng.standard_normal(3 * len(atoms)))
    return np.sqrt(units.kB * temperature) * drawn.reshape(-1, 3)
