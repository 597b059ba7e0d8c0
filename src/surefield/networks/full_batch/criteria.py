"""Convergence criteria of the loss: their defaults, their check, and the line of the log."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from surefield.errors import ConfigError, nearest

__all__ = [
    "CRITERIA",
    "DEFAULT_CONVERGENCE",
    "KINDS",
    "Coefficients",
    "Criteria",
    "as_number",
    "checked_coefficient",
]

#: Terms of the loss, in the order of all arrays.
KINDS: Final = ("energy", "force", "charge", "stress")
CRITERIA: Final = tuple(f"{kind}_{what}" for kind in KINDS for what in ("rmse", "maxresid"))
DEFAULT_CONVERGENCE: Final[Mapping[str, float | None]] = {
    **dict.fromkeys(CRITERIA),
    "energy_rmse": 0.001,
    "charge_rmse": 0.0005,
}
_TITLES: Final = {
    "energy_rmse": "EnergyRMSE",
    "energy_maxresid": "EnergyMax",
    "force_rmse": "ForceRMSE",
    "force_maxresid": "ForceMax",
    "charge_rmse": "ChargeRMSE",
    "charge_maxresid": "ChargeMax",
    "stress_rmse": "StressRMSE",
    "stress_maxresid": "StressMax",
}


class Coefficients(NamedTuple):
    """Factors of the terms of the loss; None: the term is not there."""

    energy: float | None
    force: float | None
    charge: float | None
    stress: float | None


def as_number(value: Any) -> float:
    """A number, or nan for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def checked_coefficient(name: str, value: Any) -> float | None:
    """A factor that is None, or finite and not negative.

    Raises:
        ConfigError: it is neither.
    """
    if value is None:
        return None
    number = as_number(value)
    if not (math.isfinite(number) and number >= 0):
        raise ConfigError("unusable number", where=name, got=repr(value), expected="None, or >= 0")
    return number


@dataclass(frozen=True)
class Criteria:
    """Tolerances by name (see `CRITERIA`); None: no criterion. eV/atom, eV/Å, e/atom, eV/Å^3."""

    tolerances: Mapping[str, float | None]

    @classmethod
    def over_defaults(cls, convergence: Mapping[str, float | None] | None) -> Criteria:
        """The defaults with some changes.

        Raises:
            ConfigError: an unknown name, or a tolerance that is no number >= 0.
        """
        changes = dict(convergence or {})
        for name in changes:
            if name not in CRITERIA:
                raise ConfigError(f"unknown criterion {name!r} in convergence; {nearest(name, CRITERIA)}")
        checked = {name: checked_coefficient(f"convergence[{name!r}]", v) for name, v in changes.items()}
        return cls({**DEFAULT_CONVERGENCE, **checked})

    def uses(self, kind: str) -> bool:
        """Whether there is a criterion of a term."""
        return any(self.tolerances[f"{kind}_{what}"] is not None for what in ("rmse", "maxresid"))

    def without(self, kind: str) -> Criteria:
        """The same without those of a term."""
        off = {f"{kind}_rmse": None, f"{kind}_maxresid": None}
        return Criteria({**self.tolerances, **off})

    @property
    def active(self) -> dict[str, float]:
        """Criteria that are there."""
        return {name: value for name, value in self.tolerances.items() if value is not None}

    def held(self, values: Mapping[str, float | None]) -> dict[str, bool]:
        """Which criteria hold; one without a value (no image has such a label) is left out."""
        pairs = {name: (values[name], limit) for name, limit in self.active.items()}
        return {name: value <= limit for name, (value, limit) in pairs.items() if value is not None}

    def header(self) -> str:
        """Two lines above the lines of the log."""
        titles = "".join(f"  {_TITLES[name]:>12}" for name in self.active)
        limits = "".join(f"  {limit:12.4e}" for limit in self.active.values())
        return f" Step  Time                   Loss{titles}\n{'tolerances':>34}{limits}"

    def line(self, step: int, loss: float, values: Mapping[str, float | None], mark: str = "") -> str:
        """One line of the log: step, time, loss, each criterion with C where it holds, - where not."""
        held = self.held(values)
        columns = [
            f"  {values[name]:10.4e} {'C' if held[name] else '-'}" if name in held else f"  {'none':>10}  "
            for name in self.active
        ]
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        return f"{step:5d}  {now} {loss:12.5e}{''.join(columns)}{mark}"
