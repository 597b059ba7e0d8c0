"""Rotational invariants of moment tensors, channel by channel: products of up to three tensors of one.

Where channels are mixed linearly before the products, products of a channel with itself span what products
of different channels do (the symmetric tensors of rank three are sums of cubes); their number grows with the
number of channels only (Batatia et al., NeurIPS 2022, and Darby et al., Phys. Rev. Lett. 131, 028001, 2023).
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from surefield.descriptors.moments import packed_indices, packed_roots

__all__ = ["N_INVARIANTS", "N_VECTORS", "channel_invariants", "channel_vectors"]

N_INVARIANTS: Final = 24
N_VECTORS: Final = 7
_AXES: Final = range(3)
#: Unique pairs of axes, and how often each occurs in a full contraction.
_PAIRS: Final = [(i, j, 1 if i == j else 2) for i, j in itertools.combinations_with_replacement(_AXES, 2)]


def channel_invariants(tensors: Float[Array, " 20 *shape"]) -> Float[Array, " 24 *shape"]:
    """Invariants of packed tensors s, v, M, T of rank 0 to 3 (see `moments`), for every entry behind them.

    With w_i = T_ijj: s, tr M, v·v, M:M, T⋮T, v·w, w·w, v·Mv, w·Mv, w·Mw, tr M³, v·(T:M), w·(T:M),
    M:(T:T), and products of s and tr M with those of lower order.

    Written out component by component: XLA makes one loop over long vectors of it. Components are taken
    apart by one `split`, whose derivative is one concatenation; that of look-ups pads whole arrays.
    """
    parts, m, t = _taken_apart(tensors)
    s, v = parts[0], parts[1:4]
    trace = m(0, 0) + m(1, 1) + m(2, 2)
    w, m_v, m_w, t_m = _vectors(v, m, t)
    # (M M)_ij and (T:T)_ij with every pair of equal terms taken once.
    m_m = {(i, j): _sum(m(i, k) * m(k, j) for k in _AXES) for i, j, _ in _PAIRS}
    t_t = {(i, j): _sum(n * (t(i, k, o) * t(j, k, o)) for k, o, n in _PAIRS) for i, j, _ in _PAIRS}
    vv, vw, ww = _dot(v, v), _dot(v, w), _dot(w, w)
    # Packed components carry the roots of how often they occur, so their squares add up to contractions.
    mm, tt = _dot(parts[4:10], parts[4:10]), _dot(parts[10:20], parts[10:20])
    cubes = _sum(n * (m_m[i, j] * m(i, j)) for i, j, n in _PAIRS)
    mixed = _sum(n * (t_t[i, j] * m(i, j)) for i, j, n in _PAIRS)
    products = [s * s, s * s * s, s * trace, *(s * x for x in (vv, mm, tt, vw, ww)), trace * vv, trace * mm]
    first = [s, trace, vv, mm, tt, vw, ww, _dot(v, m_v), _dot(w, m_v), _dot(w, m_w)]
    return jnp.stack([*first, cubes, _dot(v, t_m), _dot(w, t_m), mixed, *products])


def channel_vectors(tensors: Float[Array, " 20 *shape"]) -> Float[Array, " 3 7 *shape"]:
    """Vectors made of packed tensors of rank 0 to 3, for every entry: v, w, s v, s w, M v, M w, T:M."""
    parts, m, t = _taken_apart(tensors)
    s, v = parts[0], parts[1:4]
    w, m_v, m_w, t_m = _vectors(v, m, t)
    each = [v, w, [s * x for x in v], [s * x for x in w], m_v, m_w, t_m]
    return jnp.stack([jnp.stack([x[i] for x in each]) for i in _AXES])


def _taken_apart(tensors: Array) -> tuple[list[Array], Callable[[int, int], Array], Callable[..., Array]]:
    """Packed components, and those of the full tensors of rank 2 and 3 by their indices."""
    parts = [part[0] for part in jax.lax.split(tensors, [1] * tensors.shape[0], 0)]
    second, third = _components(parts, 2), _components(parts, 3)

    def m(i: int, j: int) -> Array:
        return second[(i, j) if i <= j else (j, i)]

    def t(i: int, j: int, k: int) -> Array:
        return third[tuple(sorted((i, j, k)))]

    return parts, m, t


def _vectors(v: list[Array], m: Callable[[int, int], Array], t: Callable[..., Array]) -> list[list[Array]]:
    """w, M v, M w and T:M, with every pair of equal terms taken once."""
    w = [t(i, 0, 0) + t(i, 1, 1) + t(i, 2, 2) for i in _AXES]
    m_v, m_w = ([_dot([m(i, j) for j in _AXES], x) for i in _AXES] for x in (v, w))
    return [w, m_v, m_w, [_sum(n * (t(i, j, k) * m(j, k)) for j, k, n in _PAIRS) for i in _AXES]]


def _components(parts: list[Array], rank: int) -> dict[tuple[int, ...], Array]:
    """Components of the full tensor by their sorted indices."""
    start, roots = sum(len(packed_indices(r)) for r in range(rank)), packed_roots(rank)
    return {
        index: parts[start + place] * parts[0].dtype.type(1.0 / roots[place])
        if roots[place] != 1.0
        else parts[start + place]
        for place, index in enumerate(packed_indices(rank))
    }


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)


def _dot(a: list[Array], b: list[Array]) -> Array:
    return _sum(x * y for x, y in zip(a, b, strict=True))
