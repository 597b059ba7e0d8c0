"""The limit of sigma while a potential runs: beyond it a calculator warns, stops, or calls back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol, Self, final

import numpy as np
from ase import Atoms

from surefield.errors import ConfigError, PotentialError, nearest
from surefield.potentials.evaluate import EnergyFunction
from surefield.potentials.prediction import Prediction
from surefield.quantities import UNCERTAINTY, quantity

__all__ = [
    "CALIBRATION",
    "LARGEST_FORCE",
    "LARGEST_SIGMA",
    "MARGIN",
    "SIGMA_RANGE",
    "Exceedance",
    "OnUncertain",
    "SigmaGuard",
    "SigmaWarning",
    "WatchedModel",
    "exceeded",
    "sigma_limits",
    "sizes",
]

#: Limit that comes from the calibration set.
CALIBRATION: Final = "calibration"
#: Entry of the statistics with the largest sigmas of the calibration set.
LARGEST_SIGMA: Final = "largest_sigma"
#: Entry with median and maximum, over the calibration set, of the largest sigma of an atom in a structure.
SIGMA_RANGE: Final = "sigma_range"
#: Entry with the median, over the calibration set, of the largest labelled force on an atom, eV/Å.
LARGEST_FORCE: Final = "largest_force"
#: The limit, in units of the largest sigma of the calibration set.
MARGIN: Final = 2.0
#: Options of calculators for what happens beyond the limit.
ACTIONS: Final = ("warn", "stop")


class SigmaWarning(UserWarning):
    """A sigma is beyond its limit: the structure is unlike those that the potential was trained on."""


class Exceedance(NamedTuple):
    """A sigma beyond its limit.

    Attributes:
        quantity: of which name; of forces the length of an atom's sigmas counts, of energies that per atom.
        value: the largest sigma, in the unit of the quantity.
        limit: in the same unit.
        atom: where it is; None for a quantity of the whole structure.
        symbol: of that atom.
    """

    quantity: str
    value: float
    limit: float
    atom: int | None = None
    symbol: str = ""

    def __str__(self) -> str:
        entry = quantity(self.quantity)
        name = {"energies": "the energy of the atom", "forces": "the force"}.get(self.quantity, entry.name)
        place = "" if self.atom is None else f" of atom {self.atom} ({self.symbol})"
        per = "/atom" if entry.per_atom else ""
        return f"sigma of {name}{place} is {self.value:.3g} {entry.unit}{per}, beyond {self.limit:.3g}"


#: What happens beyond the limit; a function gets the structure and what exceeds the limit.
OnUncertain = Literal["warn", "stop"] | Callable[[Atoms, Exceedance], object]


def sigma_limits(
    max_sigma: float | str | Mapping[str, float] | None, statistics: Mapping[str, Any]
) -> dict[str, float]:
    """Limit of each quantity.

    Args:
        max_sigma: a number, eV, of the energy of an atom; limits by quantity, such as {"forces": 0.5}, eV/Å;
            "calibration": twice the largest of the calibration set; None: no limit.
        statistics: of an uncertainty; those of older files state no largest sigma and set no limit.

    Raises:
        ConfigError: an unknown quantity, or a limit that is not above 0.
    """
    if max_sigma is None:
        return {}
    if isinstance(max_sigma, str):
        if max_sigma != CALIBRATION:
            raise ConfigError(f"unknown max_sigma {max_sigma!r}", fix=nearest(max_sigma, (CALIBRATION,)))
        return {name: MARGIN * value for name, value in statistics.get(LARGEST_SIGMA, {}).items()}
    limits: dict[str, float] = dict(max_sigma) if isinstance(max_sigma, Mapping) else {"energies": max_sigma}
    for name, value in limits.items():
        quantity(name)
        if isinstance(value, bool) or not (np.isfinite(value) and value > 0):
            raise ConfigError(f"max_sigma of {name} must be above 0", got=value, expected="None for no limit")
    return limits


def exceeded(
    results: Mapping[str, Any], symbols: Sequence[str], limits: Mapping[str, float]
) -> Exceedance | None:
    """The sigma that is farthest beyond its limit, in units of that; None where all are within theirs.

    Args:
        results: of a calculator, or a prediction; sigmas that are not there are not looked at.
        symbols: chemical symbols of the atoms.
        limits: by quantity.
    """
    worst: Exceedance | None = None
    for name, limit in limits.items():
        sigma = results.get(f"{name}{UNCERTAINTY}")
        if sigma is None:
            continue
        values = sizes(name, sigma, len(symbols))
        place = int(np.argmax(values))
        value = float(values[place])
        if value <= limit or (worst is not None and value / limit <= worst.value / worst.limit):
            continue
        atom = place if quantity(name).per == "atom" else None
        worst = Exceedance(name, value, limit, atom, "" if atom is None else symbols[atom])
    return worst


def sizes(name: str, sigma: Any, n_atoms: int) -> np.ndarray:
    """What is compared with a limit: one number of each atom, or of the structure.

    Of forces the length of the sigmas of an atom's components counts, of energies that per atom.
    """
    values = np.asarray(sigma, np.float64)
    if quantity(name).per == "atom":
        return np.linalg.norm(values.reshape(n_atoms, -1), axis=1)
    return np.abs(values).reshape(-1) / (n_atoms if quantity(name).per_atom else 1)


@final
class SigmaGuard:
    """Compares the sigmas of predictions with limits, and acts on those beyond.

    Args:
        limits: by quantity.
        on_uncertain: 'warn' (once, with the first), 'stop' (an error every time) or a function that gets the
            structure and the `Exceedance` every time.

    Raises:
        ConfigError: an unknown action.
    """

    def __init__(self, limits: Mapping[str, float], on_uncertain: OnUncertain = "warn") -> None:
        if not callable(on_uncertain) and on_uncertain not in ACTIONS:
            fix = f"{nearest(str(on_uncertain), ACTIONS)}, or a function of structure and exceedance"
            raise ConfigError(f"unknown on_uncertain {on_uncertain!r}", fix=fix)
        self.limits = dict(limits)
        self.on_uncertain = on_uncertain
        self._warned = False

    def check(self, atoms: Atoms, results: Mapping[str, Any]) -> Exceedance | None:
        """Act if a sigma is beyond its limit, and return it.

        Raises:
            PotentialError: it is, and the guard was told to stop.
        """
        found = exceeded(results, atoms.get_chemical_symbols(), self.limits)
        if found is None:
            return None
        if callable(self.on_uncertain):
            self.on_uncertain(atoms, found)
        elif self.on_uncertain == "stop":
            fix = "label such structures and train on them, or pass on_uncertain='warn' or another max_sigma"
            raise PotentialError(str(found), fix=fix)
        elif not self._warned:
            self._warned = True
            text = f"{found}; label such structures; said once for each calculator"
            warnings.warn(text, SigmaWarning, stacklevel=2)
        return found


class _Uncertain(Protocol):
    """What a watched model asks of an uncertainty."""

    @property
    def potential(self) -> EnergyFunction: ...

    @property
    def statistics(self) -> Mapping[str, Any]: ...

    def predict(self, frames: Sequence[Atoms], *args: Any, **options: Any) -> list[Prediction]: ...

    def at_potential(self, phi: float | None) -> Any: ...


@final
class WatchedModel:
    """An uncertainty as its calculator sees it: with a guard, and force sigmas at every n-th structure.

    Args:
        uncertainty: makes the predictions.
        guard: looks at each.
        forces_every: n; None: sigmas of forces when they are asked for.

    Raises:
        ConfigError: n < 1.
    """

    def __init__(self, uncertainty: _Uncertain, guard: SigmaGuard, forces_every: int | None = None) -> None:
        if forces_every is not None and (isinstance(forces_every, bool) or forces_every < 1):
            raise ConfigError("forces_every must be a whole number, at least 1", got=forces_every)
        self.uncertainty, self.guard, self.forces_every = uncertainty, guard, forces_every
        self._count = 0

    @property
    def potential(self) -> EnergyFunction:
        """The potential."""
        return self.uncertainty.potential

    def at_potential(self, phi: float | None) -> Self:
        """The same guard around a copy with another electrode potential (V)."""
        return type(self)(self.uncertainty.at_potential(phi), self.guard, self.forces_every)

    def predict(self, frames: Sequence[Atoms], **options: Any) -> list[Prediction]:
        """Predict structures with their uncertainties, and check these."""
        if self.forces_every is not None and not options.get("forces"):
            options["forces"] = self._count % self.forces_every == 0
        self._count += len(frames)
        predictions = self.uncertainty.predict(frames, **options)
        for atoms, prediction in zip(frames, predictions, strict=True):
            self.guard.check(atoms, prediction.results())
        return predictions
