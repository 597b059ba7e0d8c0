"""Tables of the bispectrum: hyperspherical functions, a quadrature on the sphere they live on, triples.

Wigner's matrices U^j (2j = 0, 1, ...) are functions on the unit sphere of four dimensions. A density with the
expansion coefficients u^j has the real values h_j(n) = sum_mm' conj(u^j_mm') U^j_mm'(n) there, and
sum conj(u^j) C C u^j1 u^j2 = (2j + 1) <h_j1 h_j2 h_j>, the mean over the sphere. The mean of three such
functions is a finite sum over nodes, so no Clebsch-Gordan coefficient is needed.
"""

from __future__ import annotations

import functools
import itertools
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Complex, Float, Int

from surefield.descriptors.atomic_descriptor import product

__all__ = ["Plan", "Tables", "blocks", "hyperspherical", "plan", "tables", "triples"]

#: Rounding in the generators is below this, and no entry of them is.
_ZERO = 1e-9


class Tables(NamedTuple):
    """What the bispectrum of one `twojmax` is made of; n_coordinates = sum of (j + 1)^2.

    Attributes:
        values: (n_nodes, n_coordinates) functions x_c at the nodes.
        weights: (n_nodes,) of the quadrature, with sum 1.
        generators: (n_coordinates, 3, n_coordinates): derivatives of x_c along the tangents n i, n j, n k
            (quaternion products), in terms of the functions themselves.
    """

    values: Float[np.ndarray, "n_nodes n_coordinates"]
    weights: Float[np.ndarray, " n_nodes"]
    generators: Float[np.ndarray, "n_coordinates 3 n_coordinates"]


class Plan(NamedTuple):
    """Which products of h make which component; an item is a density and a level: n_levels e + j.

    Attributes:
        triples: (n_components, 3) items.
        scale: (n_components,) factor of the mean of the three.
        pairs: for even and for odd levels: (n, 2) items whose product is projected on those levels.
        rows: (n_components, n_items) place of the pair that is the derivative by an item; -1 for none.
        factors: (n_components, n_items) of that derivative.
        means: (n_components, 3) place of the mean of all three in the (pairs, items) tables of the even
            and then the odd levels, from the side of each of the three.
    """

    triples: Int[np.ndarray, "n_components 3"]
    scale: Float[np.ndarray, " n_components"]
    pairs: tuple[Int[np.ndarray, "n 2"], Int[np.ndarray, "m 2"]]
    rows: Int[np.ndarray, "n_components n_items"]
    factors: Float[np.ndarray, "n_components n_items"]
    means: Int[np.ndarray, "n_components 3"]


def triples(twojmax: int) -> list[tuple[int, int, int]]:
    """Doubled indices (j1, j2, j) with j >= j1 >= j2 that couple, in the order of LAMMPS."""
    return [
        (j1, j2, j)
        for j1 in range(twojmax + 1)
        for j2 in range(j1 + 1)
        for j in range(j1 - j2, min(twojmax, j1 + j2) + 1, 2)
        if j >= j1
    ]


def blocks(twojmax: int) -> list[slice]:
    """Coordinates of each level j = 0..twojmax."""
    ends = np.cumsum([(j + 1) ** 2 for j in range(twojmax + 1)]).tolist()
    return [slice(end - (j + 1) ** 2, end) for j, end in enumerate(ends)]


def hyperspherical(n: Any, twojmax: int, xp: ModuleType = np) -> Any:
    """Real coordinates x of U^j(n), j = 0..twojmax, such that sums of |U_mm'|^2 are sums of x_c^2.

    Args:
        n: (4, n_points) unit vectors.
        twojmax: largest doubled index.
        xp: `numpy` or `jax.numpy`.

    Returns:
        (n_coordinates, n_points).
    """
    matmul = np.matmul if xp is np else product
    levels = [xp.ones_like(n[:1])]
    for j in range(1, twojmax + 1):
        products = (n[:, None] * levels[-1]).reshape(4 * j**2, -1)
        levels.append(matmul(xp.asarray(_step(j), n.real.dtype), products))
    return xp.concatenate(levels)


@functools.lru_cache(maxsize=32)
def _step(j: int) -> Float[np.ndarray, "n_coordinates n_products"]:
    """From products of n and the coordinates of level j - 1 to those of level j.

    The recursions of Varshalovich et al., Quantum Theory of Angular Momentum (1988), 4.8.2, in the
    conventions of LAMMPS: a = n_0 - i n_3, b = n_2 - i n_1. Rows m up to the middle are made, since
    U[j-m, j-m'] = (-1)^(m'-m) conj(U[m, m']).
    """
    rows, column = j // 2 + 1, np.arange(j + 1)
    before = _matrices(np.eye(j**2), j - 1)
    shifted = np.concatenate([np.zeros((len(before), 1, j**2)), before], axis=1)
    before = np.concatenate([before, np.zeros((len(before), 1, j**2))], axis=1)
    parts = []
    for n0, n1, n2, n3 in np.eye(4):
        a, b = n0 - 1j * n3, n2 - 1j * n1
        step = np.zeros((rows, j + 1, j**2), complex)
        down, up = np.sqrt((j - column) / j)[:, None], np.sqrt(column / j)[:, None]
        step[0] = down * np.conj(a) * before[0] - up * np.conj(b) * shifted[0]
        for m in range(1, rows):
            factor = np.sqrt(j / m)
            step[m] = factor * (up * a * shifted[m - 1] + down * b * before[m - 1])
        parts.append(_coordinates(step, j))
    return np.stack(parts, axis=1).reshape((j + 1) ** 2, -1)


def _coordinates(rows: Complex[np.ndarray, "n_rows n_columns n"], j: int) -> Float[np.ndarray, "m n"]:
    """Real and imaginary parts of what is above the middle of U^j, and the real middle of an even one."""
    flat, half = rows.reshape(-1, rows.shape[-1]), (j + 1) ** 2 // 2
    above = np.sqrt(2) * flat[:half]
    middle = flat[half : half + (j + 1) % 2]
    return np.concatenate([np.real(above), np.imag(above), np.real(middle)])


def _matrices(coordinates: Float[np.ndarray, "m n"], j: int) -> Complex[np.ndarray, "n_rows n_columns n"]:
    """Rows of U^j up to the middle, from its coordinates."""
    half, n = (j + 1) ** 2 // 2, coordinates.shape[1]
    above = (coordinates[:half] + 1j * coordinates[half : 2 * half]) / np.sqrt(2)
    rows = np.zeros(((j // 2 + 1) * (j + 1), n), complex)
    rows[:half] = above
    if j % 2 == 0:
        rows[half] = coordinates[-1]
        mirrored = np.arange(half + 1, len(rows))
        # The rest of the middle row, by the symmetry.
        sign = (-1.0) ** (mirrored - half)
        rows[mirrored] = sign[:, None] * np.conj(rows[2 * half - mirrored])
    return rows.reshape(j // 2 + 1, j + 1, n)


def plan(twojmax: int, n_channels: int, *, normed: bool) -> Plan:
    """Plan of all components.

    Args:
        twojmax: largest doubled index.
        n_channels: number of densities; components are those of all ordered triples of them.
        normed: leave out the factor 2j + 1.
    """
    levels, n_items = twojmax + 1, (twojmax + 1) * n_channels
    channels = itertools.product(range(n_channels), repeat=3)
    entries = np.array(
        [[levels * e + j for e, j in zip(es, js, strict=True)] for es in channels for js in triples(twojmax)]
    )
    scale = np.ones(len(entries)) if normed else entries[:, 2] % levels + 1.0
    rows, factors = np.full((len(entries), n_items), -1), np.zeros((len(entries), n_items))
    known: tuple[dict[tuple[int, int], int], ...] = ({}, {})
    for k, items in enumerate(entries.tolist()):
        for place, item in enumerate(items):
            first, second = sorted(items[:place] + items[place + 1 :])
            pairs = known[item % levels % 2]
            rows[k, item] = pairs.setdefault((first, second), len(pairs))
            factors[k, item] += scale[k]
    parity = np.arange(n_items) % levels % 2
    # Place of an item among those of its parity, and where the table of its parity begins.
    order = np.where(parity == 0, np.cumsum(parity == 0), np.cumsum(parity)) - 1
    counts = np.array([np.sum(parity == 0), np.sum(parity)])
    start = np.array([0, len(known[0]) * counts[0]])[parity]
    means = np.take_along_axis(rows, entries, axis=1) * counts[parity[entries]] + (start + order)[entries]
    even, odd = (np.array(list(pairs), int).reshape(-1, 2) for pairs in known)
    return Plan(entries, scale, (even, odd), rows, factors, means)


@functools.lru_cache(maxsize=8)
def tables(twojmax: int) -> Tables:
    """Tables for one `twojmax`."""
    nodes, weights = _nodes(twojmax)
    values = hyperspherical(nodes, twojmax).T
    n0, n1, n2, n3 = nodes
    # n i, n j, n k as quaternions.
    tangents = ((-n1, n0, n3, -n2), (-n2, -n3, n0, n1), (-n3, n2, -n1, n0))
    generators = np.zeros((values.shape[1], 3, values.shape[1]))
    step = 1e-100
    for axis, tangent in enumerate(tangents):
        # A step along the imaginary axis loses no digits.
        slopes = hyperspherical(nodes + 1j * step * np.stack(tangent), twojmax).imag / step
        for j, block in enumerate(blocks(twojmax)):
            # The mean of x_c x_c' is 1/(j + 1) for c = c' and else 0.
            slope = (j + 1) * (slopes[block] * weights) @ values[:, block]
            generators[block, axis, block] = np.where(np.abs(slope) < _ZERO, 0.0, slope)
    return Tables(values, weights, generators)


def _nodes(twojmax: int) -> tuple[Float[np.ndarray, "4 n_nodes"], Float[np.ndarray, " n_nodes"]]:
    """Nodes and weights that are exact for products of three functions whose doubled indices sum to even.

    Such a product is a function of rotations up to angular momentum L = floor(3 twojmax/2): L + 1 equal
    steps in two of Euler's angles, Gauss-Legendre in the cosine of the third.
    """
    largest = 3 * twojmax // 2
    angles = 2 * np.pi * np.arange(largest + 1) / (largest + 1)
    cosines, gauss = np.polynomial.legendre.leggauss((largest + 2) // 2)
    beta, alpha, gamma = (x.ravel() for x in np.meshgrid(np.arccos(cosines), angles, angles, indexing="ij"))
    near, far = np.cos(beta / 2), np.sin(beta / 2)
    plus, minus = (alpha + gamma) / 2, (alpha - gamma) / 2
    nodes = np.stack([near * np.cos(plus), far * np.sin(minus), far * np.cos(minus), near * np.sin(plus)])
    weights = np.repeat(gauss / gauss.sum(), len(angles) ** 2) / len(angles) ** 2
    return nodes, weights
