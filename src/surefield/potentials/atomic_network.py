"""Atom-centred neural networks on any atomic descriptor, one per element (Behler and Parrinello)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Array, Float, Int
from pydantic import Field

from surefield.config import Config
from surefield.descriptors.atomic_descriptor import AtomicDescriptor
from surefield.descriptors.build import descriptor_from_config
from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.derivatives import feature_ranges as ranges_by_element
from surefield.descriptors.symmetry_functions import SymmetryFunctions, make_default_symmetry_functions
from surefield.potentials.element_networks import (
    Layers,
    first_weights,
    hidden_outputs,
    output_widths,
    random_networks,
    scaling_parts,
    taken_scalings,
    taken_weights,
    weight_parts,
)
from surefield.potentials.evaluate import species_index
from surefield.potentials.layers import (
    ACTIVATIONS,
    Activation,
    Taker,
    alphabetical,
    excess,
    output_slope,
)
from surefield.potentials.potential import DescriptorPotential, VectorPotential, species_numbers
from surefield.structures.graph import Graph, collate
from surefield.structures.neighbors import Neighborhood

__all__ = ["AtomicNetwork", "AtomicNetworkConfig", "energy_slope", "feature_ranges"]


class AtomicNetworkConfig(Config):
    """Atom-centred networks on the default symmetry functions."""

    kind: Literal["neural_network"] = "neural_network"
    species: tuple[str, ...] | None = Field(
        default=None, description="elements; null takes those of the data"
    )
    cutoff: float = Field(default=6.5, gt=0, description="of the symmetry functions, Å")
    hiddenlayers: tuple[int, ...] = Field(default=(5, 5), description="hidden layers of every element")
    activation: Activation = Field(default="tanh", description="of the hidden nodes")
    output_activation: Literal["linear", "activation"] = Field(
        default="linear", description="of the output node; activation bounds the energy of an atom"
    )
    seed: int = Field(default=0, ge=0, description="of the initial weights")
    dtype: Literal["float32", "float64"] = Field(
        default="float64", description="of the parameters and the arithmetic"
    )


class AtomicNetwork(DescriptorPotential, VectorPotential):
    """One network per element on the features G of an atom: E = sum_a slope o(x_a) + intercept.

    x = -1 + 2 (G - low)/(high - low); o_l = act([o_(l-1), 1] W_l); the output node is linear, or carries
    the activation too (`output_activation='activation'`), which bounds the energy of an atom. Behler and
    Parrinello, Phys. Rev. Lett. 98, 146401 (2007); Khorshidi and Peterson, Comput. Phys. Commun. 207, 310
    (2016). The intercepts are the element offsets.

    Args:
        descriptor: turns neighbours into features; it knows the elements and the cutoff.
        hidden: widths of the hidden layers of each element, in the order of `descriptor.species`; `()` leaves
            a linear model.
        activation: 'tanh', 'sigmoid' or 'linear'.
        output_activation: 'linear' or 'activation'.
        seed: of the initial weights.
        dtype: of the parameters and the arithmetic; intercepts are float64 either way.
        keep: what `prepared` leaves as it is: any of "offsets", "slopes", "ranges".
    """

    descriptor: AtomicDescriptor = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    output_activation: str = eqx.field(static=True)
    keep: tuple[str, ...] = eqx.field(static=True)
    offsets: Float[Array, " n_species"]
    slopes: Float[Array, " n_species"]
    low: Float[Array, "n_species width"]
    high: Float[Array, "n_species width"]
    layers: Layers
    readout: Float[Array, "n_species n_site_features"]
    bias: Float[Array, " n_species"]

    def __init__(
        self,
        descriptor: AtomicDescriptor,
        hidden: Sequence[Sequence[int]],
        activation: str = "tanh",
        output_activation: str = "linear",
        seed: int = 0,
        dtype: str | np.typing.DTypeLike = "float64",
        keep: Sequence[str] = (),
    ) -> None:
        dtype, self.keep = np.dtype(dtype), tuple(keep)
        self.descriptor, self.activation, self.output_activation = descriptor, activation, output_activation
        n = len(descriptor.species)
        self.offsets = jnp.zeros(n, jnp.float64)
        self.slopes = jnp.ones(n, dtype)
        self.low = -jnp.ones((n, descriptor.width), dtype)
        self.high = jnp.ones((n, descriptor.width), dtype)
        # The documented stream of start values.
        rng = np.random.RandomState(seed)
        self.layers, readout, bias = random_networks(rng, range(n), descriptor.n_features, hidden, dtype)
        self.readout, self.bias = readout[:, 0], bias[:, 0]

    @classmethod
    def from_settings(cls, config: AtomicNetworkConfig, species: Sequence[str | int] = ()) -> AtomicNetwork:
        """Build on the default symmetry functions; `species` is used where the settings name none."""
        symbols = [chemical_symbols[z] for z in species_numbers(config.species or species)]
        functions = make_default_symmetry_functions(symbols)
        descriptor = SymmetryFunctions.from_lists(symbols, Cosine(config.cutoff), functions)
        hidden = [config.hiddenlayers] * len(symbols)
        return cls(descriptor, hidden, config.activation, config.output_activation, config.seed, config.dtype)

    @property
    def species(self) -> tuple[int, ...]:  # type: ignore[override]
        """Atomic numbers, ascending."""
        return self.descriptor.species

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """Range of the neighbour list, Å."""
        return self.descriptor.cutoff

    @property
    def bounded(self) -> bool:
        """Whether the output node carries the activation."""
        return self.output_activation == "activation"

    def config(self) -> dict[str, Any]:
        """Configuration that builds a potential of this shape."""
        return {
            "kind": "atomic_network",
            "descriptor": self.descriptor.config(),
            "hidden": [[layer.shape[1] for layer in layers] for layers in self.layers],
            "activation": self.activation,
            "output_activation": self.output_activation,
            "dtype": str(self.readout.dtype),
            "keep": list(self.keep),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> AtomicNetwork:
        """Build from `config()`."""
        settings = {k: v for k, v in config.items() if k not in ("kind", "descriptor")}
        return cls(descriptor_from_config(config["descriptor"]), **settings)

    def constants(self) -> tuple[object, ...]:
        """Offsets and feature ranges come from the data."""
        return (self.offsets, self.low, self.high)

    @property
    def n_solvable(self) -> int:
        """All last-layer inputs, unless the output node is not linear."""
        return 0 if self.bounded else self.readout.shape[1]

    def bias_row(self, numbers: Int[np.ndarray, " n_atoms"]) -> Float[np.ndarray, " n_species"]:
        """Derivative of the energy with respect to the biases: slope times atoms of each element."""
        return np.asarray(self.slopes, np.float64) * super().bias_row(numbers)

    def prepared(
        self,
        structures: Sequence[Neighborhood],
        energies: Sequence[float | None],
        offsets: Mapping[int, float],
    ) -> Self:
        """Offsets as intercepts, one slope from the spread of the energies, ranges from the features."""
        result, dtype = self, self.dtype
        if "offsets" not in self.keep:
            result = super().prepared(structures, energies, offsets)
        if "slopes" not in self.keep:
            own = dict(zip(self.species, np.asarray(result.offsets).tolist(), strict=True))
            slopes = jnp.full_like(self.slopes, energy_slope(structures, energies, own))
            result = eqx.tree_at(lambda p: p.slopes, result, slopes)
        if "ranges" not in self.keep:
            low, high = feature_ranges(self.descriptor, structures)
            values = (jnp.asarray(low, dtype), jnp.asarray(high, dtype))
            result = eqx.tree_at(lambda p: (p.low, p.high), result, values)
        return result

    @property
    def vector(self) -> Float[Array, " n_parameters"]:
        """Weights of each element (sorted by symbol), row by row; then intercept and slope of each."""
        order = alphabetical(self.species)
        parts = [*weight_parts(order, *self._networks()), *scaling_parts(order, self.offsets, self.slopes)]
        return jnp.concatenate([part.astype(jnp.float64) for part in parts])

    def with_vector(self, vector: Float[Array, " n_parameters"]) -> Self:
        """Copy with the parameters of a vector in that order."""
        take, order = Taker(vector, self.vector.size), alphabetical(self.species)
        layers, readout, bias = taken_weights(take, order, *self._networks())
        offsets, slopes = taken_scalings(take, order, self.offsets, self.slopes)
        values = (offsets, slopes, layers, readout, bias)
        return eqx.tree_at(lambda p: (p.offsets, p.slopes, p.layers, p.readout, p.bias), self, values)

    def first_layers(self) -> list[Float[Array, "n_in n_out"]]:
        """Weights of the first layer of each element, without biases."""
        layers, readout, _, widths = self._networks()
        return first_weights(layers, readout, widths)

    def _networks(self) -> tuple[Layers, Array, Array, list[int]]:
        """Arguments of `weight_parts`: layers, readout, bias, widths."""
        widths = output_widths(self.descriptor.n_features, self.layers)
        return self.layers, self.readout, self.bias, widths

    def last_inputs(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, "n_atoms n_site_features"]:
        """Output of the last hidden layer of each atom's network, zero-padded."""
        index = species_index(self, graph)
        features = features.astype(self.readout.dtype)
        counts = self.descriptor.n_features
        return hidden_outputs(
            lambda place: features[:, : counts[place]],
            *(self.layers, index, self.low, self.high, self.activation, self.readout.shape[1]),
            keep_constant=self.bounded,
        )

    def feature_energies(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, " n_atoms"]:
        """Energy of each atom from its descriptor features, without element offsets; eV."""
        index = species_index(self, graph)
        node = jnp.sum(self.last_inputs(features, graph) * self.readout[index], axis=1) + self.bias[index]
        out = ACTIVATIONS[self.activation](node) if self.bounded else node
        return jnp.where(graph.atom_mask, self.slopes[index] * out, 0.0)

    def last_layer_features(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, "n_atoms n_site_features"]:
        """Derivative of each atom's energy with respect to its last weights: slope o_L (times act')."""
        index = species_index(self, graph)
        inputs = self.last_inputs(features, graph)
        factor = self.slopes[index]
        if self.bounded:
            node = jnp.sum(inputs * self.readout[index], axis=1) + self.bias[index]
            factor = factor * output_slope(self.activation, node)
        return factor[:, None] * inputs

    def extrapolation(self, graph: Graph) -> Float[Array, "n_atoms width"]:
        """How far each feature lies outside the range of training, in units of that range."""
        index = species_index(self, graph)
        features = self.descriptor.features(graph)
        counts = jnp.asarray(self.descriptor.n_features)[index]
        used = (jnp.arange(self.descriptor.width) < counts[:, None]) & graph.atom_mask[:, None]
        return excess(features, self.low[index], self.high[index], used)

    def describe_extrapolation(self, atoms: Atoms) -> str:
        """One line on the feature that lies farthest outside the range of training."""
        graph = collate([self.neighborhood(atoms)], dtype=self.dtype)
        found = np.asarray(self.extrapolation(graph))
        atom, column = (int(i) for i in np.unravel_index(found.argmax(), found.shape))
        symbol = str(atoms.symbols[atom])
        place = self.descriptor.place(symbol)
        value = float(np.asarray(self.descriptor.features(graph))[atom, column])
        low, high = float(self.low[place, column]), float(self.high[place, column])
        name = self.descriptor.names(symbol)[column]
        return (
            f"atom {atom} ({symbol}) lies outside the training set: {name} is {value:.4g}, its range "
            f"{low:.4g} to {high:.4g}"
        )


def feature_ranges(
    descriptor: AtomicDescriptor, structures: Sequence[Neighborhood]
) -> tuple[Float[np.ndarray, "n_species width"], Float[np.ndarray, "n_species width"]]:
    """Least and largest value of every feature over the atoms of each element; [-1, 1] without atoms."""
    low = np.full((len(descriptor.species), descriptor.width), -1.0)
    high = -low
    for symbol, found in ranges_by_element(descriptor, structures).items():
        place = descriptor.place(symbol)
        low[place, : len(found)], high[place, : len(found)] = found.T
    return low, high


def energy_slope(
    structures: Sequence[Neighborhood], energies: Sequence[float | None], offsets: Mapping[int, float]
) -> float:
    """Root mean square of (E - sum of offsets)/sqrt(N), at least 0.01 eV."""
    left = [
        (energy - sum(offsets.get(z, 0.0) for z in s.numbers.tolist())) / np.sqrt(s.n_atoms)
        for s, energy in zip(structures, energies, strict=True)
        if energy is not None
    ]
    return max(float(np.sqrt(np.mean(np.square(left)))) if left else 0.0, 0.01)
