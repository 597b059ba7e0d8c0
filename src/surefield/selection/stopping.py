"""When to stop labelling: criteria on what is known of the rounds so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, check_known
from surefield.selection.features import positive_int

__all__ = ["LabelledRound", "StopDecision", "stop_now"]

_BETTER: Final = "better than random"


@dataclass(frozen=True, eq=False)
class LabelledRound:
    """What is known of one round; a criterion needs what it looks at, the rest may be None.

    Attributes:
        squared_distances: (n_picks,) of the picks of this round, see `Selection`.
        features: how the features were made that these are distances of.
        max_sigma: largest calibrated standard deviation over the pool.
        unit: of `max_sigma`, such as `eV/Å`.
        rmse: error on the test structures after this round.
        replay: words of the verdict of a replay of the labelled data, see `Verdict`.
        spent: cost of all labels so far.
        n_left: candidates that are left after all filters.
    """

    squared_distances: ArrayLike | None = None
    features: str | None = None
    max_sigma: float | None = None
    unit: str | None = None
    rmse: float | None = None
    replay: str | None = None
    spent: float | None = None
    n_left: int | None = None


@dataclass(frozen=True)
class StopDecision:
    """Whether to stop.

    Attributes:
        stop: whether any criterion fired.
        fired: names of those that did.
        values: by criterion, what was compared: `value`, `limit`.
    """

    stop: bool
    fired: tuple[str, ...] = ()
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.stop

    def __str__(self) -> str:
        entries = [
            f"{name}: {entry['value']} (limit {entry['limit']})" for name, entry in self.values.items()
        ]
        return f"{'stop, by ' + ', '.join(self.fired) if self.stop else 'go on'}; {'; '.join(entries)}"


def stop_now(history: Sequence[LabelledRound], criteria: Sequence[str] | Mapping[str, Any]) -> StopDecision:
    """Decide whether further labels are worth it; any criterion that is given may say no.

    Args:
        history: rounds so far, the oldest first.
        criteria: names, or names with their limits:

            - `coverage` (0.1): the feature distance √d² of the last pick over that of the first pick of the
              first round is at most this.
            - `uncertainty` ((value, unit)): the largest calibrated sigma of the pool is at most this.
            - `no_gain` ({"tol": 0.02, "rounds": 2}): the test error fell by less than this over these rounds.
            - `not_better_than_random` (2): in so many rounds the replay has shown no gain over `random`.
            - `budget` (value): what was spent is at least this.
            - `exhausted`: no candidate is left.

    Raises:
        ConfigError: no rounds, an unknown criterion, a limit out of range, or a criterion whose input is not
            known: that is no "go on".
    """
    if not len(history):
        raise ConfigError("the history has no rounds")
    limits = dict(criteria) if isinstance(criteria, Mapping) else dict.fromkeys(criteria)
    if not limits:
        raise ConfigError("no criterion", expected=f"some of {', '.join(_CRITERIA)}")
    check_known(limits, _CRITERIA, "unknown criterion {}")
    values, fired = {}, []
    for name, limit in limits.items():
        value, shown, fires = _CRITERIA[name](history, limit)
        values[name] = MappingProxyType({"value": value, "limit": shown})
        if fires:
            fired.append(name)
    return StopDecision(bool(fired), tuple(fired), MappingProxyType(values))


_Answer = tuple[Any, Any, bool]


def _coverage(history: Sequence[LabelledRound], limit: Any) -> _Answer:
    ratio = _number("coverage", 0.1 if limit is None else limit)
    first, last = history[0], history[-1]
    if first.features is None or any(entry.features != first.features for entry in history):
        what = "coverage compares distances of one kind of features"
        raise ConfigError(what, got=", ".join(sorted({str(entry.features) for entry in history})))
    start, end = (_needed("coverage", entry, "squared_distances") for entry in (first, last))
    start, end = np.asarray(start, dtype=float).ravel(), np.asarray(end, dtype=float).ravel()
    if not len(start) or not start[0] > 0:
        raise ConfigError("coverage needs a first pick with a distance above 0")
    # A round without picks had only copies left.
    value = float(np.sqrt(end[-1] / start[0])) if len(end) else 0.0
    return value, ratio, value <= ratio


def _uncertainty(history: Sequence[LabelledRound], limit: Any) -> _Answer:
    if not isinstance(limit, Sequence) or isinstance(limit, str) or len(limit) != 2:
        raise ConfigError("uncertainty needs a target with its unit", expected="(0.1, 'eV/Å')")
    target, unit = _number("uncertainty", limit[0]), str(limit[1])
    value = float(_needed("uncertainty", history[-1], "max_sigma", "calibrate the uncertainty first"))
    known = _needed("uncertainty", history[-1], "unit")
    if known != unit:
        raise ConfigError("uncertainty and its target have two units", got=f"{known} and {unit}")
    return value, f"{target} {unit}", value <= target


def _no_gain(history: Sequence[LabelledRound], limit: Any) -> _Answer:
    options = {"tol": 0.02, "rounds": 2}
    if isinstance(limit, Mapping):
        check_known(limit, options, "unknown option {} of no_gain")
        options |= limit
    elif limit is not None:
        options["tol"] = limit
    tol, rounds = _number("no_gain", options["tol"]), positive_int(options["rounds"], "rounds of no_gain")
    errors = [float(_needed("no_gain", entry, "rmse")) for entry in history[-1 - rounds :]]
    if len(errors) <= rounds:
        return None, tol, False
    value = 1.0 - errors[-1] / errors[0] if errors[0] > 0 else 0.0
    return value, tol, value < tol


def _not_better(history: Sequence[LabelledRound], limit: Any) -> _Answer:
    rounds = positive_int(2 if limit is None else limit, "rounds of not_better_than_random")
    words = [str(_needed("not_better_than_random", entry, "replay")) for entry in history[-rounds:]]
    value = next((i for i, word in enumerate(reversed(words)) if word == _BETTER), len(words))
    return value, rounds, value >= rounds


def _budget(history: Sequence[LabelledRound], limit: Any) -> _Answer:
    total = _number("budget", limit)
    value = float(_needed("budget", history[-1], "spent"))
    return value, total, value >= total


def _exhausted(history: Sequence[LabelledRound], limit: Any) -> _Answer:
    value = int(_needed("exhausted", history[-1], "n_left"))
    return value, 0, value == 0


_CRITERIA: Final[Mapping[str, Callable[[Sequence[LabelledRound], Any], _Answer]]] = MappingProxyType(
    {
        "coverage": _coverage,
        "uncertainty": _uncertainty,
        "no_gain": _no_gain,
        "not_better_than_random": _not_better,
        "budget": _budget,
        "exhausted": _exhausted,
    }
)


def _needed(criterion: str, entry: LabelledRound, name: str, fix: str = "") -> Any:
    value = getattr(entry, name)
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        raise ConfigError(f"criterion {criterion!r} needs {name} of its rounds", got=value, fix=fix)
    return value


def _number(criterion: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < np.inf:
        raise ConfigError(f"limit of {criterion!r} out of range", got=value, expected="a number from 0")
    return float(value)
