"""Atom-centred neural networks on any atomic descriptor, one per element (Behler and Parrinello)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Array, Float, Int

from surefield.descriptors.atomic_descriptor import AtomicDescriptor
from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.symmetry_functions import SymmetryFunctions, make_default_symmetry_functions
from surefield.potentials.abilities import (
    HasBiasRow,
    HasRanges,
    Prepared,
    SavedByArguments,
    SiteInput,
    Solvable,
    TrainingData,
)
from surefield.potentials.config import AtomicNetworkConfig
from surefield.potentials.element_networks import (
    ElementNetworks,
    Layers,
    NetworkInputs,
    alphabetical,
    energy_slope,
    feature_ranges,
    hidden_widths,
    random_networks,
    scalings,
    unit_ranges,
)
from surefield.potentials.evaluate import species_index, species_numbers
from surefield.potentials.potential import DescriptorPotential
from surefield.potentials.vector_potential import VectorPotential
from surefield.structures.graph import Graph

__all__ = ["AtomicNetwork", "AtomicNetworkConfig"]


class AtomicNetwork(  # type: ignore[misc]
    DescriptorPotential, VectorPotential, SavedByArguments, Prepared, Solvable, HasBiasRow, HasRanges
):
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

    KIND: ClassVar[str] = "atomic_network"
    FIXED: ClassVar[tuple[str, ...]] = ("offsets", "low", "high")

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
        self.low, self.high = unit_ranges(n, descriptor.width, dtype)
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
    def bounded(self) -> bool:
        """Whether the output node carries the activation."""
        return self.output_activation == "activation"

    def arguments(self) -> dict[str, Any]:
        """Those of the constructor, for a potential of this shape."""
        return {
            "descriptor": self.descriptor.config(),
            "hidden": hidden_widths(self.layers),
            "activation": self.activation,
            "output_activation": self.output_activation,
            "dtype": str(self.readout.dtype),
            "keep": list(self.keep),
        }

    def n_linear(self) -> int:
        """All last-layer inputs, unless the output node is not linear."""
        return 0 if self.bounded else self.readout.shape[1]

    def slopes_of_biases(self, numbers: Int[np.ndarray, " n_atoms"]) -> Float[np.ndarray, " n_species"]:
        """Derivative of the energy with respect to the biases: slope times atoms of each element."""
        return np.asarray(self.slopes, np.float64) * self.atoms_of_blocks(numbers)

    def prepared_from(self, data: TrainingData) -> Self:
        """Offsets as intercepts, one slope from the spread of the energies, ranges from the features."""
        result, dtype = self, self.dtype
        if "offsets" not in self.keep:
            result = self.with_offsets(data.offsets)
        if "slopes" not in self.keep:
            own = dict(zip(self.species, np.asarray(result.offsets).tolist(), strict=True))
            slopes = jnp.full_like(self.slopes, energy_slope(data.structures, data.energies, own))
            result = eqx.tree_at(lambda p: p.slopes, result, slopes)
        if "ranges" not in self.keep:
            low, high = feature_ranges(self.descriptor, data.structures)
            values = (jnp.asarray(low, dtype), jnp.asarray(high, dtype))
            result = eqx.tree_at(lambda p: (p.low, p.high), result, values)
        return result

    @property
    def networks(self) -> tuple[ElementNetworks]:
        """The one of each element."""
        arrays = (self.layers, self.readout[:, None], self.bias[:, None], self.low, self.high)
        return (ElementNetworks(self.descriptor.n_features, *arrays, self.activation, self.bounded),)

    def ordered(self) -> list[Array]:
        """Weights of each element (sorted by symbol), row by row; then intercept and slope of each."""
        order = alphabetical(self.species)
        return [*self.networks[0].ordered(order), *scalings(order, self.offsets, self.slopes)]

    def feature_energies(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, " n_atoms"]:
        """Energy of each atom from its descriptor features, without element offsets; eV."""
        (networks,), index = self.networks, species_index(self, graph)
        energies, _ = networks.output(networks.hidden(features, index), index, self.slopes)
        return jnp.where(graph.atom_mask, energies, 0.0)

    def last_layer_features(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, "n_atoms n_site_features"]:
        """Derivative of each atom's energy with respect to its last weights: slope o_L (times act')."""
        (networks,), index = self.networks, species_index(self, graph)
        hidden = networks.hidden(features, index)
        _, factor = networks.output(hidden, index, self.slopes)
        return factor[:, None] * hidden

    def _inputs(self, graph: Graph) -> NetworkInputs:
        descriptor = self.descriptor
        values = descriptor.features(graph)
        return NetworkInputs(values, self.low, self.high, descriptor.n_features, descriptor.width)

    def excess(self, graph: Graph) -> Float[Array, "n_atoms width"]:
        """How far each feature lies outside the range of training, in units of that range."""
        return self._inputs(graph).excess(species_index(self, graph), graph.atom_mask)

    def described_input(self, graph: Graph, atom: int, column: int) -> SiteInput:
        """One of the features of an atom."""
        place = self.species.index(int(graph.numbers[atom]))
        name = self.descriptor.names(self.descriptor.symbols[place])[column]
        return SiteInput(name, *self._inputs(graph).one(atom, place, column))
