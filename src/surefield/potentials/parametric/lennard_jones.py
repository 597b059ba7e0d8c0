"""Lennard-Jones potential of several species."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from surefield.potentials.parametric.edges import BondPotential, Edges
from surefield.potentials.parametric.parameters import Entry, ParameterForm

__all__ = ["LennardJones"]


class LennardJones(BondPotential):
    """E = sum_(i<j) 4 epsilon ((sigma/r)^12 - (sigma/r)^6), zero from the cutoff on.

    Source: Lennard-Jones, Proc. R. Soc. A 106, 463 (1924).

    Args:
        values: cutoff (Å), epsilon (eV), sigma (Å), one number per pair of species (11, 12, .., 22, ..).
        species: chemical symbols, in the order of the values.
        shift: subtract each pair's energy at the cutoff, as KIM's `LJ_Shifted` drivers do; KLIFF's own
            Lennard-Jones model does not.
    """

    KIND: ClassVar[str] = "lennard_jones"
    FORMS: ClassVar[Mapping[str, ParameterForm]] = {
        "cutoff": ParameterForm("Å", usually_free=False),
        "epsilon": ParameterForm("eV"),
        "sigma": ParameterForm("Å"),
    }

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

    def options(self) -> dict[str, Any]:
        """Whether the energy at the cutoff is subtracted."""
        return {"shift": self.shift}

    def edge_energies(self, edges: Edges) -> Float[Array, " n_atoms"]:
        """Half of each bond, eV."""
        of = self.of_pairs(edges)
        near = edges.mask & (edges.r < of["cutoff"])
        pair = _pair((of["sigma"] / jnp.where(near, edges.r, of["cutoff"])) ** 2)
        if self.shift:
            pair = pair - _pair((of["sigma"] / of["cutoff"]) ** 2)
        return 0.5 * jnp.sum(jnp.where(near, of["epsilon"] * pair, 0.0), axis=0)


def _pair(ratio2: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """4 (x^12 - x^6) from x^2."""
    sixth = ratio2**3
    return 4 * (sixth * sixth - sixth)
