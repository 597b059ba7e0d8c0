"""Radial functions of a neighbour distance: Bessel basis and smooth cutoff."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["bessel_basis", "smooth_cutoff"]


def smooth_cutoff(r: Float[Array, "*shape"], cutoff: float) -> Float[Array, "*shape"]:
    """Polynomial that falls from 1 at 0 to 0 at `cutoff`, with two continuous derivatives there.

    Gasteiger, Groß, Günnemann, ICLR 2020 (DimeNet), equation 8, with p = 4.
    """
    x = jnp.minimum(r / cutoff, 1.0)
    p = 4.0
    return 1.0 - 0.5 * (p + 1) * (p + 2) * x**4 + p * (p + 2) * x**5 - 0.5 * p * (p + 1) * x**6


def bessel_basis(
    r: Float[Array, "*shape n"], cutoff: float, n_basis: int
) -> Float[Array, "*shape n_basis n"]:
    """Bessel functions sqrt(2/rc) sin(n pi r/rc)/r times the cutoff, n = 1..n_basis, r in Å.

    Gasteiger, Groß, Günnemann, ICLR 2020 (DimeNet), equation 7. sin(n x) comes from the Chebyshev
    recurrence, so that one sine and one cosine serve all n.
    """
    x = jnp.pi * jnp.minimum(r, cutoff) / cutoff
    twice = 2.0 * jnp.cos(x)
    first = jnp.sin(x) * ((2.0 / cutoff) ** 0.5 * smooth_cutoff(r, cutoff) / r)
    terms = [first, twice * first]
    while len(terms) < n_basis:
        terms.append(twice * terms[-1] - terms[-2])
    return jnp.stack(terms[:n_basis], axis=-2)
