"""Derivatives by bond vectors that stand for forces and a virial which another program has computed."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from surefield.structures.tensors import from_voigt

__all__ = ["bond_slopes"]

#: Symmetric strains, one for each Voigt component.
_STRAINS: Final = from_voigt(np.eye(6))


def bond_slopes(
    vectors: Float[np.ndarray, "n_atoms n_neighbors 3"],
    neighbors: Int[np.ndarray, "n_atoms n_neighbors"],
    mask: Bool[np.ndarray, "n_atoms n_neighbors"],
    forces: Float[np.ndarray, "n_atoms 3"],
    virial: Float[np.ndarray, "3 3"] | None,
) -> Float[np.ndarray, "n_atoms n_neighbors 3"]:
    """Smallest antisymmetric derivatives by bond vectors that add up to given forces and virial.

    They are l_i - l_j + M v_ij with a vector l for each atom and a symmetric M: l follows from the graph's
    Laplacian, M from the six components of the virial. Atoms that no path of bonds joins must exert no
    forces on each other.

    Args:
        vectors: from atom to neighbour, Å.
        neighbors: index of the neighbour.
        mask: which neighbours are real.
        forces: eV/Å; their sum is zero.
        virial: dE/d(strain), eV, symmetric; None: none is asked for.
    """
    n = len(forces)
    first, column = np.nonzero(mask)
    second, v = neighbors[first, column], vectors[first, column]
    laplacian = np.diag(np.bincount(first, minlength=n).astype(float))
    np.subtract.at(laplacian, (first, second), 1.0)
    inverse = np.linalg.pinv(laplacian, hermitian=True)

    def bonds(totals: np.ndarray, field: np.ndarray) -> np.ndarray:
        """Field plus differences of l such that the forces are `totals`."""
        field_forces = np.zeros((n, 3))
        np.add.at(field_forces, first, 2 * field)
        potential = 0.5 * inverse @ (totals - field_forces)
        return field + potential[first] - potential[second]

    slopes = bonds(forces, np.zeros_like(v))
    if virial is not None:
        parts = [bonds(np.zeros((n, 3)), v @ strain) for strain in _STRAINS]
        upper = np.triu_indices(3)
        matrix = np.stack([_moment(v, part)[upper] for part in parts], axis=1)
        missing = (virial - _moment(v, slopes))[upper]
        weights = np.linalg.lstsq(matrix, missing, rcond=None)[0]
        slopes = slopes + np.einsum("s,sea->ea", weights, np.array(parts))
    result = np.zeros(vectors.shape)
    result[first, column] = slopes
    return result


def _moment(v: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    total = v.T @ bonds
    return 0.5 * (total + total.T)
