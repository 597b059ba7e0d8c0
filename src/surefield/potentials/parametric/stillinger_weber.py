"""Stillinger-Weber potential of several species, in the form of the KIM driver SW__MD_335816936951."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from surefield.potentials.parametric.edges import BondPotential, Edges
from surefield.potentials.parametric.parameters import FormulaPotential, ParameterForm

__all__ = ["StillingerWeber"]


class StillingerWeber(BondPotential, FormulaPotential):
    """E = sum_(i<j) phi2(r_ij) + sum_i sum_(j<k) phi3(r_ij, r_ik, theta_jik), zero from the cutoff on.

    phi2 = A (B (r/sigma)^-p - (r/sigma)^-q) exp(sigma/(r - rc)); phi3 = lambda (cos theta - costheta0)^2
    exp(gamma/(r_ij - rc) + gamma/(r_ik - rc)), lambda = sqrt(lambda_ij lambda_ik), gamma and rc those of each
    bond. costheta0 is the mean of the two bonds' (the KIM driver expects them to be equal).
    Source: Stillinger, Weber, Phys. Rev. B 31, 5262 (1985).

    Args:
        values: A and lambda in eV, sigma, gamma, cutoff in Å, B, p, q, costheta0: one number per pair of
            species in the order 11, 12, .., 22, ..
        species: chemical symbols, in the order of the values.
    """

    KIND: ClassVar[str] = "stillinger_weber"
    FORMS: ClassVar[Mapping[str, ParameterForm]] = {
        "A": ParameterForm("eV"),
        "B": ParameterForm(""),
        "p": ParameterForm(""),
        "q": ParameterForm(""),
        "sigma": ParameterForm("Å"),
        "gamma": ParameterForm("Å"),
        "cutoff": ParameterForm("Å", usually_free=False),
        "lambda": ParameterForm("eV"),
        "costheta0": ParameterForm(""),
    }

    def ranges(self) -> Float[Array, " n_ranges"]:
        """Cutoffs of all pairs, Å (traceable)."""
        return self.values["cutoff"]

    def options(self) -> dict[str, Any]:
        """None."""
        return {}

    def edge_energies(self, edges: Edges) -> Float[Array, " n_atoms"]:
        """Half of each bond and all angles around an atom, eV."""
        of = self.of_pairs(edges)
        near = edges.mask & (edges.r < of["cutoff"])
        # Beyond the cutoff a length stands in at which everything is finite; it is left out of the sums.
        inverse = 1.0 / (jnp.where(near, edges.r, 0.5 * of["cutoff"]) - of["cutoff"])
        ratio = edges.log_r - jnp.log(of["sigma"])
        # Powers as exponentials: their mixed derivative in r and the exponent is right at q = 0 too.
        powers = of["B"] * jnp.exp(-of["p"] * ratio) - jnp.exp(-of["q"] * ratio)
        bonds = jnp.where(near, of["A"] * powers * jnp.exp(of["sigma"] * inverse), 0.0)
        strength = jnp.abs(of["lambda"])
        root = jnp.where(strength > 0, jnp.sqrt(jnp.where(strength > 0, strength, 1.0)), 0.0)
        g = jnp.where(near, root * jnp.exp(of["gamma"] * inverse), 0.0)
        return 0.5 * (jnp.sum(bonds, axis=0) + _angles(edges.directions, g, of["costheta0"]))


def _angles(
    directions: tuple[Float[Array, "n_neighbors n_atoms"], ...],
    g: Float[Array, "n_neighbors n_atoms"],
    c: Float[Array, "*shape"],
) -> Float[Array, " n_atoms"]:
    """Sum over j != k of g_j g_k (n_j . n_k - (c_j + c_k)/2)^2, from moments: no loop over pairs."""
    x, y, z = directions
    gx, gy, gz = g * x, g * y, g * z

    def moment(values: Array) -> Array:
        return jnp.sum(values, axis=0)

    second = moment(gx * x) ** 2 + moment(gy * y) ** 2 + moment(gz * z) ** 2
    second += 2 * (moment(gx * y) ** 2 + moment(gy * z) ** 2 + moment(gz * x) ** 2)
    if c.ndim == 0:  # one species: fewer sums
        first = c * (moment(gx) ** 2 + moment(gy) ** 2 + moment(gz) ** 2)
        zeroth = (c * moment(g)) ** 2
    else:
        first = sum(moment(a) * moment(a * c) for a in (gx, gy, gz))
        zeroth = 0.5 * (moment(g) * moment(g * c * c) + moment(g * c) ** 2)
    return second - 2 * first + zeroth - moment((g * (1 - c)) ** 2)
