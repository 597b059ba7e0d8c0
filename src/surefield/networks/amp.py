"""`Amp`: the ASE calculator of the documented scripts, which trains a model and then predicts with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from surefield.errors import ConfigError, ExecutionError
from surefield.files import append_line
from surefield.networks.fingerprinter import Fingerprinter
from surefield.networks.fingerprints import Gaussian, ImageCentred
from surefield.networks.full_batch import TrainingConvergenceError
from surefield.networks.model import Model, save_model
from surefield.networks.model_files import descriptor_of, load_model
from surefield.structures.images import hash_images

__all__ = ["Amp"]


class Amp(Calculator):
    """A descriptor and a model that are trained on images and then serve as an ASE calculator.

    Args:
        descriptor: such as `Gaussian()`, or `ImageCentred()`; None takes the image-centred one.
        model: such as `NeuralNetwork()`.
        label: name of the files: `<label>` for the trained model, `<label>-checkpoint`, `<label>-log.txt`.
        dblabel: folder for fingerprints that are kept between runs.
        cores: shards the training images are cut into, as a number or `{'localhost': number}`.
        envcommand: None; commands for other hosts belong to an executor.
        logging: write `<label>-log.txt`.
        atoms: attach the calculator to these.
        raise_unconverged: whether `train` raises when the loss did not converge.
        extrapolation: 'warn', 'ignore' or 'error' when features leave the range of the training set.

    Raises:
        ConfigError: envcommand or hosts given.
    """

    is_potential: ClassVar[bool] = True
    implemented_properties: ClassVar[list[str]] = [  # type: ignore[misc]
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "charges",
    ]

    def __init__(
        self,
        descriptor: Fingerprinter | None,
        model: Model,
        label: str = "amp",
        dblabel: str | None = None,
        cores: Any = None,
        envcommand: str | None = None,
        logging: bool = True,
        atoms: Atoms | None = None,
        *,
        raise_unconverged: bool = True,
        extrapolation: str = "warn",
    ) -> None:
        if isinstance(cores, dict) and set(cores) <= {"localhost"}:
            cores = cores.get("localhost")
        if envcommand is not None or isinstance(cores, dict):
            raise ConfigError(
                "workers on other hosts are not started by the calculator",
                got=f"cores={cores!r}, envcommand={envcommand!r}",
                fix="give a number of cores, or run the training through an executor",
            )
        super().__init__(atoms=atoms)
        self.descriptor = ImageCentred() if descriptor is None else descriptor
        if dblabel is not None and isinstance(self.descriptor, Gaussian):
            self.descriptor = Gaussian(**{**self.descriptor.parameters, "dblabel": dblabel})
        self.model, self.model_label = model, label
        self.cores, self.raise_unconverged, self.extrapolation = cores, raise_unconverged, extrapolation
        self._logging = logging
        self._inner: Calculator | None = None
        self._inner_potential: object = None

    @classmethod
    def load(cls, file: str | Path, **settings: Any) -> Amp:
        """Calculator of a saved model; see `load_model` for what is read, and its errors."""
        model = load_model(file)
        return cls(descriptor_of(model), model, **{"logging": False, **settings})

    def train(self, images: Any, overwrite: bool = False) -> str:
        """Train the model; a run that was interrupted goes on at its checkpoint.

        Args:
            images: labelled images: list of Atoms, or a file.
            overwrite: whether `<label>` may be replaced.

        Returns:
            'converged', or with `raise_unconverged=False` the status.

        Raises:
            TrainingConvergenceError: not converged; `<label>-untrained-parameters` holds the best parameters.
            ExecutionError: `<label>` exists.
        """
        target = Path(f"{self.model_label}")
        self._may_write(target, overwrite)
        hashed = hash_images(images, self._log)
        self.model.label = self.model_label
        converged = self.model.fit(hashed, self.descriptor, self._log, self.cores)
        status = str(self.model.status)
        if converged:
            save_model(target, self.model)
            return status
        best = Path(f"{self.model_label}-untrained-parameters")
        save_model(best, self.model)
        if self.raise_unconverged:
            reason = self.model.lossfunction.reason
            raise TrainingConvergenceError(
                f"training ended as {status!r} ({reason}) before all convergence criteria were met; the best "
                f"parameters are in {best.resolve()}"
            )
        return status

    def save(self, filename: str | Path, overwrite: bool = False) -> None:
        """Save the model with its present parameters.

        Raises:
            ExecutionError: the file exists.
        """
        self._may_write(Path(filename), overwrite)
        save_model(filename, self.model)

    def _log(self, text: str) -> None:
        if self._logging:
            for line in text.splitlines():
                append_line(f"{self.model_label}-log.txt", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")

    def _may_write(self, path: Path, overwrite: bool) -> None:
        if path.exists() and not overwrite:
            raise ExecutionError(f"{path.resolve()} exists; give overwrite=True, or another name")

    def set(self, **changes: Any) -> dict[str, Any]:
        """Set `electrode_potential` (V) of structures that state none; of models with charges."""
        if "electrode_potential" in changes:
            self.model.set(electrode_potential=changes.pop("electrode_potential"))
            self.reset()
        return super().set(**changes)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill `results`; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        potential = self.model.potential
        if self._inner is None or self._inner_potential is not potential:
            self._inner = potential.calculator(extrapolation=self.extrapolation)
            self._inner_potential = potential
        self._inner.calculate(self.atoms, properties, system_changes)
        self.results = dict(self._inner.results)
