"""Batches of structures computed one by one by another program, as arrays that JAX gets back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Array, Float

from surefield.structures.bond_slopes import bond_slopes
from surefield.structures.graph import Graph
from surefield.structures.tensors import from_voigt, row_slices

__all__ = ["computed_batch", "geometry_of"]


def geometry_of(graph: Graph) -> dict[str, Array]:
    """What the structures of a batch are made from again (traceable)."""
    names = ("numbers", "positions", "neighbors", "mask", "structure", "cell", "periodic", "n_atoms")
    return {name: jnp.asarray(getattr(graph, name)) for name in names}


def computed_batch(
    compute: Callable[[Atoms], Mapping[str, Any]],
    vectors: Float[np.ndarray, "n_atoms n_neighbors 3"],
    geometry: Mapping[str, np.ndarray],
) -> tuple[Float[np.ndarray, " n_structures"], Float[np.ndarray, "n_atoms n_neighbors 3"]]:
    """Energies, and derivatives by bond vectors that give the forces and virials of the program.

    Args:
        compute: energy (eV), forces (eV/Å) and, of periodic structures, stress (eV/Å^3) of a structure.
        vectors: from atoms to neighbours, Å.
        geometry: of `geometry_of`.
    """
    g = {name: np.asarray(array) for name, array in geometry.items()}
    vectors = np.asarray(vectors, np.float64)
    energies, slopes = np.zeros(len(g["n_atoms"])), np.zeros(vectors.shape)
    for index, rows in enumerate(row_slices(g["n_atoms"].tolist())):
        if rows.start == rows.stop:
            continue
        periodic = bool(g["periodic"][index])
        cell = g["cell"][index] if periodic else None
        atoms = Atoms(g["numbers"][rows], g["positions"][rows], cell=cell, pbc=periodic)
        results = compute(atoms)
        energies[index] = results["energy"]
        virial = from_voigt(results["stress"] * atoms.get_volume()) if periodic else None
        neighbors = g["neighbors"][rows] - rows.start
        slopes[rows] = bond_slopes(vectors[rows], neighbors, g["mask"][rows], results["forces"], virial)
    return energies, slopes
