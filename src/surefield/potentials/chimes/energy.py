"""Energies of clusters in padded graphs, in chunks of fixed size and as many rounds as are needed."""

from __future__ import annotations

from functools import lru_cache, partial
from math import comb
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from surefield.descriptors.chimes.clusters import is_positive, type_tables
from surefield.descriptors.chimes.polynomials import penalty, radial
from surefield.descriptors.chimes.power_sets import PAIRS, power_codes
from surefield.descriptors.chimes.settings import ChimesSettings

__all__ = ["TypedNeighbors", "cluster_energies", "cluster_features", "coefficient_table"]

#: Candidates that are looked at together, and clusters whose energies are computed together.
_CANDIDATES: Final = 16384
_AT_ONCE: Final = {2: 4096, 3: 1024, 4: 256}


class TypedNeighbors(NamedTuple):
    """Neighbours of all atoms of a graph; padding is masked.

    Attributes:
        vectors: from atom to neighbour, Å.
        neighbors: index of the neighbour.
        types: of the atoms, 0 for padding.
        mask: which neighbours are real.
    """

    vectors: Float[Array, "n_atoms n_neighbors 3"]
    neighbors: Int[Array, "n_atoms n_neighbors"]
    types: Int[Array, " n_atoms"]
    mask: Bool[Array, "n_atoms n_neighbors"]


@lru_cache(maxsize=64)
def _places(settings: ChimesSettings, m: int) -> Int[np.ndarray, "n_blocks n_products"]:
    """Column of every product of powers in every block; the number of columns where there is none."""
    blocks = settings.blocks(m)
    n_pairs, n_powers = len(PAIRS[m]), blocks[0].n_powers
    places = np.full((len(blocks), n_powers**n_pairs), settings.n_columns)
    for row, block in zip(places, blocks, strict=True):
        if block.active:
            row[power_codes(block.sets.powers, n_powers)] = block.first + block.sets.unique
    return places


def coefficient_table(
    settings: ChimesSettings, m: int, columns: Float[Array, " n_columns"]
) -> Float[Array, "n_blocks n_products"]:
    """Coefficient of every product of powers, zero where a product is left out."""
    return jnp.append(columns, 0.0)[_places(settings, m)]


class _Candidates(NamedTuple):
    """Edges of clusters: neighbours in the half lists, by rank, and where each atom's clusters begin."""

    column: Int[Array, "n_atoms n_neighbors"]
    ends: Int[Array, " n_atoms"]
    counts: Int[Array, " n_atoms"]


def _candidates(settings: ChimesSettings, m: int, edges: TypedNeighbors) -> _Candidates:
    """Neighbours that come after the atom in the order of `HalfEdges` and are near enough."""
    reach = jnp.asarray(type_tables(settings, m).reach)
    v = edges.vectors
    centre = jnp.arange(v.shape[0])[:, None]
    after = (edges.neighbors > centre) | ((edges.neighbors == centre) & is_positive(v))
    limit = reach[edges.types[:, None], edges.types[edges.neighbors]]
    keep = edges.mask & after & (jnp.sum(v**2, axis=-1) < limit**2)
    counts = jnp.sum(keep, axis=1)
    binomials = jnp.asarray([comb(k, m - 1) for k in range(v.shape[1] + 1)], jnp.int64)
    return _Candidates(jnp.argsort(~keep, axis=1, stable=True), jnp.cumsum(binomials[counts]), counts)


class _Chunk(NamedTuple):
    """Clusters: centre, columns of the others in its row, code of the types, block (their number: none)."""

    centre: Int[Array, " n"]
    column: Int[Array, "n m_minus_1"]
    code: Int[Array, " n"]
    block: Int[Array, " n"]


def _chunk(
    settings: ChimesSettings, m: int, edges: TypedNeighbors, near: _Candidates, start: Array
) -> _Chunk:
    """The candidates from a number on, by the combinatorial number system."""
    tables = type_tables(settings, m)
    number = start + jnp.arange(_CANDIDATES)
    real = number < near.ends[-1]
    number = jnp.where(real, number, 0)
    centre = jnp.searchsorted(near.ends, number, side="right")
    rest = number - jnp.where(centre > 0, near.ends[centre - 1], 0)
    ranks = []
    for k in range(m - 1, 0, -1):
        table = jnp.asarray([comb(i, k) for i in range(edges.vectors.shape[1] + 1)], jnp.int64)
        rank = jnp.searchsorted(table, rest, side="right") - 1
        rest = rest - table[rank]
        ranks.append(rank)
    column = near.column[centre[:, None], jnp.stack(ranks[::-1], axis=1)]
    types = edges.types[jnp.concatenate([centre[:, None], edges.neighbors[centre[:, None], column]], axis=1)]
    code = types @ jnp.asarray(len(settings.types) ** np.arange(m)[::-1])
    block = jnp.asarray(tables.block)[code]
    vectors = _pair_vectors(edges.vectors[centre[:, None], column], jnp.asarray(tables.order)[code])
    outer = jnp.asarray(np.concatenate([tables.outer, np.zeros((1, len(PAIRS[m])))]))[block].T
    real &= jnp.all(jnp.sum(vectors**2, axis=-1) < outer**2, axis=0)
    return _Chunk(centre, column, code, jnp.where(real, block, len(settings.blocks(m))))


def _pair_vectors(
    vectors: Float[Array, "n m_minus_1 3"], order: Int[Array, "n m"]
) -> Float[Array, "n_pairs n 3"]:
    """Vectors of the pairs, atoms put in the order of their block."""
    positions = jnp.concatenate([jnp.zeros_like(vectors[:, :1]), vectors], axis=1)
    positions = jnp.take_along_axis(positions, order[..., None], axis=1)
    return jnp.stack([positions[:, b] - positions[:, a] for a, b in PAIRS[order.shape[1]]])


def _powers(
    settings: ChimesSettings, m: int, vectors: Float[Array, "n m_minus_1 3"], order: Array, block: Array
) -> tuple[Float[Array, "n_powers n_pairs n"], Float[Array, " n"]]:
    """f T of each pair, and the penalty of each cluster; all clusters are of one block."""
    blocks = settings.blocks(m)
    lengths = [[settings.lengths[p] for p in b.pairs] for b in blocks]
    inner, outer, length = jnp.asarray([[b.inner for b in blocks], [b.outer for b in blocks], lengths])[
        :, block, :, None
    ]
    distances = jnp.sqrt(jnp.sum(_pair_vectors(vectors, order) ** 2, axis=-1))
    powers = radial(jnp, distances, inner, outer, length, blocks[0].n_powers, settings).values
    extra = penalty(jnp, distances[0], inner[0], settings) if m == 2 else jnp.zeros(len(vectors))
    return powers, extra


def _halves(powers: Float[Array, "n_powers n_pairs n"]) -> tuple[Array, Array]:
    """Products of the powers of the first half of the pairs, and of the second, (n_products, n)."""
    n_pairs, n = powers.shape[1:]
    half = (n_pairs + 1) // 2
    products = []
    for part in (range(half), range(half, n_pairs)):
        product = jnp.ones((1, n))
        for p in part:
            product = (product[:, None] * powers[:, p]).reshape(-1, n)
        products.append(product)
    return products[0], products[1]


def _energies(
    settings: ChimesSettings, m: int, vectors: Array, order: Array, block: Array, table: Array
) -> Float[Array, " n"]:
    """Energies of clusters of one block, eV, from its row of the coefficient table."""
    powers, extra = _powers(settings, m, vectors, order, block)
    first, second = _halves(powers)
    return jnp.sum(first * (table.reshape(first.shape[0], -1) @ second), axis=0) + extra


class _Step(NamedTuple):
    """Clusters of one block that are computed together; those beyond `real` are others again."""

    centre: Int[Array, " n"]
    column: Int[Array, "n m_minus_1"]
    order: Int[Array, "n m"]
    block: Int[Array, ""]
    real: Bool[Array, " n"]


def _over_clusters(settings: ChimesSettings, m: int, edges: TypedNeighbors, add: Any, result: Any) -> Any:
    """Loop `result = add(result, step)` over all clusters of m atoms."""
    candidates = _candidates(settings, m, edges)
    n_blocks, size = len(settings.blocks(m)), _AT_ONCE[m]
    order_of = jnp.asarray(type_tables(settings, m).order)

    def chunk(carry: tuple[Array, Any]) -> tuple[Array, Any]:
        start, result = carry
        c = _chunk(settings, m, edges, candidates, start)
        by_block = jnp.argsort(c.block)
        ends = jnp.searchsorted(c.block[by_block], jnp.arange(n_blocks), side="right")
        counts = jnp.diff(ends, prepend=0)
        steps = jnp.cumsum(-(-counts // size))

        def step(inner: tuple[Array, Any]) -> tuple[Array, Any]:
            number, result = inner
            block = jnp.searchsorted(steps, number, side="right")
            before = jnp.where(block > 0, steps[block - 1], 0)
            place = ends[block] - counts[block] + (number - before) * size + jnp.arange(size)
            real = place < ends[block]
            # Places beyond the block repeat its last cluster: finite, and of weight zero.
            chosen = by_block[jnp.minimum(place, ends[block] - 1)]
            part = _Step(c.centre[chosen], c.column[chosen], order_of[c.code[chosen]], block, real)
            return number + 1, add(result, part)

        done = jax.lax.while_loop(
            lambda inner: inner[0] < steps[-1], step, (jnp.zeros((), steps.dtype), result)
        )
        return start + _CANDIDATES, done[1]

    zero = jnp.zeros((), candidates.ends.dtype)
    return jax.lax.while_loop(lambda carry: carry[0] < candidates.ends[-1], chunk, (zero, result))[1]


def _members(edges: TypedNeighbors, step: _Step) -> Int[Array, "n m"]:
    """Atoms of clusters."""
    others = edges.neighbors[step.centre[:, None], step.column]
    return jnp.concatenate([step.centre[:, None], others], axis=1)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def cluster_energies(
    settings: ChimesSettings, m: int, edges: TypedNeighbors, table: Float[Array, "n_blocks n_products"]
) -> Float[Array, " n_atoms"]:
    """Energy of all clusters of m atoms in equal shares of their atoms, eV.

    It has first derivatives in reverse mode: loops of unknown length allow no others.

    Args:
        settings: of the model.
        m: 2, 3 or 4.
        edges: of the graph.
        table: `coefficient_table`.
    """

    def add(result: Array, step: _Step) -> Array:
        vectors = edges.vectors[step.centre[:, None], step.column]
        energies = _energies(settings, m, vectors, step.order, step.block, table[step.block])
        share = jnp.where(step.real, energies, 0.0) / m
        return result.at[_members(edges, step)].add(share[:, None])

    return _over_clusters(settings, m, edges, add, jnp.zeros(edges.types.shape[0], table.dtype))


def _forward(
    settings: ChimesSettings, m: int, edges: TypedNeighbors, table: Array
) -> tuple[Array, tuple[TypedNeighbors, Array]]:
    return cluster_energies(settings, m, edges, table), (edges, table)  # type: ignore[return-value]


def _backward(
    settings: ChimesSettings, m: int, saved: tuple[TypedNeighbors, Array], weights: Array
) -> tuple[Any, Array]:
    edges, table = saved

    def add(result: tuple[Array, Array], step: _Step) -> tuple[Array, Array]:
        vectors = edges.vectors[step.centre[:, None], step.column]
        weight = jnp.where(step.real, jnp.sum(weights[_members(edges, step)], axis=1) / m, 0.0)
        _, pull = jax.vjp(
            lambda v, t: _energies(settings, m, v, step.order, step.block, t), vectors, table[step.block]
        )
        by_vectors, by_table = pull(weight)
        place = (step.centre[:, None], step.column)
        return result[0].at[place].add(by_vectors), result[1].at[step.block].add(by_table)

    start = (jnp.zeros_like(edges.vectors), jnp.zeros_like(table))
    by_vectors, by_table = _over_clusters(settings, m, edges, add, start)
    return TypedNeighbors(by_vectors, None, None, None), by_table  # type: ignore[arg-type]


cluster_energies.defvjp(_forward, _backward)


def cluster_features(settings: ChimesSettings, edges: TypedNeighbors) -> Float[Array, "n_atoms n_columns"]:
    """Derivative of each atom's energy with respect to the coefficients; zero for the offsets."""
    n_atoms, n_columns = edges.types.shape[0], settings.n_columns
    total = jnp.zeros((n_columns + 1, n_atoms))
    for m in (m for m in (2, 3, 4) if settings.blocks(m)):
        places = _places(settings, m)

        def add(result: Array, step: _Step, m: int = m) -> Array:
            vectors = edges.vectors[step.centre[:, None], step.column]
            powers, _ = _powers(settings, m, vectors, step.order, step.block)
            first, second = _halves(powers)
            products = (first[:, None] * second[None]).reshape(-1, first.shape[1]).T
            share = jnp.where(step.real[:, None], products, 0.0) / m
            return result.at[_members(edges, step), step.block].add(share[:, None])

        by_block = _over_clusters(settings, m, edges, add, jnp.zeros((n_atoms, *places.shape)))
        total = total.at[places.ravel()].add(by_block.reshape(n_atoms, -1).T)
    return total[:n_columns].T
