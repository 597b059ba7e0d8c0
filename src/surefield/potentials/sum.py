"""Sum of a learned potential and a fixed baseline."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import equinox as eqx
import jax.numpy as jnp
from ase import Atoms
from jaxtyping import Array, Float

from surefield.errors import PotentialError
from surefield.potentials.potential import LastLayerPotential, Potential
from surefield.structures.graph import Graph
from surefield.structures.neighbors import Neighborhood, neighborhood

__all__ = ["SumPotential"]


class SumPotential(Potential):
    """E = E_learned + E_baseline; training changes the learned part only.

    The neighbour list reaches to the larger cutoff; both parts fade to zero at their own.
    """

    learned: Potential
    baseline: Potential
    species: tuple[int, ...] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)

    def __init__(self, learned: Potential, baseline: Potential) -> None:
        missing = set(learned.species) - set(baseline.species)
        if missing:
            raise PotentialError(
                f"the baseline does not know the elements {sorted(missing)} of the potential"
            )
        self.learned, self.baseline = learned, baseline
        self.species = learned.species
        self.cutoff = max(learned.cutoff, baseline.cutoff)

    @property
    def offsets(self) -> Float[Array, " n_species"]:  # type: ignore[override]
        """Element offsets of the learned part; a baseline has none."""
        return self.learned.offsets

    def constants(self) -> tuple[object, ...]:
        """Those of the learned part, and the whole baseline."""
        return (*self.learned.constants(), self.baseline)

    @property
    def supplies(self) -> frozenset[str]:  # type: ignore[override]
        """Results of the learned part."""
        return self.learned.supplies

    @property
    def reads_positions(self) -> bool:  # type: ignore[override]
        """Whether the learned part does."""
        return self.learned.reads_positions

    def neighborhood(self, atoms: Atoms) -> Neighborhood:
        """What the learned part reads of a structure, with neighbours up to the larger cutoff."""
        found, own = neighborhood(atoms, self.cutoff), self.learned.neighborhood(atoms)
        return replace(found, electrode_potential=own.electrode_potential, interface=own.interface)

    def check_frame(self, atoms: Atoms, where: object) -> None:
        """Raise an error unless the learned part can serve a structure."""
        self.learned.check_frame(atoms, where)

    def at_potential(self, phi: float | None) -> Self:
        """Copy with another electrode potential (V) of the learned part."""
        return eqx.tree_at(lambda p: p.learned, self, self.learned.at_potential(phi))

    def charges(self, graph: Graph) -> Float[Array, " n_atoms"] | None:
        """Charges of the learned part; a baseline has none."""
        return self.learned.charges(graph)

    def extrapolation(self, graph: Graph) -> Float[Array, "n_atoms n_site_inputs"] | None:
        """That of the learned part."""
        return self.learned.extrapolation(graph)

    def last_layer(self) -> LastLayerPotential:
        """That of the learned part."""
        return self.learned.last_layer()

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Sum of both parts, eV."""
        return self.learned.site_energies(graph) + jnp.asarray(self.baseline.site_energies(graph))
