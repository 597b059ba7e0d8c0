"""Values of neighbours: a look-up whose derivative is a look-up too."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from surefield.structures.graph import Graph

__all__ = ["neighbor_values"]

_spread_p = Primitive("neighbor_values")
_gathered_p = Primitive("neighbor_sums")


def neighbor_values(
    values: Float[Array, " n_atoms *rest"], graph: Graph
) -> Float[Array, " n_atoms n_neighbors *rest"]:
    """Values of every neighbour; of the atom itself where padded.

    The transpose sums what the reversed edges hold: a look-up as well, where automatic differentiation would
    scatter. Differentiable any number of times, forwards and backwards, and under `vmap`.
    """
    return _spread_p.bind(values, jnp.asarray(graph.neighbors), jnp.asarray(graph.reverse))


def _spread(values: Array, neighbors: Array, reverse: Array) -> Array:
    del reverse
    return values[neighbors]


def _gathered(edges: Array, neighbors: Array, reverse: Array) -> Array:
    del neighbors
    return jnp.sum(edges.reshape(-1, *edges.shape[2:])[reverse], axis=1)


def _spread_shape(values: Any, neighbors: Any, reverse: Any) -> ShapedArray:
    del reverse
    return ShapedArray((*neighbors.shape, *values.shape[1:]), values.dtype)


def _gathered_shape(edges: Any, neighbors: Any, reverse: Any) -> ShapedArray:
    del neighbors, reverse
    return ShapedArray((edges.shape[0], *edges.shape[2:]), edges.dtype)


def _set_up(primitive: Primitive, other: Primitive, function: Any, shape: Any) -> None:
    def forwards(primals: Any, tangents: Any) -> tuple[Any, Any]:
        values, *indices = primals
        out, tangent = primitive.bind(values, *indices), tangents[0]
        if isinstance(tangent, ad.Zero):
            return out, ad.Zero(ShapedArray(out.shape, out.dtype))
        return out, primitive.bind(tangent, *indices)

    def backwards(cotangent: Any, values: Any, *indices: Any) -> list[Any]:
        del values
        if isinstance(cotangent, ad.Zero):
            return [None, None, None]
        return [other.bind(cotangent, *indices), None, None]

    def batch(arguments: Any, axes: Any) -> tuple[Any, int]:
        if axes[1] is not None or axes[2] is not None:  # several graphs
            return jax.vmap(function, axes)(*arguments), 0
        values, *indices = arguments
        out = primitive.bind(jnp.moveaxis(values, axes[0], -1), *indices)
        return out, out.ndim - 1

    primitive.def_impl(jax.jit(function))
    primitive.def_abstract_eval(shape)
    ad.primitive_jvps[primitive] = forwards
    ad.primitive_transposes[primitive] = backwards
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))


_set_up(_spread_p, _gathered_p, _spread, _spread_shape)
_set_up(_gathered_p, _spread_p, _gathered, _gathered_shape)
