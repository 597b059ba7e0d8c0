"""The window of sigma in which a walker collects structures, and how sigma is looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from ase import Atoms

from surefield.errors import ConfigError
from surefield.exploration.config import SigmaWindowConfig
from surefield.potentials.prediction import Prediction
from surefield.quantities import UNCERTAINTY, quantity
from surefield.uncertainty.guard import LARGEST_FORCE, MARGIN, SIGMA_RANGE, sizes
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["SigmaWindow", "with_sigmas"]

#: Of the limit, in medians of the calibration set, and in typical largest forces of its structures: where
#: sigma is a sizeable part of the force itself, a walker would be led astray.
_MOST: Final = 10.0
_PART: Final = 0.25


@dataclass(frozen=True)
class SigmaWindow:
    """Of the largest sigma of an atom in a structure.

    Attributes:
        quantity: whose: 'forces' or 'energies' (of potentials without those of atoms: 'energy', per atom).
        lower: structures are collected from here on.
        limit: a walker stops beyond.
    """

    quantity: Literal["forces", "energies", "energy"]
    lower: float
    limit: float

    @classmethod
    def of(cls, uncertainty: Uncertainty, config: SigmaWindowConfig) -> SigmaWindow:
        """The window of a configuration, with what the calibration set says where that has no numbers.

        Raises:
            ConfigError: a quantity without sigmas, or neither a number nor a calibration set.
        """
        name = cls.unbounded(uncertainty, config.quantity).quantity
        median, largest = uncertainty.statistics.get(SIGMA_RANGE, {}).get(name, (None, None))
        # A structure of the calibration set that is far off does not make all others known.
        limit = config.limit or (None if largest is None else min(MARGIN * largest, _MOST * median))
        if config.limit is None and limit is not None and name == "forces":
            # Of structures at rest forces say nothing.
            part = _PART * uncertainty.statistics.get(LARGEST_FORCE, np.inf)
            limit = min(limit, max(part, MARGIN * median))
        lower = config.lower if config.lower is not None else median
        if limit is None or lower is None:
            what = f"the calibration set of this uncertainty tells no sigmas of {name}"
            raise ConfigError(what, fix="give window.lower and window.limit, or calibrate again")
        return cls(name, min(lower, limit), limit)

    @classmethod
    def unbounded(cls, uncertainty: Uncertainty, asked: str = "auto") -> SigmaWindow:
        """Of all sigmas: 'auto' asks for those of forces where there are any.

        Raises:
            ConfigError: a quantity without sigmas.
        """
        energies: Any = "energies" if "energies" in uncertainty.potential.supplies else "energy"
        if asked == "forces" and "forces" not in uncertainty.maps:
            raise ConfigError("the uncertainty has no sigmas of forces", fix="window.quantity: energies")
        forces = asked != "energies" and "forces" in uncertainty.maps
        return cls("forces" if forces else energies, 0.0, np.inf)

    def opened_for(self, sigma: float) -> SigmaWindow:
        """With a limit that lets a walker leave a start of this sigma, if that is beyond the limit."""
        return replace(self, limit=MARGIN * sigma) if sigma > self.limit else self

    @property
    def unit(self) -> str:
        """Of the sigmas."""
        entry = quantity(self.quantity)
        return f"{entry.unit}/atom" if entry.per_atom else entry.unit

    def asked(self) -> dict[str, Any]:
        """Options of `Uncertainty.predict` that bring these sigmas."""
        return {"forces": self.quantity == "forces", "per_atom": self.quantity == "energies"}

    def value(self, prediction: Prediction, n_atoms: int) -> float:
        """Largest sigma of an atom."""
        return float(sizes(self.quantity, prediction[f"{self.quantity}{UNCERTAINTY}"], n_atoms).max())

    def look(self, uncertainty: Uncertainty, atoms: Atoms) -> tuple[float, Prediction]:
        """Largest sigma of an atom, and the prediction with all that was asked for."""
        (prediction,) = uncertainty.predict([atoms], **self.asked())
        return self.value(prediction, len(atoms)), prediction


def with_sigmas(frame: Atoms, prediction: Prediction, value: float, of: str) -> Atoms:
    """Copy with predictions and sigmas under names with the prefix `surefield_`, and what counted."""
    copy = prediction.written_to(frame)
    copy.info |= {"sigma": value, "sigma_quantity": of}
    return copy
