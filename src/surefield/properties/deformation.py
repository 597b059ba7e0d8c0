"""Energies of a structure as functions of its strain and of displacements, and their derivatives."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Array, Float

from surefield.errors import ExecutionError, PotentialError
from surefield.potentials.evaluate import check_frames, composition_energy
from surefield.potentials.potential import Potential
from surefield.structures.graph import Graph, bucket_size, collate
from surefield.structures.neighbor_values import neighbor_values
from surefield.structures.tensors import from_voigt

__all__ = [
    "N_STRAINS",
    "curvatures",
    "curvatures_along",
    "deformed",
    "difference_curvatures",
    "energy",
    "graph_of",
    "slopes",
    "strain_matrix",
    "twice_differentiable",
    "unit_graph",
]

#: Components of a strain in Voigt order, which come first among the coordinates of a structure.
N_STRAINS: Final = 6
#: Shears are engineering shears, twice the off-diagonal component.
_HALVES: Final = np.array([1.0, 1.0, 1.0, 0.5, 0.5, 0.5])
#: Directions that second derivatives are taken along at once.
_AT_ONCE: Final = 16
#: Atoms of a small cell, and room for the neighbours of each of its atoms.
_SMALL: Final = 8
_WIDE: Final = bucket_size(18)
#: Step of second derivatives by differences: a strain, or a displacement in Å.
_STEP: Final = 1e-4


def graph_of(potential: Potential, atoms: Atoms, where: str, width: int | None = None) -> Graph:
    """A structure as a batch of one, without padding atoms; with room for `width` neighbours.

    Raises:
        ExecutionError: atoms nearer than the potential allows.
        PotentialError: an element the potential does not know.
    """
    check_frames(potential, [atoms], where)
    structure = potential.neighborhood(atoms)
    if structure.shortest < potential.min_distance:
        raise ExecutionError(
            f"{where}: atoms came as near as {structure.shortest:.3f} Å",
            expected=f"at least {potential.min_distance:g} Å",
            fix="begin nearer to the equilibrium, or take a potential that repels at short distances",
        )
    if width is None:
        # Small cells have room for more neighbours than they need: a smaller cell compiles nothing anew.
        width = bucket_size(structure.n_neighbors) if len(atoms) > _SMALL else _WIDE
        width = max(width, bucket_size(structure.n_neighbors))
    return collate([structure], n_atoms=len(atoms), n_neighbors=width, dtype=np.float64)


def unit_graph(graph: Graph) -> Graph:
    """The batch with arrays of JAX, as compiled and differentiated functions need it."""
    return jax.tree.map(jnp.asarray, graph)


def strain_matrix(strain: Float[Array, " 6"]) -> Float[Array, "3 3"]:
    """Symmetric strain of Voigt components with engineering shears (traceable)."""
    return jnp.asarray(from_voigt(strain * _HALVES))


def deformed(graph: Graph, matrix: Float[Array, "3 3"], displacements: Float[Array, "n_atoms 3"]) -> Graph:
    """A structure whose atoms are displaced and whose rows of coordinates are then multiplied by a matrix.

    Neighbours stay who they are (traceable).

    Args:
        graph: batch of one structure.
        matrix: 1 + strain; cells and positions r become r @ matrix.
        displacements: before that, Å.
    """
    moved = graph.vectors + neighbor_values(displacements, graph) - displacements[:, None]
    vectors = jnp.where(graph.mask[..., None], moved @ matrix, graph.vectors)
    positions = (graph.positions + displacements) @ matrix
    return eqx.tree_at(
        lambda g: (g.vectors, g.positions, g.cell), graph, (vectors, positions, graph.cell @ matrix)
    )


def energy(potential: Potential, graph: Graph) -> Float[Array, ""]:
    """Total energy of a batch of one structure, eV (traceable)."""
    sites = jnp.where(graph.atom_mask, potential.site_energies(graph), 0.0)
    return jnp.sum(sites.astype(jnp.float64)) + composition_energy(potential, graph)[0]


def _of_coordinates(potential: Potential, graph: Graph, x: Float[Array, " n_coordinates"]) -> Array:
    strain, displacements = x[:N_STRAINS], x[N_STRAINS:].reshape(-1, 3)
    return energy(potential, deformed(graph, jnp.eye(3) + strain_matrix(strain), displacements))


def _none(graph: Graph) -> Float[Array, " n_coordinates"]:
    return jnp.zeros(N_STRAINS + 3 * graph.numbers.shape[0])


def slopes(potential: Potential, graph: Graph) -> tuple[Float[Array, ""], Float[Array, " n_coordinates"]]:
    """Energy, and its derivatives by strain (volume times stress, eV) and displacements (minus forces)."""
    return jax.value_and_grad(partial(_of_coordinates, potential, graph))(_none(graph))


def curvatures(
    potential: Potential, graph: Graph
) -> tuple[Float[Array, " n_coordinates"], Float[Array, "n_coordinates n_coordinates"]]:
    """Slopes, and all second derivatives of the energy (traceable)."""
    none = _none(graph)
    directions = jnp.eye(len(none))
    return slopes(potential, graph)[1], curvatures_along(potential, graph, directions)


def curvatures_along(
    potential: Potential, graph: Graph, directions: Float[Array, "n_directions n_coordinates"]
) -> Float[Array, "n_directions n_coordinates"]:
    """Second derivatives times directions, a few at a time (traceable)."""
    gradient = jax.grad(partial(_of_coordinates, potential, graph))
    none = _none(graph)

    def along(direction: Array) -> Array:
        return jax.jvp(gradient, (none,), (direction,))[1]

    if len(directions) <= 2 * _AT_ONCE:
        return jax.vmap(along)(directions)
    return jax.lax.map(along, directions, batch_size=_AT_ONCE)


_slopes_at = eqx.filter_jit(
    lambda potential, graph, x: jax.grad(partial(_of_coordinates, potential, graph))(x)
)


def difference_curvatures(
    potential: Potential, graph: Graph, directions: Float[np.ndarray, "n_directions n_coordinates"]
) -> Float[np.ndarray, "n_directions n_coordinates"]:
    """Second derivatives times directions by central differences, for what JAX cannot differentiate twice."""
    rows = []
    for direction in directions:
        step = _STEP / np.abs(direction).max()
        ends = [np.asarray(_slopes_at(potential, graph, sign * step * direction)) for sign in (1.0, -1.0)]
        rows.append((ends[0] - ends[1]) / (2 * step))
    return np.array(rows)


def twice_differentiable(potential: Potential, graph: Graph) -> bool:
    """Whether JAX can take second derivatives: models that other programs compute have first ones only."""
    key = (type(potential), *(type(part) for part in jax.tree.leaves(potential, is_leaf=_is_part)))
    if key not in _known:
        _known[key] = _tried(potential, graph)
    return _known[key]


#: What was tried, by the classes that a potential is made of: trying traces all of it.
_known: dict[Any, bool] = {}


def _is_part(node: Any) -> bool:
    return isinstance(node, Potential) and not any(
        isinstance(child, Potential) for child in vars(node).values() if child is not node
    )


def _tried(potential: Potential, graph: Graph) -> bool:
    def along(potential: Any, graph: Any) -> Array:
        return curvatures_along(potential, graph, jnp.ones((1, N_STRAINS + 3 * graph.numbers.shape[0])))

    try:
        eqx.filter_eval_shape(along, potential, graph)
    except (TypeError, ValueError, NotImplementedError, PotentialError):
        return False
    return True
