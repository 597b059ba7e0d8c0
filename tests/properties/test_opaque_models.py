"""Properties of models that others compute: forces are known, second derivatives are not."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from surefield.errors import PotentialError
from surefield.potentials.potential import Potential
from surefield.properties import ElasticConstants, LatticeConstant, PhononFrequencies, Property
from surefield.properties.deformation import graph_of, twice_differentiable, unit_graph
from surefield.scores import FIMPropertyScore
from surefield.structures.graph import Graph

ARGON = (5.3, "fcc", "Ar")
#: Å; between two shells of neighbours, so that none comes in or goes.
CUTOFF = 4.6


def pair(r2: Any, mask: Any, package: ModuleType) -> tuple[Any, Any]:
    """Half of the energy of every bond, eV, and its derivative by the squared length."""
    x = (3.4**2 / package.where(mask, r2, 1.0)) ** 3
    slope = 0.02 * (x - 2 * x**2) * -3 / package.where(mask, r2, 1.0)
    return package.where(mask, 0.02 * (x**2 - x), 0.0), package.where(mask, -slope, 0.0)


class InJax(Potential):
    """Lennard-Jones argon, times a strength."""

    strength: Float[Array, ""]
    offsets: Float[Array, " 1"]
    species: tuple[int, ...] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)

    def __init__(self) -> None:
        self.strength, self.offsets = jnp.asarray(1.0), jnp.zeros(1)
        self.species, self.cutoff = (18,), CUTOFF

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        energies, _ = pair(jnp.sum(graph.vectors**2, axis=-1), graph.mask, jnp)
        return self.strength * jnp.sum(energies, axis=1)


class Outside(InJax):
    """The same from a program that gives energies and forces, and no more."""

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        return of_vectors(graph.vectors, graph.mask, self.strength)


def computed(vectors: np.ndarray, mask: np.ndarray, strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    vectors = np.asarray(vectors)
    energies, by_square = pair(np.sum(vectors**2, axis=-1), np.asarray(mask), np)
    return strength * energies.sum(axis=1), strength * 2 * by_square[..., None] * vectors


def called(vectors: Array, mask: Array, strength: Array) -> tuple[Array, Array]:
    shapes = (
        jax.ShapeDtypeStruct(vectors.shape[:1], vectors.dtype),
        jax.ShapeDtypeStruct(vectors.shape, vectors.dtype),
    )
    return jax.pure_callback(computed, shapes, vectors, mask, strength, vmap_method="sequential")


@jax.custom_vjp
def of_vectors(vectors: Array, mask: Array, strength: Array) -> Array:
    return called(vectors, mask, strength)[0]


def back(slopes: Array, cotangent: Array) -> tuple[Array, None, None]:
    return slopes * cotangent[:, None, None], None, None


of_vectors.defvjp(called, back)

ELASTIC = ElasticConstants(*ARGON, 1e-3, components=("C11", "C44"))
PROPERTIES = [ELASTIC, PhononFrequencies(*ARGON, ((0.5, 0.5, 0.0),))]
JAX, OUTSIDE = InJax(), Outside()


@pytest.mark.parametrize("prop", PROPERTIES, ids=["elastic", "phonons"])
def test_values_are_those_of_the_same_model_in_jax(prop: Property) -> None:
    found = prop.calculate_property(OUTSIDE).value
    assert found == pytest.approx(prop.calculate_property(JAX).value, rel=1e-5)


def test_second_derivatives_are_missed_where_they_are_needed() -> None:
    prop = LatticeConstant(*ARGON)
    graph = unit_graph(graph_of(OUTSIDE, prop.crystal.atoms, "crystal"))
    assert twice_differentiable(JAX, graph)
    assert not twice_differentiable(OUTSIDE, graph)
    with pytest.raises(PotentialError, match="numerical method"):
        prop.near(OUTSIDE)
    with pytest.raises(PotentialError, match="deformation_mag"):
        ElasticConstants(*ARGON, None).calculate_property(OUTSIDE)


def test_information_by_differences() -> None:
    score, free = FIMPropertyScore(), {"strength": [["default"]]}
    found = score.compute(ELASTIC, "SENSITIVITY", np.eye(2), OUTSIDE, free, derivative_kwargs={"h": 0.05})
    values = ELASTIC.calculate_property(JAX).value
    assert found == pytest.approx(np.array([[values @ values]]), rel=1e-4)
