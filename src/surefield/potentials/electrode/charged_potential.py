"""What all potentials of an electrode share: they read its potential Phi, and charges follow from that."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Array, Float, Int

from surefield.errors import DataError
from surefield.potentials.abilities import HasOutputs, HasRanges, ReadsElectrode, Restricted, SiteInput
from surefield.potentials.electrode.interface import Interface
from surefield.potentials.element_networks import NetworkInputs
from surefield.potentials.evaluate import predict, species_index
from surefield.potentials.potential import MECHANICAL, DescriptorPotential
from surefield.potentials.vector_potential import VectorPotential
from surefield.structures.electrode import (
    INTERFACE,
    PHI,
    check_scale,
    electrode_potential,
    grand_canonical_labels,
    stated_interface,
)
from surefield.structures.graph import Graph, collate, sum_atoms
from surefield.structures.labels import Labels
from surefield.structures.read import Frames

__all__ = ["ChargedPotential", "HasCharges", "Sites", "warn_of_negative_capacitance"]


class Sites(NamedTuple):
    """What the energies of atoms follow from.

    Attributes:
        features: of the descriptor.
        decays: g_eta of the height of each atom.
        phi: electrode potential at each atom, V.
        place: of its element in `species`.
    """

    features: Float[Array, "n_atoms width"]
    decays: Float[Array, "n_atoms n_etas"]
    phi: Float[Array, " n_atoms"]
    place: Int[Array, " n_atoms"]


class HasCharges(abc.ABC):
    """It has charges of atoms that need not be the slope of its energy."""

    @abc.abstractmethod
    def charges_of_sites(self, sites: Sites) -> Float[Array, " n_atoms"]:
        """Charge of each atom, e."""


class ChargedPotential(  # type: ignore[misc]
    DescriptorPotential, VectorPotential, ReadsElectrode, Restricted, HasOutputs, HasRanges
):
    """A potential whose energy is Omega(R, Phi), the grand-canonical energy at an electrode potential.

    Forces are -dOmega/dR at constant Phi, the number of excess electrons is N_e = dOmega/dPhi at fixed R, and
    the charge of an atom -d(omega_i)/dPhi. Omega depends on descriptor features, and through the heights of
    atoms above the metal on positions. It is invariant to permutations and translations; turning a structure
    is not invariant unless the normal of the surface turns as well.

    Attributes:
        interface: where the metal ends.
        default_phi: V, of structures without an electrode potential; 0: there is none.
    """

    invariances: ClassVar[tuple[str, ...]] = ("permutation", "translation")
    #: Heights above the metal surface are positions.
    reads_positions: ClassVar[bool] = True
    supplies: ClassVar[frozenset[str]] = MECHANICAL | {
        *("charges", "excess_electrons", "electrode_potential", "capacitance")
    }

    interface: eqx.AbstractVar[Interface]
    default_phi: eqx.AbstractVar[Float[Array, ""]]

    @abc.abstractmethod
    def site_omega(self, sites: Sites) -> Float[Array, " n_atoms"]:
        """Grand-canonical energy of each atom, without element offsets; eV."""

    @abc.abstractmethod
    def edge_inputs(self, graph: Graph) -> Float[Array, "n_atoms n_etas"]:
        """Inputs of the networks besides the descriptor's features: functions of the height of each atom."""

    @abc.abstractmethod
    def edge_name(self, eta: float) -> str:
        """What such an input is, for messages."""

    @abc.abstractmethod
    def input_ranges(
        self,
    ) -> tuple[Float[Array, "n_species width_plus_etas"], Float[Array, "n_species width_plus_etas"]]:
        """Least and largest inputs of each element over the training set: its features, then the others."""

    @property
    def _counts(self) -> list[int]:
        """Inputs of the networks of each element that read functions of the height."""
        return [n + len(self.interface.etas) for n in self.descriptor.n_features]

    @property
    def electrode_potential(self) -> float | None:
        """Potential of structures that state none, V."""
        return float(self.default_phi) or None

    def with_default_phi(self, phi: float | None) -> Self:
        """Copy with another electrode potential (V) for structures that state none."""
        return eqx.tree_at(lambda p: p.default_phi, self, default_phi(phi))

    def inputs_of(self, atoms: Atoms) -> dict[str, float]:
        """The electrode potential of a structure and the interface it states."""
        phi = electrode_potential(atoms, "the structure")
        phi = float(self.default_phi) if np.isnan(phi) else phi
        return {PHI: phi, INTERFACE: stated_interface(atoms, "the structure")}

    def understood_labels(self, frames: Frames, labels: Sequence[Labels]) -> tuple[Sequence[Labels], str]:
        """Labels with the grand-canonical energy, and with the excess electrons that structures state."""
        return grand_canonical_labels(frames, labels, self.electrode_potential)

    def check_served(self, atoms: Atoms, where: object) -> None:
        """Raise `DataError` unless a structure has an electrode potential (V) and a metal surface."""
        if np.isnan(electrode_potential(atoms, where)) and not self.default_phi:
            raise DataError(
                "no electrode potential",
                where=where,
                expected="V on the absolute scale in info['electrode_potential']",
                fix="or give the potential one for all structures: electrode_potential=4.4",
            )
        if np.isnan(stated_interface(atoms, where)) and self.interface.number not in atoms.numbers:
            raise DataError(
                f"no {self.interface.metal}, whose atoms are the electrode",
                where=where,
                got=atoms.get_chemical_formula(),
                fix="set slab_metal=, or state the height of the surface in info['interface'] (Å)",
            )

    def sites(self, features: Float[Array, "n_atoms width"], graph: Graph) -> Sites:
        """What the energies of atoms follow from."""
        phi = graph.inputs[PHI][graph.structure]
        return Sites(features, self.interface.decays(graph), phi, species_index(self, graph))

    def feature_energies(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, " n_atoms"]:
        """Grand-canonical energy of each atom from its features, without element offsets; eV."""
        omega = self.site_omega(self.sites(features, graph))
        return jnp.where(graph.atom_mask, omega, 0.0)

    def site_charges(self, sites: Sites) -> Float[Array, " n_atoms"]:
        """Charge of each atom, e."""
        if isinstance(self, HasCharges):
            return self.charges_of_sites(sites)
        return self.conjugate_site_charges(sites)

    def conjugate_site_charges(self, sites: Sites) -> Float[Array, " n_atoms"]:
        """-d(omega_i)/dPhi of each atom at fixed positions, e."""
        ones = jnp.ones_like(sites.phi)
        _, slopes = jax.jvp(lambda phi: self.site_omega(sites._replace(phi=phi)), (sites.phi,), (ones,))
        return -slopes

    def feature_charges(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, " n_atoms"]:
        """Charge of each atom from its descriptor features, e; zero for padding atoms."""
        charges = self.site_charges(self.sites(features, graph))
        return jnp.where(graph.atom_mask, charges, 0.0)

    def charges(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Charge of each atom, e; their sum is -N_e."""
        return self.feature_charges(self.descriptor.features(graph), graph)

    def outputs_of(self, graph: Graph) -> dict[str, Array]:
        """Charges of atoms, e, the number of excess electrons N_e = -sum of charges, and -dN_e/dPhi, e/V."""

        def charges_at(phi: Array) -> Array:
            return self.charges(eqx.tree_at(lambda g: g.inputs[PHI], graph, phi))

        phi = jnp.asarray(graph.inputs[PHI])
        charges, slopes = jax.jvp(charges_at, (phi,), (jnp.ones_like(phi),))
        return {
            "charges": charges,
            "excess_electrons": -sum_atoms(charges, graph),
            "capacitance": sum_atoms(slopes, graph),
        }

    def interface_height(self, atoms: Atoms) -> float:
        """Height z0 of the metal surface of a structure along the normal, Å; stated or found."""
        graph = collate([self.neighborhood(atoms)])
        return float(self.interface.heights(graph)[1][0])

    def _inputs(self, graph: Graph) -> NetworkInputs:
        descriptor = self.descriptor
        values = jnp.concatenate([descriptor.features(graph), self.edge_inputs(graph)], axis=1)
        return NetworkInputs(values, *self.input_ranges(), descriptor.n_features, descriptor.width)

    def excess(self, graph: Graph) -> Float[Array, "n_atoms width_plus_etas"]:
        """How far features, then functions of the height, lie outside the range of training, in its units."""
        return self._inputs(graph).excess(species_index(self, graph), graph.atom_mask)

    def described_input(self, graph: Graph, atom: int, column: int) -> SiteInput:
        """One of the features of an atom, or function of its height."""
        descriptor = self.descriptor
        place = self.species.index(int(graph.numbers[atom]))
        if column < descriptor.width:
            name = descriptor.names(descriptor.symbols[place])[column]
        else:
            name = self.edge_name(self.interface.etas[column - descriptor.width])
        return SiteInput(name, *self._inputs(graph).one(atom, place, column))


def default_phi(phi: float | None) -> Float[Array, ""]:
    """Electrode potential of structures without one as an array, checked; 0 stands for none."""
    if phi is not None:
        check_scale(phi, "electrode_potential=")
    return jnp.asarray(0.0 if phi is None else phi, jnp.float64)


def warn_of_negative_capacitance(potential: ChargedPotential, frames: Sequence[Atoms]) -> list[int]:
    """Warn of training images whose capacitance -dN_e/dPhi is negative: the fit is unphysical there.

    Args:
        potential: trained.
        frames: structures it was trained on.

    Returns:
        Indices of these images.
    """
    origin = getattr(frames, "origin", lambda index: f"frame {index}")
    predictions = predict(potential, frames, forces=False, stress=False)
    values = np.array([prediction.capacitance for prediction in predictions], np.float64)
    negative = np.flatnonzero(values < 0).tolist()
    if negative:
        worst = int(np.argmin(values))
        named = ", ".join(origin(i) for i in negative[:5]) + (", ..." if len(negative) > 5 else "")
        warnings.warn(
            f"negative capacitance on {len(negative)} of {len(values)} training images ({named}); the least: "
            f"{values[worst]:.3g} e/V in {origin(worst)}; train on more potentials there, or with a larger "
            "charge coefficient",
            stacklevel=2,
        )
    return negative
