"""What all network models that are trained on whole sets have in common: parameters, fit, derivatives."""

from __future__ import annotations

import abc
import base64
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Float
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, nearest
from surefield.execution.identity import digest
from surefield.networks.fingerprint_derivatives import (
    Image,
    by_component,
    central_differences,
    vector_gradient,
    vector_jacobian,
)
from surefield.networks.fingerprinter import Fingerprinter
from surefield.networks.full_batch import Checkpoints, LossFunction, Regressor
from surefield.networks.parameters import Parameters, check_version, descriptor_mode
from surefield.potentials.calculator import SurefieldCalculator
from surefield.potentials.evaluate import predict
from surefield.potentials.potential import Potential
from surefield.potentials.prediction import Prediction
from surefield.potentials.saving import pack, save_arrays
from surefield.potentials.vector_potential import VectorPotential
from surefield.structures.geometry import check_geometry
from surefield.structures.images import HashedImages, hash_images
from surefield.structures.read import Frames

__all__ = ["Log", "Model", "model_to_text", "save_model"]

Log = Callable[[str], Any]


class Model(abc.ABC):
    """A network model with the documented surface; the mathematics is the immutable `potential`.

    A model is set up by its first images (`fit`, or `Amp.train`), which fix elements, ranges of the
    features and start values. From then on `potential` is what is evaluated; it is replaced, never changed,
    when parameters are set. A model goes wherever a potential goes.

    Attributes:
        regressor: minimises the loss.
        label: where `fit` puts checkpoints, `<label>-checkpoint` and so on; None for none.
        observer: called as observer(model, vector, loss) after every evaluation of the loss.
        status: how the last fit ended: 'converged', 'maxiter' or 'stopped'; None before.
    """

    #: Settings that fix the shape of the networks: not to be changed once there is a potential.
    _shape: ClassVar[tuple[str, ...]] = ("hiddenlayers", "mode", "output_activation", "dtype")

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        objects = ("self", "__class__", "regressor", "lossfunction", "descriptor")
        settings = {name: value for name, value in arguments.items() if name not in objects}
        check_version(settings["version"])
        if settings["mode"] is not None:
            settings = {**settings, "mode": descriptor_mode(settings["mode"])}
        self._settings = Parameters(settings)
        self._built: VectorPotential | None = None
        self._vector: np.ndarray | None = None
        self._descriptor: Fingerprinter | None = arguments["descriptor"]
        self._count = 0
        self._images: HashedImages | None = None
        self._log: Log | None = None
        self.regressor = arguments["regressor"] or Regressor()
        self.label: str | None = None
        #: whether the seed of the start values was drawn
        self.drawn_start = False
        self.observer: Callable[[Model, np.ndarray, float], Any] | None = None
        self.status: str | None = None
        self.lossfunction = arguments["lossfunction"] or LossFunction()

    @abc.abstractmethod
    def set_up(self, images: HashedImages, descriptor: Fingerprinter) -> None:
        """Make the potential from the settings and the training images, if there is none yet."""

    @abc.abstractmethod
    def potential_for(self, frames: Frames) -> Potential:
        """Untrained potential of the elements (or the one system) of some structures."""

    @property
    @abc.abstractmethod
    def parameters(self) -> Parameters:
        """Copy of all settings and parameters, with attribute and key access."""

    @property
    def potential(self) -> VectorPotential:
        """The potential of the present parameters.

        Raises:
            ConfigError: the model has not been set up.
        """
        if self._potential is None:
            raise ConfigError(
                f"this {type(self).__name__} knows no elements yet: train it, or call "
                "fit(images, descriptor, log, parallel, only_setup=True)"
            )
        return self._potential

    @property
    def _potential(self) -> VectorPotential | None:
        """The potential of the latest vector, made when it is asked for: optimisers set many."""
        if self._vector is not None and self._built is not None:
            self._built = self._built.with_vector(jnp.asarray(self._vector))
            self._vector = None
        return self._built

    @_potential.setter
    def _potential(self, potential: VectorPotential | None) -> None:
        self._built, self._vector = potential, None
        self._count = 0 if potential is None else potential.vector.size

    @property
    def shape(self) -> VectorPotential:
        """The potential of any vector, not necessarily the latest; what it costs nothing to ask for."""
        return self.potential if self._built is None else self._built

    @property
    def step(self) -> int:
        """Evaluations of the loss so far."""
        return self.lossfunction.step

    @property
    def vector(self) -> Float[np.ndarray, " n_parameters"] | None:
        """All parameters in one flat vector; None before the model is set up."""
        if self._vector is not None:
            return self._vector.copy()
        return None if self._built is None else np.array(self._built.vector)

    @vector.setter
    def vector(self, values: ArrayLike) -> None:
        vector = np.array(values, np.float64)
        if vector.shape != (self._count,):
            self._potential = self.potential.with_vector(jnp.asarray(vector))
        self._vector = vector

    def set(self, **changes: Any) -> None:
        """Change settings or parameters.

        Raises:
            ConfigError: an unknown name, or one that the networks cannot change any more.
        """
        for name, value in changes.items():
            if name == "vector":
                self.vector = value
            elif name not in self._settings:
                raise ConfigError(f"unknown parameter {name!r}, {nearest(name, [*self._settings, 'vector'])}")
            elif self._potential is not None and name in self._shape:
                raise ConfigError(f"{name} cannot be changed once the networks exist; make a new model")
            else:
                self._settings[name] = value
                self._apply(name, value)

    @abc.abstractmethod
    def _apply(self, name: str, value: Any) -> None:
        """Bring a changed setting into the potential, if there is one."""

    @property
    def log(self) -> Log | None:
        """Called with lines of text; None: silent."""
        return self._log

    @log.setter
    def log(self, log: Log | None) -> None:
        if log is not None and not callable(log):
            raise ConfigError(f"log must be callable with a text, or None; got {type(log).__name__}")
        self._log = log

    def say(self, text: str) -> None:
        """Pass a line to the log, if there is one."""
        if self._log is not None:
            self._log(text)

    @property
    def lossfunction(self) -> LossFunction:
        """The loss; a new one is attached at once."""
        return self._lossfunction

    @lossfunction.setter
    def lossfunction(self, lossfunction: LossFunction) -> None:
        self._lossfunction = lossfunction
        lossfunction.attach_model(self, images=self._images, log=self._log)

    @property
    def forcetraining(self) -> bool:
        """Whether the loss uses forces."""
        return self.lossfunction.forcetraining

    @property
    def fortran(self) -> bool:
        """False: the plain path without compilation and padding, for debugging."""
        return bool(self._settings.fortran)

    def fit(
        self,
        trainingimages: Any,
        descriptor: Fingerprinter,
        log: Log | None = None,
        parallel: Any = None,
        only_setup: bool = False,
    ) -> bool | None:
        """Set the model up and minimise the loss; a run that was interrupted goes on.

        Args:
            trainingimages: labelled images: list of Atoms, file, or dict of `hash_images`.
            descriptor: such as `Gaussian()`.
            log: called with lines of text.
            parallel: number of shards the images are cut into; see `LossFunction`.
            only_setup: stop before the optimisation.

        Returns:
            True if the loss converged, else False; None with `only_setup`.
        """
        self.log = log
        images = hash_images(trainingimages, log)
        check_geometry(images.frames)
        self.set_up(images, descriptor)
        if parallel is not None:
            self.lossfunction.parallel = parallel
        self._images = images
        self.lossfunction.attach_model(self, images=images, log=log)
        if only_setup:
            return None
        converged = self.regressor.regress(self, log)
        self.status = self.lossfunction.status
        self.warn_of_result(images.frames)
        return bool(converged)

    @abc.abstractmethod
    def warn_of_result(self, frames: Sequence[Atoms]) -> None:
        """Warn of what is unphysical in a fit, with the structures it was made on."""

    def checkpoint_files(self) -> Checkpoints | None:
        """Where checkpoints of this fit go; None without a label."""
        return None if self.label is None else Checkpoints(self.label, self._settings.checkpoints)

    def start_settings(self) -> dict[str, Any]:
        """What the start values follow from: the seed, or weights that were given."""
        weights = self._settings.get("weights")
        seed = {"randomseed": self._settings.randomseed}
        return seed if weights is None else {"weights": digest(weights)}

    def get_loss(self, vector: ArrayLike, lossprime: bool) -> Any:
        """Loss of a parameter vector, and its gradient if asked for.

        Raises:
            ConvergenceOccurred: all criteria of the loss function are met.
        """
        self.vector = vector
        numbers = self.lossfunction.get_loss(vector, lossprime=lossprime)
        return (numbers["loss"], numbers["dloss_dparameters"]) if lossprime else numbers["loss"]

    def _seed(self) -> int:
        """Seed of the start values; one that was not given is drawn, logged and kept."""
        if self._settings.randomseed is None:
            self.drawn_start = True
            self._settings["randomseed"] = secrets.randbits(32)
            self.say(f"random seed: {self._settings.randomseed}")
        return int(self._settings["randomseed"])

    def tostring(self) -> str:
        """JSON text from which `Amp.load` restores the model exactly."""
        return model_to_text(self)

    # What a potential offers.

    def predict(self, frames: Sequence[Atoms], **options: Any) -> list[Prediction]:
        """Predict structures; the options are those of `surefield.potentials.predict`."""
        return predict(self.potential, frames, **options)

    def calculator(self, **options: Any) -> SurefieldCalculator:
        """ASE calculator of the present parameters; options as it takes."""
        return self.potential.calculator(**options)

    # Energies, forces and parameter derivatives from fingerprints.

    def calculate_energy(self, fingerprints: Any) -> float:
        """Energy of an image in eV from its fingerprints; `atomic_energies` then holds those of its atoms."""
        image = Image(self.potential, fingerprints)
        self.atomic_energies = image.atomic_energies(self.potential)
        return float(image.energy(self.potential))

    def calculate_forces(
        self, fingerprints: Any, fingerprintprimes: Mapping[Any, Any]
    ) -> Float[np.ndarray, "n_atoms 3"]:
        """Forces in eV/Å from fingerprints and their derivatives."""
        return np.asarray(Image(self.potential, fingerprints, fingerprintprimes).forces(self.potential))

    def calculate_dEnergy_dParameters(self, fingerprints: Any) -> Float[np.ndarray, " n_parameters"]:
        """Gradient of the energy with respect to the parameter vector."""
        return vector_gradient(self.potential, Image(self.potential, fingerprints).energy)

    def calculate_dForces_dParameters(
        self, fingerprints: Any, fingerprintprimes: Mapping[Any, Any]
    ) -> dict[tuple[int, int], Float[np.ndarray, " n_parameters"]]:
        """Gradient of each force component (atom, direction) with respect to the parameter vector."""
        image = Image(self.potential, fingerprints, fingerprintprimes)
        return vector_jacobian(self.potential, image.forces)

    def calculate_numerical_dEnergy_dParameters(
        self, fingerprints: Any, d: float = 1e-5
    ) -> Float[np.ndarray, " n_parameters"]:
        """The same by central differences."""
        return central_differences(self.potential, Image(self.potential, fingerprints).energy, d)

    def calculate_numerical_dForces_dParameters(
        self, fingerprints: Any, fingerprintprimes: Mapping[Any, Any], d: float = 1e-5
    ) -> dict[tuple[int, int], Float[np.ndarray, " n_parameters"]]:
        """The same by central differences."""
        image = Image(self.potential, fingerprints, fingerprintprimes)
        return by_component(central_differences(self.potential, image.forces, d))

    def __repr__(self) -> str:
        state = "not set up" if self.vector is None else f"{len(self.vector)} parameters"
        return f"{type(self).__name__}({state})"


KIND = "model"


#: Settings that are kept with a model; the rest follows from its potential.
_KEPT = ("fortran", "checkpoints", "randomseed", "prescale", "version")


def _header(model: Model) -> dict[str, Any]:
    settings = {name: model.parameters.get(name) for name in _KEPT}
    return {
        "model": type(model).__name__,
        "potential": model.potential.config(),
        "settings": settings,
        "status": model.status,
    }


def save_model(path: str | Path, model: Model) -> None:
    """Save a model that has been set up as one file of arrays, with its settings and how its fit ended."""
    save_arrays(path, KIND, _header(model), pack(model.potential))


def model_to_text(model: Model) -> str:
    """The same as JSON text; arrays as their bytes in base64, so that nothing is rounded."""
    arrays = {
        name: {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
        }
        for name, array in pack(model.potential).items()
    }
    return json.dumps({"surefield": KIND, "header": _header(model), "arrays": arrays})
