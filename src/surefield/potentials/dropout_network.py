"""Dropout networks on an atomic descriptor: the full network, single members, and their mean."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar, Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Array, Bool, Float, Int

from surefield.descriptors.atomic_descriptor import AtomicDescriptor
from surefield.descriptors.behler import behler_functions
from surefield.descriptors.derivatives import atomic_features
from surefield.errors import ConfigError, PotentialError
from surefield.potentials.abilities import Prepared, SavedByArguments, Solvable, TrainingData
from surefield.potentials.config import DropoutNetworkConfig
from surefield.potentials.evaluate import species_index, species_numbers
from surefield.potentials.network_parameters import CONSTANT
from surefield.potentials.potential import DescriptorPotential
from surefield.structures.graph import Graph, edge_forces, edge_virials

__all__ = [
    "FULL",
    "MEAN",
    "MEMBERS_AT_ONCE",
    "DropoutNetwork",
    "DropoutNetworkConfig",
    "Layer",
    "check_rate",
    "draw_masks",
    "member_results",
]

#: Members: the network without dropout, and the mean over all stored members.
FULL, MEAN = 0, -1
#: Members whose forces are held at once by `member_results`.
MEMBERS_AT_ONCE: Final = 16


class Layer(eqx.Module):
    """Weights of one tanh layer of every element's network: y = tanh(x W + b)."""

    weights: Float[Array, "n_species n_in n_out"]
    bias: Float[Array, "n_species n_out"]


class DropoutNetwork(DescriptorPotential, SavedByArguments, Prepared, Solvable):
    """Tanh layers on standardised features, a linear output per atom, and dropout of hidden units.

    The input of every layer but the first is x m/(1 - p), with a 0/1 mask m that holds for all atoms: a mask
    makes a member, which is a potential like any other. Wen and Tadmor, npj Comput. Mater. 6, 124 (2020).
    Every element has weights of its own; the masks are shared.

    Args:
        descriptor: turns neighbours into features, the same number for each element.
        neurons: widths of the hidden layers; `()` leaves a linear model.
        dropout: p; 0 for none.
        norm: whether `prepared` standardises the features.
        seed: of the start values.
        n_members: members to make room for; see `with_masks`.

    Attributes:
        mean: of each feature over the training atoms; 0 where the feature does not vary.
        scale: its standard deviation; 1 likewise.
        layers: hidden layers.
        readout: output weights of each element.
        bias: output bias of each element, eV.
        masks: of each hidden layer, one row per member.
        member: which one predicts: k > 0 is member k, 0 the full network without dropout, -1 (at first) the
            mean over the members, which is the full network if there are none.
        fitted: whether mean, scale and offsets are settled, so that `prepared` leaves them.

    Raises:
        ConfigError: a rate outside [0, 1), dropout without hidden layers, a width that is not positive.
    """

    KIND: ClassVar[str] = "dropout_network"
    FIXED: ClassVar[tuple[str, ...]] = ("offsets", "mean", "scale")

    descriptor: AtomicDescriptor = eqx.field(static=True)
    dropout: float = eqx.field(static=True)
    norm: bool = eqx.field(static=True)
    offsets: Float[Array, " n_species"]
    mean: Float[Array, " width"]
    scale: Float[Array, " width"]
    layers: list[Layer]
    readout: Float[Array, "n_species n_site_features"]
    bias: Float[Array, " n_species"]
    masks: list[Bool[Array, "n_members n_out"]]
    member: Int[Array, ""]
    fitted: Bool[Array, ""]

    def __init__(
        self,
        descriptor: AtomicDescriptor,
        neurons: Sequence[int] = (10, 10),
        dropout: float = 0.0,
        norm: bool = True,
        *,
        seed: int = 0,
        n_members: int = 0,
    ) -> None:
        widths = _checked_widths(neurons)
        rate = dropout if dropout == 0 else check_rate(dropout, "dropout", len(widths))
        if len(set(descriptor.n_features)) > 1:
            counts = dict(zip(descriptor.symbols, descriptor.n_features, strict=True))
            raise ConfigError(f"a dropout network needs equally many features of each element, got {counts}")
        n, width = len(descriptor.species), descriptor.width
        self.descriptor, self.dropout, self.norm = descriptor, float(rate), bool(norm)
        self.offsets = jnp.zeros(n, jnp.float64)
        self.mean, self.scale = jnp.zeros(width, jnp.float64), jnp.ones(width, jnp.float64)
        *hidden, last = _start_values(n, [width, *widths, 1], seed)
        self.layers = [Layer(jnp.asarray(w), jnp.asarray(b)) for w, b in hidden]
        self.readout, self.bias = jnp.asarray(last[0][:, :, 0]), jnp.asarray(last[1][:, 0])
        self.masks = [jnp.ones((n_members, width), bool) for width in widths]
        self.member = jnp.asarray(MEAN, jnp.int32)
        self.fitted = jnp.zeros((), bool)

    @classmethod
    def from_settings(cls, config: DropoutNetworkConfig, species: Sequence[str | int] = ()) -> DropoutNetwork:
        """Build from the settings of a run; `species` is used where they name none."""
        symbols = [chemical_symbols[z] for z in species_numbers(config.species or species)]
        descriptor = behler_functions(symbols, config.hyperparams, config.cutoff)
        return cls(descriptor, config.neurons, config.dropout, config.norm, seed=config.seed)

    @property
    def neurons(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(layer.bias.shape[1] for layer in self.layers)

    @property
    def n_members(self) -> int:
        """Members whose masks are stored."""
        return self.masks[0].shape[0] if self.masks else 0

    @property
    def keep(self) -> float:
        """Probability that a unit is kept."""
        return 1.0 - self.dropout

    def arguments(self) -> dict[str, Any]:
        """Those of the constructor, for a potential of this shape."""
        return {
            "descriptor": self.descriptor.config(),
            "neurons": list(self.neurons),
            "dropout": self.dropout,
            "norm": self.norm,
            "n_members": self.n_members,
        }

    def n_linear(self) -> int:
        """All last-layer inputs."""
        return self.readout.shape[1]

    def of_member(self, member: int) -> DropoutNetwork:
        """Copy that predicts with member k > 0, the full network (0), or the mean over the members (-1).

        Raises:
            PotentialError: no such member.
        """
        if isinstance(member, bool) or not isinstance(member, int) or not MEAN <= member <= self.n_members:
            expected = f"-1 (mean), 0 (without dropout) or 1 to {self.n_members}"
            raise PotentialError("no such member", got=member, expected=expected)
        return eqx.tree_at(lambda p: p.member, self, jnp.asarray(member, jnp.int32))

    def with_masks(self, masks: Sequence[np.ndarray | Array], dropout: float) -> DropoutNetwork:
        """Copy with other members, that predicts with their mean.

        Args:
            masks: of each hidden layer, (n_members, width), true where a unit is kept.
            dropout: rate; kept units are scaled by 1/(1 - dropout).

        Raises:
            PotentialError: masks that do not fit the layers.
            ConfigError: a rate outside (0, 1), or a network without hidden layers.
        """
        rate = check_rate(dropout, "dropout", len(self.layers))
        arrays = [jnp.asarray(mask, bool) for mask in masks]
        widths, shapes = self.neurons, [mask.shape for mask in arrays]
        n_members = shapes[0][0] if shapes and len(shapes[0]) == 2 else 0
        if shapes != [(n_members, width) for width in widths]:
            raise PotentialError("masks do not fit", got=shapes, expected=[("n_members", w) for w in widths])
        network = DropoutNetwork.from_config(self.config() | {"dropout": rate, "n_members": n_members})
        names = ("offsets", "mean", "scale", "layers", "readout", "bias", "fitted")
        places = lambda p: [getattr(p, name) for name in names]  # noqa: E731
        network = eqx.tree_at(places, network, places(self))
        return eqx.tree_at(lambda p: p.masks, network, arrays)

    def prepared_from(self, data: TrainingData) -> DropoutNetwork:
        """Copy with element offsets and, if `norm`, mean and scale of the features over all atoms.

        A network that is fitted already stays as it is: its weights belong to its own standardisation.
        """
        if self.fitted:
            return self
        plain = eqx.tree_at(lambda p: p.fitted, self.with_offsets(data.offsets), jnp.ones((), bool))
        if not self.norm:
            return plain
        features = np.concatenate(atomic_features(self.descriptor, data.structures))
        mean, scale = features.mean(axis=0), features.std(axis=0)
        constant = scale <= CONSTANT * np.maximum(1.0, np.abs(mean))
        mean, scale = np.where(constant, 0.0, mean), np.where(constant, 1.0, scale)
        return eqx.tree_at(lambda p: (p.mean, p.scale), plain, (jnp.asarray(mean), jnp.asarray(scale)))

    def inputs(self, features: Float[Array, "*n width"]) -> Float[Array, "*n width"]:
        """Standardised features, the inputs of the first layer."""
        return (features - self.mean) / self.scale

    def hidden(
        self,
        inputs: Float[Array, "n_atoms width"],
        place: int,
        masks: Sequence[Float[Array, "#n_atoms n_out"]] = (),
    ) -> Float[Array, "n_atoms n_site_features"]:
        """Outputs of the last hidden layer.

        Args:
            inputs: standardised features.
            place: of the element whose weights are used.
            masks: factors of the outputs of each layer; none: the full network.
        """
        x = inputs
        for number, layer in enumerate(self.layers):
            x = jnp.tanh(x @ layer.weights[place] + layer.bias[place])
            if masks:
                x = x * masks[number]
        return x

    def site_features_of(
        self, features: Float[Array, "n_atoms width"], graph: Graph, masks: Sequence[Array] = ()
    ) -> Float[Array, "n_atoms n_site_features"]:
        """Last-layer inputs of each atom from its descriptor features, with given factors of hidden units."""
        inputs, index = self.inputs(features), species_index(self, graph)
        outputs = self.hidden(inputs, 0, masks)
        for place in range(1, len(self.species)):
            outputs = jnp.where((index == place)[:, None], self.hidden(inputs, place, masks), outputs)
        return outputs

    def last_layer_features(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, "n_atoms n_site_features"]:
        """Inputs of the output layer of each atom: of a member, or their mean over the members."""
        if not self.n_members:
            return self.site_features_of(features, graph)

        def single(features: Array) -> Array:
            row = jnp.maximum(self.member - 1, 0)
            factors = [jnp.where(self.member > 0, mask[row] / self.keep, 1.0) for mask in self.masks]
            return self.site_features_of(features, graph, factors)

        def mean(features: Array) -> Array:
            # One member at a time, made again in a backward pass: memory does not grow with their number.
            add = lambda total, masks: (total + self._masked(features, graph, masks), None)  # noqa: E731
            start = jnp.zeros((features.shape[0], self.readout.shape[1]), self.readout.dtype)
            return jax.lax.scan(jax.checkpoint(add), start, self.masks)[0] / self.n_members

        return jax.lax.cond(self.member < 0, mean, single, features)

    def _masked(self, features: Array, graph: Graph, masks: Sequence[Array]) -> Array:
        return self.site_features_of(features, graph, [mask / self.keep for mask in masks])

    def feature_energies(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, " n_atoms"]:
        """Energy of each atom from its descriptor features, without element offsets; eV."""
        return self._energies(self.last_layer_features(features, graph), graph)

    def member_energies(
        self, features: Float[Array, "n_atoms width"], graph: Graph, masks: Sequence[Array]
    ) -> Float[Array, " n_atoms"]:
        """Energy of each atom with given factors of the hidden units; eV, without element offsets."""
        return self._energies(self.site_features_of(features, graph, masks), graph)

    def _energies(self, last: Float[Array, "n_atoms n_site_features"], graph: Graph) -> Array:
        index = species_index(self, graph)
        energies = jnp.sum(last * self.readout[index], axis=1) + self.bias[index]
        return jnp.where(graph.atom_mask, energies, 0.0)


@eqx.filter_jit
def member_results(
    network: DropoutNetwork, graph: Graph, derivatives: bool
) -> tuple[Float[Array, "m n_atoms"], Float[Array, "m n_atoms 3"] | None, Float[Array, "m s 3 3"] | None]:
    """Energies of atoms (without offsets), forces and virials (eV) of all members, compiled.

    The descriptor and its derivatives are made once, whatever the number of members.

    Args:
        network: with members.
        graph: padded batch.
        derivatives: False leaves forces and virials out.
    """
    features = network.descriptor.features(graph)
    n_members = network.n_members
    factors = [mask / network.keep for mask in network.masks]

    def energies(features: Array, factors: list[Array]) -> tuple[Array, Array]:
        per_atom = network.member_energies(features, graph, factors)
        return jnp.sum(per_atom), per_atom

    if not derivatives:
        per_atom = jax.lax.map(lambda own: energies(features, own)[1], factors, batch_size=MEMBERS_AT_ONCE)
        return per_atom, None, None
    slopes, per_atom = jax.lax.map(
        lambda own: jax.grad(energies, has_aux=True)(features, own), factors, batch_size=MEMBERS_AT_ONCE
    )
    jacobian = network.descriptor.jacobian(graph)

    def results(block: Float[Array, "b n_atoms width"]) -> tuple[Array, Array]:
        by_edge = jnp.einsum("nkxw,bnw->nkxb", jacobian, block)
        return edge_forces(by_edge, graph), edge_virials(by_edge, graph)

    padding = -n_members % MEMBERS_AT_ONCE
    slopes = jnp.pad(slopes, ((0, padding), (0, 0), (0, 0))).reshape(-1, MEMBERS_AT_ONCE, *slopes.shape[1:])
    forces, virials = jax.lax.map(results, slopes)
    forces = jnp.moveaxis(forces, -1, 1).reshape(-1, *forces.shape[1:3])[:n_members]
    virials = jnp.moveaxis(virials, -1, 1).reshape(-1, *virials.shape[1:4])[:n_members]
    return per_atom, forces, virials


def check_rate(rate: object, what: str, n_hidden: int) -> float:
    """The rate of dropout of a network with so many hidden layers.

    Raises:
        ConfigError: a rate outside (0, 1), or no hidden layers.
    """
    if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 < float(rate) < 1:
        raise ConfigError(f"{what} must lie between 0 and 1, both excluded, got {rate!r}")
    if n_hidden == 0:
        raise ConfigError(f"{what} {rate} needs a network with hidden layers, and this one has none")
    return float(rate)


def draw_masks(
    neurons: Sequence[int], n_members: int, rate: float, seed: int
) -> list[Bool[np.ndarray, "n_members width"]]:
    """Masks of the hidden layers; those of a member depend on the seed and its number alone.

    Args:
        neurons: widths of the hidden layers.
        n_members: number of members.
        rate: probability that a unit is dropped.
        seed: key of the Philox generators, not negative.
    """
    masks = [np.ones((n_members, width), bool) for width in neurons]
    for member in range(n_members):
        rng = np.random.Generator(np.random.Philox(key=[seed, member + 1]))
        for layer in masks:
            layer[member] = rng.random(layer.shape[1]) >= rate
    return masks


def _start_values(
    n_species: int, widths: Sequence[int], seed: int
) -> list[tuple[Float[np.ndarray, "n_species n_in n_out"], Float[np.ndarray, "n_species n_out"]]]:
    """Weights and biases of each layer, uniform within 1/sqrt(n_in)."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    layers = []
    for n_in, n_out in itertools.pairwise(widths):
        limit = 1 / np.sqrt(n_in)
        weights = rng.uniform(-limit, limit, (n_species, n_in, n_out))
        layers.append((weights, rng.uniform(-limit, limit, (n_species, n_out))))
    return layers


def _checked_widths(neurons: Sequence[int]) -> tuple[int, ...]:
    widths = tuple(neurons) if isinstance(neurons, Sequence) else None
    fine = widths is not None and all(
        isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in widths
    )
    if widths is None or not fine:
        raise ConfigError(
            f"neurons must be positive widths of the hidden layers, such as (10, 10): {neurons!r}"
        )
    return widths
