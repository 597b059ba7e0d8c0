"""What some potentials can and others cannot: an abstract class each, which `Potential` asks for.

The public methods of `Potential` and `LastLayerPotential` are final. What differs between potentials is an
ability: a potential that has it names the class among its parents and writes its methods; around one without
it the public method says what holds for all others. A potential around another one is a `Wrapper`, and has
the abilities of what it holds, unless it has its own.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from ase import Atoms
from jaxtyping import Array, Float, Int

from surefield.descriptors.build import descriptor_from_config
from surefield.structures.graph import Graph
from surefield.structures.labels import Labels
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Frames

__all__ = [
    "ClosedForm",
    "ClosedRows",
    "HasBiasRow",
    "HasConstant",
    "HasCorrection",
    "HasLastLayer",
    "HasOutputs",
    "HasRanges",
    "HasVector",
    "Prepared",
    "ReadsElectrode",
    "Restricted",
    "Saved",
    "SavedByArguments",
    "SharedFeatures",
    "SiteInput",
    "Solvable",
    "Tangent",
    "TrainingData",
    "Wrapper",
]


class TrainingData(NamedTuple):
    """What a potential is prepared from.

    Attributes:
        structures: of the training set.
        energies: their labels, eV.
        offsets: energy of each element, eV.
        force_scale: root mean square of the components of the labelled forces, eV/Å; 1 where there are none.
    """

    structures: Sequence[Neighborhood]
    energies: Sequence[float | None]
    offsets: Mapping[int, float]
    force_scale: float = 1.0


class SiteInput(NamedTuple):
    """Name and value of an input of an atom, its range over the training set, and " Å" or the like."""

    name: str
    value: float
    low: float
    high: float
    unit: str = ""


class ClosedRows(NamedTuple):
    """Derivatives of one structure's results with respect to all last-layer weights, float64.

    Attributes:
        energy: (n_features,) of the total energy.
        forces: (3 n_atoms, n_features) of the forces, order atom, xyz; None if not asked for.
        virial: (3, 3, n_features) of dE/d(strain); None if not asked for.
        energies: (n_atoms, n_features) of the energies of the atoms: their features; None: not known.
    """

    energy: Float[np.ndarray, " n_features"]
    forces: Float[np.ndarray, "n_components n_features"] | None
    virial: Float[np.ndarray, "3 3 n_features"] | None
    energies: Float[np.ndarray, "n_atoms n_features"] | None = None


class Saved(abc.ABC):
    """It can be written to a file, and made again from what stands there.

    Attributes:
        KIND: its name in files.
    """

    KIND: ClassVar[str]

    @abc.abstractmethod
    def arguments(self) -> dict[str, Any]:
        """JSON-able: what an untrained potential of this shape is made from."""

    @classmethod
    @abc.abstractmethod
    def of_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Untrained potential of what `arguments` gave; potentials that are parts of it are made already."""


class SavedByArguments(Saved):
    """Its `arguments` are those of its constructor, with a descriptor as its own configuration."""

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Untrained potential of what `arguments` gave."""
        settings = dict(arguments)
        if "descriptor" in settings:
            settings["descriptor"] = descriptor_from_config(settings["descriptor"])
        return cls(**settings)


class Restricted(abc.ABC):
    """It cannot serve every structure of its elements."""

    @abc.abstractmethod
    def check_served(self, atoms: Atoms, where: object) -> None:
        """Raise an error unless a structure of known elements is one it can serve."""


class ReadsElectrode(abc.ABC):
    """It reads the electrode potential of a structure besides its geometry."""

    @abc.abstractmethod
    def inputs_of(self, atoms: Atoms) -> dict[str, float]:
        """What it reads of a structure besides neighbours, by name."""

    @abc.abstractmethod
    def understood_labels(self, frames: Frames, labels: Sequence[Labels]) -> tuple[Sequence[Labels], str]:
        """Labels as it means them, and a line that says how they were understood."""

    @abc.abstractmethod
    def with_default_phi(self, phi: float | None) -> Self:
        """Copy with another electrode potential (V) for structures that state none."""


class HasOutputs(abc.ABC):
    """It gives quantities that do not follow from its energy."""

    @abc.abstractmethod
    def outputs_of(self, graph: Graph) -> dict[str, Array]:
        """These quantities by name (traceable): of structures n_structures first, of atoms n_atoms."""


class HasRanges(abc.ABC):
    """It knows the ranges of its inputs over the training set."""

    @abc.abstractmethod
    def excess(self, graph: Graph) -> Float[Array, "n_atoms n_site_inputs"]:
        """How far each input of each atom lies outside its range, in units of that range."""

    @abc.abstractmethod
    def described_input(self, graph: Graph, atom: int, column: int) -> SiteInput:
        """One of the inputs that `excess` has numbers of."""


class Prepared(abc.ABC):
    """It takes more than element offsets from the training set, or none of them."""

    @abc.abstractmethod
    def prepared_from(self, data: TrainingData) -> Self:
        """Copy with all that is taken from the training set and not trained."""


class HasVector(abc.ABC):
    """Its parameters have an order of their own in one flat vector."""

    @abc.abstractmethod
    def parameter_vector(self) -> Float[Array, " n_parameters"]:
        """All that training may change (traceable)."""

    @abc.abstractmethod
    def of_parameter_vector(self, vector: Float[Array, " n_parameters"]) -> Self:
        """Copy with the parameters of a vector (traceable)."""


class HasLastLayer(abc.ABC):
    """It has a part with a linear last layer, or can be made linear."""

    @abc.abstractmethod
    def linear_part(self) -> Any:
        """The `LastLayerPotential` whose last layer carries uncertainty, features and selection."""


class SharedFeatures(abc.ABC):
    """Its energies are made of the inputs of its last layer, so one computation gives both."""

    @abc.abstractmethod
    def energies_and_features(self, graph: Graph) -> tuple[Array, Array]:
        """`site_energies` (n_atoms,), and `site_features` of its last layer (n_atoms, n_site_features)."""


class Wrapper(abc.ABC):
    """It stands around another potential, whose abilities it has where it names none of its own."""

    @property
    @abc.abstractmethod
    def inner(self) -> Any:
        """The potential that it stands around; of several the first."""

    @abc.abstractmethod
    def around(self, change: Callable[[Any], Any]) -> Self:
        """Copy around the changed potential, or around all of them, each changed."""


class Solvable(abc.ABC):
    """Some of its last weights can be replaced by an exact solution."""

    @abc.abstractmethod
    def n_linear(self) -> int:
        """How many leading columns of `readout`; the biases can be replaced as well."""


class HasCorrection(Solvable):
    """Its other last weights belong to a correction, which can be left out."""

    @abc.abstractmethod
    def without_correction(self) -> Self:
        """Copy without all that the solvable columns do not need."""


class HasBiasRow(abc.ABC):
    """Its biases are not energies of single atoms."""

    @abc.abstractmethod
    def slopes_of_biases(self, numbers: Int[np.ndarray, " n_atoms"]) -> Float[np.ndarray, " n_blocks"]:
        """Derivative of the energy of a structure with respect to the biases."""


class HasConstant(abc.ABC):
    """What remains of its energy without last weights and biases is not the sum of element offsets."""

    @abc.abstractmethod
    def energy_without_weights(self, numbers: Int[np.ndarray, " n_atoms"]) -> float:
        """Energy of a structure when all last weights and biases are zero, eV."""


class ClosedForm(abc.ABC):
    """It has rows by a way of its own, and needs no differentiation.

    Attributes:
        cheap_rows: those of forces cost as much as a few forces; if not, a pass back for each weight.
    """

    cheap_rows: ClassVar[bool] = True

    @abc.abstractmethod
    def rows_of(
        self, structures: Iterable[Neighborhood], *, forces: bool, strain: bool
    ) -> Iterator[ClosedRows]:
        """Rows of each structure."""


class Tangent(abc.ABC):
    """It is the linear model around another potential, which has the same first derivatives."""

    @abc.abstractmethod
    def touched(self, readout: Float[Array, "n_blocks n_site_features"]) -> Any:
        """That potential, moved as far as other last weights are from the present ones."""
