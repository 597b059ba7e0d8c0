"""Products of small matrices, one pair per atom, with the atoms on the last axis.

On a CPU, XLA runs a batch of tiny matrix products one by one. With the atoms last, each element of the
product is a short sum over vectors as long as the batch, which fills the SIMD units.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

__all__ = ["small_product", "swap"]

_product_p = Primitive("small_product")


def small_product(a: Float[Array, "i k *batch"], b: Float[Array, "k j *batch"]) -> Float[Array, "i j *batch"]:
    """Matrix product over the first two axes, for every entry of the axes behind them.

    Differentiable any number of times, forwards and backwards; every derivative is again such a product.
    """
    return _product_p.bind(a, b)


def swap(a: Float[Array, "i j *batch"]) -> Float[Array, "j i *batch"]:
    """Transpose of every matrix."""
    return jnp.swapaxes(a, 0, 1)


def _einsum(a: Array, b: Array) -> Array:
    return jnp.einsum("ik...,kj...->ij...", a, b)


def _unrolled(a: Array, b: Array) -> Array:
    total = a[:, 0][:, None] * b[0][None]
    for k in range(1, a.shape[1]):
        total += a[:, k][:, None] * b[k][None]
    return total


def _fenced(a: Array, b: Array) -> Array:
    """The unrolled sum behind a branch that is always taken.

    XLA fuses an element-wise product into the next one and then computes it anew for every element of
    that one; it strips optimisation barriers before, but does not look through a condition on the data.
    A first element with the one bit pattern excluded here is NaN, and so is the result.
    """
    if 0 in a.shape or 0 in b.shape:
        return _einsum(a, b)
    bits, excluded = {4: (jnp.int32, 2**31 - 1), 8: (jnp.int64, 2**63 - 1)}[a.dtype.itemsize]
    first = jax.lax.bitcast_convert_type(a.reshape(-1)[0], bits)
    shape = (a.shape[0], b.shape[1], *a.shape[2:])
    return jax.lax.cond(first != excluded, _unrolled, lambda a, b: jnp.full(shape, jnp.nan, a.dtype), a, b)


def _shape(a: Any, b: Any) -> Any:
    if a.shape[1] != b.shape[0] or a.shape[2:] != b.shape[2:] or a.dtype != b.dtype:
        raise TypeError(f"small_product of {a.shape} {a.dtype} and {b.shape} {b.dtype}")
    return ShapedArray((a.shape[0], b.shape[1], *a.shape[2:]), a.dtype)


def _batch(arguments: Any, axes: Any) -> Any:
    """A mapped axis of one side joins its free index, one of both sides the batch."""
    a, b = arguments
    at_a, at_b = axes
    if at_b is None:
        a = jnp.moveaxis(a, at_a, 0)
        out = small_product(a.reshape(-1, *a.shape[2:]), b)
        return out.reshape(*a.shape[:2], *out.shape[1:]), 0
    if at_a is None:
        b = jnp.moveaxis(b, at_b, 1)
        out = small_product(a, b.reshape(b.shape[0], -1, *b.shape[3:]))
        return out.reshape(a.shape[0], *b.shape[1:3], *out.shape[2:]), 1
    return small_product(jnp.moveaxis(a, at_a, -1), jnp.moveaxis(b, at_b, -1)), a.ndim - 1


_product_p.def_impl(jax.jit(small_product))
_product_p.def_abstract_eval(_shape)
ad.defbilinear(
    _product_p,
    lambda ct, a, b: small_product(ct, swap(b)),
    lambda ct, a, b: small_product(swap(a), ct),
)
batching.primitive_batchers[_product_p] = _batch
mlir.register_lowering(_product_p, mlir.lower_fun(_einsum, multiple_results=False))
mlir.register_lowering(_product_p, mlir.lower_fun(_fenced, multiple_results=False), platform="cpu")
