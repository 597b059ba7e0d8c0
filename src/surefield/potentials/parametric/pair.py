"""Pair potentials: an energy epsilon u(r) of every bond, shifted to zero at the cutoff if asked for."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from surefield.potentials.parametric.edges import BondPotential, Edges
from surefield.potentials.parametric.parameters import Entry, FormulaPotential

__all__ = ["PairPotential"]


class PairPotential(BondPotential, FormulaPotential):
    """E = sum_(i<j) epsilon u(r_ij), zero from the cutoff on; `cutoff` and `epsilon` are parameters.

    Args:
        values: one number per pair of species (11, 12, .., 22, ..).
        species: chemical symbols, in the order of the values.
        shift: subtract each pair's energy at the cutoff.
    """

    shift: bool = eqx.field(static=True)

    def __init__(
        self,
        values: Mapping[str, ArrayLike],
        species: Sequence[str],
        *,
        shift: bool = True,
        free: Iterable[Entry | tuple[str, int]] | None = None,
    ) -> None:
        super().__init__(values, species, free=free)
        self.shift = bool(shift)

    @abc.abstractmethod
    def form(self, of: Mapping[str, Array], r: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """u(r) of bonds with the parameters `of`, in units of epsilon."""

    def ranges(self) -> Float[Array, " n_ranges"]:
        """Cutoffs of all pairs, Å (traceable)."""
        return self.values["cutoff"]

    def options(self) -> dict[str, Any]:
        """Whether the energy at the cutoff is subtracted."""
        return {"shift": self.shift}

    def edge_energies(self, edges: Edges) -> Float[Array, " n_atoms"]:
        """Half of each bond, eV."""
        of = self.of_pairs(edges)
        near = edges.mask & (edges.r < of["cutoff"])
        # Beyond the cutoff its own length stands in, where everything is finite.
        pair = self.form(of, jnp.where(near, edges.r, of["cutoff"]))
        if self.shift:
            pair = pair - self.form(of, of["cutoff"])
        return 0.5 * jnp.sum(jnp.where(near, of["epsilon"] * pair, 0.0), axis=0)
