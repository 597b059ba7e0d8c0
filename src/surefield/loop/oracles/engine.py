"""Engines as functions of a structure and settings, and the calculators of ASE that they become."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from surefield.errors import ConfigError, ExecutionError
from surefield.execution.identity import digest

__all__ = ["EngineCalculator", "MakeEngine", "check_program", "file_digests", "last_lines", "run_program"]

#: Results of one structure: energy (eV), forces (eV/Å), stress (eV/Å^3); raises if there are none.
Compute = Callable[..., Mapping[str, Any]]
_TAIL: Final = 3


@final
class EngineCalculator(Calculator):
    """Calculator of ASE around a function.

    Args:
        compute: importable function of a structure and settings.
        settings: its keywords.
        stress: whether it has stresses.
    """

    def __init__(self, compute: Compute, settings: Mapping[str, Any], stress: bool) -> None:
        super().__init__()
        self.implemented_properties = ["energy", "forces", *(["stress"] if stress else [])]
        self._compute, self._settings = compute, settings

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        """Compute all results at once."""
        super().calculate(atoms, properties, system_changes)
        self.results = dict(self._compute(self.atoms, **self._settings))
        self.implemented_properties = list(self.results)


@final
@dataclass(frozen=True)
class MakeEngine:
    """Makes calculators of an engine; changed settings go into nested ones, `{"a": {"b": 1}}` changes b."""

    compute: Compute
    settings: Mapping[str, Any] = field(default_factory=dict)
    stress: bool = False

    def __call__(self, **changes: Any) -> EngineCalculator:
        """A calculator.

        Raises:
            ConfigError: a setting that the engine does not have.
        """
        for name in changes:
            if name not in self.settings:
                known = ", ".join(self.settings)
                raise ConfigError(f"a further attempt changes {name!r}, which is no setting; known: {known}")
        return EngineCalculator(self.compute, _merged(self.settings, changes), self.stress)


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(settings)
    for name, value in changes.items():
        before = merged.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = _merged(before, value)
        merged[name] = value
    return merged


def check_program(command: str, install: str) -> None:
    """Refuse a command whose program is not there.

    Args:
        command: words as in a shell.
        install: how to get it.

    Raises:
        ConfigError: nothing to run, or no such program.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"the command {command!r} cannot be read: {error}") from error
    if not words:
        raise ConfigError("the command of the oracle is empty")
    if shutil.which(words[0]) is None:
        raise ConfigError(f"the oracle needs the program {words[0]!r}, which is not there: {install}")


def run_program(command: str, folder: Path, log: Path) -> str:
    """Run a program in a folder; returns what it printed.

    Raises:
        ExecutionError: it cannot be started or ended with another exit code than 0; the last lines are told.
    """
    try:
        with log.open("wb") as file:
            done = subprocess.run(
                shlex.split(command),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            )
    except OSError as error:
        raise ExecutionError(f"cannot start {command!r}: {error}") from error
    text = log.read_text(encoding="utf-8", errors="replace")
    if done.returncode:
        how = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise ExecutionError(f"{shlex.split(command)[0]} ended with {how}: {last_lines(text)}")
    return text


def last_lines(text: str) -> str:
    """The last lines of an output, as one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" %=-")]
    return " | ".join(lines[-_TAIL:])[-400:] or "it printed nothing"


def file_digests(paths: Mapping[str, Path]) -> dict[str, str]:
    """Hashes of the contents of files that labels depend on.

    Raises:
        ConfigError: a file is missing.
    """
    for name, path in paths.items():
        if not path.is_file():
            raise ConfigError(f"the oracle needs the file {name}, which is not there: {path}")
    return {name: digest(path.read_bytes().hex()) for name, path in paths.items()}
