"""Rows J = d(energy, forces, stress)/d(last-layer weights): the one place where they are computed.

Definitions: Bigi et al., Mach. Learn.: Sci. Technol. 5, 045018 (2024) for energies; forces and stress are
their derivatives with respect to positions and strain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surefield.errors import PotentialError
from surefield.potentials.electrode.charged_potential import ChargedPotential
from surefield.potentials.potential import (
    ClosedRows,
    DensityPotential,
    DescriptorPotential,
    LastLayerPotential,
)
from surefield.structures.graph import Graph, collate, edge_forces, edge_virials
from surefield.structures.neighbors import Neighborhood

__all__ = [
    "StructureRows",
    "atom_features",
    "electron_rows",
    "energy_features",
    "structure_rows",
    "vector_jacobian",
]

#: Voigt order xx yy zz yz xz xy.
VOIGT = np.array([[0, 0], [1, 1], [2, 2], [1, 2], [0, 2], [0, 1]])


@dataclass(frozen=True)
class StructureRows:
    """Rows of one structure, float64; n_features counts all blocks (elements) of the last layer.

    Attributes:
        energy: (n_features,) dE/dw of the total energy, that is the sum of the atoms' features.
        forces: (3 n_atoms, n_features) dF/dw, order atom, xyz; None if not asked for.
        stress: (6, n_features) d(stress)/dw in Voigt order, 1/Å^3; None if not asked for or not periodic.
        n_atoms: number of atoms.
    """

    energy: Float[np.ndarray, " n_features"]
    forces: Float[np.ndarray, "n_components n_features"] | None
    stress: Float[np.ndarray, "6 n_features"] | None
    n_atoms: int


def vector_jacobian(
    potential: LastLayerPotential, graph: Graph
) -> Float[Array, "n_atoms n_neighbors 3 n_site_features"]:
    """d f_i / d(vector to neighbour k) for features that depend on the atom's own neighbours only."""
    if isinstance(potential, DensityPotential):
        return _density_jacobian(potential, graph)
    if isinstance(potential, DescriptorPotential):
        return _descriptor_jacobian(potential, graph)
    n_atoms, n_neighbors, _ = graph.vectors.shape

    def features(vectors: Array) -> Array:
        return potential.site_features(eqx.tree_at(lambda g: g.vectors, graph, vectors))

    def column(index: Array) -> Array:
        # Atoms do not share vectors, so one direction serves all atoms at once.
        direction = jnp.zeros(n_neighbors * 3, graph.vectors.dtype).at[index].set(1.0)
        tangent = jnp.broadcast_to(direction.reshape(n_neighbors, 3), graph.vectors.shape)
        return jax.jvp(features, (graph.vectors,), (tangent,))[1]

    columns = jax.lax.map(column, jnp.arange(n_neighbors * 3), batch_size=12)
    return jnp.moveaxis(columns, 0, 1).reshape(n_atoms, n_neighbors, 3, -1)


def _density_jacobian(potential: DensityPotential, graph: Graph) -> Array:
    density = potential.density(graph)

    def along(direction: Array) -> Array:
        tangent = jnp.broadcast_to(direction, density.shape)
        return jax.jvp(lambda d: potential.density_features(d, graph), (density,), (tangent,))[1]

    # (n_terms, n_atoms, n_site_features): atoms are independent, so one direction serves them all.
    by_density = jax.vmap(along)(jnp.eye(density.shape[1], dtype=density.dtype))

    def terms(axis: int) -> Array:
        tangent = jnp.zeros_like(graph.vectors).at[..., axis].set(1.0)
        return jax.jvp(
            lambda v: potential.edge_terms(eqx.tree_at(lambda g: g.vectors, graph, v)),
            (graph.vectors,),
            (tangent,),
        )[1]

    by_vector = jnp.stack([terms(axis) for axis in range(3)], axis=2)
    n_atoms, n_neighbors = graph.mask.shape
    flat = by_vector.reshape(n_atoms, n_neighbors * 3, -1)
    product = flat @ jnp.swapaxes(by_density, 0, 1).astype(flat.dtype)
    return product.reshape(n_atoms, n_neighbors, 3, -1)


def _descriptor_jacobian(potential: DescriptorPotential, graph: Graph) -> Array:
    features = potential.descriptor.features(graph)

    def along(direction: Array) -> Array:
        tangent = jnp.broadcast_to(direction, features.shape)
        return jax.jvp(lambda g: potential.last_layer_features(g, graph), (features,), (tangent,))[1]

    by_feature = jax.vmap(along)(jnp.eye(features.shape[1], dtype=features.dtype))
    by_vector = potential.descriptor.jacobian(graph)
    flat = by_vector.reshape(by_vector.shape[0], -1, by_vector.shape[-1])
    product = flat @ jnp.swapaxes(by_feature, 0, 1).astype(flat.dtype)
    return product.reshape(*by_vector.shape[:3], -1)


def _by_positions(potential: LastLayerPotential, graph: Graph) -> Array:
    """d(sum of features of each block)/d(positions at fixed vectors), (n_atoms, 3, n_features)."""

    def total(positions: Array) -> Array:
        moved = eqx.tree_at(lambda g: g.positions, graph, positions)
        features = jnp.where(graph.atom_mask[:, None], potential.site_features(moved), 0.0)
        n_blocks = potential.readout.shape[0]
        return jax.ops.segment_sum(features, potential.feature_block(graph), n_blocks).reshape(-1)

    n_atoms = graph.positions.shape[0]

    def column(index: Array) -> Array:
        tangent = jnp.zeros(n_atoms * 3, graph.positions.dtype).at[index].set(1.0)
        return jax.jvp(total, (graph.positions,), (tangent.reshape(n_atoms, 3),))[1]

    return jax.lax.map(column, jnp.arange(n_atoms * 3), batch_size=32).reshape(n_atoms, 3, -1)


@eqx.filter_jit
def _site_features(potential: LastLayerPotential, graph: Graph) -> tuple[Array, Array]:
    return potential.site_features(graph), potential.feature_block(graph)


@eqx.filter_jit
def _derivatives(potential: LastLayerPotential, graph: Graph) -> tuple[Array, Array]:
    """Force rows (n_atoms, 3, n_features) and virial rows (3, 3, n_features) of a graph of one structure."""
    jacobian = vector_jacobian(potential, graph)
    n_blocks = potential.readout.shape[0]
    block = jax.nn.one_hot(potential.feature_block(graph), n_blocks, dtype=jacobian.dtype)
    full = (block[:, None, None, :, None] * jacobian[..., None, :]).reshape(*jacobian.shape[:3], -1)
    forces, virials = edge_forces(full, graph), edge_virials(full, graph)[0]
    if potential.reads_positions:
        direct = _by_positions(potential, graph)
        moment = jnp.einsum("na,nbf->abf", graph.positions, direct)
        forces, virials = forces - direct, virials + 0.5 * (moment + jnp.swapaxes(moment, 0, 1))
    return forces, virials


def structure_rows(
    potential: LastLayerPotential,
    structures: Sequence[Neighborhood],
    *,
    forces: bool = True,
    stress: bool = False,
) -> Iterator[StructureRows]:
    """Yield the rows of each structure in turn; never more than one structure's rows are held."""
    stress = stress and "stress" in potential.supplies
    closed = potential.closed_rows(structures, forces=forces, strain=stress)
    if closed is None:
        closed = _differentiated(potential, structures, forces, stress)
    for structure, rows in zip(structures, closed, strict=True):
        stress_rows = None
        if rows.virial is not None and structure.periodic:
            stress_rows = rows.virial[VOIGT[:, 0], VOIGT[:, 1]] / abs(np.linalg.det(structure.cell))
        yield StructureRows(rows.energy, rows.forces, stress_rows, structure.n_atoms)


def _differentiated(
    potential: LastLayerPotential, structures: Sequence[Neighborhood], forces: bool, strain: bool
) -> Iterator[ClosedRows]:
    n_blocks, width = potential.readout.shape
    for structure in structures:
        graph = collate([structure], dtype=potential.dtype)
        features, block = _site_features(potential, graph)
        n = structure.n_atoms
        total = np.zeros((n_blocks, width))
        np.add.at(total, np.asarray(block)[:n], np.asarray(features, np.float64)[:n])
        force_rows = virial_rows = None
        wants_virial = strain and structure.periodic
        if forces or wants_virial:
            by_position, by_strain = _derivatives(potential, graph)
            if forces:
                force_rows = np.asarray(by_position[:n], np.float64).reshape(3 * n, -1)
            if wants_virial:
                virial_rows = np.asarray(by_strain, np.float64)
        yield ClosedRows(total.reshape(-1), force_rows, virial_rows)


@eqx.filter_jit
def _electron_features(potential: ChargedPotential, graph: Graph) -> Array:
    return potential.electron_features(graph)


def electron_rows(
    potential: LastLayerPotential, structures: Sequence[Neighborhood]
) -> Float[np.ndarray, "n_structures n_features"]:
    """dN_e/dw of each structure, the sum of what its atoms' last layers add to the excess electrons."""
    if not isinstance(potential, ChargedPotential):
        raise PotentialError(f"{type(potential).__name__} has no excess electrons")
    n_blocks, width = potential.readout.shape
    rows = np.zeros((len(structures), n_blocks, width))
    for row, structure in zip(rows, structures, strict=True):
        graph = collate([structure], dtype=potential.dtype)
        block = np.asarray(potential.feature_block(graph))[: structure.n_atoms]
        found = np.asarray(_electron_features(potential, graph), np.float64)[: structure.n_atoms]
        np.add.at(row, block, found)
    return rows.reshape(len(structures), -1)


def energy_features(
    potential: LastLayerPotential, structures: Sequence[Neighborhood]
) -> Float[np.ndarray, "n_structures n_features"]:
    """Summed last-layer features of each structure: rows of the total energy (`ll_grad` without the bias)."""
    rows = [row.energy for row in structure_rows(potential, structures, forces=False)]
    return np.stack(rows) if rows else np.zeros((0, potential.n_features))


def atom_features(
    potential: LastLayerPotential, structure: Neighborhood
) -> Float[np.ndarray, "n_atoms n_features"]:
    """Last-layer features of each atom, in the block of its element."""
    features, block = _site_features(potential, collate([structure], dtype=potential.dtype))
    n, (n_blocks, width) = structure.n_atoms, potential.readout.shape
    full = np.zeros((n, n_blocks, width))
    full[np.arange(n), np.asarray(block)[:n]] = np.asarray(features, np.float64)[:n]
    return full.reshape(n, -1)
