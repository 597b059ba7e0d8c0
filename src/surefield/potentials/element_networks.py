"""One small network per element, a view of a potential's arrays: start values, outputs, order of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Array, Bool, Float, Int

from surefield.descriptors.atomic_descriptor import AtomicDescriptor
from surefield.descriptors.derivatives import feature_ranges as ranges_by_element
from surefield.potentials.layers import ACTIVATIONS, excess, last_inputs, output_slope, scale_inputs, zero_pad
from surefield.potentials.network_parameters import random_layers
from surefield.structures.neighbors import Neighborhood

__all__ = [
    "ElementNetworks",
    "Layers",
    "NetworkInputs",
    "alphabetical",
    "energy_slope",
    "feature_ranges",
    "hidden_widths",
    "random_networks",
    "scalings",
    "unit_ranges",
    "with_more",
]

#: Hidden layers of each element.
Layers = list[list[Float[Array, "n_in_plus_1 n_out"]]]


class ElementNetworks(NamedTuple):
    """Networks of the elements: o_l = act([o_(l-1), 1] W_l) from scaled inputs, then output nodes.

    Attributes:
        n_inputs: of each element.
        layers: hidden layers of each element.
        readout: weights of the output nodes, zero-padded.
        bias: of the output nodes.
        low: least inputs over the training set.
        high: largest inputs.
        activation: of the hidden nodes.
        bounded: whether output nodes carry it too; inputs that do not vary then keep their value.
    """

    n_inputs: Sequence[int]
    layers: Layers
    readout: Float[Array, "n_species n_outputs width"]
    bias: Float[Array, "n_species n_outputs"]
    low: Float[Array, "n_species n_in"]
    high: Float[Array, "n_species n_in"]
    activation: str
    bounded: bool = False

    @property
    def widths(self) -> list[int]:
        """Inputs of the output nodes of each element."""
        return [own[-1].shape[1] if own else n for n, own in zip(self.n_inputs, self.layers, strict=True)]

    def ordered(self, order: Iterable[int]) -> list[Array]:
        """Weights of each element in an order: layer by layer, row by row, the biases last."""
        parts: list[Array] = []
        for place in order:
            outputs = self.readout[place, :, : self.widths[place]]
            parts += [*self.layers[place], outputs.T, self.bias[place]]
        return parts

    def matrices(self, place: int) -> list[Float[np.ndarray, "n_in_plus_1 n_out"]]:
        """Weights of the network of an element as float64 NumPy arrays, biases in the last row."""
        outputs = self.readout[place, :, : self.widths[place]].T
        layers = [*self.layers[place], np.concatenate([outputs, self.bias[place][None]])]
        return [np.array(layer, np.float64) for layer in layers]

    def first_layers(self) -> list[Float[Array, "n_in n_out"]]:
        """Weights of the first layer of each element, without biases."""
        return [
            own[0][:-1] if own else self.readout[place, :, : self.widths[place]].T
            for place, own in enumerate(self.layers)
        ]

    def hidden(
        self,
        features: Float[Array, "n_atoms width"],
        index: Int[Array, " n_atoms"],
        more: Float[Array, "n_atoms n_more"] | None = None,
    ) -> Float[Array, "n_atoms width"]:
        """Output of the last hidden layer of the network of each atom's element, zero-padded.

        Args:
            features: first inputs of all atoms; those beyond the element's number are not looked at.
            index: element of each atom.
            more: last inputs.
        """
        total, dtype = None, self.readout.dtype
        features = features.astype(dtype)
        for place, (n, own) in enumerate(zip(self.n_inputs, self.layers, strict=True)):
            x = features[:, :n]
            if more is not None:
                x = jnp.concatenate([features[:, : n - more.shape[1]], more.astype(dtype)], axis=1)
            x = scale_inputs(x, self.low[place, :n], self.high[place, :n], keep_constant=self.bounded)
            outputs = zero_pad(last_inputs(x, own, self.activation), self.readout.shape[2])
            total = outputs if total is None else jnp.where((index == place)[:, None], outputs, total)
        assert total is not None
        return total

    def nodes(
        self, hidden: Float[Array, "n_atoms width"], index: Int[Array, " n_atoms"]
    ) -> Float[Array, "n_atoms n_outputs"]:
        """What the output nodes of each atom sum up."""
        return jnp.sum(self.readout[index] * hidden[:, None], axis=2) + self.bias[index]

    def output(
        self,
        hidden: Float[Array, "n_atoms width"],
        index: Int[Array, " n_atoms"],
        slopes: Float[Array, " n_species"],
    ) -> tuple[Float[Array, " n_atoms"], Float[Array, " n_atoms"]]:
        """Slope times the output of the first node, and the derivative of that by what the node sums up."""
        node, slope = self.nodes(hidden, index)[:, 0], slopes[index]
        if not self.bounded:
            return slope * node, slope
        return slope * ACTIVATIONS[self.activation](node), slope * output_slope(self.activation, node)


def random_networks(
    rng: np.random.RandomState,
    order: Iterable[int],
    n_inputs: Sequence[int],
    hidden: Sequence[Sequence[int]],
    dtype: np.dtype,
    n_outputs: int = 1,
) -> tuple[Layers, Float[Array, "n_species n_outputs width"], Float[Array, "n_species n_outputs"]]:
    """Start values: hidden layers, weights of the output nodes padded to one width, and their biases.

    Args:
        rng: stream of the start values.
        order: places of the elements in the order of drawing.
        n_inputs: of each element.
        hidden: widths of the hidden layers of each element.
        dtype: of the arrays.
        n_outputs: output nodes, each drawn as if it were the only one.
    """
    layers: Layers = [[] for _ in n_inputs]
    outputs = [np.zeros((1, n_outputs)) for _ in n_inputs]
    for place in order:
        *own, last = random_layers(rng, n_inputs[place], hidden[place])
        layers[place] = [jnp.asarray(w, dtype) for w in own]
        limit = np.sqrt(6.0 / len(last))
        more = limit * (2 * rng.random_sample((len(last), n_outputs - 1)) - 1)
        outputs[place] = np.concatenate([last, more], axis=1)
    readout = np.zeros((len(outputs), n_outputs, max(len(w) - 1 for w in outputs)))
    for rows, w in zip(readout, outputs, strict=True):
        rows[:, : len(w) - 1] = w[:-1].T
    return layers, jnp.asarray(readout, dtype), jnp.asarray([w[-1] for w in outputs], dtype)


def hidden_widths(layers: Layers) -> list[list[int]]:
    """Widths of the hidden layers of each element, as constructors take them."""
    return [[layer.shape[1] for layer in own] for own in layers]


def alphabetical(species: Sequence[int]) -> Int[np.ndarray, " n_species"]:
    """Places of elements in the order of their symbols, that of parameter vectors."""
    return np.argsort([chemical_symbols[z] for z in species])


def scalings(
    order: Iterable[int], intercepts: Float[Array, " n_species"], slopes: Float[Array, " n_species"]
) -> list[Float[Array, " 1"]]:
    """Intercept and slope of each element in an order, parts of a parameter vector."""
    return [values[place : place + 1] for place in order for values in (intercepts, slopes)]


def unit_ranges(n_species: int, width: int, dtype: np.dtype) -> tuple[Array, Array]:
    """Ranges of inputs from -1 to 1, which scaling leaves as they are."""
    ones = jnp.ones((n_species, width), dtype)
    return -ones, ones


def with_more(
    features: Float[np.ndarray, "n_species width"],
    more: Float[np.ndarray, "n_species n_more"],
    counts: Sequence[int],
) -> Float[np.ndarray, "n_species width_plus_more"]:
    """Per element: values of the features it has, more values right after them, then the padding."""
    rows = [
        np.concatenate([own[:n], extra, own[n:]])
        for own, extra, n in zip(features, more, counts, strict=True)
    ]
    return np.stack(rows)


class NetworkInputs(NamedTuple):
    """Inputs of the networks of all atoms and their ranges.

    Attributes:
        values: features in the columns of the descriptor, then more.
        low: least inputs of each element, those that it has in a row as `with_more` puts them.
        high: largest inputs.
        counts: features of each element.
        width: columns of the descriptor.
    """

    values: Float[Array, "n_atoms width_plus_more"]
    low: Float[Array, "n_species width_plus_more"]
    high: Float[Array, "n_species width_plus_more"]
    counts: Sequence[int]
    width: int

    def excess(
        self, index: Int[Array, " n_atoms"], mask: Bool[Array, " n_atoms"]
    ) -> Float[Array, "n_atoms width_plus_more"]:
        """How far each input lies outside its range, in units of that range.

        Args:
            index: element of each atom.
            mask: false for padding atoms.
        """
        counts = jnp.asarray(self.counts)[index][:, None]
        column = jnp.arange(self.values.shape[1])
        used = mask[:, None] & ((column < counts) | (column >= self.width))
        place = jnp.where(column < self.width, column, counts + column - self.width)
        low, high = (jnp.take_along_axis(ends[index], place, axis=1) for ends in (self.low, self.high))
        return excess(self.values, low, high, used)

    def one(self, atom: int, place: int, column: int) -> tuple[float, float, float]:
        """The input in a column of an atom, whose element stands in some place; and its range."""
        entry = column if column < self.width else self.counts[place] + column - self.width
        return float(self.values[atom, column]), float(self.low[place, entry]), float(self.high[place, entry])


def feature_ranges(
    descriptor: AtomicDescriptor, structures: Sequence[Neighborhood]
) -> tuple[Float[np.ndarray, "n_species width"], Float[np.ndarray, "n_species width"]]:
    """Least and largest value of every feature over the atoms of each element; [-1, 1] without atoms."""
    low = np.full((len(descriptor.species), descriptor.width), -1.0)
    high = -low
    for symbol, ranges in ranges_by_element(descriptor, structures).items():
        place = descriptor.place(symbol)
        low[place, : len(ranges)], high[place, : len(ranges)] = ranges.T
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
