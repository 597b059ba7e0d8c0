"""What a job asks of the machine it runs on: nodes, time, queue. Checked, and never taken from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final

from surefield.errors import ConfigError, check_known

__all__ = ["JobDetails"]

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True)
class JobDetails:
    """Checked form of the dictionary `job_details`.

    Attributes:
        nodes: number of nodes.
        tasks: number of tasks altogether; the command itself is started once.
        tasks_per_node: of them on each node.
        walltime: minutes after which the job is stopped.
        queue: queue or partition.
        account: whom the time is charged to.
        synchronous: whether `submit_job` waits for the end.
        dependencies: ids of jobs that must be done before this one starts.
        extra_args: further options of the scheduler, such as `{"mem": "4G", "exclusive": True}`, and lines of
            shell `setup` (before the command) and `teardown` (after it).
    """

    nodes: int | None = None
    tasks: int | None = None
    tasks_per_node: int | None = None
    walltime: float | None = None
    queue: str | None = None
    account: str | None = None
    synchronous: bool = False
    dependencies: tuple[str, ...] = ()
    extra_args: Mapping[str, Any] = field(default_factory=lambda: _NONE)

    @classmethod
    def read(cls, wishes: Mapping[str, Any] | None, defaults: Mapping[str, Any] | None = None) -> JobDetails:
        """Check a dictionary as users write it; it is left as it is.

        Args:
            given: keys are the attributes above; None is no wish at all.
            defaults: used where `given` does not name a key.

        Raises:
            ConfigError: an unknown key, with the nearest known one, or an unusable value.
        """
        merged: dict[str, Any] = {}
        for source in (defaults, wishes):
            if source is None:
                continue
            if not isinstance(source, Mapping):
                raise ConfigError("unusable job_details", got=repr(source), expected="a dict")
            check_known(source, [f.name for f in fields(cls)], "unknown key {} in job_details")
            merged |= source
        for name in ("nodes", "tasks", "tasks_per_node"):
            _check(merged, name, _is_count, "a whole number >= 1")
        _check(merged, "walltime", _is_time, "minutes, above 0")
        for name in ("queue", "account"):
            _check(merged, name, lambda v: isinstance(v, str) and v != "", "a name")
        _check(merged, "synchronous", lambda v: isinstance(v, bool), "True or False")
        _check(merged, "dependencies", _are_ids, "ids of jobs, as submit_job gave them")
        _check(merged, "extra_args", _are_options, "a dict {option: number, text or True}")
        if isinstance(merged.get("dependencies"), str):
            merged["dependencies"] = [merged["dependencies"]]
        merged["dependencies"] = tuple(merged.get("dependencies") or ())
        merged["extra_args"] = MappingProxyType(dict(merged.get("extra_args") or {}))
        merged["synchronous"] = bool(merged.get("synchronous"))
        return cls(**merged)

    def check_one_process(self, where: str) -> None:
        """Refuse what only a scheduler can give.

        Raises:
            ConfigError: more than one node or task, a queue, an account or options of a scheduler.
        """
        for name in ("nodes", "tasks", "tasks_per_node", "queue", "account", "extra_args"):
            value = getattr(self, name)
            if value and value != 1:
                what = f"{name} of job_details has no effect on {where}"
                shown = dict(value) if isinstance(value, Mapping) else value
                raise ConfigError(what, got=repr(shown), fix="leave it out or use a SLURM workflow")


def _check(merged: Mapping[str, Any], name: str, fits: Any, expected: str) -> None:
    value = merged.get(name)
    if value is not None and not fits(value):
        raise ConfigError(f"unusable {name} in job_details", got=repr(value), expected=expected)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _are_ids(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    )


def _are_options(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and name
        and (one is None or isinstance(one, str | int | float) or _are_ids(one))
        for name, one in value.items()
    )
