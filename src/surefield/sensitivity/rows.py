"""Rows J = d(quantity)/d(last-layer weights): the one place where they are computed.

Definitions: Bigi et al., Mach. Learn.: Sci. Technol. 5, 045018 (2024) for energies; forces and stress are
their derivatives with respect to positions and strain. A potential may have a closed form of them; features
of an atom's own neighbours are differentiated for all atoms at once; all others by the shorter of two ways,
see `mixed_derivatives`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar, Final, Literal, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surefield.errors import PotentialError
from surefield.execution.cache import use_compilation_cache
from surefield.execution.callback import call_outside
from surefield.potentials.abilities import ClosedForm, ClosedRows
from surefield.potentials.potential import (
    DensityPotential,
    DescriptorPotential,
    LastLayerPotential,
    Potential,
)
from surefield.quantities import quantity
from surefield.structures.batching import streamed_batches
from surefield.structures.graph import Graph, collate, edge_forces, edge_virials
from surefield.structures.neighbors import Neighborhood
from surefield.structures.tensors import from_voigt, row_slices, to_voigt, volume

__all__ = [
    "StructureRows",
    "TrainedWeights",
    "atom_features",
    "bias_row",
    "energy_features",
    "energy_row",
    "force_rows",
    "mixed_derivatives",
    "site_features",
    "structure_rows",
    "vector_jacobian",
]

#: Atoms of small structures that share a batch: one program serves structures of all sizes up to this.
ATOMS_AT_ONCE: Final = 128
#: Directions in which derivatives are taken at once: what they need shall fit into the processor's cache.
_AT_ONCE: Final = 16
#: Atoms whose features are differentiated by their neighbours at once; of all it takes twice as long.
_ATOMS_OF_BLOCK: Final = 4


class TrainedWeights(Protocol):
    """What derivatives by weights are taken of: the last layer of a `LastLayerPotential`, or another one."""

    forward_only: ClassVar[bool]

    @property
    def readout(self) -> Array: ...  # noqa: D102
    def with_readout(self, readout: Array) -> Potential: ...  # noqa: D102


@dataclass(frozen=True)
class StructureRows:
    """Rows of one structure, float64, by the names of quantities; the usual ones also as attributes.

    Rows of one number are (n_features,), of others (n_values, n_features), atom by atom and component by
    component; n_features counts all blocks (elements) of the last layer.

    Attributes:
        values: rows of each quantity that was asked for and that the structure has.
        n_atoms: number of atoms.
    """

    values: Mapping[str, Float[np.ndarray, "*n_values n_features"]]
    n_atoms: int

    def __getitem__(self, name: str) -> Float[np.ndarray, "*n_values n_features"]:
        return self.values[name]

    def __contains__(self, name: object) -> bool:
        return name in self.values

    @property
    def energy(self) -> Float[np.ndarray, " n_features"]:
        """dE/dw of the total energy: for features of atoms their sum."""
        return self.values["energy"]

    @property
    def forces(self) -> Float[np.ndarray, "n_components n_features"] | None:
        """(3 n_atoms, n_features) dF/dw, order atom, xyz; None if not asked for."""
        return self.values.get("forces")

    @property
    def stress(self) -> Float[np.ndarray, "6 n_features"] | None:
        """d(stress)/dw in Voigt order, 1/Å^3; None if not asked for or not periodic."""
        return self.values.get("stress")


def vector_jacobian(
    potential: LastLayerPotential, graph: Graph
) -> Float[Array, "n_atoms n_neighbors 3 n_site_features"]:
    """d f_i / d(vector to neighbour k) for features that depend on the atom's own neighbours only."""
    if isinstance(potential, DensityPotential):
        return _density_jacobian(potential, graph)
    if isinstance(potential, DescriptorPotential):
        return _descriptor_jacobian(potential, graph)
    n_atoms, n_neighbors, _ = graph.vectors.shape

    def features(vectors: Array) -> Array:
        return potential.site_features(eqx.tree_at(lambda g: g.vectors, graph, vectors))

    # Atoms do not share vectors, so one direction serves all atoms at once.
    _, along = jax.linearize(features, jnp.asarray(graph.vectors))
    columns = _along_units(
        lambda d: along(jnp.broadcast_to(d.reshape(n_neighbors, 3), graph.vectors.shape)),
        n_neighbors * 3,
        graph.vectors.dtype,
    )
    return jnp.moveaxis(columns, -1, 1).reshape(n_atoms, n_neighbors, 3, -1)


def _along_units(of: Any, n: int, dtype: Any, then: Any = lambda columns: columns) -> Any:
    """A linear function of each of n unit vectors on a new last axis, block by block; then another one."""
    # Whole blocks: the rest would be compiled as a program of its own.
    n_blocks = -(-n // _AT_ONCE)
    size = -(-n // n_blocks)
    units = jnp.eye(n, n_blocks * size, dtype=dtype).T.reshape(n_blocks, size, n)
    blocks = jax.lax.map(lambda block: then(jax.vmap(of, out_axes=-1)(block)), units)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)[..., :n], blocks)


def _density_jacobian(potential: DensityPotential, graph: Graph) -> Array:
    def terms(axis: int) -> Array:
        tangent = jnp.zeros_like(graph.vectors).at[..., axis].set(1.0)
        return jax.jvp(
            lambda v: potential.edge_terms(eqx.tree_at(lambda g: g.vectors, graph, v)),
            (graph.vectors,),
            (tangent,),
        )[1]

    by_vector = jnp.stack([terms(axis) for axis in range(3)], axis=2)
    directions = by_vector.reshape(len(by_vector), -1, by_vector.shape[-1])

    def along(atoms: tuple[Array, Array, Array]) -> Array:
        density, own, numbers = atoms
        # Of the graph a density leaves open only which element an atom is.
        return potential.density_features_along(
            density, own, eqx.tree_at(lambda g: g.numbers, graph, numbers)
        )

    derivatives = _by_blocks(along, (potential.density(graph), directions, graph.numbers))
    return derivatives.reshape(*by_vector.shape[:3], -1)


def _by_blocks(of: Callable[[Any], Array], atoms: Any) -> Array:
    """A function of arrays over atoms, a few atoms after the other: what lies between stays in the cache."""
    n = len(jax.tree.leaves(atoms)[0])
    n_blocks = -(-n // _ATOMS_OF_BLOCK)
    size = -(-n // n_blocks)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, [(0, n_blocks * size - n)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(n_blocks, size, *x.shape[1:])

    blocks = jax.lax.map(of, jax.tree.map(split, atoms))
    return blocks.reshape(-1, *blocks.shape[2:])[:n]


def _descriptor_jacobian(potential: DescriptorPotential, graph: Graph) -> Array:
    descriptor = potential.descriptor
    inputs, by_vector = descriptor.features(graph), descriptor.jacobian(graph)
    return _chained(lambda x: potential.last_layer_features(x, graph), inputs, by_vector)


def _chained(of: Any, inputs: Float[Array, "n_atoms n_inputs"], by_vector: Array) -> Array:
    """Derivatives by vectors of a function of each atom's inputs, from those of the inputs."""
    _, along = jax.linearize(of, inputs)
    # Atoms are independent, so one direction serves them all.
    by_inputs = _along_units(
        lambda d: along(jnp.broadcast_to(d, inputs.shape)), inputs.shape[1], inputs.dtype
    )
    flat = by_vector.reshape(len(inputs), -1, inputs.shape[1])
    product = jnp.einsum("nvi,nfi->nvf", flat, by_inputs.astype(flat.dtype))
    return product.reshape(*by_vector.shape[:3], -1)


def mixed_derivatives(
    potential: TrainedWeights,
    graph: Graph,
    *,
    vectors: bool = True,
    by: Literal["weights", "coordinates"] | None = None,
) -> tuple[Array, Array, Array]:
    """Energy row (n_features,), force rows (n_atoms, 3, .) and virial rows (3, 3, .) of one structure.

    Nothing is assumed of the features: they may depend on all atoms. Forces and virial are second derivatives
    of the energy by weights and coordinates. By weights: every weight is one pass back through the features
    to the coordinates (reverse mode). By coordinates: every displacement and strain is one pass forward to
    all features.

    Args:
        potential: any.
        graph: of one structure.
        vectors: False: only what `Graph.positions` contributes at fixed vectors.
        by: which way; None: that of fewer passes.
    """
    weights, n_atoms = jnp.asarray(potential.readout), graph.positions.shape[0]
    geometry = jnp.asarray(graph.vectors), jnp.asarray(graph.positions)

    def energy(readout: Array, edges: Array, positions: Array) -> Array:
        moved = eqx.tree_at(lambda g: (g.vectors, g.positions), graph, (edges, positions))
        return _energy(potential, moved, readout)

    def rows(columns: tuple[Array, tuple[Array, Array]]) -> tuple[Array, Array, Array]:
        by_weights, (by_vectors, by_positions) = columns
        moment = jnp.einsum("na,nbf->abf", graph.positions, by_positions)
        forces, virial = -by_positions, 0.5 * (moment + jnp.swapaxes(moment, 0, 1))
        if vectors:
            forces += edge_forces(by_vectors, graph)
            virial += edge_virials(by_vectors, graph)[0]
        return by_weights, forces, virial

    def pushed(direction: Array) -> Array:
        shifts, strain = direction[:-6].reshape(n_atoms, 3), 0.5 * from_voigt(direction[-6:])
        strain = strain + jnp.diag(jnp.diag(strain))
        moved = shifts[graph.neighbors] - shifts[:, None] + geometry[0] @ strain
        edges = jnp.where(graph.mask[..., None], moved, 0.0) if vectors else jnp.zeros_like(moved)
        return along(edges, shifts + geometry[1] @ strain).reshape(-1)

    if by is None:
        by = "weights" if potential.forward_only or weights.size <= 3 * n_atoms + 6 else "coordinates"
    if by == "weights":
        gradient = jax.value_and_grad(energy, argnums=(1, 2))
        _, along = jax.linearize(lambda w: gradient(w, *geometry), weights)
        return _along_units(lambda d: along(d.reshape(weights.shape)), weights.size, weights.dtype, rows)
    row, along = jax.linearize(lambda v, x: jax.grad(energy)(weights, v, x), *geometry)
    columns = _along_units(pushed, 3 * n_atoms + 6, geometry[0].dtype)
    virial = jnp.moveaxis(from_voigt(columns[:, -6:]), 0, -1)
    return row.reshape(-1), -columns[:, :-6].T.reshape(n_atoms, 3, -1), virial


def _energy(potential: TrainedWeights, graph: Graph, readout: Array) -> Array:
    """Energy of a graph with other last-layer weights, without offsets."""
    energies = potential.with_readout(readout).site_energies(graph)
    return jnp.sum(jnp.where(graph.atom_mask, energies, 0.0))


def energy_row(potential: TrainedWeights, graph: Graph) -> Float[Array, " n_features"]:
    """dE/dw of the total energy of a graph (traceable): the sum of the last-layer features of its atoms."""
    weights = jnp.asarray(potential.readout)
    if not potential.forward_only:
        return jax.grad(lambda readout: _energy(potential, graph, readout))(weights).reshape(-1)
    _, along = jax.linearize(lambda readout: _energy(potential, graph, readout), weights)
    return _along_units(lambda d: along(d.reshape(weights.shape)), weights.size, weights.dtype)


_energy_row = eqx.filter_jit(energy_row)


def bias_row(potential: LastLayerPotential, graph: Graph) -> Float[Array, " n_blocks"]:
    """dE/d(bias) of the total energy of a graph (traceable): mostly the atoms of each element."""

    def energy(bias: Array) -> Array:
        moved = eqx.tree_at(lambda p: p.bias, potential, bias)
        return jnp.sum(jnp.where(graph.atom_mask, moved.site_energies(graph), 0.0))

    bias = jnp.asarray(potential.bias)
    if not potential.forward_only:
        return jax.grad(energy)(bias)
    _, along = jax.linearize(energy, bias)
    return jax.lax.map(along, jnp.eye(bias.size, dtype=bias.dtype))


def force_rows(potential: TrainedWeights, graph: Graph) -> Float[Array, "n_atoms 3 n_features"]:
    """dF/dw of one structure (traceable); zero for padding atoms."""
    if isinstance(potential, LastLayerPotential):
        if potential.local_features:
            return _local_derivatives(potential, graph, False)[2]
        if isinstance(potential, ClosedForm):
            return _outside_force_rows(potential, graph)
    rows = mixed_derivatives(potential, graph)[1]
    return jnp.where(graph.atom_mask[:, None, None], rows, 0.0)


def _outside_force_rows(potential: LastLayerPotential, graph: Graph) -> Float[Array, "n_atoms 3 n_features"]:
    """Closed rows, which do not depend on the weights: they are not made of what JAX can differentiate."""
    shape = (*graph.positions.shape, potential.n_features)
    names = ("numbers", "positions", "cell", "periodic", "mask", "neighbors", "vectors", "reverse")

    def rows(*arrays: Any) -> np.ndarray:
        structure = _structure(dict(zip(names, map(np.asarray, arrays), strict=True)))
        closed = potential.closed_rows([structure], forces=True, strain=False)
        of_structure = next(iter(closed or ()))
        result = np.zeros(shape)
        if of_structure.forces is not None:
            result[: structure.n_atoms] = of_structure.forces.reshape(-1, *shape[1:])
        return result

    geometry = [jnp.asarray(getattr(graph, name)) for name in names]
    return call_outside(rows, jax.ShapeDtypeStruct(shape, jnp.float64), *geometry)


def _structure(arrays: Mapping[str, np.ndarray]) -> Neighborhood:
    """The one structure of a graph."""
    n, width = int((arrays["numbers"] > 0).sum()), arrays["mask"].shape[1]
    mask = arrays["mask"][:n]
    return Neighborhood(
        numbers=arrays["numbers"][:n],
        positions=arrays["positions"][:n].astype(np.float64),
        cell=arrays["cell"][0].astype(np.float64),
        periodic=bool(arrays["periodic"][0]),
        counts=mask.sum(axis=1),
        neighbors=np.where(mask, arrays["neighbors"][:n], 0),
        vectors=np.where(mask[..., None], arrays["vectors"][:n], 0.0).astype(np.float64),
        reverse=np.where(mask, arrays["reverse"][:n] % width, 0),
    )


@eqx.filter_jit
def _site_features(potential: LastLayerPotential, graph: Graph) -> tuple[Array, Array]:
    return potential.site_features(graph), potential.feature_block(graph)


@eqx.filter_jit
def _local_derivatives(
    potential: LastLayerPotential, graph: Graph, strain: bool
) -> tuple[Array, Array, Array, Array | None]:
    """Features and blocks of atoms, force rows (n_atoms, 3, .), and virial rows (n_structures, 3, 3, .)."""
    jacobian, block = vector_jacobian(potential, graph), potential.feature_block(graph)
    place = jax.nn.one_hot(block, potential.readout.shape[0], dtype=jacobian.dtype)
    forces = _block_forces(jacobian, place, graph)
    virials = _block_virials(jacobian, place, graph) if strain else None
    if potential.reads_positions:
        _, direct, strained = mixed_derivatives(potential, graph, vectors=False)
        forces = forces + direct
        virials = None if virials is None else virials + strained
    return potential.site_features(graph), block, forces, virials


def _block_forces(
    jacobian: Float[Array, "n_atoms n_neighbors 3 width"],
    place: Float[Array, "n_atoms n_blocks"],
    graph: Graph,
) -> Float[Array, "n_atoms 3 n_features"]:
    """`edge_forces` of features that stand in the block of their atom, one-hot in `place`.

    Features of an atom fill one block of many; each is summed into its block and never written out in all.
    """
    n_atoms, n_neighbors, _, width = jacobian.shape
    if place.shape[1] == 1:
        return edge_forces(jacobian, graph)
    own = place[:, None, :, None] * jnp.sum(jacobian, axis=1)[:, :, None]
    back = jacobian.reshape(-1, 3 * width)[graph.reverse.reshape(-1)].reshape(n_atoms, n_neighbors, -1)
    others = jnp.swapaxes(place[graph.neighbors], 1, 2) @ back
    others = jnp.swapaxes(others.reshape(n_atoms, -1, 3, width), 1, 2)
    return (own - others).reshape(n_atoms, 3, -1)


def _block_virials(
    jacobian: Float[Array, "n_atoms n_neighbors 3 width"],
    place: Float[Array, "n_atoms n_blocks"],
    graph: Graph,
) -> Float[Array, "n_structures 3 3 n_features"]:
    """`edge_virials` of features that stand in the block of their atom."""
    n_atoms, n_neighbors, _, width = jacobian.shape
    vectors = jnp.where(graph.mask[..., None], graph.vectors, 0.0).astype(jacobian.dtype)
    moments = jnp.swapaxes(vectors, 1, 2) @ jacobian.reshape(n_atoms, n_neighbors, -1)
    member = jax.nn.one_hot(graph.structure, graph.n_structures, dtype=jacobian.dtype)
    member = (member[:, :, None] * place[:, None]).reshape(n_atoms, -1)
    totals = (member.T @ moments.reshape(n_atoms, -1)).reshape(graph.n_structures, -1, 3, 3, width)
    totals = 0.5 * (totals + jnp.swapaxes(totals, 2, 3))
    return jnp.moveaxis(totals, 1, 3).reshape(graph.n_structures, 3, 3, -1)


_mixed_derivatives = eqx.filter_jit(mixed_derivatives)


def structure_rows(
    potential: LastLayerPotential,
    structures: Sequence[Neighborhood],
    quantities: Iterable[str] = ("energy", "forces"),
) -> Iterator[StructureRows]:
    """Yield the rows of each structure in turn; never more than those of a few small structures are held.

    Args:
        potential: whose last layer is meant.
        structures: as `Potential.neighborhood` gives them.
        quantities: names of the table `surefield.quantities`. A stress is left out where there is none.

    Raises:
        ConfigError: a name that is not in the table.
        PotentialError: a quantity that the potential does not give.
    """
    use_compilation_cache()
    wanted = {name: quantity(name) for name in quantities}
    outputs = [name for name, entry in wanted.items() if entry.source == "output"]
    for name in outputs:
        if name not in potential.supplies:
            raise PotentialError(f"{type(potential).__name__} has no {name.replace('_', ' ')}")
    strain = "stress" in wanted and "stress" in potential.supplies
    derived: Iterator[ClosedRows | None] = repeat(None, len(structures))
    if wanted.keys() & {"energy", "forces", "stress"}:
        derived = _derived(potential, structures, "forces" in wanted, strain, "energies" in wanted)
    for structure, rows in zip(structures, derived, strict=True):
        values: dict[str, np.ndarray] = {}
        if rows is not None:
            values["energy"] = rows.energy
            if rows.forces is not None:
                values["forces"] = rows.forces
            if rows.virial is not None and structure.periodic:
                voigt = to_voigt(np.moveaxis(rows.virial, -1, 0)).T
                values["stress"] = voigt / volume(structure.cell)
        if "energies" in wanted:
            known = None if rows is None else rows.energies
            values["energies"] = atom_features(potential, structure) if known is None else known
        for name in outputs:
            values[name] = _output_rows(potential, structure, name)
        yield StructureRows({name: values[name] for name in wanted if name in values}, structure.n_atoms)


def _derived(
    potential: LastLayerPotential,
    structures: Sequence[Neighborhood],
    forces: bool,
    strain: bool,
    atoms: bool,
) -> Iterator[ClosedRows]:
    """Rows of all that follows from the energy; those of the atoms where they come along."""
    closed = potential.closed_rows(structures, forces=forces, strain=strain)
    if closed is not None:
        return iter(closed)
    if potential.local_features:
        return _local_rows(potential, structures, forces, strain)
    if atoms and not forces and not (strain and any(s.periodic for s in structures)):
        return (_summed_rows(atom_features(potential, structure)) for structure in structures)
    return (_general_rows(potential, structure, forces, strain) for structure in structures)


def _summed_rows(features: Float[np.ndarray, "n_atoms n_features"]) -> ClosedRows:
    return ClosedRows(features.sum(axis=0), None, None, features)


def _local_rows(
    potential: LastLayerPotential, structures: Sequence[Neighborhood], forces: bool, strain: bool
) -> Iterator[ClosedRows]:
    """Rows of structures in turn, computed for several small ones at once."""
    strained = strain and any(s.periodic for s in structures)
    derivatives = forces or strained
    batches = streamed_batches(structures, ATOMS_AT_ONCE, potential.dtype)
    if derivatives and potential.reads_positions:  # their part needs graphs of one structure
        batches = (([i], collate([s], dtype=potential.dtype)) for i, s in enumerate(structures))
    ready: dict[int, ClosedRows] = {}
    following = 0
    for members, graph in batches:
        if derivatives:
            of_batch = _local_derivatives(potential, graph, strained)
        else:
            of_batch = *_site_features(potential, graph), None, None
        features, block = (np.asarray(values) for values in of_batch[:2])
        by_positions, by_strains = (None if x is None else np.asarray(x) for x in of_batch[2:])
        for place, (index, atoms) in enumerate(
            zip(members, row_slices(structures[i].n_atoms for i in members), strict=True)
        ):
            of_atoms = _in_blocks(potential, features[atoms], block[atoms])
            energy = of_atoms.sum(axis=0)
            by_position = by_strain = None
            if forces and by_positions is not None:
                by_position = by_positions[atoms].astype(np.float64).reshape(-1, len(energy))
            if by_strains is not None and structures[index].periodic:
                by_strain = by_strains[place].astype(np.float64)
            ready[index] = ClosedRows(energy, by_position, by_strain, of_atoms)
        while following in ready:
            yield ready.pop(following)
            following += 1


def _general_rows(
    potential: LastLayerPotential, structure: Neighborhood, forces: bool, strain: bool
) -> ClosedRows:
    """Rows of one structure with features that may depend on all of its atoms."""
    graph = collate([structure], dtype=potential.dtype)
    if not forces and not (strain and structure.periodic):
        return ClosedRows(np.asarray(_energy_row(potential, graph), np.float64).reshape(-1), None, None)
    of_graph = _mixed_derivatives(potential, graph)
    energy, by_position, by_strain = (np.asarray(values, np.float64) for values in of_graph)
    by_position = by_position[: structure.n_atoms].reshape(-1, len(energy))
    return ClosedRows(energy, by_position if forces else None, by_strain if strain else None)


@eqx.filter_jit
def _output_rows_of(potential: LastLayerPotential, graph: Graph, name: str) -> Array:
    def output(readout: Array) -> Array:
        return potential.with_readout(readout).outputs(graph)[name]

    values, back = jax.vjp(output, jnp.asarray(potential.readout))
    rows = _along_units(lambda d: back(d.reshape(values.shape))[0].reshape(-1), values.size, values.dtype)
    return rows.T.reshape(*values.shape, -1)


def _output_rows(potential: LastLayerPotential, structure: Neighborhood, name: str) -> np.ndarray:
    """Rows of a quantity of `Potential.outputs`, in reverse mode: one pass for each of its values."""
    graph = collate([structure], dtype=potential.dtype)
    rows = np.asarray(_output_rows_of(potential, graph, name), np.float64)
    per_atom = quantity(name).per == "atom"
    rows = rows[: structure.n_atoms] if per_atom else rows[0]
    return rows if rows.ndim == 1 else rows.reshape(-1, rows.shape[-1])


def energy_features(
    potential: LastLayerPotential, structures: Sequence[Neighborhood]
) -> Float[np.ndarray, "n_structures n_features"]:
    """Summed last-layer features of each structure: rows of the total energy (`ll_grad` without the bias)."""
    rows = [row.energy for row in structure_rows(potential, structures, ("energy",))]
    return np.stack(rows) if rows else np.zeros((0, potential.n_features))


def atom_features(
    potential: LastLayerPotential, structure: Neighborhood
) -> Float[np.ndarray, "n_atoms n_features"]:
    """Last-layer features of each atom, in the block of its element."""
    features, block = _site_features(potential, collate([structure], dtype=potential.dtype))
    n = structure.n_atoms
    return _in_blocks(potential, np.asarray(features)[:n], np.asarray(block)[:n])


def site_features(
    potential: LastLayerPotential, structures: Sequence[Neighborhood]
) -> Iterator[tuple[int, Float[np.ndarray, "n_atoms n_site_features"]]]:
    """Index of each structure and the last-layer inputs of its atoms, nearly in order."""
    use_compilation_cache()
    for members, graph in streamed_batches(structures, ATOMS_AT_ONCE, potential.dtype):
        features = np.asarray(_site_features(potential, graph)[0])
        atoms = row_slices(structures[i].n_atoms for i in members)
        yield from ((index, features[rows]) for index, rows in zip(members, atoms, strict=True))


def _in_blocks(
    potential: LastLayerPotential, features: np.ndarray, block: np.ndarray
) -> Float[np.ndarray, "n_atoms n_features"]:
    n_blocks, width = potential.readout.shape
    full = np.zeros((len(features), n_blocks, width))
    full[np.arange(len(features)), block] = features
    return full.reshape(len(features), -1)
