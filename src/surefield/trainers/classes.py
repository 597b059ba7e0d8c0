"""Trainers and handles by name: the one place that knows them all."""

from __future__ import annotations

import importlib
from typing import Any, Final

from surefield.errors import ExecutionError

__all__ = ["HANDLES", "TRAINERS", "look_up", "trainer_class"]

#: Module of every trainer and handle: names in a job folder are looked up here, never imported as given.
TRAINERS: Final = {
    "ChIMESTrainer": "chimes",
    "DUNNTrainer": "dunn",
    "FitSnapTrainer": "fitsnap",
    "ParametricModelTrainer": "parametric",
}


HANDLES: Final = {
    "BareHandle": "handle",
    "ChIMESPotential": "chimes",
    "FitSnapPotential": "fitsnap",
    "KIMPotential": "kim_potential",
    "KliffBPPotential": "dunn",
}


def trainer_class(name: str) -> type[Any]:
    """Class of a trainer by its name."""
    return look_up(name, TRAINERS)


def look_up(name: str, homes: dict[str, str]) -> Any:
    """Class of this name in its module.

    Raises:
        ExecutionError: a name that is not among them.
    """
    if name not in homes:
        raise ExecutionError(f"the job folder names {name!r}, which this version does not know")
    return getattr(importlib.import_module(f"surefield.trainers.{homes[name]}"), name)
