"""Any function of JAX that gives energies of atoms, with a named last layer, as a potential."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Array, Bool, Float, Int

from surefield.errors import PotentialError, nearest
from surefield.foreign.known import known_model
from surefield.potentials.abilities import Saved
from surefield.potentials.evaluate import species_numbers
from surefield.potentials.potential import LastLayerPotential
from surefield.structures.graph import Graph, collate
from surefield.structures.neighbors import neighborhood

__all__ = ["EdgeList", "EnergyOfAtoms", "JaxPotential"]

#: Columns of the last layer whose features are computed at once.
_AT_ONCE: Final = 16
#: Largest deviation from a straight line along the last weights, of the energies' own size.
_LINEAR: Final = {np.dtype("float32"): 1e-4, np.dtype("float64"): 1e-9}


class EdgeList(NamedTuple):
    """Structures as most message-passing models read them: lists of atoms and of directed edges.

    Attributes:
        numbers: atomic numbers, 0 for padding atoms.
        vectors: from the receiver to the sender, Å; 1000 Å long where padded.
        senders: index of the neighbour.
        receivers: index of the atom that hears of it.
        mask: which edges are real.
        structure: index of the structure that an atom belongs to.
    """

    numbers: Int[Array, " n_atoms"]
    vectors: Float[Array, "n_edges 3"]
    senders: Int[Array, " n_edges"]
    receivers: Int[Array, " n_edges"]
    mask: Bool[Array, " n_edges"]
    structure: Int[Array, " n_atoms"]


#: Energies (n_atoms,) in eV, of the edges within the cutoff and of a pytree of parameters; traceable.
EnergyOfAtoms = Callable[[EdgeList, Any], Float[Array, " n_atoms"]]


class JaxPotential(LastLayerPotential, Saved):
    """A model of another package, written in JAX: E = sum of `energy(inputs, parameters)` over the atoms.

    The energy must be linear in one array of the parameters, the weights of the last layer; features are its
    derivatives by them, whatever is before and after that layer. All other parameters stay as they are:
    `train` finds element offsets and solves for the last layer.

    Args:
        energy: of atoms, eV; also of padding atoms, whatever it is. Energies of elements may be part of it.
        parameters: pytree of arrays.
        last_layer: name of the weights, with dots, such as "readout.weights".
        species: chemical symbols or atomic numbers that the model knows.
        cutoff: of its edges, Å. What an atom's energy depends on may lie further away.
        name: under which `register_model` knows what makes the model; None: it cannot be saved.
        settings: what that is given.

    Raises:
        PotentialError: no such parameter, or the energy is not linear in it.
    """

    KIND: ClassVar[str] = "jax_potential"
    pretrained: ClassVar[bool] = True
    #: Everything but the last layer.
    FIXED: ClassVar[tuple[str, ...]] = ("offsets", "parameters")
    one_block: ClassVar[bool] = True

    energy: EnergyOfAtoms = eqx.field(static=True)
    path: str = eqx.field(static=True)
    species: tuple[int, ...] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    name: str | None = eqx.field(static=True)
    settings: tuple[tuple[str, Any], ...] = eqx.field(static=True)
    parameters: Any
    offsets: Float[Array, " n_species"]
    readout: Float[Array, "1 n_site_features"]
    bias: Float[Array, " 1"]

    def __init__(
        self,
        energy: EnergyOfAtoms,
        parameters: Any,
        last_layer: str,
        species: Sequence[str | int],
        cutoff: float,
        *,
        name: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(parameters, eqx.is_inexact_array))
        named = {jax.tree_util.keystr(place, simple=True, separator="."): leaf for place, leaf in leaves}
        if last_layer not in named:
            raise PotentialError(
                f"the parameters have no array {last_layer!r}; {nearest(last_layer, named)}",
                fix="last_layer is the name of the weights that give the energies of atoms",
            )
        self.energy, self.path, self.cutoff = energy, last_layer, float(cutoff)
        self.species, self.name = species_numbers(species), name
        self.settings = tuple((settings or {}).items())
        self.parameters = parameters
        self.offsets = jnp.zeros(len(self.species), jnp.float64)
        self.readout = jnp.reshape(named[last_layer], (1, -1))
        self.bias = jnp.zeros(1, self.readout.dtype)

    def __check_init__(self) -> None:
        """Raise `PotentialError` unless the energies of a pair of atoms are linear in the last weights."""
        pair = Atoms([self.species[-1]] * 2, [[0, 0, 0], [0, 0, max(0.45 * self.cutoff, self.min_distance)]])
        graph = collate([neighborhood(pair, self.cutoff)], dtype=self.dtype)
        weights = self.readout[0]
        # Along another direction, too: at weights of zero nothing would be seen.
        direction = jnp.cos(jnp.arange(len(weights))).astype(weights.dtype)
        at = eqx.filter_jit(lambda p, k: p._energies(graph, weights + k * direction)[:2])
        zero, one, two = (np.asarray(at(self, k), np.float64) for k in (0.0, 1.0, 2.0))
        if not np.isfinite([zero, one, two]).all():
            raise PotentialError(f"the energies of a pair of atoms are not finite: {zero}")
        size = np.abs(two - zero).max()
        if size == 0:
            raise PotentialError(f"the energy does not depend on {self.path!r}")
        curved = float(np.abs(two - 2 * one + zero).max() / max(size, np.abs(zero).max()))
        if curved > _LINEAR[self.dtype]:
            raise PotentialError(
                f"the energy is not linear in {self.path!r}",
                got=f"a deviation of {curved:.1e} of its size",
                fix="name the weights of the last linear layer, after which nothing is bent",
            )

    def arguments(self) -> dict[str, Any]:
        """Name of the model and its settings; the arrays of the file are its parameters."""
        if self.name is None:
            raise PotentialError(
                "a function without a name cannot be saved",
                fix="give it one, JaxPotential(..., name='mine'), and register_model('mine', make)",
            )
        return {"model": self.name, "settings": dict(self.settings)}

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """The model by its name, whose parameters are replaced afterwards."""
        potential = known_model(arguments["model"], arguments["settings"])
        if not isinstance(potential, cls):
            raise PotentialError(f"the model {arguments['model']!r} is a {type(potential).__name__} here")
        return potential

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Energy of each atom in eV, without the offsets that training found."""
        return jnp.where(graph.atom_mask, self._energies(graph, self.readout[0]) + self.bias[0], 0.0)

    def site_features(self, graph: Graph) -> Float[Array, "n_atoms n_site_features"]:
        """Derivatives of each atom's energy by the last weights."""
        _, along = jax.linearize(lambda weights: self._energies(graph, weights), self.readout[0])
        units = jnp.eye(self.readout.shape[1], dtype=self.readout.dtype)
        features = jax.lax.map(along, units, batch_size=_AT_ONCE).T
        return jnp.where(graph.atom_mask[:, None], features, 0.0)

    def _energies(self, graph: Graph, weights: Float[Array, " n_site_features"]) -> Float[Array, " n_atoms"]:
        n_atoms, n_neighbors, _ = graph.vectors.shape
        inputs = EdgeList(
            jnp.asarray(graph.numbers),
            jnp.reshape(graph.vectors, (-1, 3)),
            jnp.reshape(graph.neighbors, -1),
            jnp.repeat(jnp.arange(n_atoms, dtype=jnp.int32), n_neighbors),
            jnp.reshape(graph.mask, -1),
            jnp.asarray(graph.structure),
        )

        def replaced(place: Any, leaf: Any) -> Any:
            here = jax.tree_util.keystr(place, simple=True, separator=".") == self.path
            return weights.reshape(leaf.shape) if here else leaf

        energies = self.energy(inputs, jax.tree_util.tree_map_with_path(replaced, self.parameters))
        if energies.shape != (n_atoms,):
            raise PotentialError(
                "the function must give one energy for each atom", got=energies.shape, expected=(n_atoms,)
            )
        return energies
