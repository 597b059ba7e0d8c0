"""Products of rows J with directions of the last-layer weights, J·d, without the rows themselves.

One pass through the features serves all directions, and one pass back through them the forces and the stress
of each: for fewer directions than features that is less work than the rows.
"""

from __future__ import annotations

from typing import Any, Final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from surefield.potentials.evaluate import Results
from surefield.potentials.potential import LastLayerPotential
from surefield.structures.graph import Graph, edge_forces, edge_virials, sum_atoms

__all__ = ["energy_products", "row_products"]

#: Directions that are taken at once.
_AT_ONCE: Final = 16


def row_products(
    layer: LastLayerPotential, directions: Float[Array, "n_directions n_features"], graph: Graph
) -> Results:
    """Derivatives of all results along directions of the last-layer weights, directions first (traceable).

    Energies of atoms are those of a batch; there is no extrapolation.
    """

    def gradient(readout: Array) -> Any:
        moved = layer.with_readout(readout)

        def total(vectors: Array, positions: Array) -> tuple[Array, Array]:
            bent = eqx.tree_at(lambda g: (g.vectors, g.positions), graph, (vectors, positions))
            energies = jnp.where(graph.atom_mask, moved.site_energies(bent), 0.0)
            return jnp.sum(energies), energies

        geometry = jnp.asarray(graph.vectors), jnp.asarray(graph.positions)
        by_geometry, energies = jax.grad(total, argnums=(0, 1), has_aux=True)(*geometry)
        return energies, *by_geometry, moved.outputs(graph)

    energies, by_vectors, by_positions, outputs = _along(gradient, layer, directions)
    direct = sum_atoms(jnp.einsum("na,nbd->nabd", graph.positions, by_positions), graph)
    virial = edge_virials(by_vectors, graph) + 0.5 * (direct + jnp.swapaxes(direct, 1, 2))
    products = Results(
        energy=sum_atoms(energies.astype(jnp.float64), graph),
        forces=edge_forces(by_vectors, graph) - by_positions,
        virial=virial,
        energies=energies,
        outputs=outputs,
    )
    return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), products)


def energy_products(
    layer: LastLayerPotential, directions: Float[Array, "n_directions n_features"], graph: Graph
) -> tuple[Float[Array, "n_directions n_structures"], Float[Array, "n_directions n_atoms"]]:
    """Those of the energies of structures and of atoms alone (traceable)."""
    energies = _along(lambda w: layer.with_readout(w).site_energies(graph), layer, directions)
    energies = jnp.where(graph.atom_mask[:, None], energies, 0.0)
    return sum_atoms(energies.astype(jnp.float64), graph).T, energies.T


def _along(of: Any, layer: LastLayerPotential, directions: Array) -> Any:
    """Derivatives of a function of the readout along directions, which are the last axis of the result."""
    weights = jnp.asarray(layer.readout)
    along = jax.linearize(of, weights)[1]
    each = directions.reshape(-1, *weights.shape).astype(weights.dtype)
    if len(each) <= _AT_ONCE:
        return jax.vmap(along, out_axes=-1)(each)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), jax.lax.map(along, each, batch_size=_AT_ONCE))
