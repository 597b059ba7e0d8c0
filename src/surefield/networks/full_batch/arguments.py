"""Checks of the arguments of `LossFunction`, and its old names."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from surefield.errors import ConfigError, nearest
from surefield.networks.full_batch.criteria import KINDS, as_number

__all__ = ["at_least_one", "new_names", "positive", "shard_count"]

#: Tolerances of old scripts and what they are called now.
_OLD_NAMES = {f"{kind}_tol": f"{kind}_rmse" for kind in KINDS}


def new_names(old: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Convergence criteria from arguments of old scripts, with a warning.

    Args:
        old: arguments that `LossFunction` does not have.
        known: those it has.

    Raises:
        ConfigError: one that it never had.
    """
    for name in old:
        if name not in _OLD_NAMES:
            raise ConfigError(f"unknown argument {name!r} of LossFunction; {nearest(name, known)}")
    changes = {_OLD_NAMES[name]: value for name, value in old.items()}
    if changes:
        warnings.warn(
            f"{', '.join(old)} of LossFunction is an old name; write convergence={changes}",
            DeprecationWarning,
            stacklevel=3,
        )
    return changes


def positive(name: str, value: Any) -> float:
    """A finite number above zero.

    Raises:
        ConfigError: anything else.
    """
    number = as_number(value)
    if not (math.isfinite(number) and number > 0):
        raise ConfigError("unusable number", where=name, got=repr(value), expected="a number > 0")
    return number


def at_least_one(name: str, value: Any) -> int:
    """A positive integer.

    Raises:
        ConfigError: anything else.
    """
    number = as_number(value)
    if not (number.is_integer() and number >= 1):
        raise ConfigError("unusable number", where=name, got=repr(value), expected="an integer >= 1")
    return int(number)


def shard_count(parallel: Any) -> int:
    """Number of shards from what users write: None, an integer or `{'cores': n}`.

    Raises:
        ConfigError: no positive integer, or the names of other machines.
    """
    if not isinstance(parallel, Mapping):
        return 1 if parallel is None else at_least_one("parallel", parallel)
    extra = sorted(set(parallel) - {"cores"})
    cores = parallel.get("cores", 1)
    if isinstance(cores, Mapping) and set(cores) == {"localhost"}:
        cores = cores["localhost"]
    if extra or isinstance(cores, Mapping):
        raise ConfigError(
            "workers on other machines",
            where="parallel",
            got=repr(extra[0]) if extra else f"cores={cores!r}",
            expected="an integer, or {'cores': n}",
            fix="other machines are reached through an executor: "
            "LossFunction.process_parallels(vector, executor, n)",
        )
    return at_least_one("parallel['cores']", cores)
