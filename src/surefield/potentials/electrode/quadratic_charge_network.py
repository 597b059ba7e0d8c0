"""Grand-canonical energies that are quadratic in the electrode potential, from one network per element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from surefield.descriptors.atomic_descriptor import AtomicDescriptor
from surefield.potentials.abilities import Prepared, SavedByArguments, TrainingData
from surefield.potentials.electrode.charged_potential import ChargedPotential, Sites, default_phi
from surefield.potentials.electrode.interface import Interface, decay_ranges
from surefield.potentials.element_networks import (
    ElementNetworks,
    Layers,
    alphabetical,
    energy_slope,
    feature_ranges,
    hidden_widths,
    random_networks,
    unit_ranges,
    with_more,
)
from surefield.structures.electrode import PHI
from surefield.structures.graph import Graph

__all__ = ["QuadraticChargeNetwork"]

#: Outputs of a network: energy, electrons and capacitance.
_OUTPUTS = 3
#: Start values of the slopes of n (e) and c (e/V).
_START = (0.1, 0.02)


class _Response(NamedTuple):
    """Energy a (eV), electrons n (e) and capacitance c (e/V) of each atom, and the slope of c by its node."""

    a: Float[Array, " n_atoms"]
    n: Float[Array, " n_atoms"]
    c: Float[Array, " n_atoms"]
    c_slope: Float[Array, " n_atoms"]


class QuadraticChargeNetwork(ChargedPotential, SavedByArguments, Prepared):
    """Omega = sum_i Ei + a_i + n_i (Phi - Phi0) - c_i (Phi - Phi0)^2/2; a, n, c = NN([G_i, g_eta]), c > 0.

    So N_e = sum_i n_i - c_i (Phi - Phi0) is linear in the potential, and the capacitance sum_i c_i positive.
    Phi0 is the mean electrode potential of the training set. a and n are slope times output node; c is slope
    times softplus of its node.

    Args:
        descriptor: turns neighbours into features; it knows the elements and the cutoff.
        hidden: widths of the hidden layers of each element, in the order of `descriptor.species`.
        activation: 'tanh', 'sigmoid' or 'linear'.
        electrode_potential: of structures that state none, V.
        seed: of the initial weights.
        dtype: of the parameters and the arithmetic; Ei are float64 either way.
        **surface: of the electrode: `etas`, `slab_metal` and whatever else `Interface.of_surface` takes.

    Raises:
        ConfigError: a value out of range.
    """

    KIND: ClassVar[str] = "quadratic_charge_network"
    FIXED: ClassVar[tuple[str, ...]] = ("default_phi", "reference_phi", "offsets", "low", "high")

    descriptor: AtomicDescriptor = eqx.field(static=True)
    interface: Interface = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    default_phi: Float[Array, ""]
    reference_phi: Float[Array, ""]
    offsets: Float[Array, " n_species"]
    slopes: Float[Array, "n_species 3"]
    low: Float[Array, "n_species width_plus_etas"]
    high: Float[Array, "n_species width_plus_etas"]
    layers: Layers
    readout: Float[Array, "n_species n_site_features"]
    bias: Float[Array, "n_species 3"]

    def __init__(
        self,
        descriptor: AtomicDescriptor,
        hidden: Sequence[Sequence[int]],
        activation: str = "tanh",
        *,
        electrode_potential: float | None = None,
        seed: int = 0,
        dtype: str | np.typing.DTypeLike = "float64",
        **surface: Any,
    ) -> None:
        dtype = np.dtype(dtype)
        self.descriptor, self.activation = descriptor, activation
        self.interface = Interface.of_surface(**surface)
        self.default_phi, self.reference_phi = default_phi(electrode_potential), jnp.zeros((), jnp.float64)
        n = len(descriptor.species)
        self.offsets = jnp.zeros(n, jnp.float64)
        self.slopes = jnp.tile(jnp.asarray([1.0, *_START], dtype), (n, 1))
        self.low, self.high = unit_ranges(n, descriptor.width + len(self.interface.etas), dtype)
        rng, order = np.random.RandomState(seed), alphabetical(descriptor.species)
        self.layers, readout, bias = random_networks(rng, order, self._counts, hidden, dtype, _OUTPUTS)
        self.readout, self.bias = readout.reshape(n, -1), bias

    def arguments(self) -> dict[str, Any]:
        """Those of the constructor, for a potential of this shape."""
        return {
            "descriptor": self.descriptor.config(),
            "hidden": hidden_widths(self.layers),
            "activation": self.activation,
            **self.interface.surface(),
            "dtype": str(self.readout.dtype),
        }

    def prepared_from(self, data: TrainingData) -> Self:
        """Offsets as Ei, the slope of a from the spread of the energies, Phi0, ranges of the inputs."""
        features = feature_ranges(self.descriptor, data.structures)
        edges = decay_ranges(self.interface, self.species, data.structures)
        low, high = (
            jnp.asarray(with_more(ends, more, self.descriptor.n_features), self.low.dtype)
            for ends, more in zip(features, edges, strict=True)
        )
        values = (
            jnp.asarray(np.mean([s.inputs[PHI] for s in data.structures]), jnp.float64),
            self.slopes.at[:, 0].set(energy_slope(data.structures, data.energies, data.offsets)),
            *(low, high),
        )
        plain = self.with_offsets(data.offsets)
        return eqx.tree_at(lambda p: (p.reference_phi, p.slopes, p.low, p.high), plain, values)

    @property
    def networks(self) -> tuple[ElementNetworks]:
        """The one of each element, with three output nodes."""
        readout = self.readout.reshape(len(self.species), _OUTPUTS, -1)
        arrays = (self.layers, readout, self.bias, self.low, self.high)
        return (ElementNetworks(self._counts, *arrays, self.activation),)

    def ordered(self) -> list[Array]:
        """Weights of each element (sorted by symbol), row by row; then slopes of a, n, c of each; then Ei."""
        order = alphabetical(self.species)
        return [*self.networks[0].ordered(order), self.slopes[order], self.offsets[order]]

    def _hidden(self, sites: Sites) -> Float[Array, "n_atoms width"]:
        return self.networks[0].hidden(sites.features, sites.place, sites.decays)

    def _response(self, hidden: Float[Array, "n_atoms width"], index: Int[Array, " n_atoms"]) -> _Response:
        node = self.networks[0].nodes(hidden, index)
        slopes = self.slopes[index]
        # A slope whose sign training has turned must not turn the capacitance.
        width = jnp.abs(slopes[:, 2])
        return _Response(
            slopes[:, 0] * node[:, 0],
            slopes[:, 1] * node[:, 1],
            width * jax.nn.softplus(node[:, 2]),
            width * jax.nn.sigmoid(node[:, 2]),
        )

    def _shift(self, phi: Float[Array, " n_atoms"]) -> Float[Array, " n_atoms"]:
        return (phi - self.reference_phi.astype(phi.dtype)).astype(self.readout.dtype)

    def site_omega(self, sites: Sites) -> Float[Array, " n_atoms"]:
        """Grand-canonical energy of each atom without Ei, eV."""
        response = self._response(self._hidden(sites), sites.place)
        shift = self._shift(sites.phi)
        return response.a + response.n * shift - 0.5 * response.c * shift**2

    def last_layer_features(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, "n_atoms n_site_features"]:
        """Derivative of each atom's omega with respect to its last weights, of a, n and c."""
        sites = self.sites(features, graph)
        hidden, shift, slopes = self._hidden(sites), self._shift(sites.phi), self.slopes[sites.place]
        c_slope = self._response(hidden, sites.place).c_slope
        factors = [slopes[:, 0], slopes[:, 1] * shift, -0.5 * c_slope * shift**2]
        return jnp.concatenate([factor[:, None] * hidden for factor in factors], axis=1)

    def edge_inputs(self, graph: Graph) -> Float[Array, "n_atoms n_etas"]:
        """Values of g_eta."""
        return self.interface.decays(graph)

    def edge_name(self, eta: float) -> str:
        """Name of a function of the height."""
        return f"function of the height eta={eta:g}"

    def input_ranges(self) -> tuple[Float[Array, "n_species wide"], Float[Array, "n_species wide"]]:
        """Ranges of the inputs."""
        return self.low, self.high
