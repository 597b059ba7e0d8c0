"""Radial functions of a neighbour distance: Bessel basis and smooth cutoff."""

from __future__ import annotations

import functools
import math

import jax
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


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def bessel_basis(
    r: Float[Array, "*shape n"], cutoff: float, n_basis: int
) -> Float[Array, "*shape n_basis n"]:
    """Bessel functions sqrt(2/rc) sin(n pi r/rc)/r times the cutoff, n = 1..n_basis, r in Å.

    Gasteiger, Groß, Günnemann, ICLR 2020 (DimeNet), equation 7.
    """
    return _sine_of_pi(_orders(n_basis, r) * _scaled(r, cutoff)) * _envelope(r, cutoff)[..., None, :]


@bessel_basis.defjvp
def _bessel_slope(
    cutoff: float, n_basis: int, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    """The derivative in closed form: two passes over the functions instead of one for every derivative."""
    (r,), (tangent,) = primals, tangents
    order, x = _orders(n_basis, r), _scaled(r, cutoff)
    sine, cosine = _sine_of_pi(order * x), _sine_of_pi(order * x + 0.5)
    envelope, slope = jax.jvp(lambda r: _envelope(r, cutoff), (r,), (jnp.ones_like(r),))
    derivative = sine * slope[..., None, :] + (math.pi / cutoff) * order * cosine * envelope[..., None, :]
    return sine * envelope[..., None, :], derivative * tangent[..., None, :]


def _orders(n_basis: int, r: Array) -> Float[Array, "n_basis 1"]:
    return jnp.arange(1, n_basis + 1, dtype=r.dtype)[:, None]


def _scaled(r: Array, cutoff: float) -> Float[Array, "*shape 1 n"]:
    return jnp.minimum(r / cutoff, 1.0)[..., None, :]


def _envelope(r: Float[Array, "*shape"], cutoff: float) -> Float[Array, "*shape"]:
    return (2.0 / cutoff) ** 0.5 * smooth_cutoff(r, cutoff) / r


def _sine_of_pi(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """sin(pi x) for x >= 0 of moderate size, by its Taylor series about the nearest integer.

    Element by element and without branches: XLA turns it into vector instructions, which it does not do with
    its own sine, nor with the recurrence over n.
    """
    nearest = jnp.round(x)
    y = x - nearest
    sign = 1.0 - 2.0 * (nearest - 2.0 * jnp.floor(nearest / 2.0))
    square, total = y * y, jnp.zeros_like(y)
    for k in reversed(range(8 if x.dtype == jnp.float32 else 12)):
        total = (-1) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1) + square * total
    return sign * y * total
