"""Energies, forces and their parameter derivatives from fingerprints given as lists and dictionaries.

The documented interface for inspection, one image at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase.data import atomic_numbers
from jaxtyping import Array, Float

from surefield.errors import DataError
from surefield.networks.fingerprint_arrays import Primes, dense_primes, padded_rows
from surefield.potentials.evaluate import composition_energy
from surefield.potentials.image_network import ImageNetwork
from surefield.potentials.potential import DescriptorPotential
from surefield.potentials.vector_potential import VectorPotential
from surefield.structures.graph import Graph, collate
from surefield.structures.neighbors import Neighborhood

__all__ = ["Image", "by_component", "central_differences", "vector_gradient", "vector_jacobian"]


class Image:
    """One image as arrays: a `Graph` without neighbours, features, and their derivatives if known.

    Attributes:
        graph: elements (and coordinates of an image-centred model).
        features: (n_atoms, width), zero-padded; None for an image-centred model.
        primes: (n_atoms, 3, n_atoms, width) dG_n/dR_m,x of centre n by moved atom m and direction x.
    """

    def __init__(self, potential: VectorPotential, fingerprints: Any, primes: Primes | None = None) -> None:
        self.features: np.ndarray | None = None
        if isinstance(potential, ImageNetwork):
            flat = np.asarray(fingerprints, np.float64)
            n = len(potential.numbers)
            if flat.shape != (3 * n,):
                raise DataError("wrong fingerprint of an image", got=flat.shape, expected=f"({3 * n},)")
            self.graph = _bare_graph(np.array(potential.numbers), flat.reshape(n, 3))
            return
        assert isinstance(potential, DescriptorPotential)
        symbols = [symbol for symbol, _ in fingerprints]
        self.graph = _bare_graph(np.array([atomic_numbers[s] for s in symbols]), np.zeros((len(symbols), 3)))
        for symbol, values in fingerprints:
            n = potential.descriptor.n_features[potential.descriptor.place(symbol)]
            if len(values) != n:
                raise DataError(f"an atom of {symbol} has {len(values)} features, the model needs {n}")
        width = potential.descriptor.width
        self.features = padded_rows([values for _, values in fingerprints], width)
        self.primes = dense_primes(primes or {}, len(symbols), width)

    def site_energies(self, potential: VectorPotential) -> Float[Array, " n_atoms"]:
        """Energies of the atoms without offsets, eV; of an image-centred model equal shares."""
        if self.features is None:
            return potential.site_energies(self.graph)
        assert isinstance(potential, DescriptorPotential)
        return potential.feature_energies(jnp.asarray(self.features), self.graph)

    def atomic_energies(self, potential: VectorPotential) -> Float[np.ndarray, " n_atoms"]:
        """Energies of the atoms with their offsets, eV."""
        table = dict(zip(potential.species, np.asarray(potential.offsets).tolist(), strict=True))
        offsets = np.array([table[z] for z in np.asarray(self.graph.numbers).tolist()])
        return np.asarray(self.site_energies(potential)) + offsets

    def energy(self, potential: VectorPotential) -> Float[Array, ""]:
        """Total energy, eV."""
        return jnp.sum(self.site_energies(potential)) + jnp.sum(composition_energy(potential, self.graph))

    def forces(self, potential: VectorPotential) -> Float[Array, "n_atoms 3"]:
        """Forces, eV/Å."""
        if self.features is None:
            return -jax.grad(
                lambda r: jnp.sum(potential.site_energies(eqx.tree_at(lambda g: g.positions, self.graph, r)))
            )(jnp.asarray(self.graph.positions))
        assert isinstance(potential, DescriptorPotential)
        by_feature = jax.grad(lambda g: jnp.sum(potential.feature_energies(g, self.graph)))(
            jnp.asarray(self.features)
        )
        return self.contracted(by_feature)

    def contracted(self, by_feature: Float[Array, "n_atoms width"]) -> Float[Array, "n_atoms 3"]:
        """Forces from dE/dG: minus its sum with the derivatives of the features."""
        return -jnp.einsum("mxng,ng->mx", self.primes, by_feature)


def _bare_graph(numbers: np.ndarray, positions: np.ndarray) -> Graph:
    n = len(numbers)
    empty = np.zeros((n, 0), np.int32)
    counts = np.zeros(n, np.int32)
    structure = Neighborhood(
        numbers=numbers.astype(np.int32),
        positions=positions,
        cell=np.zeros((3, 3)),
        periodic=False,
        counts=counts,
        neighbors=empty,
        vectors=np.zeros((n, 0, 3)),
        reverse=empty,
    )
    return collate([structure], n_atoms=n, n_neighbors=0, n_structures=1)


def vector_gradient(
    potential: VectorPotential, function: Callable[[VectorPotential], Float[Array, ""]]
) -> Float[np.ndarray, " n_parameters"]:
    """Gradient of a number with respect to the parameter vector."""
    gradient = jax.jit(jax.grad(lambda v: function(potential.with_vector(v))))
    return np.asarray(gradient(potential.vector))


def vector_jacobian(
    potential: VectorPotential, function: Callable[[VectorPotential], Float[Array, "n_atoms 3"]]
) -> dict[tuple[int, int], Float[np.ndarray, " n_parameters"]]:
    """Gradient of every component (atom, direction) with respect to the parameter vector."""
    jacobian = jax.jit(jax.jacrev(lambda v: function(potential.with_vector(v))))
    return by_component(np.moveaxis(np.asarray(jacobian(potential.vector)), -1, 0))


def by_component(
    slopes: Float[np.ndarray, "n_parameters n_atoms 3"],
) -> dict[tuple[int, int], Float[np.ndarray, " n_parameters"]]:
    """Slopes of every component by its atom and direction."""
    return {(m, x): slopes[:, m, x] for m in range(slopes.shape[1]) for x in range(3)}


def central_differences(
    potential: VectorPotential, function: Callable[[VectorPotential], Any], d: float
) -> Float[np.ndarray, " n_parameters *rest"]:
    """(f(v + d) - f(v - d))/2d for every entry of the parameter vector."""
    vector = np.array(potential.vector)
    evaluate = jax.jit(lambda v: function(potential.with_vector(v)))
    rows = []
    for index in range(len(vector)):
        values = []
        for sign in (1.0, -1.0):
            moved = vector.copy()
            moved[index] += sign * d
            values.append(np.asarray(evaluate(moved)))
        rows.append((values[0] - values[1]) / (2 * d))
    return np.stack(rows)
