"""Models that are functions of bonds: their lengths and directions, which a fit prepares once."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from surefield.potentials.parametric.parameters import Entry, ParametricPotential
from surefield.structures.graph import Graph

__all__ = ["BondPotential", "Edges", "edges_of", "pair_index"]


class Edges(eqx.Module):
    """Geometry of all directed bonds of a batch; padding has length 1 Å and no direction.

    A fit changes no geometry, so it holds these once instead of finding them at every evaluation; models are
    functions of them and their derivatives by `r`, `log_r` and `directions` give the forces. The components
    of directions are arrays of their own: stacked, they would be copied in every derivative.

    Attributes:
        r: lengths, Å.
        log_r: their natural logarithms.
        directions: x, y and z of the unit vectors from atom to neighbour.
        mask: which bonds are real.
        types: place of each atom's species in the order of the model.
        others: the same of the neighbours.
        atom_mask: which atoms are real.
    """

    r: Float[Array, "n_neighbors n_atoms"]
    log_r: Float[Array, "n_neighbors n_atoms"]
    directions: tuple[Float[Array, "n_neighbors n_atoms"], ...]
    mask: Bool[Array, "n_neighbors n_atoms"]
    types: Int[Array, " n_atoms"]
    others: Int[Array, "n_neighbors n_atoms"]
    atom_mask: Bool[Array, " n_atoms"]


def edges_of(graph: Graph, symbols: Sequence[str]) -> Edges:
    """Bonds of a batch for a model that counts species in the order of `symbols` (traceable)."""
    table = np.zeros(len(chemical_symbols), np.int32)
    table[[chemical_symbols.index(s) for s in symbols]] = np.arange(len(symbols))
    types = jnp.asarray(table)[graph.numbers]
    mask = graph.mask.T
    # Padding gets harmless numbers before anything is divided, so that its gradients are zero and not NaN.
    x, y, z = (jnp.where(mask, graph.vectors[..., axis].T, 0.0) for axis in range(3))
    r2 = jnp.where(mask, x**2 + y**2 + z**2, 1.0)
    r = jnp.sqrt(r2)
    others = types[graph.neighbors].T
    return Edges(r, 0.5 * jnp.log(r2), (x / r, y / r, z / r), mask, types, others, graph.atom_mask)


class BondPotential(ParametricPotential):
    """A physics model whose energies of atoms follow from their own bonds."""

    # Repeated for type checkers, which would make a constructor from the fields.
    def __init__(
        self,
        values: Mapping[str, ArrayLike],
        species: Sequence[str],
        *,
        free: Iterable[Entry | tuple[str, int]] | None = None,
    ) -> None:
        super().__init__(values, species, free=free)

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Energy of each atom in eV."""
        return self.edge_energies(edges_of(graph, self.symbols))

    @abc.abstractmethod
    def edge_energies(self, edges: Edges) -> Float[Array, " n_atoms"]:
        """Energy of each atom from its bonds, eV; zero for padding atoms."""

    def of_pairs(self, edges: Edges) -> dict[str, Float[Array, "*shape"]]:
        """Values of all 'pair' parameters for every bond; plain numbers when there is one species."""
        names = [name for name, form in self.forms.items() if form.per == "pair"]
        if len(self.symbols) == 1:
            return {name: self.values[name][0] for name in names}
        place = pair_index(len(self.symbols))[edges.types, edges.others]
        return {name: self.values[name][place] for name in names}


def pair_index(n_species: int) -> Int[Array, "n_species n_species"]:
    """Place of each pair in the order 11, 12, .., 22, .., the same for ij and ji."""
    table = np.zeros((n_species, n_species), np.int32)
    rows, columns = np.triu_indices(n_species)
    table[rows, columns] = table[columns, rows] = np.arange(len(rows))
    return jnp.asarray(table)
