"""Products of small matrices, one pair per atom, with the atoms on the last axis.

On a CPU, XLA runs a batch of tiny matrix products one by one. With the atoms last, each element of the
product is a short sum over vectors as long as the batch, which fills the SIMD units.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

__all__ = ["small_product"]

_product_p = Primitive("small_product")


def small_product(
    a: Float[Array, "i k *batch"],
    b: Float[Array, "k j *batch"],
    *,
    swap_a: bool = False,
    swap_b: bool = False,
) -> Float[Array, "i j *batch"]:
    """Matrix product over the first two axes, for every entry of the axes behind them.

    With `swap_a`, `swap_b` the transposes of the sides are multiplied, at no cost: with the atoms last,
    transposing beforehand would copy whole arrays. Differentiable any number of times, forwards and
    backwards; every derivative is again such a product.
    """
    return _product_p.bind(a, b, swap_a=swap_a, swap_b=swap_b)


def _einsum(a: Array, b: Array, *, swap_a: bool, swap_b: bool) -> Array:
    return jnp.einsum(f"{'ki' if swap_a else 'ik'}...,{'jk' if swap_b else 'kj'}...->ij...", a, b)


def _unrolled(a: Array, b: Array, *, swap_a: bool, swap_b: bool) -> Array:
    columns = a if swap_a else (a[:, k] for k in range(a.shape[1]))
    rows = (b[:, k] for k in range(b.shape[1])) if swap_b else b
    terms = (column[:, None] * row[None] for column, row in zip(columns, rows, strict=True))
    return functools.reduce(operator.add, terms)


def _fenced(a: Array, b: Array, *, swap_a: bool, swap_b: bool) -> Array:
    """The unrolled sum behind a branch that is always taken.

    XLA fuses an element-wise product into the next one and then computes it anew for every element of
    that one; it strips optimisation barriers before, but does not look through a condition on the data.
    A first element with the one bit pattern excluded here is NaN, and so is the result.
    """
    if 0 in a.shape or 0 in b.shape:
        return _einsum(a, b, swap_a=swap_a, swap_b=swap_b)
    bits, excluded = {4: (jnp.int32, 2**31 - 1), 8: (jnp.int64, 2**63 - 1)}[a.dtype.itemsize]
    first = jax.lax.bitcast_convert_type(a.reshape(-1)[0], bits)
    shape = _shape(a, b, swap_a=swap_a, swap_b=swap_b).shape
    product = functools.partial(_unrolled, swap_a=swap_a, swap_b=swap_b)
    return jax.lax.cond(first != excluded, product, lambda a, b: jnp.full(shape, jnp.nan, a.dtype), a, b)


def _shape(a: Any, b: Any, *, swap_a: bool, swap_b: bool) -> Any:
    rows, inner = a.shape[:2][::-1] if swap_a else a.shape[:2]
    other, columns = b.shape[:2][::-1] if swap_b else b.shape[:2]
    if inner != other or a.shape[2:] != b.shape[2:] or a.dtype != b.dtype:
        raise TypeError(f"small_product of {a.shape} {a.dtype} and {b.shape} {b.dtype}, {swap_a=}, {swap_b=}")
    return ShapedArray((rows, columns, *a.shape[2:]), a.dtype)


def _batch(arguments: Any, axes: Any, *, swap_a: bool, swap_b: bool) -> Any:
    """A mapped axis of one side joins its free index, one of both sides the batch."""
    a, b = arguments
    at_a, at_b = axes
    if at_b is None:
        a = jnp.moveaxis(a, at_a, 0)
        a = jnp.swapaxes(a, 1, 2) if swap_a else a
        out = small_product(a.reshape(-1, *a.shape[2:]), b, swap_b=swap_b)
        return out.reshape(*a.shape[:2], *out.shape[1:]), 0
    if at_a is None:
        b = jnp.moveaxis(b, at_b, 1)
        b = jnp.swapaxes(b, 0, 2) if swap_b else b  # (inner, mapped, columns)
        out = small_product(a, b.reshape(b.shape[0], -1, *b.shape[3:]), swap_a=swap_a)
        return out.reshape(out.shape[0], *b.shape[1:3], *out.shape[2:]), 1
    both = jnp.moveaxis(a, at_a, -1), jnp.moveaxis(b, at_b, -1)
    return small_product(*both, swap_a=swap_a, swap_b=swap_b), a.ndim - 1


def _transpose_a(ct: Array, a: Any, b: Array, *, swap_a: bool, swap_b: bool) -> Array:
    """Cotangent of a: ct b^T, or its transpose."""
    if swap_a:
        return small_product(b, ct, swap_a=swap_b, swap_b=True)
    return small_product(ct, b, swap_b=not swap_b)


def _transpose_b(ct: Array, a: Array, b: Any, *, swap_a: bool, swap_b: bool) -> Array:
    """Cotangent of b: a^T ct, or its transpose."""
    if swap_b:
        return small_product(ct, a, swap_a=True, swap_b=swap_a)
    return small_product(a, ct, swap_a=not swap_a)


_product_p.def_impl(jax.jit(_product_p.bind, static_argnames=("swap_a", "swap_b")))
_product_p.def_abstract_eval(_shape)
ad.defbilinear(_product_p, _transpose_a, _transpose_b)
batching.primitive_batchers[_product_p] = _batch
mlir.register_lowering(_product_p, mlir.lower_fun(_einsum, multiple_results=False))
mlir.register_lowering(_product_p, mlir.lower_fun(_fenced, multiple_results=False), platform="cpu")
