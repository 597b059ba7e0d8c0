"""Morse potential of several species."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from surefield.potentials.parametric.pair import PairPotential
from surefield.potentials.parametric.parameters import ParameterForm

__all__ = ["Morse"]


class Morse(PairPotential):
    """E = sum_(i<j) epsilon (2 e^(-C(r - Rzero)) - e^(-2C(r - Rzero))), zero from the cutoff on.

    As in KIM's drivers, epsilon < 0 for a bound pair. Source: Morse, Phys. Rev. 34, 57 (1929).

    Args:
        values: cutoff (Å), epsilon (eV), C (1/Å), Rzero (Å), one number per pair of species.
        species: chemical symbols, in the order of the values.
        shift: subtract each pair's energy at the cutoff, as KIM's `Morse_Shifted` drivers do.
    """

    KIND: ClassVar[str] = "morse"
    FORMS: ClassVar[Mapping[str, ParameterForm]] = {
        "cutoff": ParameterForm("Å", usually_free=False),
        "epsilon": ParameterForm("eV"),
        "C": ParameterForm("1/Å"),
        "Rzero": ParameterForm("Å"),
    }

    def form(self, of: Mapping[str, Array], r: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """2 x - x^2, x = e^(-C(r - Rzero))."""
        x = jnp.exp(-of["C"] * (r - of["Rzero"]))
        return x * (2 - x)
