"""Which parameters of a physics model are fitted: start values, bounds and coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from surefield.errors import ConfigError, nearest
from surefield.potentials.parametric.parameters import Entry, ParametricPotential

__all__ = ["FreeParameters", "kliff_entries"]

P = TypeVar("P", bound=ParametricPotential)

LOG: Final = "LogParameterTransform"
_KEYS: Final = ("transform_name", "value", "bounds")
#: Words of KLIFF's form: the present value, and not to be fitted.
_DEFAULT: Final = "default"
_FIX: Final = "fix"


@dataclass(frozen=True)
class _Number:
    """What a user asks of one number: start value (None: the present one), bounds, coordinate."""

    value: float | None = None
    free: bool = True
    lower: float = -np.inf
    upper: float = np.inf
    log: bool = False


@dataclass(frozen=True, eq=False)
class FreeParameters:
    """Numbers that are fitted, in the units of the model.

    Attributes:
        entries: name and place of each.
        start: first values.
        lower: bounds, -inf where there is none.
        upper: bounds, inf where there is none.
        log: which of them are varied as their logarithm.
        fixed: values of numbers that were set and are not fitted.
    """

    entries: tuple[Entry, ...]
    start: Float[np.ndarray, " n_free"]
    lower: Float[np.ndarray, " n_free"]
    upper: Float[np.ndarray, " n_free"]
    log: Bool[np.ndarray, " n_free"]
    fixed: Mapping[Entry, float]

    @classmethod
    def asked(
        cls, request: Sequence[str | Mapping[str, Any]] | Mapping[str, Any], potential: ParametricPotential
    ) -> Self:
        """Read what a user asks for.

        Args:
            request: names, or `{name: {'transform_name', 'value', 'bounds'}}`, or KLIFF's form
                `{name: [['default'], [v, 'fix'], [v, lo, hi]]}` with one entry per number; or a list of any
                of these.
            potential: whose parameters are meant; its values are the defaults.

        Raises:
            ConfigError: an unknown name or key, the wrong number of entries, bounds that exclude the start,
                a logarithm of what is not positive, an integer parameter, nothing that is free.
        """
        numbers = _numbers(request, potential)
        present = {name: np.asarray(value).reshape(-1) for name, value in potential.values.items()}
        entries, rows, fixed = [], [], {}
        for entry, asked in numbers.items():
            value = float(present[entry.name][entry.place]) if asked.value is None else asked.value
            if asked.free:
                _check(entry, asked, value)
                entries.append(entry)
                rows.append((value, asked.lower, asked.upper, asked.log))
            else:
                fixed[entry] = value
        if not entries:
            raise ConfigError("params_to_update leaves nothing free to be fitted")
        start, lower, upper, log = (np.array(column) for column in zip(*rows, strict=True))
        potential.with_free(entries)
        return cls(tuple(entries), start, lower, upper, log, fixed)

    @property
    def bounded(self) -> bool:
        """Whether any number has a bound."""
        return bool(np.isfinite(self.lower).any() or np.isfinite(self.upper).any())

    def names(self) -> list[str]:
        """Names for reports, with the place where a parameter has several numbers."""
        several = {e.name for e in (*self.entries, *self.fixed) if e.place > 0}
        return [f"{e.name}[{e.place}]" if e.name in several else e.name for e in self.entries]

    def applied(self, potential: P) -> P:
        """Copy of a potential with these numbers free, at their start values."""
        values = {name: np.array(value).reshape(-1) for name, value in potential.values.items()}
        for (name, place), value in self.fixed.items():
            values[name][place] = value
        shaped = {name: value.reshape(potential.values[name].shape) for name, value in values.items()}
        return potential.with_values(shaped).with_free(self.entries).with_vector(jnp.asarray(self.start))

    @property
    def units(self) -> Float[np.ndarray, " n_free"]:
        """Sizes of the start values (1 for zero), so that coordinates change by comparable amounts."""
        return np.where(self.start == 0, 1.0, np.abs(self.start))

    def coordinates(self, values: Float[np.ndarray, " n_free"]) -> Float[np.ndarray, " n_free"]:
        """What a minimiser varies: values in units of their start, or their logarithms."""
        with np.errstate(divide="ignore"):  # a bound of zero or less is none
            logarithms = np.log(np.where(self.log, np.maximum(values, 0.0), 1.0))
        return np.where(self.log, logarithms, values / self.units)

    def values(self, coordinates: Float[np.ndarray, " n_free"]) -> Float[np.ndarray, " n_free"]:
        """Values of coordinates."""
        return np.where(self.log, np.exp(np.where(self.log, coordinates, 0.0)), coordinates * self.units)

    def chain(self, coordinates: Float[np.ndarray, " n_free"]) -> Float[np.ndarray, " n_free"]:
        """Derivatives of the values by their coordinates."""
        return np.where(self.log, self.values(coordinates), self.units)

    def bounds(self) -> tuple[Float[np.ndarray, " n_free"], Float[np.ndarray, " n_free"]]:
        """Lower and upper bounds of the coordinates."""
        return self.coordinates(self.lower), self.coordinates(self.upper)


def _numbers(
    request: Sequence[str | Mapping[str, Any]] | Mapping[str, Any], potential: ParametricPotential
) -> dict[Entry, _Number]:
    items: list[Any] = [request] if isinstance(request, str | Mapping) else list(request)
    numbers: dict[Entry, _Number] = {}
    for item in items:
        if not isinstance(item, str | Mapping):
            raise ConfigError(
                "params_to_update", got=repr(item), expected="names of parameters, or {name: settings}"
            )
        for name, asked in ({item: {}} if isinstance(item, str) else item).items():
            potential.check_name(name)
            size = potential.values[name].size
            rows = (
                _settings(name, asked, size)
                if isinstance(asked, Mapping)
                else kliff_entries(name, asked, size)
            )
            for place, row in enumerate(rows):
                if Entry(name, place) in numbers:
                    raise ConfigError(f"params_to_update names {name} twice")
                numbers[Entry(name, place)] = row
    return numbers


def _settings(name: str, asked: Mapping[str, Any], size: int) -> list[_Number]:
    """Numbers of `{transform_name, value, bounds}`."""
    for key in asked:
        if key not in _KEYS:
            raise ConfigError(f"params_to_update: {name} has an unknown key {key!r}, {nearest(key, _KEYS)}")
    transform = asked.get("transform_name")
    if transform not in (None, LOG):
        raise ConfigError(f"params_to_update: {name} has transform_name {transform!r}, known: {LOG!r}")
    values = asked.get("value")
    starts = [values] * size if values is None or isinstance(values, int | float) else list(values)
    bounds = asked.get("bounds")
    pairs = [(None, None)] * size if bounds is None else [tuple(np.atleast_1d(b).tolist()) for b in bounds]
    if len(pairs) == 1 and size > 1:
        pairs = pairs * size
    if len(starts) != size or len(pairs) != size or any(len(pair) != 2 for pair in pairs):
        expected = f"{size} values, and {size} pairs [lo, hi] (or one for all)"
        raise ConfigError(f"params_to_update: {name}", got=f"{values!r}, {bounds!r}", expected=expected)
    return [
        _Number(
            None if value is None else _number(name, value),
            True,
            _bound(name, lo, -np.inf),
            _bound(name, hi, np.inf),
            transform == LOG,
        )
        for value, (lo, hi) in zip(starts, pairs, strict=True)
    ]


def kliff_entries(name: str, asked: Any, size: int) -> list[_Number]:
    """Numbers of a parameter from `[['default'], [v, 'fix'], ['default', lo, hi]]`, one entry each.

    Raises:
        ConfigError: another number of entries than `size`, or an entry of another form.
    """
    rows = list(asked) if isinstance(asked, Sequence) and not isinstance(asked, str) else [asked]
    fits = all(isinstance(row, Sequence) and not isinstance(row, str) and 1 <= len(row) <= 3 for row in rows)
    if len(rows) != size or not fits:
        expected = f"{size} lists such as ['default'], [value, 'fix'] or [value, lo, hi]"
        count = f"{len(rows)} entries, " if len(rows) != size else ""
        raise ConfigError(f"params_to_update: {name}", got=f"{count}{asked!r:.200}", expected=expected)
    numbers = []
    for first, *rest in rows:
        value = None if first == _DEFAULT else _number(name, first)
        if rest == [_FIX]:
            numbers.append(_Number(value, free=False))
        elif len(rest) in (0, 2):
            lo, hi = rest or (None, None)
            numbers.append(_Number(value, True, _bound(name, lo, -np.inf), _bound(name, hi, np.inf)))
        else:
            raise ConfigError(f"params_to_update: {name} has one bound only, in {[first, *rest]!r}")
    return numbers


def _number(name: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
        return float(value)
    raise ConfigError(f"params_to_update: {name}", got=repr(value), expected="a finite number")


def _bound(name: str, value: Any, missing: float) -> float:
    """A bound; None, 'inf', '-inf' and their number stand for none."""
    if value is None or value in ("inf", "-inf", np.inf, -np.inf):
        return missing
    return _number(name, value)


def _check(entry: Entry, asked: _Number, value: float) -> None:
    where = f"params_to_update: {entry.name}[{entry.place}]"
    if not asked.lower <= value <= asked.upper:
        expected = f"between {asked.lower} and {asked.upper}"
        raise ConfigError(f"{where} starts outside its bounds", got=value, expected=expected)
    if asked.lower == asked.upper:
        raise ConfigError(f"{where}: equal bounds leave nothing to fit; write [{value}, 'fix']")
    if asked.log and (value <= 0 or asked.upper <= 0):
        raise ConfigError(f"{where}: {LOG} needs a positive value and upper bound, got {value}")
