"""Tersoff potential of several species, in the form of LAMMPS and of the KIM driver Tersoff_LAMMPS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surefield.potentials.parametric.edges import BondPotential, Edges
from surefield.potentials.parametric.parameters import FormulaPotential, ParameterForm

__all__ = ["Tersoff"]

#: Largest exponent of the distance factor of the bond order; LAMMPS cuts it there as well (e^69 = 1e30).
_LARGEST = 69.0776


class Tersoff(BondPotential, FormulaPotential):
    """E = 1/2 sum_(i != j) fC(r_ij) (A e^(-lambda1 r_ij) - b_ij B e^(-lambda2 r_ij)).

    b_ij = (1 + beta^n zeta_ij^n)^(-1/2n); zeta_ij = sum_(k != i, j) fC(r_ik) g(theta_ijk)
    exp((lambda3 (r_ij - r_ik))^m); g = gamma (1 + c^2/d^2 - c^2/(d^2 + (cos theta - h)^2)); fC falls from 1
    to 0 between Rc - Dc and Rc + Dc as 1/2 - 1/2 sin(pi/2 (r - Rc)/Dc). Bond parameters are those of i, j; Rc
    and Dc of a bond those of (i, j, j), the others of a triplet those of (i, j, k).
    Source: Tersoff, Phys. Rev. B 37, 6991 (1988); several species as in LAMMPS.

    Args:
        values: A, B in eV, lambda1, lambda2 in 1/Å, beta, n: one number per ordered pair; lambda3 in 1/Å, m
            (1 or 3), gamma, c, d, h, Rc, Dc in Å: one per ordered triplet, the last species running fastest.
        species: chemical symbols, in the order of the values.
    """

    KIND: ClassVar[str] = "tersoff"
    FORMS: ClassVar[Mapping[str, ParameterForm]] = {
        "A": ParameterForm("eV", "ordered pair"),
        "B": ParameterForm("eV", "ordered pair"),
        "lambda1": ParameterForm("1/Å", "ordered pair"),
        "lambda2": ParameterForm("1/Å", "ordered pair"),
        "beta": ParameterForm("", "ordered pair"),
        "n": ParameterForm("", "ordered pair"),
        "lambda3": ParameterForm("1/Å", "triplet"),
        "m": ParameterForm("", "triplet", integer=True),
        "gamma": ParameterForm("", "triplet"),
        "c": ParameterForm("", "triplet"),
        "d": ParameterForm("", "triplet"),
        "h": ParameterForm("", "triplet"),
        "Rc": ParameterForm("Å", "triplet", usually_free=False),
        "Dc": ParameterForm("Å", "triplet", usually_free=False),
    }

    def ranges(self) -> Float[Array, " n_ranges"]:
        """Outer ends of all cutoff functions, Å (traceable)."""
        return self.values["Rc"] + self.values["Dc"]

    def options(self) -> dict[str, Any]:
        """None."""
        return {}

    def edge_energies(self, edges: Edges) -> Float[Array, " n_atoms"]:
        """Half of each directed bond, eV."""
        pair, bond, triplet = self._tables(edges)
        near = edges.mask & (edges.r < bond["Rc"] + bond["Dc"])
        zeta = _zeta(edges, triplet)
        order = _bond_order(pair["beta"], pair["n"], zeta)
        repulsion = pair["A"] * jnp.exp(-pair["lambda1"] * edges.r)
        attraction = pair["B"] * jnp.exp(-pair["lambda2"] * edges.r)
        energy = _switch(edges.r, bond["Rc"], bond["Dc"]) * (repulsion - order * attraction)
        return 0.5 * jnp.sum(jnp.where(near, energy, 0.0), axis=0)

    def _tables(self, edges: Edges) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
        """Parameters of bonds (i, j), of bonds from their triplet (i, j, j), and of triplets (i, j, k)."""
        n = len(self.symbols)
        pairs = [name for name, form in self.FORMS.items() if form.per == "ordered pair"]
        triplets = [name for name, form in self.FORMS.items() if form.per == "triplet"]
        if n == 1:
            single = {name: self.values[name][0] for name in (*pairs, *triplets)}
            return single, single, single
        pair = edges.types * n + edges.others
        triplet = pair[:, None] * n + edges.others[None]
        own = pair * n + edges.others
        return (
            {name: self.values[name][pair] for name in pairs},
            {name: self.values[name][own] for name in ("Rc", "Dc")},
            {name: self.values[name][triplet] for name in triplets},
        )


def _switch(r: Array, middle: Array, half: Array) -> Array:
    """1 inside, 0 outside, half a sine between."""
    width = jnp.where(half > 0, half, 1.0)
    t = jnp.clip((r - middle) / width, -1.0, 1.0)
    return jnp.where(half > 0, 0.5 - 0.5 * jnp.sin(0.5 * np.pi * t), jnp.where(r < middle, 1.0, 0.0))


def _zeta(edges: Edges, of: Mapping[str, Array]) -> Float[Array, "n_neighbors n_atoms"]:
    """Sum over the other neighbours k of i of how much they weaken the bond ij."""
    r_ij, r_ik = edges.r[:, None], edges.r[None]
    cosine = sum(n[:, None] * n[None] for n in edges.directions)
    others = edges.mask[:, None] & edges.mask[None] & ~jnp.eye(len(edges.r), dtype=bool)[:, :, None]
    others &= r_ik < of["Rc"] + of["Dc"]
    c2, d2 = of["c"] ** 2, of["d"] ** 2
    angular = of["gamma"] * (1 + c2 / d2 - c2 / (d2 + (cosine - of["h"]) ** 2))
    longer = of["lambda3"] * (r_ij - r_ik)
    exponent = jnp.clip(jnp.where(of["m"] == 3, longer**3, longer), -_LARGEST, _LARGEST)
    terms = _switch(r_ik, of["Rc"], of["Dc"]) * angular * jnp.exp(exponent)
    return jnp.sum(jnp.where(others, terms, 0.0), axis=1)


def _bond_order(beta: Array, n: Array, zeta: Array) -> Array:
    """(1 + (beta zeta)^n)^(-1/2n), 1 where there is nothing to weaken the bond."""
    product = beta * zeta
    weakened = product > 0
    power = jnp.exp(jnp.where(weakened, n, 1.0) * jnp.log(jnp.where(weakened, product, 1.0)))
    return jnp.where(weakened, jnp.exp(-0.5 / jnp.where(weakened, n, 1.0) * jnp.log1p(power)), 1.0)
