"""ASE calculator of anything that predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from surefield.potentials.prediction import Prediction

__all__ = ["Predicts", "SurefieldCalculator"]


class Predicts(Protocol):
    """A potential, or an uncertainty wrapped around one."""

    def predict(self, frames: Sequence[Atoms], *args: Any, **options: Any) -> list[Prediction]:
        """Predict structures."""
        ...


class SurefieldCalculator(Calculator):
    """ASE calculator; with an uncertainty its `results` also hold `energy_uncertainty` and so on.

    Args:
        model: a potential or an uncertainty such as `LLPR`.
        options: passed to `model.predict`, such as `forces_uncertainty=True`.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]  # type: ignore[misc]

    def __init__(self, model: Predicts, **options: Any) -> None:
        super().__init__()
        self.model = model
        self.options = options

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill `results`; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        (prediction,) = self.model.predict([self.atoms], **self.options)
        self.results = dict(prediction.results())
        self.results["free_energy"] = prediction.energy
        if prediction.forces_uncertainty is not None:
            per_atom = np.linalg.norm(prediction.forces_uncertainty, axis=1)
            self.results["max_force_uncertainty"] = float(per_atom.max())
        missing = [name for name in properties if name not in self.results]
        if missing:
            raise PropertyNotImplementedError(f"{missing[0]} is not defined for {self.atoms}")
