"""Rows of a ChIMES model: derivatives of energies, forces and virials with respect to the coefficients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float
from scipy import sparse

from surefield.descriptors.chimes.clusters import Clusters, HalfEdges, clusters
from surefield.descriptors.chimes.polynomials import radial
from surefield.descriptors.chimes.power_sets import PAIRS, power_codes
from surefield.descriptors.chimes.settings import ChimesSettings, CoefficientBlock
from surefield.structures.neighbors import Neighborhood
from surefield.structures.tensors import VOIGT_COLUMNS, VOIGT_ROWS

__all__ = ["ClusterRows", "cluster_rows", "grouped"]

#: Clusters whose derivatives are held at a time, in numbers of type float64.
_HELD = 4_000_000
#: Products of one chunk, likewise: they should stay in the processor's cache.
_CHUNK = 100_000
#: Entries of the matrices of one group of structures, likewise.
_GROUP = 8_000_000


class ClusterRows:
    """Rows of several structures, in the columns of the model.

    Attributes:
        energy: (n_structures, n_columns).
        forces: (3 n_atoms, n_columns) of all structures, or None.
        virial: (n_structures, 3, 3, n_columns) of dE/d(strain), or None.
    """

    def __init__(self, settings: ChimesSettings, edges: HalfEdges, *, forces: bool, strain: bool) -> None:
        n = settings.n_columns
        self.energy = np.zeros((edges.n_structures, n))
        self.forces = np.zeros((3 * edges.n_atoms, n)) if forces else None
        self.virial = np.zeros((edges.n_structures, 3, 3, n)) if strain else None
        for column, kind in enumerate(settings.offset_types, settings.n_coefficients):
            structures = edges.structure[edges.types == kind]
            self.energy[:, column] = np.bincount(structures, minlength=edges.n_structures)

    def add(self, group: Clusters, values: np.ndarray, slopes: np.ndarray, structure: np.ndarray) -> None:
        """Add clusters.

        Args:
            group: the clusters.
            values: (n_clusters, n_unique) energies per coefficient.
            slopes: (n_pairs, n_clusters, n_unique) their derivatives by the distances.
            structure: (n_atoms,) structure of each atom.
        """
        columns = group.block.columns
        owner = structure[group.atoms[:, 0]]
        n = len(owner)
        self.energy[:, columns] += _summed(owner, n, len(self.energy)) @ values
        if self.forces is None and self.virial is None:
            return
        flat = slopes.reshape(-1, slopes.shape[-1])
        units = group.vectors / group.distances[..., None]
        if self.forces is not None:
            self.forces[:, columns] += _force_matrix(group, units, len(self.forces)) @ flat
        if self.virial is not None:
            for a, b in zip(VOIGT_ROWS, VOIGT_COLUMNS, strict=True):
                weight = (group.vectors[..., a] * units[..., b]).ravel()
                part = _summed(np.tile(owner, len(units)), weight.size, len(self.energy), weight) @ flat
                self.virial[:, a, b, columns] += part
                if a != b:
                    self.virial[:, b, a, columns] += part


def _summed(owner: np.ndarray, n: int, n_rows: int, weight: np.ndarray | None = None) -> sparse.csc_array:
    """Matrix that adds up columns by their owners."""
    data = np.ones(n) if weight is None else weight
    return sparse.csc_array((data, owner, np.arange(n + 1)), shape=(n_rows, n))


def _force_matrix(group: Clusters, units: np.ndarray, n_rows: int) -> sparse.csc_array:
    """Matrix from slopes of (pair, cluster) to components of the forces: plus on the first atom of a pair."""
    pairs = np.array(PAIRS[group.atoms.shape[1]])
    first, second = group.atoms[:, pairs[:, 0]].T, group.atoms[:, pairs[:, 1]].T
    place = np.stack(
        [3 * first + axis for axis in range(3)] + [3 * second + axis for axis in range(3)], axis=-1
    )
    data = np.concatenate([units, -units], axis=-1)
    n = first.size
    return sparse.csc_array((data.ravel(), place.ravel(), np.arange(0, 6 * n + 1, 6)), shape=(n_rows, n))


def grouped(structures: Iterable[Neighborhood], n_columns: int) -> Iterator[list[Neighborhood]]:
    """Structures in groups of bounded size, in their order."""
    group: list[Neighborhood] = []
    size = 0
    for s in structures:
        held = (3 * s.n_atoms + 10) * n_columns
        if group and size + held > _GROUP:
            yield group
            group, size = [], 0
        group.append(s)
        size += held
    if group:
        yield group


def cluster_rows(
    settings: ChimesSettings, structures: Sequence[Neighborhood], *, forces: bool, strain: bool
) -> ClusterRows:
    """Rows of a group of structures.

    Args:
        settings: of the model.
        structures: at least one.
        forces: give rows of forces.
        strain: give rows of the virial.
    """
    edges = HalfEdges.of(settings, structures)
    rows = ClusterRows(settings, edges, forces=forces, strain=strain)
    for m in (2, 3, 4):
        for group in (c for c in clusters(settings, edges, m) if c.block.active):
            width = (1 + len(PAIRS[m])) * group.block.sets.n_unique
            step = max(64, _HELD // width)
            for start in range(0, len(group.atoms), step):
                part = slice(start, start + step)
                piece = Clusters(
                    group.block, group.atoms[part], group.vectors[:, part], group.distances[:, part]
                )
                values, slopes = _products(settings, piece)
                rows.add(piece, values, slopes, edges.structure)
    return rows


def _products(settings: ChimesSettings, group: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """Energies per coefficient (n_clusters, n_unique), and derivatives (n_pairs, n_clusters, n_unique)."""
    block = group.block
    n_pairs, n = group.distances.shape
    values = np.empty((n, block.sets.n_unique))
    slopes = np.empty((n_pairs, n, block.sets.n_unique))
    step = max(16, _CHUNK // len(block.sets.unique))
    sets = _Halves(block)
    for start in range(0, n, step):
        part = slice(start, start + step)
        part_values, part_slopes = sets.products(settings, group.distances[:, part])
        values[part] = part_values.T
        slopes[:, part] = np.swapaxes(part_slopes, 1, 2)
    return values, slopes


class _Halves:
    """Products over the pairs of a block, put together from those over two halves of the pairs."""

    def __init__(self, block: CoefficientBlock) -> None:
        self.block = block
        sets = block.sets
        order = np.argsort(sets.unique, kind="stable")
        half = (sets.powers.shape[1] + 1) // 2
        self.parts = (slice(0, half), slice(half, None))
        self.places = [power_codes(sets.powers[order][:, part], block.n_powers) for part in self.parts]
        self.starts = np.searchsorted(sets.unique[order], np.arange(sets.n_unique))

    def products(
        self, settings: ChimesSettings, distances: Float[np.ndarray, "n_pairs n"]
    ) -> tuple[Float[np.ndarray, "n_unique n"], Float[np.ndarray, "n_pairs n_unique n"]]:
        """Values and slopes of the sums of products that share a coefficient."""
        b = self.block
        values, slopes = [], []
        for r, inner, outer, pair in zip(distances, b.inner, b.outer, b.pairs, strict=True):
            polynomials = radial(np, r, inner, outer, settings.lengths[pair], b.n_powers, settings)
            values.append(polynomials.values)
            slopes.append(polynomials.slopes)
        first, second = (_all_products(values[part], slopes[part], distances.shape[1]) for part in self.parts)
        a, c = first[:, self.places[0]], second[:, self.places[1]]
        summed = [np.add.reduceat(x * c[0], self.starts, axis=0) for x in a]
        summed += [np.add.reduceat(a[0] * x, self.starts, axis=0) for x in c[1:]]
        return summed[0], np.stack(summed[1:])


def _all_products(values: Sequence[np.ndarray], slopes: Sequence[np.ndarray], n: int) -> np.ndarray:
    """(1 + n_pairs, n_products, n): products over pairs for all powers, then their derivatives by each r."""
    products = np.ones((1, 1, n))
    for v, d in zip(values, slopes, strict=True):
        whole = products[:, :, None] * v
        derived = products[:1, :, None] * d
        products = np.concatenate([whole, derived]).reshape(len(products) + 1, -1, n)
    return products
