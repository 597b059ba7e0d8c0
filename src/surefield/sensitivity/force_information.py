"""What the label of a structure says about the last layer, as one small matrix for each structure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from surefield.errors import DataError
from surefield.potentials.potential import LastLayerPotential
from surefield.sensitivity.packed_matrices import packed, unpacked
from surefield.sensitivity.rows import structure_rows
from surefield.structures.neighbors import Neighborhood

__all__ = ["N_DIRECTIONS", "force_information"]

#: Directions of the weights that are kept: on silicon and molybdenum 64 hold 98 % of the scaled rows.
N_DIRECTIONS: Final = 64
#: Structures that the directions are chosen by, evenly spaced in their order.
_ASKED: Final = 128
#: Weight of an energy per atom beside a force component, Å.
_ENERGY: Final = 10.0
#: Columns that hardly vary among these structures may vary a lot among others.
_SMALLEST: Final = 1e-5


def force_information(
    potential: LastLayerPotential, structures: Sequence[Neighborhood], n_directions: int = N_DIRECTIONS
) -> Float[np.ndarray, "n_structures n_packed"]:
    """What labels say about last-layer weights, by structure, in the directions that forces vary along most.

    J are the rows dF/dw of a structure and that of its energy per atom, of which 10 meV count as 0.1 eV/Å of
    every force component: crystals without forces say something, too. Columns are scaled to one root mean
    square. G = VᵀJᵀJV with the leading eigenvectors V of the summed JᵀJ does not depend on the order of
    atoms nor on the orientation, and adds up over labels. Scaled so that a structure has 1 per direction on
    average.

    Args:
        potential: with a linear last layer.
        structures: all that are to be compared: V follows from them.
        n_directions: columns of V; fewer where the rows have a lower rank.

    Returns:
        Upper triangles of G, off the diagonal times √2, so that products of rows are traces of products.

    Raises:
        DataError: no label depends on the weights.
    """
    asked = np.unique(np.linspace(0, len(structures) - 1, min(len(structures), _ASKED)).astype(int))
    total = np.zeros((potential.n_features, potential.n_features))
    for rows in _rows(potential, [structures[i] for i in asked]):
        total += rows.T @ rows
    diagonal = np.diag(total)
    if not diagonal.any():
        raise DataError(
            "no force depends on the last layer", fix="features='ll_grad', or check the potential"
        )
    scale = np.sqrt(np.maximum(diagonal, _SMALLEST * np.median(diagonal[diagonal > 0])))
    values, vectors = np.linalg.eigh(total / scale[:, None] / scale)
    kept = np.flatnonzero(values > 1e-12 * values[-1])[::-1][:n_directions]
    directions = vectors[:, kept] / scale[:, None]
    result = []
    for rows in _rows(potential, structures):
        along = rows @ directions
        result.append(packed(along.T @ along))
    information = np.stack(result)
    mean = unpacked(information.mean(axis=0)[None])[0].trace() / len(kept)
    return information / mean


def _rows(
    potential: LastLayerPotential, structures: Sequence[Neighborhood]
) -> Iterator[Float[np.ndarray, "n_rows n_features"]]:
    """Rows of each structure's label, in float64: those of the forces, then that of the energy per atom."""
    for entry in structure_rows(potential, structures, ("energy", "forces")):
        assert entry.forces is not None
        energy = np.asarray(entry.energy, np.float64) * (_ENERGY * np.sqrt(3 / entry.n_atoms))
        yield np.concatenate([np.asarray(entry.forces, np.float64), energy[None]])
