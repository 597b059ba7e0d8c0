"""Models of other packages by the names that files know them by: a file holds arrays, never code."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from surefield.errors import PotentialError, nearest
from surefield.potentials.potential import Potential

__all__ = ["known_model", "register_model"]

Maker = Callable[..., Potential]
#: Functions of `published`, which is imported when a file names one.
_PUBLISHED: Final = {"chgnet": "chgnet", "nequix": "nequix_of", "sevennet": "sevennet"}
_REGISTERED: Final[dict[str, Maker]] = {}


def register_model(name: str, make: Maker) -> None:
    """Name a model of one's own, so that potentials made with it can be saved, and loaded in this process.

    Args:
        name: that the potential was given.
        make: makes the potential from its settings, with its published weights or any other ones.

    Raises:
        PotentialError: a name that stands for another model.
    """
    if name in _PUBLISHED or _REGISTERED.setdefault(name, make) is not make:
        raise PotentialError(f"the name {name!r} stands for another model")


def known_model(name: str, settings: Mapping[str, Any]) -> Potential:
    """The model that a file names.

    Raises:
        PotentialError: no such model, or the package that it needs is missing.
    """
    if name in _PUBLISHED:
        published = importlib.import_module("surefield.foreign.published")
        return getattr(published, _PUBLISHED[name])(**settings)
    if name not in _REGISTERED:
        known = nearest(name, [*_PUBLISHED, *_REGISTERED])
        raise PotentialError(
            f"the file needs the model {name!r}, which this process does not know; {known}",
            fix=f"name it before: surefield.foreign.register_model({name!r}, make)",
        )
    return _REGISTERED[name](**settings)
