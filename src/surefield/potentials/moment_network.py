"""The moment network: invariants of moment tensors, a linear readout and a small network on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Array, Float

from surefield.descriptors.moment_derivatives import invariants_along
from surefield.descriptors.moments import angular_basis, invariants, moments
from surefield.descriptors.radial import bessel_basis
from surefield.potentials.abilities import (
    HasCorrection,
    Prepared,
    SavedByArguments,
    SharedFeatures,
    TrainingData,
)
from surefield.potentials.config import MomentNetworkConfig
from surefield.potentials.evaluate import species_index, species_numbers
from surefield.potentials.potential import DensityPotential
from surefield.structures.batching import padded_batches
from surefield.structures.graph import Graph

__all__ = ["MomentNetwork", "MomentNetworkConfig"]


class MomentNetwork(DensityPotential, SavedByArguments, Prepared, HasCorrection, SharedFeatures):
    """Moment-tensor potential with a learned radial basis, a linear part and a network as its correction.

    A^(l)_c,i = sum_j R_c(r_ij; z_i, z_j) u_ij^(⊗l), l = 0..3 (Shapeev 2016), is contracted to invariants,
    which are standardised per element of the centre: x_i. The energy of an atom is
    E_i = w[z_i] · [x_i, h(x_i)] + b[z_i] + offset[z_i], with h the last hidden layer of a SiLU network.
    The last layer is linear in w, so its features [x, h] serve the exact solution of w, the
    last-layer uncertainty and batch selection.

    Args:
        species: chemical symbols or atomic numbers.
        cutoff: Å.
        n_basis: Bessel functions the radial functions are made of.
        n_channels: radial functions per pair of species.
        n_triple: how many of them enter products of three tensors.
        hidden: widths of the hidden layers; `()` leaves a linear potential.
        seed: of the initial weights.
        dtype: of the parameters and the arithmetic; energies are summed in float64 either way.
    """

    KIND: ClassVar[str] = "moment_network"
    training_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay": 1.0}
    #: Offsets and standardisation come from the data.
    FIXED: ClassVar[tuple[str, ...]] = ("offsets", "shift", "scale")
    RADIAL: ClassVar[tuple[str, ...]] = ("radial",)
    SLOWED: ClassVar[bool] = True
    #: Shrinking radial functions would spoil the solved weights.
    DECAYED: ClassVar[tuple[str, ...] | None] = ("weights", "readout")

    species: tuple[int, ...] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    n_basis: int = eqx.field(static=True)
    n_triple: int = eqx.field(static=True)
    offsets: Float[Array, " n_species"]
    radial: Float[Array, "n_species n_species n_channels n_basis"]
    shift: Float[Array, "n_species n_invariants"]
    scale: Float[Array, "n_species n_invariants"]
    weights: list[Float[Array, "width_in width_out"]]
    biases: list[Float[Array, "n_species width_out"]]
    readout: Float[Array, "n_species n_site_features"]
    bias: Float[Array, " n_species"]

    def __init__(
        self,
        species: Sequence[str | int],
        cutoff: float = 5.5,
        n_basis: int = 8,
        n_channels: int = 8,
        n_triple: int = 5,
        hidden: Sequence[int] = (64, 64),
        seed: int = 0,
        dtype: str | np.typing.DTypeLike = "float32",
    ) -> None:
        rng = np.random.Generator(np.random.Philox(key=seed))
        dtype = np.dtype(dtype)
        self.species = species_numbers(species)
        n = len(self.species)
        self.cutoff, self.n_basis, self.n_triple = float(cutoff), int(n_basis), min(n_triple, n_channels)
        self.offsets = jnp.zeros(n, jnp.float64)
        self.radial = jnp.asarray(_initial_radial(n, n_channels, n_basis, rng), dtype)
        shape = jax.eval_shape(
            lambda a: invariants(a, self.n_triple), jax.ShapeDtypeStruct((1, n_channels, 20), dtype)
        )
        width = shape.shape[1]
        self.shift, self.scale = jnp.zeros((n, width), dtype), jnp.ones((n, width), dtype)
        sizes = [width, *hidden]
        self.weights = [
            jnp.asarray(rng.standard_normal((a, b)) / np.sqrt(a), dtype) for a, b in pairwise(sizes)
        ]
        # Biases per element make the shared network tell elements apart.
        self.biases = [jnp.asarray(0.1 * rng.standard_normal((n, b)), dtype) for b in sizes[1:]]
        self.readout = jnp.zeros((n, width + (hidden[-1] if hidden else 0)), dtype)
        self.bias = jnp.zeros(n, dtype)

    @classmethod
    def from_settings(cls, config: MomentNetworkConfig, species: Sequence[str | int] = ()) -> MomentNetwork:
        """Build from the settings of a run; `species` is used where they name none."""
        settings = config.model_dump(exclude={"kind", "species"})
        return cls(config.species or species, **settings)

    @property
    def n_invariants(self) -> int:
        """Number of invariants per atom."""
        return self.shift.shape[1]

    def arguments(self) -> dict[str, Any]:
        """Those of the constructor, for a potential of this shape."""
        return {
            "species": [chemical_symbols[z] for z in self.species],
            "cutoff": self.cutoff,
            "n_basis": self.n_basis,
            "n_channels": self.radial.shape[2],
            "n_triple": self.n_triple,
            "hidden": [w.shape[1] for w in self.weights],
            "seed": 0,
            "dtype": str(self.radial.dtype),
        }

    def n_linear(self) -> int:
        """The linear part: weights of the invariants themselves."""
        return self.n_invariants

    def without_correction(self) -> Self:
        """The linear part, and the last weights of the network."""
        return eqx.tree_at(lambda p: (p.weights, p.biases), self, ([], []))

    def prepared_from(self, data: TrainingData) -> Self:
        """Copy with element offsets, and with the invariants standardised over the atoms of each element."""
        plain = self.with_offsets(data.offsets)
        n, width = self.shift.shape
        count, first, second = np.zeros((n, 1)), np.zeros((n, width)), np.zeros((n, width))
        for _, graph in padded_batches(data.structures, 16, self.dtype):
            real = np.asarray(graph.atom_mask)
            values, index = (np.asarray(x)[real] for x in _invariants(self, graph))
            values = values.astype(np.float64)
            np.add.at(count, index, 1.0)
            np.add.at(first, index, values)
            np.add.at(second, index, values**2)
        seen = count[:, 0] > 0
        mean = first[seen] / count[seen]
        shift, scale = np.zeros((n, width)), np.ones((n, width))
        shift[seen] = mean
        deviation = np.sqrt(np.maximum(second[seen] / count[seen] - mean**2, 0.0))
        # An invariant that never varies says nothing; a floor keeps it from blowing up elsewhere.
        scale[seen] = np.maximum(deviation, 1e-3 * np.median(deviation, axis=1, keepdims=True) + 1e-12)
        values = (jnp.asarray(shift, self.dtype), jnp.asarray(scale, self.dtype))
        return eqx.tree_at(lambda p: (p.shift, p.scale), plain, values)

    def _edge_functions(self, graph: Graph) -> tuple[Array, Array]:
        """Radial (n_atoms, n_species n_basis, n_neighbors), angular (n_atoms, 20, n_neighbors)."""
        vectors = jnp.swapaxes(graph.vectors.astype(self.radial.dtype), 1, 2)
        r = jnp.sqrt(jnp.sum(vectors * vectors, axis=1))
        basis = bessel_basis(r, self.cutoff, self.n_basis)
        n_species = self.radial.shape[0]
        if n_species > 1:
            # One-hot of the neighbour's element times the basis: the sum over elements is a matrix product.
            neighbor = species_index(self, graph)[graph.neighbors]
            pair = jax.nn.one_hot(neighbor, n_species, dtype=basis.dtype, axis=1)
            basis = (pair[:, :, None] * basis[:, None]).reshape(len(basis), -1, basis.shape[-1])
        return basis, angular_basis(vectors / r[:, None])

    def _mixed(self, functions: Float[Array, "n_atoms n_functions n"], graph: Graph) -> Array:
        """(n_atoms, n_channels, n): the learned radial functions of each atom."""
        n_species, _, n_channels, _ = self.radial.shape
        if n_species == 1:
            return self.radial[0, 0] @ functions
        mixing = jnp.swapaxes(self.radial, 1, 2).reshape(n_species, n_channels, -1)
        return mixing[species_index(self, graph)] @ functions

    def density(self, graph: Graph) -> Float[Array, "n_atoms n_terms"]:
        """Moment tensors of rank 0 to 3, packed and flattened."""
        basis, angular = self._edge_functions(graph)
        # Of few elements, summing all basis functions costs less than mixing them at every neighbour.
        if self.radial.shape[0] <= 2:
            tensors = self._mixed(moments(basis, angular), graph)
        else:
            tensors = moments(self._mixed(basis, graph), angular)
        return tensors.reshape(len(tensors), -1)

    def edge_terms(self, graph: Graph) -> Float[Array, "n_atoms n_neighbors n_terms"]:
        """What each neighbour adds to the moment tensors."""
        basis, angular = self._edge_functions(graph)
        terms = self._mixed(basis, graph)[:, :, None] * angular[:, None]
        return jnp.moveaxis(terms, -1, 1).reshape(*graph.mask.shape, -1)

    def invariants(self, density: Float[Array, "n_atoms n_terms"]) -> Float[Array, "n_atoms n_invariants"]:
        """Rotational invariants of the moment tensors, not standardised."""
        return invariants(self._tensors(density), self.n_triple)

    def _tensors(self, density: Float[Array, "*shape n_terms"]) -> Float[Array, " *shape n_channels 20"]:
        return density.reshape(*density.shape[:-1], self.radial.shape[2], -1)

    def density_features(
        self, density: Float[Array, "n_atoms n_terms"], graph: Graph
    ) -> Float[Array, "n_atoms n_site_features"]:
        """Standardised invariants, and the last hidden layer of the network on them."""
        index = species_index(self, graph)
        x = (self.invariants(density) - self.shift[index]) / self.scale[index]
        if not self.weights:
            return x
        h = x
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = jax.nn.silu(h @ weight + bias[index])
        return jnp.concatenate([x, h], axis=-1)

    def density_features_along(
        self,
        density: Float[Array, "n_atoms n_terms"],
        directions: Float[Array, "n_atoms n_directions n_terms"],
        graph: Graph,
    ) -> Float[Array, "n_atoms n_directions n_site_features"]:
        """Derivatives of `density_features`, of the invariants in closed form."""
        tensors, moved = self._tensors(density), self._tensors(directions)
        index = species_index(self, graph)
        x = (self.invariants(density) - self.shift[index]) / self.scale[index]
        along_x = invariants_along(tensors, moved, self.n_triple) / self.scale[index][:, None]
        h, along = x, along_x
        for weight, bias in zip(self.weights, self.biases, strict=True):
            z = h @ weight + bias[index]
            h, slope = jax.jvp(jax.nn.silu, (z,), (jnp.ones_like(z),))
            along = slope[:, None] * (along @ weight)
        return jnp.concatenate([along_x, along], axis=-1) if self.weights else along_x

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Energy of each atom in eV, without element offsets."""
        return self.energies_and_features(graph)[0]

    def energies_and_features(self, graph: Graph) -> tuple[Array, Array]:
        """Energy of each atom, and what it is linear in."""
        index, features = species_index(self, graph), self.site_features(graph)
        energies = jnp.sum(features * self.readout[index], axis=-1) + self.bias[index]
        return jnp.where(graph.atom_mask, energies, 0.0), features


@eqx.filter_jit
def _invariants(potential: MomentNetwork, graph: Graph) -> tuple[Array, Array]:
    return potential.invariants(potential.density(graph)), species_index(potential, graph)


def _initial_radial(n_species: int, n_channels: int, n_basis: int, rng: np.random.Generator) -> np.ndarray:
    """One element: the Bessel functions; several: orthonormal mixtures that tell the elements apart."""
    if n_species == 1 and n_channels <= n_basis:
        return np.eye(n_channels, n_basis)[None, None]
    size = n_species * n_basis
    mixture = rng.standard_normal((n_channels, size))
    if n_channels <= size:
        mixture = np.linalg.qr(mixture.T)[0].T
    per_neighbor = mixture.reshape(n_channels, n_species, n_basis).transpose(1, 0, 2)
    return np.broadcast_to(per_neighbor, (n_species, n_species, n_channels, n_basis)).copy()
