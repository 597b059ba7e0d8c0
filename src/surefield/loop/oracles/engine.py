"""Engines as functions of a structure and settings, and the calculators of ASE that they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from surefield.errors import ConfigError
from surefield.execution.identity import digest

__all__ = ["EngineCalculator", "MakeEngine", "file_digests"]

#: Results of one structure: energy (eV), forces (eV/Å), stress (eV/Å^3); raises if there are none.
Compute = Callable[..., Mapping[str, Any]]


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


def file_digests(paths: Mapping[str, Path]) -> dict[str, str]:
    """Hashes of the contents of files that labels depend on.

    Raises:
        ConfigError: a file is missing.
    """
    for name, path in paths.items():
        if not path.is_file():
            raise ConfigError(f"the oracle needs the file {name}, which is not there: {path}")
    return {name: digest(path.read_bytes().hex()) for name, path in paths.items()}
