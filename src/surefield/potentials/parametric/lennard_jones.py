"""Lennard-Jones potential of several species."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Array, Float

from surefield.potentials.parametric.pair import PairPotential
from surefield.potentials.parametric.parameters import ParameterForm

__all__ = ["LennardJones"]


class LennardJones(PairPotential):
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

    def form(self, of: Mapping[str, Array], r: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """4 ((sigma/r)^12 - (sigma/r)^6)."""
        sixth = ((of["sigma"] / r) ** 2) ** 3
        return 4 * (sixth * sixth - sixth)
