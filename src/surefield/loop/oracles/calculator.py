"""Oracles that compute: any calculator of ASE, importable or from a file of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypedDict, Unpack, final

from surefield.errors import ConfigError, nearest
from surefield.loop.oracles.attempts import CalculatorTask, MakeCalculator
from surefield.loop.oracles.engine import file_digests
from surefield.loop.oracles.oracle import LabelTask, Oracle
from surefield.loop.oracles.user_code import MakeFromFile, argument_files, code_digest, module_digest

__all__ = ["Attempts", "CalculatorOracle", "ase_calculator", "emt"]


class Attempts(TypedDict, total=False):
    """Options of every engine: how often and how long it is asked for a label; they do not change the label.

    Attributes:
        retries: further attempts after a failed one: their number (1 by default), or the changed settings of
            each.
        time_limit: s of one attempt, after which it is killed with all that it has started; None: none.
        cores: that one label takes, for its cost; 1 by default.
    """

    retries: int | Sequence[Mapping[str, Any]]
    time_limit: float | None
    cores: int


@final
class CalculatorOracle(Oracle):
    """Labels structures by a calculator of ASE, with a fresh one for each, so that order does not matter.

    Args:
        make_calculator: returns a calculator; importable (no lambda) when worker processes are to label. It
            takes the changed settings of `retries` as keywords.
        name: for logs.
        settings: what the labels depend on.
        attempts: see `Attempts`.

    Raises:
        ConfigError: a negative number of retries, or a time limit that is none.
    """

    def __init__(
        self,
        make_calculator: MakeCalculator,
        name: str,
        settings: Mapping[str, Any] | None = None,
        **attempts: Unpack[Attempts],
    ) -> None:
        retries, time_limit = attempts.get("retries", 1), attempts.get("time_limit")
        changes = [{}] * retries if isinstance(retries, int) else [dict(one) for one in retries]
        if isinstance(retries, int) and retries < 0:
            raise ConfigError(f"retries must be 0 or more, got {retries}")
        if time_limit is not None and not time_limit > 0:
            raise ConfigError(f"time_limit must be above 0 s, got {time_limit}")
        self.make_calculator = make_calculator
        self.cores = attempts.get("cores", 1)
        self._name = name
        self._settings = dict(settings or {})
        self._task = CalculatorTask(make_calculator, ({}, *changes), time_limit)

    @property
    def attempts(self) -> dict[str, Any]:
        """Changed settings of the further attempts, and the time limit of each."""
        return {
            "retries": [dict(one) for one in self._task.attempts[1:]],
            "time_limit": self._task.time_limit,
        }

    @property
    def name(self) -> str:
        """Name given by the caller."""
        return self._name

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings given by the caller."""
        return dict(self._settings)

    def task(self) -> LabelTask:
        """The calculator's attempts."""
        return self._task


def ase_calculator(
    path: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    folder: Path | None = None,
    **attempts: Unpack[Attempts],
) -> CalculatorOracle:
    """Oracle of any calculator of ASE that can be imported, or that a file of the user makes.

    Args:
        path: "module:Class", such as "ase.calculators.lj:LennardJones", or "file.py:function"; the
            code of the user is part of what labels depend on, and so are files that arguments name.
        arguments: of the class or function.
        folder: that paths of files are relative to; the current one by default.
        attempts: see `Attempts`.

    Raises:
        ConfigError: no such module, file or class, or arguments that it does not take.
    """
    arguments = dict(arguments or {})
    settings = {"calculator": path, "arguments": arguments}
    source, _, name = path.rpartition(":")
    place = (folder or Path()).resolve()
    make: MakeCalculator
    if source.endswith(".py"):
        file = (place / source).resolve()
        code = code_digest(file)
        make = MakeFromFile(str(file), name, arguments, code)
        make.function()
        settings["code"] = code
    else:
        make = partial(_import(path), **arguments)
        if (code := module_digest(source, place)) is not None:
            settings["code"] = code
    if digests := file_digests(argument_files(arguments, place)):
        settings["files"] = digests
    try:
        make()
    except Exception as error:
        raise ConfigError(
            f"{path} cannot be made with {arguments}", got=f"{type(error).__name__}: {error}"
        ) from error
    return CalculatorOracle(make, name, settings, **attempts)


def emt() -> CalculatorOracle:
    """Oracle of ASE's effective medium theory: for trying things out with Al, Cu, Ag, Au, Ni, Pd, Pt."""
    return CalculatorOracle(_import("ase.calculators.emt:EMT"), "EMT", retries=0)


def _import(path: str) -> MakeCalculator:
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ConfigError(f"a calculator is given as 'module:Class' or 'file.py:function', got {path!r}")
    try:
        loaded = import_module(module)
    except ImportError as error:
        raise ConfigError(f"cannot import the module of the calculator {path!r}: {error}") from error
    if not hasattr(loaded, name):
        raise ConfigError(f"no {name!r} in the module {module}, {nearest(name, vars(loaded))}")
    return getattr(loaded, name)
