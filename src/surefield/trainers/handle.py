"""What users of the trainers hold: a handle with settings, around an immutable potential."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Float

from surefield.errors import ConfigError, PotentialError
from surefield.potentials.calculator import SurefieldCalculator
from surefield.potentials.evaluate import predict
from surefield.potentials.potential import Potential
from surefield.potentials.saving import load_potential, save_potential

__all__ = ["BareHandle", "PotentialHandle", "arguments_of", "saved_model"]

#: Name of the saved potential in a folder of potential files.
POTENTIAL_FILE = "potential.npz"

P = TypeVar("P", bound=Potential)


def arguments_of(made: object, **instead: Any) -> dict[str, Any]:
    """Constructor arguments of an object, fit for JSON, from its attributes of the same names.

    Args:
        made: handle or trainer.
        instead: values of arguments that are kept under other names.
    """
    names = inspect.signature(type(made)).parameters
    return {name: _plain(instead[name] if name in instead else getattr(made, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | tuple):
        return np.asarray(value).tolist()
    return str(value.resolve()) if isinstance(value, Path) else value


def saved_model(path: Path, kind: type[P], otherwise: str) -> P:
    """The potential of a file of `save_potential`, or of a folder that holds one.

    Args:
        path: of the file or folder.
        kind: class it must have.
        otherwise: what is said of another class.

    Raises:
        PotentialError: nothing there, damaged, or of another class.
    """
    model = load_potential(path / POTENTIAL_FILE if path.is_dir() else path)
    if not isinstance(model, kind):
        raise PotentialError(f"{path} holds a {type(model).__name__}, {otherwise}")
    return model


class PotentialHandle(abc.ABC):
    """A potential with its settings; `model` is the immutable pytree that a training replaces.

    Args:
        species: chemical symbols.
        kim_id: id in a registry that this potential came from, or of a KIM model.
        parameter_path: saved parameters to start from; see `load_potential`.
        model_name_prefix: first part of the ids that a registry gives.

    Attributes:
        version: of the registry id; None outside a registry.
        training_hash: of the parameters of the last training; None before.
    """

    def __init__(
        self,
        species: Sequence[str] | str,
        *,
        kim_id: str | None = None,
        parameter_path: str | Path | None = None,
        model_name_prefix: str = "surefield",
    ) -> None:
        symbols = [species] if isinstance(species, str) else list(species)
        unknown = [s for s in symbols if s not in chemical_symbols[1:]]
        if unknown or not symbols:
            raise ConfigError(f"{type(self).__name__}: species must be chemical symbols, got {species!r}")
        self.species = symbols
        self.kim_id = kim_id
        self.version: int | None = None
        self.parameter_path = parameter_path
        self.model_name_prefix = model_name_prefix
        self.training_hash: str | None = None
        self._model: Potential | None = None

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """Constructor arguments, fit for JSON, from which the same class makes the same untrained handle."""

    @abc.abstractmethod
    def make(self) -> Potential:
        """The potential of the settings, with start parameters (or those of `parameter_path`)."""

    @abc.abstractmethod
    def read(self, path: Path) -> Potential:
        """The potential in a file of `save_potential`, in a folder with one, or in files of other programs.

        Raises:
            PotentialError: nothing there, damaged, or of another kind.
        """

    @abc.abstractmethod
    def export_files(self, folder: Path) -> list[Path]:
        """Write the files that this class of potentials has for other programs."""

    def build_potential(self) -> Potential:
        """Make the potential, if that was not done before."""
        if self._model is None:
            self._model = self.make()
        return self._model

    @property
    def model(self) -> Potential:
        """The potential at its present parameters."""
        return self.build_potential()

    @property
    def potential(self) -> Potential:
        """The same as `model`, so that everything that takes a potential takes the handle."""
        return self.model

    def set_model(self, model: Potential) -> None:
        """Take other parameters."""
        self._model = model

    def evaluate(self, atoms: Atoms) -> tuple[float, Float[np.ndarray, "n_atoms 3"], np.ndarray | None]:
        """Energy (eV), forces (eV/Å) and stress (6,) (eV/Å^3; None unless periodic) of one structure."""
        (prediction,) = predict(self.model, [atoms])
        return float(prediction.energy), prediction.forces, prediction.stress

    def calculator(self, **options: Any) -> SurefieldCalculator:
        """ASE calculator at the present parameters."""
        return self.model.calculator(**options)

    def save_potential_files(self, path: str | Path) -> list[Path]:
        """Write the potential and the files for other programs into a folder; returns their paths."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        save_potential(folder / POTENTIAL_FILE, self.model)
        return [folder / POTENTIAL_FILE, *self.export_files(folder)]

    @final
    def load_potential(self, path: str | Path) -> None:
        """Take the potential from whatever `read` reads.

        Raises:
            PotentialError: nothing there, damaged, or of another kind.
        """
        self._model = self.read(Path(path))
        self.parameter_path = str(Path(path).resolve())


@final
class BareHandle(PotentialHandle):
    """Handle around a potential that a user made without one."""

    def __init__(self, potential: Potential) -> None:
        super().__init__([chemical_symbols[z] for z in potential.species])
        self._model = potential

    def settings(self) -> dict[str, Any]:
        """None: the potential itself travels."""
        return {}

    def make(self) -> Potential:
        """The potential."""
        return self.model

    def read(self, path: Path) -> Potential:
        """A saved potential of the same class."""
        return saved_model(path, type(self.model), f"not a {type(self.model).__name__} as before")

    def export_files(self, folder: Path) -> list[Path]:
        """None."""
        return []
