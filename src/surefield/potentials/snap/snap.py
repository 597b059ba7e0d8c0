"""SNAP: energies that are linear or quadratic in bispectrum components."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surefield.descriptors.bispectrum import Bispectrum
from surefield.errors import ConfigError
from surefield.potentials.abilities import ClosedForm, ClosedRows, SavedByArguments, Solvable
from surefield.potentials.config import SnapConfig
from surefield.potentials.evaluate import species_index, species_numbers
from surefield.potentials.potential import DescriptorPotential
from surefield.potentials.snap.rows import closed_rows
from surefield.structures.graph import Graph
from surefield.structures.neighbors import Neighborhood

__all__ = ["Snap", "SnapConfig"]


class Snap(DescriptorPotential, SavedByArguments, Solvable, ClosedForm):
    """E = sum_i b_t + sum_k beta_tk B_ik (+ 1/2 sum_kl alpha_tkl B_ik B_il), t the element of atom i.

    Thompson et al., J. Comput. Phys. 285, 316 (2015); Wood and Thompson, J. Chem. Phys. 148, 241721 (2018)
    for the quadratic form. Columns of `readout` are those of LAMMPS `compute snap`: the components, then for
    each k the products B_k^2/2 and B_k B_l for l > k. The constants are in `bias`.

    Args:
        descriptor: bispectrum; it knows the elements and the cutoff.
        quadratic: whether there are products of components.

    Raises:
        ConfigError: products together with `chemflag`, which LAMMPS does not have.
    """

    KIND: ClassVar[str] = "snap"

    descriptor: Bispectrum = eqx.field(static=True)
    quadratic: bool = eqx.field(static=True)
    offsets: Float[Array, " n_species"]
    readout: Float[Array, "n_species n_site_features"]
    bias: Float[Array, " n_species"]

    def __init__(self, descriptor: Bispectrum, quadratic: bool = False) -> None:
        if quadratic and descriptor.chemflag:
            raise ConfigError("quadraticflag and chemflag do not go together in SNAP: leave one of them out")
        self.descriptor = descriptor  # type: ignore[misc]
        self.quadratic = bool(quadratic)
        n, width = len(descriptor.species), descriptor.width
        self.offsets = jnp.zeros(n)
        self.readout = jnp.zeros((n, width + (width * (width + 1) // 2 if quadratic else 0)))
        self.bias = jnp.zeros(n)

    @classmethod
    def from_settings(cls, config: SnapConfig, species: Sequence[str | int] = ()) -> Self:
        """Untrained potential of a run's configuration; `species` is used where it names none."""
        numbers = species_numbers(config.species or species)
        descriptor = Bispectrum(
            numbers,
            config.twojmax,
            rcutfac=config.cutoff,
            radelem=(0.5,) * len(numbers),
            wj=(1.0,) * len(numbers),
            rfac0=config.rfac0,
            rmin0=config.rmin0,
        )
        return cls(descriptor, config.quadratic)

    def arguments(self) -> dict[str, Any]:
        """Those of the constructor, for a potential of this shape."""
        return {"descriptor": self.descriptor.config(), "quadratic": self.quadratic}

    def n_linear(self) -> int:
        """All columns: the model is linear."""
        return self.readout.shape[1]

    def feature_energies(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, " n_atoms"]:
        """Energy of each atom from its bispectrum components, eV."""
        index, width = species_index(self, graph), self.descriptor.width
        coefficients = self.readout[index]
        energies = self.bias[index] + jnp.sum(coefficients[:, :width] * features, axis=1)
        if self.quadratic:
            # A square matrix of each element: half the products, and no array of all of them per atom.
            first, second = np.triu_indices(width)
            upper = (
                jnp.zeros((len(self.species), width, width)).at[:, first, second].set(self.readout[:, width:])
            )
            matrices = 0.5 * (upper + jnp.swapaxes(upper, 1, 2))
            matrices = jnp.where(jnp.eye(width, dtype=bool), 0.5 * matrices, matrices)
            forms = jnp.einsum("nk,tkl,nl->nt", features, matrices, features)
            energies = energies + jnp.take_along_axis(forms, index[:, None], axis=1)[:, 0]
        return jnp.where(graph.atom_mask, energies, 0.0)

    def last_layer_features(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, "n_atoms n_site_features"]:
        """Columns of each atom."""
        if not self.quadratic:
            return features
        first, second = np.triu_indices(self.descriptor.width)
        half = np.where(first == second, 0.5, 1.0)
        return jnp.concatenate([features, features[:, first] * features[:, second] * half], axis=1)

    def rows_of(
        self, structures: Iterable[Neighborhood], *, forces: bool, strain: bool
    ) -> Iterator[ClosedRows]:
        """Rows of each structure; derivatives of products follow from those of the components."""
        return closed_rows(
            self.descriptor, structures, quadratic=self.quadratic, forces=forces, strain=strain
        )
