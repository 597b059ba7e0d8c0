"""Packages whose names are imported on first use, so that configurations are read without JAX."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

__all__ = ["import_on_first_use"]


class _Package(ModuleType):
    """A package that imports a name from its home when it is asked for."""

    _homes: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        homes = self.__dict__.get("_homes", {})
        if name not in homes:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # Python sets a submodule as an attribute, also where a function of the same name is meant.
        if not (isinstance(value, ModuleType) and name in self.__dict__.get("_homes", {})):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self.__dict__.get("_homes", {})})


def import_on_first_use(package: str, homes: Mapping[str, Sequence[str]]) -> None:
    """Give a package names that are imported when they are first used.

    Args:
        package: its `__name__`.
        homes: module to the names that are there.
    """
    module = sys.modules[package]
    module.__dict__["_homes"] = {name: home for home, names in homes.items() for name in names}
    module.__class__ = _Package
