"""Morse potential of several species."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from surefield.potentials.parametric.edges import BondPotential, Edges
from surefield.potentials.parametric.parameters import Entry, ParameterForm

__all__ = ["Morse"]


class Morse(BondPotential):
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
        pair = _pair(jnp.exp(-of["C"] * (jnp.where(near, edges.r, of["cutoff"]) - of["Rzero"])))
        if self.shift:
            pair = pair - _pair(jnp.exp(-of["C"] * (of["cutoff"] - of["Rzero"])))
        return 0.5 * jnp.sum(jnp.where(near, of["epsilon"] * pair, 0.0), axis=0)


def _pair(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return x * (2 - x)
