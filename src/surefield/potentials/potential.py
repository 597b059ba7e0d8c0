"""What a potential is, and the one derivation of energy, forces and stress that all of them share."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, Self, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from surefield.descriptors.atomic_descriptor import AtomicDescriptor
from surefield.errors import ConfigError, PotentialError
from surefield.potentials.abilities import (
    ClosedForm,
    ClosedRows,
    HasBiasRow,
    HasConstant,
    HasCorrection,
    HasLastLayer,
    HasOutputs,
    HasRanges,
    HasVector,
    Prepared,
    ReadsElectrode,
    Restricted,
    Saved,
    SavedByArguments,
    SharedFeatures,
    SiteInput,
    Solvable,
    Tangent,
    TrainingData,
    Wrapper,
)
from surefield.potentials.calculator import SurefieldCalculator
from surefield.potentials.evaluate import energies_and_features, predict, species_index
from surefield.potentials.prediction import Prediction
from surefield.structures.geometry import MIN_DISTANCE
from surefield.structures.graph import Graph, collate
from surefield.structures.labels import Labels
from surefield.structures.neighbors import Neighborhood, neighborhood
from surefield.structures.read import Frames

__all__ = [
    "ClosedRows",
    "DensityPotential",
    "DescriptorPotential",
    "HasPotential",
    "LastLayerPotential",
    "Potential",
    "SumPotential",
    "TrainingData",
    "as_potential",
    "trainable",
]

P = TypeVar("P", bound="Potential")
A = TypeVar("A")

#: What follows from energies of atoms alone.
MECHANICAL: Final = frozenset({"energy", "energies", "forces", "stress"})


def _able(potential: Potential, ability: type[A]) -> A | None:
    """A potential, if it has an ability, or the one it stands around; no method: binding takes long."""
    part = potential
    while not isinstance(part, ability):
        if not isinstance(part, Wrapper):
            return None
        part = part.inner
    return part


class Potential(eqx.Module):
    """A differentiable function E(parameters, structure), held as an immutable pytree.

    Its public methods are final: what differs between potentials is declared in the attributes, or is one of
    the abilities (`surefield.potentials.abilities`) that a class has.

    Attributes:
        species: atomic numbers the potential knows, ascending.
        cutoff: range of its neighbour list, Å.
        offsets: (n_species,) energy of each element that is added in float64, eV.
        training_defaults: settings of a training that suit the potential, where the training names none.
        invariances: changes of a structure that leave its energy as it is.
        min_distance: of two atoms below which nothing is predicted, Å; nothing is trained on below 0.3.
        pretrained: it comes trained, by others: `train` finds element offsets and solves for its last layer.
        supplies: names of the results it can give.
        reads_positions: the energy depends on `Graph.positions`, not on vectors alone.
        conjugate_charges: excess electrons, if any, are the slope of its energy in the electrode potential.
        numerical: derivatives by its parameters can be finite differences only.
        FIXED: names of arrays that training must leave as they are.
        MATRICES: names of arrays that map features, all axes but the last, to others; see `matrices`.
        RADIAL: names of arrays that make radial functions.
        SLOWED: last weights that were solved exactly before have a learning rate of their own.
        DECAYED: names of arrays that weight decay shrinks; None: all.
    """

    training_defaults: ClassVar[Mapping[str, Any]] = {}
    pretrained: ClassVar[bool] = False
    invariances: ClassVar[tuple[str, ...]] = ("permutation", "rotation", "translation")
    min_distance: ClassVar[float] = MIN_DISTANCE
    supplies: ClassVar[frozenset[str]] = MECHANICAL
    reads_positions: ClassVar[bool] = False
    conjugate_charges: ClassVar[bool] = True
    numerical: ClassVar[bool] = False
    FIXED: ClassVar[tuple[str, ...]] = ("offsets",)
    MATRICES: ClassVar[tuple[str, ...]] = ()
    RADIAL: ClassVar[tuple[str, ...]] = ()
    SLOWED: ClassVar[bool] = False
    DECAYED: ClassVar[tuple[str, ...] | None] = None

    species: eqx.AbstractVar[tuple[int, ...]]
    cutoff: eqx.AbstractVar[float]
    offsets: eqx.AbstractVar[Float[Array, " n_species"]]

    @abc.abstractmethod
    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Energy of each atom in eV, without element offsets; zero for padding atoms."""

    def config(self) -> dict[str, Any]:
        """JSON-able: the kind, and what an untrained potential of this shape is made from.

        Raises:
            PotentialError: potentials of this class are not saved.
        """
        if not isinstance(self, Saved):
            raise PotentialError(f"{type(self).__name__} cannot be saved")
        return {"kind": self.KIND, **self.arguments()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Untrained potential of what `config()` gave; potentials that are parts of it are made already."""
        if not issubclass(cls, Saved):
            raise PotentialError(f"{cls.__name__} cannot be made from a file")
        return cls.of_arguments({name: value for name, value in config.items() if name != "kind"})

    @property
    def potential(self) -> Potential:
        """This potential itself, so that it goes wherever a handle or an uncertainty around one goes."""
        return self

    def neighborhood(self, atoms: Atoms) -> Neighborhood:
        """Neighbours of a structure, and whatever else of it this potential reads."""
        plain, reader = neighborhood(atoms, self.cutoff), _able(self, ReadsElectrode)
        return plain if reader is None else replace(plain, inputs=reader.inputs_of(atoms))

    def check_frame(self, atoms: Atoms, where: object) -> None:
        """Raise an error unless a structure of known elements is one this potential can serve."""
        restricted = _able(self, Restricted)
        if restricted is not None:
            restricted.check_served(atoms, where)

    def prepared(self, data: TrainingData) -> Self:
        """Copy with all that is taken from the training set and not trained; mostly the element offsets."""
        if isinstance(self, Prepared):
            return self.prepared_from(data)
        return self.with_offsets(data.offsets)

    def with_offsets(self, offsets: Mapping[int, float]) -> Self:
        """Copy with other energies of elements, eV; zero for those that are not named."""
        values = jnp.asarray([offsets.get(z, 0.0) for z in self.species], jnp.float64)
        return eqx.tree_at(lambda p: p.offsets, self, values)

    def at_potential(self, phi: float | None) -> Self:
        """Copy with another electrode potential (V) for structures that state none.

        Raises:
            PotentialError: the potential knows no electrode potential.
        """
        if isinstance(self, ReadsElectrode):
            return self.with_default_phi(phi)
        if isinstance(self, Wrapper) and _able(self, ReadsElectrode) is not None:
            return self.around(lambda part: part.at_potential(phi))
        raise PotentialError(f"{type(self).__name__} knows no electrode potential to set")

    def outputs(self, graph: Graph) -> dict[str, Array]:
        """Quantities that do not follow from the energy, by name (traceable); mostly none.

        Those of structures have n_structures first, those of atoms n_atoms, with zeros for padding. What is
        here is trained on, predicted, and has rows and uncertainties; `supplies` names it too.
        """
        part = _able(self, HasOutputs)
        return {} if part is None else part.outputs_of(graph)

    def understood(self, frames: Frames, labels: Sequence[Labels]) -> tuple[Sequence[Labels], str]:
        """Labels as this potential means them, and a line that says how they were understood.

        Raises:
            DataError: labels that cannot be what the potential predicts.
        """
        reader = _able(self, ReadsElectrode)
        return (labels, "") if reader is None else reader.understood_labels(frames, labels)

    def extrapolation(self, graph: Graph) -> Float[Array, "n_atoms n_site_inputs"] | None:
        """How far each input of each atom lies outside the range of training, in units of that range."""
        part = _able(self, HasRanges)
        return None if part is None else part.excess(graph)

    def site_input(self, graph: Graph, atom: int, column: int) -> SiteInput:
        """One of the inputs that `extrapolation` has numbers of."""
        part = _able(self, HasRanges)
        if part is None:
            raise PotentialError(f"{type(self).__name__} knows no ranges of its inputs")
        return part.described_input(graph, atom, column)

    def describe_extrapolation(self, atoms: Atoms) -> str:
        """One line on the input that lies farthest outside the range of training."""
        graph = collate([self.neighborhood(atoms)], dtype=self.dtype)
        excess = np.asarray(self.extrapolation(graph))
        atom, column = (int(i) for i in np.unravel_index(excess.argmax(), excess.shape))
        name, value, low, high, unit = self.site_input(graph, atom, column)
        return (
            f"atom {atom} ({atoms.symbols[atom]}) lies outside the training set: {name} is {value:.4g}{unit}"
            f", its range {low:.4g} to {high:.4g}"
        )

    @property
    def vector(self) -> Float[Array, " n_parameters"]:
        """All that training may change in one flat vector (traceable)."""
        if isinstance(self, HasVector):
            return self.parameter_vector()
        return ravel_pytree(eqx.filter(self, trainable(self)))[0]

    def with_vector(self, vector: Float[Array, " n_parameters"]) -> Self:
        """Copy with the parameters of a vector (traceable).

        Raises:
            ConfigError: a vector of another length, where the parameters have an order of their own.
        """
        if isinstance(self, HasVector):
            return self.of_parameter_vector(vector)
        moving, fixed = eqx.partition(self, trainable(self))
        return eqx.combine(ravel_pytree(moving)[1](vector), fixed)

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
        """The part whose last layer carries uncertainty, features and selection.

        Raises:
            PotentialError: there is none.
        """
        part = _able(self, HasLastLayer)
        if part is None:
            raise PotentialError(f"{type(self).__name__} has no linear last layer to take features from")
        return part.linear_part()

    def __add__(self, other: Potential) -> Potential:
        """Sum of this potential and a fixed baseline, such as short-range repulsion."""
        return SumPotential(self, other)

    def constants(self) -> tuple[object, ...]:
        """Arrays of this potential that training must leave as they are."""
        return tuple(getattr(self, name) for name in self.FIXED)

    def matrices(self) -> Sequence[Array]:
        """Arrays that map features, all axes but the last, to others; steps of these are orthogonalised.

        Muon (Jordan et al., 2024); where there are none every array is trained by Adam.
        """
        return [array for name in self.MATRICES for array in jax.tree.leaves(getattr(self, name))]

    def learning_rate_factors(self, solved: float, radial: float) -> Self:
        """Factor on the learning rate of every array, in the structure of the potential; mostly ones.

        Args:
            solved: for weights that were solved exactly before.
            radial: for radial functions.
        """
        ones = _ones(self)
        factors = {name: jnp.asarray(radial, self.dtype) for name in self.RADIAL}
        if self.SLOWED and isinstance(self, LastLayerPotential):
            columns = jnp.arange(self.readout.shape[1]) < self.n_solvable
            factors["readout"] = jnp.where(columns, solved, 1.0).astype(self.dtype)
        return _with_named(ones, factors)

    def weight_decay_factors(self) -> Self:
        """Factor on the weight decay of every array, in the structure of the potential; mostly ones."""
        ones = _ones(self)
        if self.DECAYED is None:
            return ones
        zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if eqx.is_array(leaf) else leaf, ones)
        return _with_named(zeros, {name: getattr(ones, name) for name in self.DECAYED})


def _ones(potential: P) -> P:
    """A one for every array, in the structure of a potential."""
    return jax.tree.map(lambda leaf: jnp.ones((), leaf.dtype) if eqx.is_array(leaf) else leaf, potential)


def _with_named(potential: P, values: Mapping[str, Any]) -> P:
    """Copy with other values of some attributes."""
    if not values:
        return potential
    return eqx.tree_at(lambda p: [getattr(p, name) for name in values], potential, list(values.values()))


class LastLayerPotential(Potential, HasLastLayer):
    """A potential whose energy is linear in its last weights: E = sum_i f_i · w[block of i] + constants.

    Attributes:
        readout: w.
        bias: constant of each block, eV.
        local_features: f_i depends, of `Graph.vectors`, on the row of atom i alone, which makes rows cheap;
            where nothing is known it may depend on everything.
        forward_only: no derivatives are taken back from the energy to the weights: they may be differences.
        one_block: one row of `readout` serves all atoms; else each element has one.
    """

    local_features: ClassVar[bool] = False
    forward_only: ClassVar[bool] = False
    one_block: ClassVar[bool] = False

    readout: eqx.AbstractVar[Float[Array, "n_blocks n_site_features"]]
    bias: eqx.AbstractVar[Float[Array, " n_blocks"]]

    @abc.abstractmethod
    def site_features(self, graph: Graph) -> Float[Array, "n_atoms n_site_features"]:
        """Inputs f_i of the last layer of each atom."""

    def linear_part(self) -> LastLayerPotential:
        """This potential itself."""
        return self

    def constant_energy(self, numbers: Int[np.ndarray, " n_atoms"]) -> float:
        """Energy of a structure when all last weights and biases are zero, eV; mostly the element offsets."""
        if isinstance(self, HasConstant):
            return self.energy_without_weights(numbers)
        table = dict(zip(self.species, np.asarray(self.offsets, np.float64).tolist(), strict=True))
        return sum(table[z] for z in numbers.tolist())

    def bias_row(self, numbers: Int[np.ndarray, " n_atoms"]) -> Float[np.ndarray, " n_blocks"]:
        """Derivative of the energy with respect to the biases; mostly the atoms of each block."""
        return (
            self.slopes_of_biases(numbers) if isinstance(self, HasBiasRow) else self.atoms_of_blocks(numbers)
        )

    def atoms_of_blocks(self, numbers: Int[np.ndarray, " n_atoms"]) -> Float[np.ndarray, " n_blocks"]:
        """How many atoms of a structure each row of `readout` serves."""
        if self.one_block:
            return np.array([float(len(numbers))])
        return np.sum(np.equal.outer(numbers, self.species), axis=0).astype(np.float64)

    @property
    def n_solvable(self) -> int:
        """Leading columns of `readout`, and all of `bias`, that an exact solution may replace."""
        return self.n_linear() if isinstance(self, Solvable) else 0

    def solvable(self) -> LastLayerPotential:
        """Copy whose last layer has the solvable columns only."""
        bare = self.without_correction() if isinstance(self, HasCorrection) else self
        return eqx.tree_at(lambda p: p.readout, bare, self.readout[:, : self.n_solvable])

    def closed_rows(
        self, structures: Iterable[Neighborhood], *, forces: bool, strain: bool
    ) -> Iterator[ClosedRows] | None:
        """Rows of each structure by a way of the potential's own; None: they follow by differentiation."""
        if not isinstance(self, ClosedForm):
            return None
        return self.rows_of(structures, forces=forces, strain=strain)

    def with_readout(self, readout: Float[Array, "n_blocks n_site_features"]) -> Potential:
        """Potential with other last weights, of which the first derivatives at the present ones are asked."""
        if isinstance(self, Tangent):
            return self.touched(readout)
        return eqx.tree_at(lambda p: p.readout, self, readout)

    def feature_block(self, graph: Graph) -> Int[Array, " n_atoms"]:
        """Row of `readout` that serves an atom."""
        return jnp.zeros(graph.numbers.shape, jnp.int32) if self.one_block else species_index(self, graph)

    @property
    def n_features(self) -> int:
        """Number of last-layer weights, all blocks together."""
        return int(np.prod(self.readout.shape))


class DensityPotential(LastLayerPotential):
    """A last-layer potential of sums over neighbours: f_i = phi(sum_j a(r_ij)).

    Its feature derivatives follow from those of phi and a, at a fraction of the general cost.
    """

    local_features: ClassVar[bool] = True

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

    @abc.abstractmethod
    def density_features_along(
        self,
        density: Float[Array, "n_atoms n_terms"],
        directions: Float[Array, "n_atoms n_directions n_terms"],
        graph: Graph,
    ) -> Float[Array, "n_atoms n_directions n_site_features"]:
        """Derivatives of phi along directions of each atom's own density; not differentiated again."""

    def site_features(self, graph: Graph) -> Float[Array, "n_atoms n_site_features"]:
        """Inputs of the last layer of each atom."""
        return self.density_features(self.density(graph), graph)


class DescriptorPotential(LastLayerPotential, SharedFeatures):
    """A last-layer potential of an atomic descriptor G: both energies and last-layer features follow from G.

    What is known of G alone (its derivatives, stored over a training set) then serves every quantity.
    """

    local_features: ClassVar[bool] = True
    descriptor: eqx.AbstractVar[AtomicDescriptor]

    @property
    def species(self) -> tuple[int, ...]:  # type: ignore[override]
        """Atomic numbers, ascending."""
        return self.descriptor.species

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """Range of the neighbour list, Å."""
        return self.descriptor.cutoff

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

    def energies_and_features(self, graph: Graph) -> tuple[Array, Array]:
        """Both from one evaluation of the descriptor."""
        features = self.descriptor.features(graph)
        return self.feature_energies(features, graph), self.last_layer_features(features, graph)


class HasPotential(Protocol):
    """A handle around a potential, such as `NeuralNetwork`."""

    @property
    def potential(self) -> Potential:
        """The potential of its present parameters."""
        ...


def as_potential(model: HasPotential) -> Potential:
    """The potential itself, or the one that a handle or an uncertainty holds.

    Raises:
        ConfigError: anything else, such as a calculator of another package or the name of a file.
    """
    potential = getattr(model, "potential", None)
    if isinstance(potential, Potential):
        return potential
    if isinstance(model, str | Path):
        raise ConfigError(
            "a potential of surefield is needed",
            got=f"the text {str(model)!r}",
            fix="read one from its file with surefield.load(...), or train one with surefield.train(...)",
        )
    kind = type(model).__name__ + (", a calculator of ASE" if isinstance(model, BaseCalculator) else "")
    raise ConfigError(
        "a potential of surefield is needed, whose parameters are known",
        got=f"the class {model.__name__}" if isinstance(model, type) else kind,
        fix="train one, surefield.train(surefield.MomentNetwork(species=['Si'], cutoff=5.0), frames), on "
        "frames that any calculator may label; read one, surefield.load(file); or take a published one, "
        "surefield.KIMPotential(id)",
    )


def trainable(potential: P) -> P:
    """Pytree of booleans with the structure of the potential: which leaves training may change."""
    fixed = {id(leaf) for leaf in jax.tree.leaves(potential.constants())}
    return jax.tree.map(lambda leaf: eqx.is_inexact_array(leaf) and id(leaf) not in fixed, potential)


class SumPotential(Potential, SavedByArguments, SharedFeatures, Wrapper):
    """E = E_learned + E_baseline; training changes the learned part only.

    The neighbour list reaches to the larger cutoff; both parts fade to zero at their own.
    """

    KIND: ClassVar[str] = "sum"
    FIXED: ClassVar[tuple[str, ...]] = ("learned_constants", "baseline")

    learned: Potential
    baseline: Potential
    species: tuple[int, ...] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    min_distance: float = eqx.field(static=True)

    def __init__(self, learned: Potential, baseline: Potential) -> None:
        missing = set(learned.species) - set(baseline.species)
        if missing:
            raise PotentialError(
                f"the baseline does not know the elements {sorted(missing)} of the potential"
            )
        self.learned, self.baseline = learned, baseline
        self.species = learned.species
        self.cutoff = max(learned.cutoff, baseline.cutoff)
        # A repulsion of nuclei outweighs whatever was learned farther out.
        self.min_distance = baseline.min_distance  # pyright: ignore[reportIncompatibleVariableOverride]

    def arguments(self) -> dict[str, Any]:
        """Configurations of both parts."""
        return {"learned": self.learned.config(), "baseline": self.baseline.config()}

    @property
    def offsets(self) -> Float[Array, " n_species"]:  # type: ignore[override]
        """Element offsets of the learned part; a baseline has none."""
        return self.learned.offsets

    @property
    def learned_constants(self) -> tuple[object, ...]:
        """Those of the learned part."""
        return self.learned.constants()

    @property
    def inner(self) -> Potential:
        """The learned part: what it reads, gives besides the energy and knows is that of the sum."""
        return self.learned

    def around(self, change: Callable[[Potential], Potential]) -> Self:
        """Copy with the learned part changed."""
        return eqx.tree_at(lambda p: p.learned, self, change(self.learned))

    @property
    def supplies(self) -> frozenset[str]:  # type: ignore[override]
        """Results of the learned part."""
        return self.learned.supplies

    @property
    def reads_positions(self) -> bool:  # type: ignore[override]
        """Whether the learned part does."""
        return self.learned.reads_positions

    @property
    def conjugate_charges(self) -> bool:  # type: ignore[override]
        """Whether those of the learned part are."""
        return self.learned.conjugate_charges

    @property
    def numerical(self) -> bool:  # type: ignore[override]
        """Whether derivatives by the learned part's parameters are."""
        return self.learned.numerical

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Sum of both parts, eV."""
        return self.learned.site_energies(graph) + jnp.asarray(self.baseline.site_energies(graph))

    def energies_and_features(self, graph: Graph) -> tuple[Array, Array]:
        """The features are those of the learned part."""
        energies, features = energies_and_features(self.learned, graph)
        return energies + jnp.asarray(self.baseline.site_energies(graph)), features
