"""What a potential is, and the one derivation of energy, forces and stress that all of them share."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple, Self, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Array, Float, Int

from surefield.errors import PotentialError, explain
from surefield.potentials.calculator import SurefieldCalculator
from surefield.potentials.prediction import Prediction, voigt
from surefield.structures.batching import padded_batches
from surefield.structures.graph import Graph, edge_forces, edge_virials, sum_atoms
from surefield.structures.neighbors import Neighborhood, neighborhood

__all__ = [
    "DensityPotential",
    "LastLayerPotential",
    "Potential",
    "Results",
    "check_species",
    "evaluate",
    "evaluate_jit",
    "predict",
    "species_index",
    "trainable",
]

P = TypeVar("P", bound="Potential")


class Results(NamedTuple):
    """What `evaluate` gives for a padded batch; padding atoms hold zeros.

    Attributes:
        energy: total energies, eV, float64, element offsets included.
        forces: eV/Å.
        virial: dE/d(strain), eV; divided by the cell volume it is the stress in ASE's sign.
        energies: per-atom energies, eV, without element offsets.
    """

    energy: Float[Array, " n_structures"]
    forces: Float[Array, "n_atoms 3"]
    virial: Float[Array, "n_structures 3 3"]
    energies: Float[Array, " n_atoms"]


class Potential(eqx.Module):
    """A differentiable function E(parameters, structure), held as an immutable pytree.

    Attributes:
        species: atomic numbers the potential knows, ascending.
        cutoff: range of its neighbour list, Å.
        offsets: (n_species,) energy of each element that is added in float64, eV.
    """

    species: eqx.AbstractVar[tuple[int, ...]]
    cutoff: eqx.AbstractVar[float]
    offsets: eqx.AbstractVar[Float[Array, " n_species"]]

    @abc.abstractmethod
    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Energy of each atom in eV, without element offsets; zero for padding atoms."""

    @property
    def dtype(self) -> np.dtype:
        """Precision of the arithmetic: float32 if any parameter is, so that coordinates follow suit."""
        kinds = {leaf.dtype for leaf in jax.tree.leaves(self) if eqx.is_inexact_array(leaf)}
        return np.dtype("float32" if np.dtype("float32") in kinds else "float64")

    def predict(self, frames: Sequence[Atoms], **options: Any) -> list[Prediction]:
        """Predict structures; the options are those of `surefield.potentials.predict`."""
        return predict(self, frames, **options)

    def calculator(self) -> SurefieldCalculator:
        """ASE calculator with energy, forces, stress and per-atom energies."""
        return SurefieldCalculator(self)

    def last_layer(self) -> LastLayerPotential:
        """The part whose last layer carries uncertainty, features and selection."""
        raise PotentialError(f"{type(self).__name__} has no linear last layer to take features from")

    def __add__(self, other: Potential) -> Potential:
        """Sum of this potential and a fixed baseline, such as short-range repulsion."""
        from surefield.potentials.sum import SumPotential

        return SumPotential(self, other)

    def constants(self) -> tuple[object, ...]:
        """Arrays of this potential that training must leave as they are."""
        return (self.offsets,)

    def learning_rate_factors(self, solved: float, radial: float) -> Self:
        """Factor on the learning rate of every array, in the structure of the potential; here ones.

        Args:
            solved: for weights that were solved exactly before.
            radial: for radial functions.
        """
        return jax.tree.map(lambda leaf: jnp.ones((), leaf.dtype) if eqx.is_array(leaf) else leaf, self)


class LastLayerPotential(Potential):
    """A potential whose energy is linear in its last weights: E = sum_i f_i · w[block of i] + constants."""

    readout: eqx.AbstractVar[Float[Array, "n_blocks n_site_features"]]

    def last_layer(self) -> LastLayerPotential:
        """This potential itself."""
        return self

    @abc.abstractmethod
    def site_features(self, graph: Graph) -> Float[Array, "n_atoms n_site_features"]:
        """Inputs f_i of the last layer of each atom."""

    def feature_block(self, graph: Graph) -> Int[Array, " n_atoms"]:
        """Row of `readout` that serves an atom; by default its element."""
        return species_index(self, graph)

    @property
    def n_features(self) -> int:
        """Number of last-layer weights, all blocks together."""
        return int(np.prod(self.readout.shape))


class DensityPotential(LastLayerPotential):
    """A last-layer potential of sums over neighbours: f_i = phi(sum_j a(r_ij)).

    Its feature derivatives follow from those of phi and a, at a fraction of the general cost.
    """

    @abc.abstractmethod
    def edge_terms(self, graph: Graph) -> Float[Array, "n_atoms n_neighbors n_terms"]:
        """Contribution a(r_ij) of every neighbour, zero where padded."""

    @abc.abstractmethod
    def density(self, graph: Graph) -> Float[Array, "n_atoms n_terms"]:
        """Sum of `edge_terms` over the neighbours, without holding them."""

    @abc.abstractmethod
    def density_features(
        self, density: Float[Array, "n_atoms n_terms"], graph: Graph
    ) -> Float[Array, "n_atoms n_site_features"]:
        """Last-layer inputs phi of the density."""

    def site_features(self, graph: Graph) -> Float[Array, "n_atoms n_site_features"]:
        """Inputs of the last layer of each atom."""
        return self.density_features(self.density(graph), graph)


def species_index(potential: Potential, graph: Graph) -> Int[Array, " n_atoms"]:
    """Place of each atom's element in `potential.species`; padding atoms get 0."""
    table = np.zeros(len(chemical_symbols), np.int32)
    table[list(potential.species)] = np.arange(len(potential.species))
    return jnp.asarray(table)[graph.numbers]


def evaluate(potential: Potential, graph: Graph) -> Results:
    """Energy, forces and virial of every structure of a batch (traceable; wrap it in `jit`)."""

    def total(vectors: Array, positions: Array) -> tuple[Array, Array]:
        moved = eqx.tree_at(lambda g: (g.vectors, g.positions), graph, (vectors, positions))
        energies = jnp.where(graph.atom_mask, potential.site_energies(moved), 0.0)
        return jnp.sum(energies), energies

    gradient, energies = jax.grad(total, argnums=(0, 1), has_aux=True)(graph.vectors, graph.positions)
    by_vectors, by_positions = gradient
    direct = jnp.einsum("na,nb->nab", graph.positions, by_positions)
    direct = sum_atoms(direct, graph)
    energy = sum_atoms(energies.astype(jnp.float64), graph) + composition_energy(potential, graph)
    return Results(
        energy=energy,
        forces=edge_forces(by_vectors, graph) - by_positions,
        virial=edge_virials(by_vectors, graph) + 0.5 * (direct + jnp.swapaxes(direct, -1, -2)),
        energies=energies,
    )


#: Compiled once per potential class and batch shape.
evaluate_jit = eqx.filter_jit(evaluate)


def predict(
    potential: Potential,
    frames: Sequence[Atoms],
    *,
    forces: bool = True,
    stress: bool = True,
    batch_size: int = 16,
    neighborhoods: Sequence[Neighborhood] | None = None,
) -> list[Prediction]:
    """Predict every structure, in padded batches; results are float64 and in the order of the frames.

    Args:
        potential: any potential.
        frames: structures; they are not changed.
        forces: give forces.
        stress: give stresses (of structures that are periodic in three directions).
        batch_size: structures per batch, about.
        neighborhoods: of the frames, if they are known already.

    Raises:
        PotentialError: an element the potential does not know.
    """
    for index, atoms in enumerate(frames):
        check_species(potential, atoms.numbers, getattr(frames, "origin", lambda i: f"frame {i}")(index))
    found = neighborhoods or [neighborhood(atoms, potential.cutoff) for atoms in frames]
    predictions: list[Prediction | None] = [None] * len(found)
    table = dict(zip(potential.species, np.asarray(potential.offsets, np.float64), strict=True))
    for chunk, graph in padded_batches(found, batch_size, potential.dtype):
        total, force, virial, energies = (np.asarray(x, np.float64) for x in evaluate_jit(potential, graph))
        start = 0
        for place, index in enumerate(chunk):
            s = found[index]
            rows = slice(start, start + s.n_atoms)
            start = rows.stop
            volume = abs(np.linalg.det(s.cell)) if s.periodic else 0.0
            predictions[index] = Prediction(
                energy=float(total[place]),
                energies=energies[rows] + np.array([table[z] for z in s.numbers.tolist()]),
                forces=force[rows] if forces else None,
                stress=voigt(virial[place] / volume) if stress and s.periodic else None,
            )
    return [p for p in predictions if p is not None]


def composition_energy(potential: Potential, graph: Graph) -> Float[Array, " n_structures"]:
    """Sum of the element offsets over the atoms of each structure, eV, float64."""
    offsets = jnp.asarray(potential.offsets, jnp.float64)[species_index(potential, graph)]
    return sum_atoms(jnp.where(graph.atom_mask, offsets, 0.0), graph)


def trainable(potential: P) -> P:
    """Pytree of booleans with the structure of the potential: which leaves training may change."""
    fixed = {id(leaf) for leaf in jax.tree.leaves(potential.constants())}
    return jax.tree.map(lambda leaf: eqx.is_inexact_array(leaf) and id(leaf) not in fixed, potential)


def check_species(
    potential: Potential, numbers: Sequence[int] | Int[np.ndarray, " n"], where: object
) -> None:
    """Raise `PotentialError` if an element is not known to the potential."""
    unknown = sorted(set(np.unique(numbers).tolist()) - set(potential.species))
    if unknown:
        raise PotentialError(
            explain(
                f"the potential does not know {', '.join(chemical_symbols[z] for z in unknown)}",
                where=where,
                expected=f"only {', '.join(chemical_symbols[z] for z in potential.species)}",
                fix="train it on structures with these elements, or leave the frame out",
            )
        )


def species_numbers(species: Sequence[str | int]) -> tuple[int, ...]:
    """Ascending atomic numbers from symbols or numbers."""
    try:
        numbers = {chemical_symbols.index(s) if isinstance(s, str) else int(s) for s in species}
    except ValueError:
        unknown = [s for s in species if isinstance(s, str) and s not in chemical_symbols]
        raise PotentialError(f"species {unknown} are no chemical symbols") from None
    if not numbers:
        raise PotentialError("a potential needs at least one species, such as species=['Si']")
    return tuple(sorted(numbers))
