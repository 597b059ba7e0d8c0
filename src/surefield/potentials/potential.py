"""What a potential is, and the one derivation of energy, forces and stress that all of them share."""

from __future__ import annotations

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from surefield.structures.graph import Graph, edge_forces, edge_virials, sum_atoms


class Potential(eqx.Module):
    """A differentiable function E(parameters, structure), as an immutable pytree."""

    species: eqx.AbstractVar[tuple[int, ...]]
    cutoff: eqx.AbstractVar[float]

    @abc.abstractmethod
    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        ...


class Results(NamedTuple):
    energy: Float[Array, " n_structures"]
    forces: Float[Array, "n_atoms 3"]
    virial: Float[Array, "n_structures 3 3"]
    energies: Float[Array, " n_atoms"]


def evaluate(potential, graph: Graph) -> Results:
    def total(vectors):
        energies = potential.site_energies(eqx.tree_at(lambda g: g.vectors, graph, vectors))
        return jnp.sum(energies), energies

    (_, energies), gradient = jax.value_and_grad(total, has_aux=True)(graph.vectors)
    return Results(
        sum_atoms(energies, graph), edge_forces(gradient, graph), edge_virials(gradient, graph), energies
    )
