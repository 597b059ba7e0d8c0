"""What a potential is, and the one derivation of energy, forces and stress that all of them share."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Array, Float, Int

from surefield.descriptors.atomic_descriptor import AtomicDescriptor
from surefield.errors import DataError, PotentialError, explain
from surefield.potentials.calculator import SurefieldCalculator
from surefield.potentials.prediction import Prediction, voigt
from surefield.structures.batching import padded_batches
from surefield.structures.graph import Graph, edge_forces, edge_virials, sum_atoms
from surefield.structures.neighbors import Neighborhood, neighborhood

__all__ = [
    "ClosedRows",
    "DensityPotential",
    "DescriptorPotential",
    "HasPotential",
    "LastLayerPotential",
    "Potential",
    "Results",
    "VectorPotential",
    "as_potential",
    "check_frames",
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
        charges: of atoms, e; None for potentials without an electrode potential.
        capacitance: -d(excess electrons)/d(electrode potential), e/V; None likewise.
        extrapolation: distance of each atom's features from the range of training; None where not defined.
    """

    energy: Float[Array, " n_structures"]
    forces: Float[Array, "n_atoms 3"]
    virial: Float[Array, "n_structures 3 3"]
    energies: Float[Array, " n_atoms"]
    charges: Float[Array, " n_atoms"] | None = None
    capacitance: Float[Array, " n_structures"] | None = None
    extrapolation: Float[Array, "n_atoms n_site_inputs"] | None = None


class Potential(eqx.Module):
    """A differentiable function E(parameters, structure), held as an immutable pytree.

    Attributes:
        species: atomic numbers the potential knows, ascending.
        cutoff: range of its neighbour list, Å.
        offsets: (n_species,) energy of each element that is added in float64, eV.
        supplies: names of the results it can give.
        reads_positions: whether the energy depends on `Graph.positions`, not on vectors alone.
        default_weight_decay: of AdamW, where a training names none.
    """

    supplies: ClassVar[frozenset[str]] = frozenset({"energy", "energies", "forces", "stress"})
    reads_positions: ClassVar[bool] = False
    default_weight_decay: ClassVar[float] = 0.0

    species: eqx.AbstractVar[tuple[int, ...]]
    cutoff: eqx.AbstractVar[float]
    offsets: eqx.AbstractVar[Float[Array, " n_species"]]

    @abc.abstractmethod
    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Energy of each atom in eV, without element offsets; zero for padding atoms."""

    def neighborhood(self, atoms: Atoms) -> Neighborhood:
        """Neighbours of a structure, and whatever else of it this potential reads."""
        return neighborhood(atoms, self.cutoff)

    def check_frame(self, atoms: Atoms, where: object) -> None:
        """Raise an error unless a structure of known elements is one this potential can serve."""

    def prepared(
        self,
        structures: Sequence[Neighborhood],
        energies: Sequence[float | None],
        offsets: Mapping[int, float],
    ) -> Self:
        """Copy with all that is taken from the training set and not trained; here the element offsets.

        Args:
            structures: of the training set.
            energies: their labels, eV.
            offsets: energy of each element, eV.
        """
        values = jnp.asarray([offsets.get(z, 0.0) for z in self.species], jnp.float64)
        return eqx.tree_at(lambda p: p.offsets, self, values)

    def at_potential(self, phi: float | None) -> Self:
        """Copy with another electrode potential (V) for structures that state none.

        Raises:
            PotentialError: the potential knows no electrode potential.
        """
        raise PotentialError(f"{type(self).__name__} knows no electrode potential to set")

    def charges(self, graph: Graph) -> Float[Array, " n_atoms"] | None:
        """Charges of atoms in e; None: the potential knows no electrode potential."""
        return None

    def extrapolation(self, graph: Graph) -> Float[Array, "n_atoms n_site_inputs"] | None:
        """How far each input of each atom lies outside the range of training, in units of that range."""
        return None

    @property
    def dtype(self) -> np.dtype:
        """Precision of the arithmetic: float32 if any parameter is, so that coordinates follow suit."""
        kinds = {leaf.dtype for leaf in jax.tree.leaves(self) if eqx.is_inexact_array(leaf)}
        return np.dtype("float32" if np.dtype("float32") in kinds else "float64")

    def predict(self, frames: Sequence[Atoms], **options: Any) -> list[Prediction]:
        """Predict structures; the options are those of `surefield.potentials.predict`."""
        return predict(self, frames, **options)

    def calculator(self, **options: Any) -> SurefieldCalculator:
        """ASE calculator with energy, forces, stress and per-atom energies; options as it takes."""
        return SurefieldCalculator(self, **options)

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

    def weight_decay_factors(self) -> Self:
        """Factor on the weight decay of every array, in the structure of the potential; here ones."""
        return self.learning_rate_factors(1.0, 1.0)


class ClosedRows(NamedTuple):
    """Derivatives of one structure's results with respect to all last-layer weights, float64.

    Attributes:
        energy: (n_features,) of the total energy.
        forces: (3 n_atoms, n_features) of the forces, order atom, xyz; None if not asked for.
        virial: (3, 3, n_features) of dE/d(strain); None if not asked for.
    """

    energy: Float[np.ndarray, " n_features"]
    forces: Float[np.ndarray, "n_components n_features"] | None
    virial: Float[np.ndarray, "3 3 n_features"] | None


class LastLayerPotential(Potential):
    """A potential whose energy is linear in its last weights: E = sum_i f_i · w[block of i] + constants."""

    readout: eqx.AbstractVar[Float[Array, "n_blocks n_site_features"]]
    bias: eqx.AbstractVar[Float[Array, " n_blocks"]]

    def constant_energy(self, numbers: Int[np.ndarray, " n_atoms"]) -> float:
        """Energy of a structure when all last weights and biases are zero, eV; here the element offsets."""
        table = dict(zip(self.species, np.asarray(self.offsets, np.float64).tolist(), strict=True))
        return sum(table[z] for z in numbers.tolist())

    def bias_row(self, numbers: Int[np.ndarray, " n_atoms"]) -> Float[np.ndarray, " n_blocks"]:
        """Derivative of the energy with respect to the biases; here the atoms of each element."""
        return np.sum(np.equal.outer(numbers, self.species), axis=0).astype(np.float64)

    @property
    def n_solvable(self) -> int:
        """Leading columns of `readout`, and all of `bias`, that an exact solution may replace."""
        return 0

    def solvable(self) -> LastLayerPotential:
        """Copy whose last layer has the solvable columns only."""
        return eqx.tree_at(lambda p: p.readout, self, self.readout[:, : self.n_solvable])

    def last_layer(self) -> LastLayerPotential:
        """This potential itself."""
        return self

    @abc.abstractmethod
    def site_features(self, graph: Graph) -> Float[Array, "n_atoms n_site_features"]:
        """Inputs f_i of the last layer of each atom."""

    def closed_rows(
        self, structures: Iterable[Neighborhood], *, forces: bool, strain: bool
    ) -> Iterator[ClosedRows] | None:
        """Rows of each structure by a way of the potential's own; None: they follow by differentiation."""
        return None

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


class DescriptorPotential(LastLayerPotential):
    """A last-layer potential of an atomic descriptor G: both energies and last-layer features follow from G.

    What is known of G alone (its derivatives, stored over a training set) then serves every quantity.
    """

    descriptor: eqx.AbstractVar[AtomicDescriptor]

    @abc.abstractmethod
    def feature_energies(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, " n_atoms"]:
        """Energy of each atom from its descriptor features, without element offsets; eV."""

    @abc.abstractmethod
    def last_layer_features(
        self, features: Float[Array, "n_atoms width"], graph: Graph
    ) -> Float[Array, "n_atoms n_site_features"]:
        """Last-layer features of each atom from its descriptor features."""

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Energy of each atom in eV, without element offsets."""
        return self.feature_energies(self.descriptor.features(graph), graph)

    def site_features(self, graph: Graph) -> Float[Array, "n_atoms n_site_features"]:
        """Inputs of the last layer of each atom."""
        return self.last_layer_features(self.descriptor.features(graph), graph)


class VectorPotential(LastLayerPotential):
    """A last-layer potential whose parameters have a documented order in one flat vector.

    Full-batch optimisers work on that vector; it holds the energy offsets too.
    """

    @property
    @abc.abstractmethod
    def vector(self) -> Float[Array, " n_parameters"]:
        """All parameters, float64 (traceable)."""

    @abc.abstractmethod
    def with_vector(self, vector: Float[Array, " n_parameters"]) -> Self:
        """Copy with the parameters of a vector (traceable)."""

    @abc.abstractmethod
    def first_layers(self) -> list[Float[Array, "n_in n_out"]]:
        """Weights of the first layer of every network, without their biases."""


class HasPotential(Protocol):
    """A handle around a potential, such as `NeuralNetwork`."""

    @property
    def potential(self) -> Potential:
        """The potential of its present parameters."""
        ...


def as_potential(model: Potential | HasPotential) -> Potential:
    """The potential itself, or the one that a handle holds."""
    return model if isinstance(model, Potential) else model.potential


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
    charges, capacitance = _charges(potential, graph)
    return Results(
        energy=energy,
        forces=edge_forces(by_vectors, graph) - by_positions,
        virial=edge_virials(by_vectors, graph) + 0.5 * (direct + jnp.swapaxes(direct, -1, -2)),
        energies=energies,
        charges=charges,
        capacitance=capacitance,
        extrapolation=potential.extrapolation(graph),
    )


def _charges(potential: Potential, graph: Graph) -> tuple[Array | None, Array | None]:
    """Charges of atoms, and the capacitance as the derivative of their sums: N_e = -Q."""

    def of(phi: Array) -> Array | None:
        return potential.charges(eqx.tree_at(lambda g: g.electrode_potential, graph, phi))

    phi = jnp.asarray(graph.electrode_potential)
    if jax.eval_shape(of, phi) is None:
        return None, None
    charges, slopes = jax.jvp(of, (phi,), (jnp.ones_like(phi),))
    return charges, sum_atoms(jnp.where(graph.atom_mask, slopes, 0.0), graph)


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
    check_frames(potential, frames)
    found = neighborhoods or [potential.neighborhood(atoms) for atoms in frames]
    predictions: list[Prediction | None] = [None] * len(found)
    table = dict(zip(potential.species, np.asarray(potential.offsets, np.float64).tolist(), strict=True))
    for chunk, graph in padded_batches(found, batch_size, potential.dtype):
        results = jax.tree.map(lambda x: np.asarray(x, np.float64), evaluate_jit(potential, graph))
        start = 0
        for place, index in enumerate(chunk):
            s = found[index]
            rows = slice(start, start + s.n_atoms)
            start = rows.stop
            volume = abs(np.linalg.det(s.cell)) if s.periodic else 0.0
            own = np.array([table[z] for z in s.numbers.tolist()])
            wants_stress = stress and s.periodic and "stress" in potential.supplies
            predictions[index] = Prediction(
                energy=float(results.energy[place]),
                energies=results.energies[rows] + own if "energies" in potential.supplies else None,
                forces=results.forces[rows] if forces else None,
                stress=voigt(results.virial[place] / volume) if wants_stress else None,
                **_electrochemical(results, place, rows, s.electrode_potential),
            )
            if results.extrapolation is not None:
                worst = results.extrapolation[rows].max(axis=1, initial=0.0)
                predictions[index] = replace(predictions[index], extrapolation=worst)  # type: ignore[type-var]
    return [p for p in predictions if p is not None]


def _electrochemical(results: Results, place: int, rows: slice, potential: float) -> dict[str, Any]:
    if results.charges is None or results.capacitance is None:
        return {}
    charges = np.asarray(results.charges)[rows]
    return {
        "charges": charges,
        "excess_electrons": -float(charges.sum()),
        "electrode_potential": potential,
        "capacitance": float(results.capacitance[place]),
    }


def composition_energy(potential: Potential, graph: Graph) -> Float[Array, " n_structures"]:
    """Sum of the element offsets over the atoms of each structure, eV, float64."""
    offsets = jnp.asarray(potential.offsets, jnp.float64)[species_index(potential, graph)]
    return sum_atoms(jnp.where(graph.atom_mask, offsets, 0.0), graph)


def trainable(potential: P) -> P:
    """Pytree of booleans with the structure of the potential: which leaves training may change."""
    fixed = {id(leaf) for leaf in jax.tree.leaves(potential.constants())}
    return jax.tree.map(lambda leaf: eqx.is_inexact_array(leaf) and id(leaf) not in fixed, potential)


def check_frames(potential: Potential, frames: Sequence[Atoms], name: str = "frame") -> None:
    """Raise an error unless the potential can serve every structure; see `Potential.check_frame`.

    The error is that of the first structure that is refused, and names the others.
    """
    origin = getattr(frames, "origin", lambda index: f"{name} {index}")
    refused: dict[str, DataError] = {}
    for index, atoms in enumerate(frames):
        check_species(potential, atoms.numbers, origin(index))
        try:
            potential.check_frame(atoms, origin(index))
        except DataError as error:
            refused[origin(index)] = error
    if refused:
        first, *others = refused
        also = f"; refused as well: {', '.join(others)}" if others else ""
        raise DataError(f"{refused[first]}{also}")


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
