"""Charge networks: grand-canonical energies of an electrode from two networks per element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surefield.descriptors.atomic_descriptor import AtomicDescriptor
from surefield.errors import ConfigError, nearest
from surefield.potentials.abilities import Prepared, SavedByArguments, TrainingData
from surefield.potentials.electrode.charged_potential import ChargedPotential, HasCharges, Sites, default_phi
from surefield.potentials.electrode.interface import Interface, decay_ranges
from surefield.potentials.element_networks import (
    ElementNetworks,
    Layers,
    alphabetical,
    feature_ranges,
    hidden_widths,
    random_networks,
    scalings,
    unit_ranges,
    with_more,
)
from surefield.structures.electrode import PHI
from surefield.structures.graph import Graph

__all__ = ["SCHEMES", "ChargeNetwork"]

SCHEMES = ("consistent", "amp")
#: Start values: hardness, eV/e^2, and slope of the charges, e.
_HARDNESS, _CHARGE_SLOPE = 0.3, 0.1


class _Latent(NamedTuple):
    """Electronegativity chi (V) and charge q (e) of each atom, and their slopes by last-layer weights."""

    chi: Float[Array, " n_atoms"]
    q: Float[Array, " n_atoms"]
    chi_slopes: Float[Array, "n_atoms n_chi"]
    q_slopes: Float[Array, "n_atoms n_q"]


class ChargeNetwork(ChargedPotential, SavedByArguments, Prepared, HasCharges):
    """Omega = sum_i Ei + chi_i q_i + Jii q_i^2/2 -+ Phi q_i; chi_i = NN(G_i), q_i = NN([G_i, Phi g_eta]).

    Scheme 'consistent' (minus): smooth in R, q_i is a latent, charges of atoms are -d(omega_i)/dPhi and
    N_e = dOmega/dPhi exactly. Scheme 'amp' (plus): charges are q_i, and their sum is not -dOmega/dPhi; the
    surface is the highest metal atom and g_eta has a step. It is there for models of the program Amp. Chen,
    El Khatib, Lindgren, Willard, Medford, Peterson, npj Comput. Mater. 9, 73 (2023).

    Args:
        descriptor: turns neighbours into features; it knows the elements and the cutoff.
        hidden: widths of the hidden layers of chi of each element, in the order of `descriptor.species`.
        charge_hidden: the same of q.
        activation: of chi: 'tanh', 'sigmoid' or 'linear'.
        charge_activation: of q.
        scheme: 'consistent' or 'amp'.
        output_activation: 'linear' or 'activation', of both output nodes.
        electrode_potential: of structures that state none, V.
        seed: of the initial weights.
        dtype: of the parameters and the arithmetic; Ei are float64 either way.
        **surface: of the electrode: `etas`, `slab_metal` and whatever else `Interface.of_surface` takes.

    Raises:
        ConfigError: an unknown scheme or convention, or a value out of range.
    """

    KIND: ClassVar[str] = "charge_network"
    FIXED: ClassVar[tuple[str, ...]] = (
        *("default_phi", "offsets", "low", "high", "charge_low", "charge_high"),
    )

    descriptor: AtomicDescriptor = eqx.field(static=True)
    interface: Interface = eqx.field(static=True)
    scheme: str = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    charge_activation: str = eqx.field(static=True)
    output_activation: str = eqx.field(static=True)
    default_phi: Float[Array, ""]
    offsets: Float[Array, " n_species"]
    hardness: Float[Array, " n_species"]
    slopes: Float[Array, " n_species"]
    intercepts: Float[Array, " n_species"]
    charge_slopes: Float[Array, " n_species"]
    charge_intercepts: Float[Array, " n_species"]
    low: Float[Array, "n_species width"]
    high: Float[Array, "n_species width"]
    charge_low: Float[Array, "n_species width_plus_etas"]
    charge_high: Float[Array, "n_species width_plus_etas"]
    layers: Layers
    charge_layers: Layers
    readout: Float[Array, "n_species n_site_features"]
    bias: Float[Array, "n_species 2"]

    def __init__(
        self,
        descriptor: AtomicDescriptor,
        hidden: Sequence[Sequence[int]],
        charge_hidden: Sequence[Sequence[int]],
        activation: str = "tanh",
        charge_activation: str = "tanh",
        *,
        scheme: str = "consistent",
        output_activation: str = "linear",
        electrode_potential: float | None = None,
        seed: int = 0,
        dtype: str | np.typing.DTypeLike = "float64",
        **surface: Any,
    ) -> None:
        if scheme not in SCHEMES:
            raise ConfigError(f"unknown scheme {scheme!r}; {nearest(scheme, SCHEMES)}")
        dtype = np.dtype(dtype)
        self.descriptor, self.scheme, self.output_activation = descriptor, scheme, output_activation
        self.activation, self.charge_activation = activation, charge_activation
        self.interface = Interface.of_surface(**surface, smooth=scheme == "consistent")
        self.default_phi = default_phi(electrode_potential)
        n, n_etas = len(descriptor.species), len(self.interface.etas)
        self.offsets, self.hardness = jnp.zeros(n, jnp.float64), jnp.full(n, _HARDNESS, dtype)
        self.slopes, self.intercepts = jnp.ones(n, dtype), jnp.zeros(n, dtype)
        self.charge_slopes, self.charge_intercepts = jnp.full(n, _CHARGE_SLOPE, dtype), jnp.zeros(n, dtype)
        self.low, self.high = unit_ranges(n, descriptor.width, dtype)
        self.charge_low, self.charge_high = unit_ranges(n, descriptor.width + n_etas, dtype)
        rng, order = np.random.RandomState(seed), alphabetical(descriptor.species)
        self.layers, readout, bias = random_networks(rng, order, descriptor.n_features, hidden, dtype)
        self.charge_layers, charge_readout, charge_bias = random_networks(
            rng, order, self._counts, charge_hidden, dtype
        )
        self.readout = jnp.concatenate([readout[:, 0], charge_readout[:, 0]], axis=1)
        self.bias = jnp.concatenate([bias, charge_bias], axis=1)

    @property
    def conjugate_charges(self) -> bool:  # type: ignore[override]
        """Whether N_e is the derivative of the energy with respect to the electrode potential."""
        return self.scheme == "consistent"

    @property
    def bounded(self) -> bool:
        """Whether the output nodes carry the activations."""
        return self.output_activation == "activation"

    @property
    def n_chi(self) -> int:
        """Columns of `readout` that belong to chi; the others belong to q."""
        pairs = zip(self.descriptor.n_features, self.layers, strict=True)
        return max(layers[-1].shape[1] if layers else n for n, layers in pairs)

    def arguments(self) -> dict[str, Any]:
        """Those of the constructor, for a potential of this shape."""
        return {
            "descriptor": self.descriptor.config(),
            "hidden": hidden_widths(self.layers),
            "charge_hidden": hidden_widths(self.charge_layers),
            "activation": self.activation,
            "charge_activation": self.charge_activation,
            **self.interface.surface(),
            "scheme": self.scheme,
            "output_activation": self.output_activation,
            "dtype": str(self.readout.dtype),
        }

    def prepared_from(self, data: TrainingData) -> Self:
        """Offsets as Ei, the mean electrode potential as intercept of chi, ranges of the inputs."""
        low, high = feature_ranges(self.descriptor, data.structures)
        edges = decay_ranges(self.interface, self.species, data.structures, times_phi=True)
        phi = np.mean([s.inputs[PHI] for s in data.structures])
        n = self.descriptor.n_features
        ranges = (low, high, with_more(low, edges[0], n), with_more(high, edges[1], n))
        values = (
            jnp.full_like(self.intercepts, phi),
            *(jnp.asarray(x, self.low.dtype) for x in ranges),
        )
        plain = self.with_offsets(data.offsets)
        return eqx.tree_at(
            lambda p: (p.intercepts, p.low, p.high, p.charge_low, p.charge_high), plain, values
        )

    @property
    def networks(self) -> tuple[ElementNetworks, ElementNetworks]:
        """Those of chi and those of q."""
        n, readout, bias = self.n_chi, self.readout[:, None], self.bias[:, :, None]
        chi = (self.layers, readout[..., :n], bias[:, 0], self.low, self.high, self.activation)
        ranges = (self.charge_low, self.charge_high, self.charge_activation)
        q = (self.charge_layers, readout[..., n:], bias[:, 1], *ranges)
        return (
            ElementNetworks(self.descriptor.n_features, *chi, self.bounded),
            ElementNetworks(self._counts, *q, self.bounded),
        )

    def ordered(self) -> list[Array]:
        """Weights, scalings, charge weights, charge scalings, Ei, Jii, each by element sorted by symbol.

        Weights go layer by layer, row by row, biases last; scalings are intercept and slope.
        """
        order, (chi, q) = alphabetical(self.species), self.networks
        return [
            *chi.ordered(order),
            *scalings(order, self.intercepts, self.slopes),
            *q.ordered(order),
            *scalings(order, self.charge_intercepts, self.charge_slopes),
            self.offsets[order],
            self.hardness[order],
        ]

    def _latent(self, sites: Sites) -> _Latent:
        (features, decays, phi, index), (chi_networks, q_networks) = sites, self.networks
        inputs = chi_networks.hidden(features, index)
        charge_inputs = q_networks.hidden(features, index, phi[:, None] * decays)
        chi, chi_slope = chi_networks.output(inputs, index, self.slopes)
        q, q_slope = q_networks.output(charge_inputs, index, self.charge_slopes)
        return _Latent(
            chi + self.intercepts[index],
            q + self.charge_intercepts[index],
            chi_slope[:, None] * inputs,
            q_slope[:, None] * charge_inputs,
        )

    @property
    def _sign(self) -> float:
        return -1.0 if self.scheme == "consistent" else 1.0

    def site_omega(self, sites: Sites) -> Float[Array, " n_atoms"]:
        """Grand-canonical energy of each atom without Ei, eV."""
        chi, q, *_ = self._latent(sites)
        return (chi + self._sign * sites.phi.astype(q.dtype)) * q + 0.5 * self.hardness[sites.place] * q**2

    def charges_of_sites(self, sites: Sites) -> Float[Array, " n_atoms"]:
        """Charge of each atom, e: q_i in scheme 'amp', else -d(omega_i)/dPhi."""
        return self._latent(sites).q if self.scheme == "amp" else self.conjugate_site_charges(sites)

    def last_layer_features(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, "n_atoms n_site_features"]:
        """Derivative of each atom's omega with respect to its last weights, of chi and of q."""
        sites = self.sites(features, graph)
        chi, q, chi_slopes, q_slopes = self._latent(sites)
        by_q = chi + self._sign * sites.phi.astype(q.dtype) + self.hardness[sites.place] * q
        return jnp.concatenate([q[:, None] * chi_slopes, by_q[:, None] * q_slopes], axis=1)

    def edge_inputs(self, graph: Graph) -> Float[Array, "n_atoms n_etas"]:
        """Charge fingerprints Phi g_eta, V."""
        return self.interface.fingerprints(graph)

    def edge_name(self, eta: float) -> str:
        """Name of a charge fingerprint."""
        return f"charge fingerprint eta={eta:g}"

    def input_ranges(self) -> tuple[Float[Array, "n_species wide"], Float[Array, "n_species wide"]]:
        """Ranges of the inputs of q."""
        return self.charge_low, self.charge_high
