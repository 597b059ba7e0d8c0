"""Rows of SNAP: derivatives of all bispectrum components, summed to forces and virials of many structures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import sparse

from surefield.descriptors.bispectrum import Bispectrum, Neighbors
from surefield.potentials.potential import ClosedRows
from surefield.structures.graph import bucket_size
from surefield.structures.neighbors import Neighborhood

__all__ = ["closed_rows"]

#: Edges whose derivatives are held at once, as bytes of them.
_BATCH_BYTES = 2**26
#: Steps of the number of neighbours that is compiled for: each step costs a compilation, none costs padding.
_WIDTH_RATIO, _LEAST_WIDTH = 2.0, 24
#: Atoms whose products are made at once.
_PRODUCT_ATOMS = 32


@dataclass(frozen=True, eq=False)
class _Batch:
    """Some structures as one list of atoms and one list of edges, of which each has a slot.

    Slots of the neighbours of one atom lie side by side; atoms with about as many neighbours share a chunk.

    Attributes:
        starts: (n_structures + 1,) first atom of each structure.
        element: (n_atoms,) place of each atom's element in the species.
        centre: (n_edges,) atom the edge starts from.
        other: (n_edges,) atom it leads to.
        vectors: (n_edges, 3) Å.
        slots: (n_edges,) place of each edge.
        chunks: (atoms, first slot, atoms with padding, neighbours with padding) of each chunk.
    """

    starts: Int[np.ndarray, " n_starts"]
    element: Int[np.ndarray, " n_atoms"]
    centre: Int[np.ndarray, " n_edges"]
    other: Int[np.ndarray, " n_edges"]
    vectors: Float[np.ndarray, "n_edges 3"]
    slots: Int[np.ndarray, " n_edges"]
    chunks: tuple[tuple[Int[np.ndarray, " n"], int, int, int], ...]

    @property
    def n_slots(self) -> int:
        """Slots, padding included."""
        return max((first + rows * width for _, first, rows, width in self.chunks), default=0)


class _Derivatives(NamedTuple):
    """Components of all atoms (n_atoms, width), and derivatives of every slot (n_slots, 3 * width)."""

    components: Float[np.ndarray, "n_atoms width"]
    slopes: Float[np.ndarray, "n_slots components"] | None


def closed_rows(
    descriptor: Bispectrum,
    structures: Iterable[Neighborhood],
    *,
    quadratic: bool,
    forces: bool,
    strain: bool,
) -> Iterator[ClosedRows]:
    """Yield the rows of each structure; some structures are computed together, and only those are held.

    Args:
        descriptor: bispectrum.
        structures: with neighbours up to its cutoff at least.
        quadratic: whether there are columns of products.
        forces: give rows of forces.
        strain: give rows of dE/d(strain).
    """
    waiting: list[Neighborhood] = []
    size = 0
    for structure in structures:
        waiting.append(structure)
        size += 8 * 3 * descriptor.width * int(structure.counts.sum())
        if size > _BATCH_BYTES:
            yield from _rows(descriptor, waiting, quadratic, forces, strain)
            waiting, size = [], 0
    if waiting:
        yield from _rows(descriptor, waiting, quadratic, forces, strain)


def _rows(
    descriptor: Bispectrum, structures: list[Neighborhood], quadratic: bool, forces: bool, strain: bool
) -> Iterator[ClosedRows]:
    batch = _batch(descriptor, structures)
    components, slopes = _evaluated(descriptor, batch, derivatives=forces or strain)
    n_types = len(descriptor.species)
    of_type = np.arange(n_types) == batch.element[:, None]
    by_force = by_strain = pairs = None
    if slopes is not None and forces:
        by_force = _force_rows(batch, slopes, n_types)
        pairs = _pair_slopes(batch, slopes) if quadratic else None
    if slopes is not None and strain:
        by_strain = _moments(batch, slopes)
    for first, last in zip(batch.starts[:-1], batch.starts[1:], strict=True):
        atoms = slice(first, last)
        values = components[atoms]
        energy = [np.einsum("nt,nk->tk", of_type[atoms], values)]
        force = [] if by_force is None else [by_force[atoms]]
        virial = []
        if by_strain is not None:
            total = np.einsum("nt,nabk->abtk", of_type[atoms], by_strain[atoms])
            virial = [0.5 * (total + total.swapaxes(0, 1))]
        if quadratic:
            types = [np.flatnonzero(of_type[atoms, t]) for t in range(n_types)]
            energy.append(np.stack([_upper(values[t].T @ values[t], 1)[0] / 2 for t in types]))
            if pairs is not None:
                force.append(_product_forces(pairs, components, of_type, (first, last)))
            if by_strain is not None:
                moments = by_strain[atoms].reshape(last - first, -1)
                products = [_upper(values[t].T @ moments[t], 9).reshape(3, 3, -1) for t in types]
                stacked = np.stack(products, axis=2)
                virial.append(0.5 * (stacked + stacked.swapaxes(0, 1)))
        yield ClosedRows(
            np.concatenate(energy, axis=-1).reshape(-1),
            np.concatenate(force, axis=-1).reshape(3 * (last - first), -1) if force else None,
            np.concatenate(virial, axis=-1).reshape(3, 3, -1) if virial else None,
        )


def _batch(descriptor: Bispectrum, structures: list[Neighborhood]) -> _Batch:
    starts = np.concatenate([[0], np.cumsum([s.n_atoms for s in structures])])
    numbers = np.concatenate([s.numbers for s in structures])
    element = np.searchsorted(descriptor.species, numbers)
    real = [np.arange(s.n_neighbors) < s.counts[:, None] for s in structures]
    centre = np.repeat(np.arange(len(numbers)), np.concatenate([s.counts for s in structures]))
    other = np.concatenate(
        [s.neighbors[r] + start for s, r, start in zip(structures, real, starts, strict=False)]
    )
    vectors = np.concatenate([s.vectors[r] for s, r in zip(structures, real, strict=True)])
    # Neighbour lists may reach farther than the bispectrum, and than its shorter ranges.
    radii = np.asarray(descriptor.radelem)[element]
    near = np.sum(vectors**2, axis=1) < (descriptor.rcutfac * (radii[centre] + radii[other])) ** 2
    centre, other, vectors = centre[near], other[near], vectors[near]
    counts = np.bincount(centre, minlength=len(numbers))
    order = np.argsort(-counts, kind="stable")
    chunks, first_slot = [], np.zeros(len(numbers), int)
    place = slot = 0
    while place < len(order):
        width = bucket_size(int(counts[order[place]]), _WIDTH_RATIO, _LEAST_WIDTH)
        rows = descriptor.block_size(width)
        atoms = order[place : place + rows]
        chunks.append((atoms, slot, rows, width))
        first_slot[atoms] = slot + width * np.arange(len(atoms))
        place, slot = place + rows, slot + rows * width
    column = np.arange(len(centre)) - (np.cumsum(counts) - counts)[centre]
    return _Batch(starts, element, centre, other, vectors, first_slot[centre] + column, tuple(chunks))


@eqx.filter_jit
def _chunk(descriptor: Bispectrum, neighbors: Neighbors, derivatives: bool) -> tuple[Array, Array | None]:
    if not derivatives:
        return descriptor.components(neighbors), None
    return descriptor.with_derivatives(neighbors)


def _evaluated(descriptor: Bispectrum, batch: _Batch, *, derivatives: bool) -> _Derivatives:
    n_slots, width = batch.n_slots, descriptor.width
    vectors = np.zeros((n_slots, 3))
    near: Bool[np.ndarray, " n_slots"] = np.zeros(n_slots, bool)
    element = np.zeros(n_slots, np.int32)
    vectors[batch.slots], near[batch.slots] = batch.vectors, True
    element[batch.slots] = batch.element[batch.other]
    components = np.empty((len(batch.element), width))
    slopes = np.empty((n_slots, 3 * width)) if derivatives else None
    for atoms, first, rows, columns in batch.chunks:
        slots = slice(first, first + rows * columns)
        centre = np.zeros(rows, np.int32)
        centre[: len(atoms)] = batch.element[atoms]
        neighbors = Neighbors(
            vectors[slots].reshape(rows, columns, 3),  # type: ignore[arg-type]
            near[slots].reshape(rows, columns),  # type: ignore[arg-type]
            centre,  # type: ignore[arg-type]
            element[slots].reshape(rows, columns),  # type: ignore[arg-type]
        )
        values, slope = _chunk(descriptor, neighbors, derivatives)
        components[atoms] = np.asarray(values)[: len(atoms)]
        if slopes is not None:
            slopes[slots] = np.asarray(slope).reshape(rows * columns, -1)
    return _Derivatives(components, slopes)


def _sums(rows: np.ndarray, values: np.ndarray, batch: _Batch, n_rows: int) -> sparse.csr_array:
    """Matrix that adds the derivatives of edges, times values, into rows; several rows per edge in turn."""
    columns = np.tile(batch.slots, len(rows) // len(batch.slots)) if len(batch.slots) else batch.slots
    return sparse.csr_array((values, (rows, columns)), shape=(n_rows, batch.n_slots))


def _force_rows(
    batch: _Batch, slopes: Float[np.ndarray, "n_slots components"], n_types: int
) -> Float[np.ndarray, "n_atoms 3 n_types width"]:
    """Derivatives of all forces by the readout; the vector of an edge leads from centre to other."""
    block = batch.element[batch.centre]
    rows = np.concatenate([batch.centre, batch.other]) * n_types + np.tile(block, 2)
    sign = np.repeat([1.0, -1.0], len(block))
    rows_of_atoms = _sums(rows, sign, batch, len(batch.element) * n_types) @ slopes
    return rows_of_atoms.reshape(len(batch.element), n_types, 3, -1).swapaxes(1, 2)


def _moments(
    batch: _Batch, slopes: Float[np.ndarray, "n_slots components"]
) -> Float[np.ndarray, "n_atoms 3 3 width"]:
    """Derivatives of the components of each atom by the strain, before it is made symmetric."""
    rows = (3 * batch.centre + np.arange(3)[:, None]).ravel()
    moments = _sums(rows, batch.vectors.T.ravel(), batch, 3 * len(batch.element)) @ slopes
    return moments.reshape(len(batch.element), 3, 3, -1)


class _Pairs(NamedTuple):
    """Derivatives of the components of one atom by the position of another (or its own), each pair once.

    Sorted by the atom that moves; the pairs of atom j are first[j] to first[j + 1].
    """

    of: Int[np.ndarray, " n_pairs"]
    first: Int[np.ndarray, " n_first"]
    slopes: Float[np.ndarray, "n_pairs components"]


def _pair_slopes(batch: _Batch, slopes: Float[np.ndarray, "n_slots components"]) -> _Pairs:
    n = len(batch.element)
    # Every atom has a pair with itself, even one without neighbours.
    itself = np.arange(n) * n + np.arange(n)
    codes = np.concatenate([batch.other * n + batch.centre, itself[batch.centre], itself])
    pairs, rows = np.unique(codes, return_inverse=True)
    sign = np.repeat([1.0, -1.0], len(batch.centre))
    summed = _sums(rows[: len(sign)], sign, batch, len(pairs)) @ slopes
    moving, of = np.divmod(pairs, n)
    return _Pairs(of, np.searchsorted(moving, np.arange(n + 1)), summed)


def _product_forces(
    pairs: _Pairs, components: Float[np.ndarray, "n_atoms width"], of_type: np.ndarray, atoms: tuple[int, int]
) -> Float[np.ndarray, "n 3 n_types n_products"]:
    """Force rows of the products: B_k dB_l + B_l dB_k, summed over the atoms that each atom is near to."""
    first, last = atoms
    parts = []
    for start in range(first, last, _PRODUCT_ATOMS):
        block = np.arange(start, min(start + _PRODUCT_ATOMS, last))
        counts = pairs.first[block + 1] - pairs.first[block]
        column = np.arange(max(int(counts.max()), 1))
        used = column < counts[:, None]
        place = np.where(used, pairs.first[block][:, None] + column, 0)
        slopes, of = pairs.slopes[place], pairs.of[place]
        types = []
        for t in range(of_type.shape[1]):
            values = components[of] * (used & of_type[of, t])[..., None]
            types.append(_upper(-(values.swapaxes(1, 2) @ slopes), 3))
        parts.append(np.stack(types, axis=2))
    return np.concatenate(parts)


def _upper(outer: Float[np.ndarray, "*batch width axes_width"], n_axes: int) -> np.ndarray:
    """M_kl + M_lk for k < l and M_kk, in the order of the columns, of matrices (k, axis l).

    Returns:
        (*batch, n_axes, n_products).
    """
    width = outer.shape[-2]
    first, second = np.triu_indices(width)
    axis = width * np.arange(n_axes)[:, None]
    flat = outer.reshape(*outer.shape[:-2], -1)
    size = n_axes * width
    products = np.take(flat, first * size + axis + second, axis=-1)
    products += np.take(flat, second * size + axis + first, axis=-1)
    products[..., first == second] *= 0.5
    return products
