"""Sums over pairs of neighbours, the costly part of symmetry functions, and their closed-form derivatives.

With r the distances from the centre, c the cosine of the angle between two neighbours and
q = r_j^2 + r_k^2 - 2 r_j r_k c their squared distance, every function of Behler and Parrinello,
PRL 98, 146401 (2007), is a_j a_k P(c) W(q): what depends on one neighbour goes into the factors of matrix
products, and only P and W are evaluated for every pair. One-hot matrices make the sums over elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surefield.descriptors.atomic_descriptor import product
from surefield.descriptors.cutoffs import CutoffFunction

__all__ = ["AngularForm", "Stretch", "angular_derivatives", "angular_sums", "by_rows"]

#: Bytes of one (rows, n_neighbors, n_neighbors) array, beyond which rows are worked off piece by piece:
#: several such arrays fit into the cache of a processor, and memory does not grow with the structure.
_BLOCK_BYTES: Final = 2**20
#: Below this, a power that is not whole is zero, with zero slope.
_SMALLEST_BASE: Final = 1e-14


@dataclass(frozen=True)
class AngularForm:
    """What distinguishes angular functions, elements apart.

    Attributes:
        eta: exponent, per Å^2.
        gamma: factor of the cosine.
        zeta: power.
        closed: whether the distance of the two neighbours counts as well (G4), or not (G5).
    """

    eta: float
    gamma: float
    zeta: float
    closed: bool


class Stretch(NamedTuple):
    """Cutoff radii of their own for pairs of elements, as factors of squared distances: f(r^2 (Rc/rc)^2).

    Attributes:
        edges: (n, k) factor of each neighbour.
        elements: (s, s) factor of each pair of elements of two neighbours.
    """

    edges: Float[Array, "n k"]
    elements: Float[np.ndarray, "s s"]


class _Pairs(NamedTuple):
    """Geometry of all pairs of neighbours of each atom; stretches are 1 where all pairs share the radius."""

    unit: Float[Array, "n k 3"]
    square: Float[Array, "n k"]
    cosine: Float[Array, "n k k"]
    between: Float[Array, "n k k"]
    distinct: Float[Array, "k k"]
    stretch: Float[Array, "n k"] | float
    stretch_between: Float[Array, "n k k"] | float


def angular_sums(
    vectors: Float[Array, "n k 3"],
    elements: Float[Array, "n k s"],
    forms: Sequence[AngularForm],
    cutoff: CutoffFunction,
    stretch: Stretch | None = None,
) -> Float[Array, "n n_forms s s"]:
    """Sum of every form over the ordered pairs j != k of neighbours, for each pair of their elements.

    Args:
        vectors: from the atom to its neighbours, Å; those beyond the cutoff must be finite and not zero.
        elements: one-hot element of each neighbour; zeros where there is none.
        forms: functions.
        cutoff: cutoff function.
        stretch: of pairs of elements with a smaller radius; None: all share that of the cutoff function.
    """
    pairs = _pairs(vectors, elements, stretch)
    sums: list[Array] = [jnp.zeros(0)] * len(forms)
    for (eta, closed), members in _families(forms).items():
        weights = elements * _radial(pairs.square, eta, cutoff, pairs.stretch)[..., None]
        between = _between(pairs, eta, closed, cutoff)
        left = jnp.swapaxes(weights, 1, 2)
        for index in members:
            values = _angular(pairs.cosine, forms[index]) * between
            sums[index] = product(left, product(values, weights))
    return jnp.stack(sums, axis=1)


def angular_derivatives(
    vectors: Float[Array, "n k 3"],
    elements: Float[Array, "n k s"],
    forms: Sequence[AngularForm],
    cutoff: CutoffFunction,
    stretch: Stretch | None = None,
) -> Float[Array, "n k 3 n_forms s"]:
    """Derivative, by the vector to one neighbour, of the sum over the pairs it makes with each element.

    With F = a_j a_k P W, summed over k: dF/dv_j = u_j a_j' P W a_k + a_j a_k (P' W (u_k - c u_j)/r_j +
    P W' 2 (v_j - v_k)), where a', P' and W' are derivatives by r, c and q. Each unordered pair counts once.
    """
    pairs = _pairs(vectors, elements, stretch)
    n, k, n_elements = elements.shape
    length = jnp.sqrt(pairs.square)
    unit = pairs.unit[..., None]
    slopes: list[Array] = [jnp.zeros(0)] * len(forms)
    for (eta, closed), members in _families(forms).items():
        radial = _radial(pairs.square, eta, cutoff, pairs.stretch)
        # a'/r is twice the slope by the square
        radial_slope = 2 * length * _radial_slope(pairs.square, eta, cutoff, pairs.stretch)
        weights = elements * radial[..., None]
        by_unit = (pairs.unit[..., None] * weights[:, :, None]).reshape(n, k, -1)
        by_vector = jnp.concatenate([weights, by_unit * length[..., None]], axis=-1)
        between = _between(pairs, eta, closed, cutoff)
        between_slope = _between_slope(pairs, eta, cutoff) if closed else None
        for index in members:
            angular = _angular(pairs.cosine, forms[index])
            total = product(angular * between, weights)[:, :, None]
            turned = product(_angular_slope(pairs.cosine, forms[index]) * between, by_unit)
            turned = turned.reshape(n, k, 3, n_elements)
            turned -= unit * jnp.sum(unit * turned, axis=2, keepdims=True)
            inner = turned / length[..., None, None]
            if between_slope is not None:
                stretched = 2 * product(angular * between_slope, by_vector).reshape(n, k, 4, n_elements)
                inner += vectors[..., None] * stretched[:, :, :1] - stretched[:, :, 1:]
            slopes[index] = unit * radial_slope[..., None, None] * total + radial[..., None, None] * inner
    return jnp.stack(slopes, axis=3)


def by_rows(
    function: Callable[..., Array],
    vectors: Float[Array, "n k 3"],
    elements: Float[Array, "n k s"],
    *others: Float[Array, "n k"],
) -> Array:
    """Apply a function of the neighbours of each atom, a block of atoms at a time if there are many.

    Blocks are computed anew in a backward pass, so that none of their pair arrays is stored.
    """
    n, k, _ = vectors.shape
    rows = max(1, _BLOCK_BYTES // (vectors.dtype.itemsize * max(k, 1) ** 2))
    if n <= 2 * rows:
        return function(vectors, elements, *others)
    blocks = -(-n // rows)
    rows = -(-n // blocks)
    padding = blocks * rows - n

    def split(x: Array, fill: Array) -> Array:
        tail = jnp.broadcast_to(fill, (padding, *x.shape[1:]))
        return jnp.concatenate([x, tail]).reshape(blocks, rows, *x.shape[1:])

    one = jnp.array([1.0, 0.0, 0.0], vectors.dtype)
    ones = (split(x, jnp.ones((), x.dtype)) for x in others)
    parts = split(vectors, one), split(elements, jnp.zeros((), elements.dtype)), *ones
    results = jax.lax.map(jax.checkpoint(lambda block: function(*block)), parts)
    return results.reshape(blocks * rows, *results.shape[2:])[:n]


def _pairs(
    vectors: Float[Array, "n k 3"], elements: Float[Array, "n k s"], stretch: Stretch | None
) -> _Pairs:
    square = jnp.sum(vectors**2, axis=-1)
    length = jnp.sqrt(square)
    unit = vectors / length[..., None]
    cosine = product(unit, jnp.swapaxes(unit, 1, 2))
    lengths = length[:, :, None] * length[:, None]
    between = square[:, :, None] + square[:, None] - 2 * lengths * cosine
    k = vectors.shape[1]
    edges, pairs = 1.0, 1.0
    if stretch is not None:
        table = stretch.elements.astype(vectors.dtype)
        edges, pairs = stretch.edges, product(product(elements, table), jnp.swapaxes(elements, 1, 2))
    distinct = 1.0 - jnp.eye(k, dtype=vectors.dtype)
    return _Pairs(unit, square, cosine, jnp.maximum(between, 0.0), distinct, edges, pairs)


def _families(forms: Sequence[AngularForm]) -> dict[tuple[float, bool], list[int]]:
    """Forms that share everything but their dependence on the angle."""
    families: dict[tuple[float, bool], list[int]] = {}
    for index, form in enumerate(forms):
        families.setdefault((form.eta, form.closed), []).append(index)
    return families


def _radial(square: Array, eta: float, cutoff: CutoffFunction, stretch: Array | float) -> Array:
    return jnp.exp(-eta * square) * cutoff.of_square(square * stretch)


def _radial_slope(square: Array, eta: float, cutoff: CutoffFunction, stretch: Array | float) -> Array:
    """Derivative of `_radial` by the squared distance."""
    stretched = square * stretch
    slope = stretch * cutoff.slope_of_square(stretched) - eta * cutoff.of_square(stretched)
    return jnp.exp(-eta * square) * slope


def _between(pairs: _Pairs, eta: float, closed: bool, cutoff: CutoffFunction) -> Array:
    """W: what the distance of the two neighbours contributes; no atom pairs with itself."""
    if not closed:
        return jnp.broadcast_to(pairs.distinct, pairs.between.shape)
    return pairs.distinct * _radial(pairs.between, eta, cutoff, pairs.stretch_between)


def _between_slope(pairs: _Pairs, eta: float, cutoff: CutoffFunction) -> Array:
    return pairs.distinct * _radial_slope(pairs.between, eta, cutoff, pairs.stretch_between)


def _angular(cosine: Array, form: AngularForm) -> Array:
    """P = 2^(1 - zeta) (1 + gamma c)^zeta."""
    return 2 ** (1 - form.zeta) * _power(1 + form.gamma * jnp.clip(cosine, -1.0, 1.0), form.zeta)


def _angular_slope(cosine: Array, form: AngularForm) -> Array:
    """Derivative of P by the cosine."""
    base = 1 + form.gamma * jnp.clip(cosine, -1.0, 1.0)
    return 2 ** (1 - form.zeta) * form.zeta * form.gamma * _power(base, form.zeta - 1)


def _power(base: Array, exponent: float) -> Array:
    if exponent == int(exponent) and exponent >= 0:
        return base ** int(exponent)
    positive = base > _SMALLEST_BASE
    return jnp.where(positive, jnp.where(positive, base, 1.0) ** exponent, 0.0)
