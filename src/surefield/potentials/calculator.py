"""ASE calculator of anything that predicts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from surefield.errors import ConfigError, PotentialError, nearest
from surefield.potentials.evaluate import EnergyFunction
from surefield.potentials.prediction import Prediction
from surefield.structures.read import Frames

__all__ = ["ExtrapolationWarning", "Predicts", "SurefieldCalculator"]

#: Features this far outside the range of training, in units of that range, are no cause for a message.
MARGIN = 0.05


class ExtrapolationWarning(UserWarning):
    """Inputs of a potential have left the range of its training set."""


class Predicts(Protocol):
    """A potential, or an uncertainty wrapped around one."""

    @property
    def potential(self) -> EnergyFunction:
        """The potential."""
        ...

    def predict(self, frames: Sequence[Atoms], *args: Any, **options: Any) -> list[Prediction]:
        """Predict structures."""
        ...


class SurefieldCalculator(Calculator):
    """ASE calculator; with an uncertainty its `results` also hold `energy_uncertainty` and so on.

    Args:
        model: a potential or an uncertainty such as `LLPR`.
        extrapolation: what happens when features leave their range over the training set: 'warn' (once),
            'ignore' or 'error'. `results['extrapolation']` always tells by how much.
        options: passed to `model.predict`, such as `forces=True`.
    """

    is_potential: ClassVar[bool] = True
    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]  # type: ignore[misc]

    def __init__(
        self,
        model: Predicts,
        *,
        extrapolation: Literal["warn", "ignore", "error"] = "warn",
        **options: Any,
    ) -> None:
        super().__init__()
        known = ("warn", "ignore", "error")
        if extrapolation not in known:
            raise ConfigError(f"unknown extrapolation {extrapolation!r}, {nearest(extrapolation, known)}")
        self.model = model
        self.extrapolation = extrapolation
        self.options = options

    def set(self, **changes: Any) -> dict[str, Any]:
        """Set `electrode_potential` (V) of structures that state none; of potentials that have one."""
        if "electrode_potential" in changes:
            self.model = self.model.at_potential(changes.pop("electrode_potential"))  # type: ignore[attr-defined]
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
        assert self.atoms is not None
        frame = Frames((self.atoms,), ("the structure of this calculator",))
        (prediction,) = self.model.predict(frame, **self.options)
        self._check_range(prediction)
        self.results = dict(prediction.results())
        self.results["free_energy"] = prediction.energy
        if prediction.forces_uncertainty is not None:
            per_atom = np.linalg.norm(prediction.forces_uncertainty, axis=1)
            self.results["max_force_uncertainty"] = float(per_atom.max())
        missing = [name for name in properties if name not in self.results]
        if missing:
            raise PropertyNotImplementedError(f"{missing[0]} is not defined for {self.atoms}")

    def _check_range(self, prediction: Prediction) -> None:
        excess = prediction.extrapolation
        if self.extrapolation == "ignore" or excess is None or excess.max(initial=0.0) <= MARGIN:
            return
        assert self.atoms is not None
        text = self.model.potential.describe_extrapolation(self.atoms)
        if self.extrapolation == "error":
            raise PotentialError(f"{text}; label such structures, or pass extrapolation='warn'")
        self.extrapolation = "ignore"
        warnings.warn(f"{text}; said once for each calculator", ExtrapolationWarning, stacklevel=2)
