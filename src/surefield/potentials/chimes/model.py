"""The ChIMES potential: energies from loops over clusters, rows in closed form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase.data import atomic_numbers
from jaxtyping import Array, Float, Int

from surefield.descriptors.chimes.clusters import HalfEdges, clusters, type_of_number
from surefield.descriptors.chimes.settings import ChimesSettings
from surefield.potentials.abilities import ClosedForm, ClosedRows, HasBiasRow, Saved, Solvable
from surefield.potentials.chimes.design import cluster_rows, grouped
from surefield.potentials.chimes.energy import (
    TypedNeighbors,
    cluster_energies,
    cluster_features,
    coefficient_table,
)
from surefield.potentials.potential import LastLayerPotential
from surefield.structures.graph import Graph
from surefield.structures.neighbors import Neighborhood
from surefield.structures.tensors import row_slices

__all__ = ["Chimes"]

#: Range of the neighbour list of a model without clusters, Å.
_NO_REACH = 0.1


class Chimes(LastLayerPotential, Saved, Solvable, HasBiasRow, ClosedForm):
    """Chebyshev interaction model for efficient simulation: a sum over pairs, triplets and quadruplets.

    E = sum_i E_type + sum over distinct clusters of (product of cutoff functions over the pairs) times
    (sum over power sets of c times the product of Chebyshev polynomials of the pairs), plus a repulsive
    penalty of pairs near their inner cutoff. An atom's energy holds equal shares of its clusters.

    The last layer has one block, whose columns are the coefficients in the order of chimes_lsq, in eV, and
    then the energy offset of each type; so it has no bias. The penalty is no part of the last layer.

    Lindsey, Fried, Goldman, J. Chem. Theory Comput. 13, 6222 (2017); 15, 436 (2019).

    Args:
        settings: hyperparameters.
        coefficients: (n_columns,) eV; zeros if not given.
    """

    KIND: ClassVar[str] = "chimes"
    #: The bias does nothing.
    FIXED: ClassVar[tuple[str, ...]] = ("offsets", "bias")
    one_block: ClassVar[bool] = True

    settings: ChimesSettings = eqx.field(static=True)
    readout: Float[Array, "1 n_columns"]
    bias: Float[Array, " 1"]
    offsets: Float[Array, " n_species"]

    def __init__(
        self, settings: ChimesSettings, coefficients: Float[np.ndarray, " n_columns"] | None = None
    ) -> None:
        self.settings = settings
        values = np.zeros(settings.n_columns) if coefficients is None else coefficients
        self.readout = jnp.asarray(values, jnp.float64).reshape(1, settings.n_columns)
        self.bias = jnp.zeros(1, jnp.float64)
        self.offsets = jnp.zeros(len(settings.types), jnp.float64)

    @property
    def species(self) -> tuple[int, ...]:  # type: ignore[override]
        """Atomic numbers, ascending."""
        return tuple(sorted(atomic_numbers[s] for s in self.settings.types))

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """Largest outer cutoff, Å."""
        return max(self.settings.reach, _NO_REACH)

    def n_linear(self) -> int:
        """All columns."""
        return self.settings.n_columns

    @property
    def coefficients(self) -> Float[np.ndarray, " n_columns"]:
        """Coefficients, then energy offsets, eV."""
        return np.asarray(self.readout[0], np.float64)

    def with_coefficients(self, values: Float[np.ndarray, " n_columns"]) -> Self:
        """Copy with other coefficients and energy offsets, eV."""
        return eqx.tree_at(lambda p: p.readout, self, jnp.asarray(values, jnp.float64).reshape(1, -1))

    def arguments(self) -> dict[str, Any]:
        """Hyperparameters."""
        return {"settings": self.settings.config()}

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Potential with coefficients zero."""
        return cls(ChimesSettings.from_config(arguments["settings"]))

    def slopes_of_biases(self, numbers: Int[np.ndarray, " n_atoms"]) -> Float[np.ndarray, " 1"]:
        """There is no bias: offsets are columns."""
        return np.zeros(1)

    def _edges(self, graph: Graph) -> TypedNeighbors:
        types = jnp.asarray(type_of_number(self.settings))[graph.numbers]
        return TypedNeighbors(jnp.asarray(graph.vectors), graph.neighbors, types, graph.mask)

    def _type_columns(self, types: Int[Array, " n"]) -> Int[Array, "n n_offsets"]:
        return types[:, None] == jnp.asarray(self.settings.offset_types, types.dtype)

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Energy of each atom in eV: its offset and its shares of the clusters."""
        edges, columns = self._edges(graph), self.readout[0]
        total = self._type_columns(edges.types) @ columns[self.settings.n_coefficients :]
        for m in (2, 3, 4):
            if self.settings.blocks(m):
                total += cluster_energies(  # type: ignore[operator]
                    self.settings, m, edges, coefficient_table(self.settings, m, columns)
                )
        return jnp.where(graph.atom_mask, total, 0.0)

    def site_features(self, graph: Graph) -> Float[Array, "n_atoms n_columns"]:
        """Derivative of each atom's energy with respect to the columns."""
        edges = self._edges(graph)
        features = cluster_features(self.settings, edges)
        features = features.at[:, self.settings.n_coefficients :].add(self._type_columns(edges.types))
        return jnp.where(graph.atom_mask[:, None], features, 0.0)

    def rows_of(
        self, structures: Iterable[Neighborhood], *, forces: bool, strain: bool
    ) -> Iterator[ClosedRows]:
        """Rows of each structure from its clusters, several structures at a time."""
        for group in grouped(structures, self.settings.n_columns):
            rows = cluster_rows(self.settings, group, forces=forces, strain=strain)
            for place, part in enumerate(row_slices(3 * s.n_atoms for s in group)):
                yield ClosedRows(
                    rows.energy[place],
                    None if rows.forces is None else rows.forces[part],
                    None if rows.virial is None else rows.virial[place],
                )

    def penalty(self, structure: Neighborhood) -> tuple[float, np.ndarray, np.ndarray]:
        """What is no part of the rows: energy (eV), forces (n_atoms, 3) and dE/d(strain) (3, 3)."""
        energy, forces, virial = 0.0, np.zeros((structure.n_atoms, 3)), np.zeros((3, 3))
        s = self.settings
        for pairs in clusters(s, HalfEdges.of(s, [structure]), 2):
            depth = np.maximum(pairs.block.inner[0] + s.penalty_distance - pairs.distances[0], 0.0)
            close = np.flatnonzero(depth)
            depth, vectors, atoms = depth[close], pairs.vectors[0][close], pairs.atoms[close]
            units = vectors / pairs.distances[0][close][:, None]
            slope = -3 * s.penalty_scale * depth**2
            energy += float(np.sum(s.penalty_scale * depth**3))
            np.add.at(forces, atoms[:, 0], slope[:, None] * units)
            np.add.at(forces, atoms[:, 1], -slope[:, None] * units)
            virial += np.einsum("n,na,nb->ab", slope, vectors, units)
        return energy, forces, virial

    def inside(self, structure: Neighborhood) -> dict[str, tuple[int, float]]:
        """Pairs at or below S_MINIM by pair type: how many, and their shortest distance in Å."""
        closest: dict[str, tuple[int, float]] = {}
        for pairs in clusters(self.settings, HalfEdges.of(self.settings, [structure]), 2):
            r = pairs.distances[0]
            close = r[r <= pairs.block.inner[0]]
            if len(close):
                n, shortest = closest.get(pairs.block.label, (0, np.inf))
                closest[pairs.block.label] = (n + len(close), min(shortest, float(close.min())))
        return closest
