"""Oracles that compute: any calculator of ASE, importable or from a file of the user."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict, Unpack, final

from surefield.errors import ConfigError, nearest
from surefield.execution.identity import digest
from surefield.loop.oracles.attempts import CalculatorTask, MakeCalculator
from surefield.loop.oracles.oracle import LabelTask, Oracle

__all__ = ["Attempts", "CalculatorOracle", "MakeFromFile", "ase_calculator", "emt"]


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
        path: "module:Class", such as "ase.calculators.lj:LennardJones", or "file.py:function".
        arguments: of the class or function.
        folder: that paths of files are relative to; the current one by default.
        attempts: see `Attempts`.

    Raises:
        ConfigError: no such module, file or class, or arguments that it does not take.
    """
    arguments = dict(arguments or {})
    settings = {"calculator": path, "arguments": arguments}
    source, _, name = path.rpartition(":")
    make: MakeCalculator
    if source.endswith(".py"):
        file = ((folder or Path()) / source).resolve()
        make = MakeFromFile(str(file), name, arguments)
        make.function()
        settings["code"] = _code(file)
    else:
        make = partial(_import(path), **arguments)
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


@final
@dataclass(frozen=True)
class MakeFromFile:
    """Makes calculators by a function or class in a Python file, in whatever process it is sent to.

    Attributes:
        file: the file; modules in its folder can be imported by it.
        name: of the function or class.
        arguments: of it.
    """

    file: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, **changes: Any) -> Any:
        """A calculator."""
        return self.function()(**{**self.arguments, **changes})

    def function(self) -> Callable[..., Any]:
        """What makes the calculator.

        Raises:
            ConfigError: no such file, it cannot be imported, or it has no such name.
        """
        module = _load(self.file)
        if not hasattr(module, self.name):
            known = [name for name in vars(module) if not name.startswith("_")]
            raise ConfigError(f"no {self.name!r} in {self.file}; {nearest(self.name, known)}")
        return getattr(module, self.name)


@cache
def _load(file: str) -> ModuleType:
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"there is no file {path} to take the calculator from")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    # By this name its classes can be sent between processes that have loaded the file.
    name = f"surefield_engine_{digest(file)[:8]}"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _code(file: Path) -> str:
    """Hash of a program that does not change with comments and layout."""
    return digest(ast.dump(ast.parse(file.read_text(encoding="utf-8"))))


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
