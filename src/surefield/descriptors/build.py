"""Descriptors from their descriptions: the one place that knows all kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surefield.descriptors.atomic_descriptor import AtomicDescriptor
from surefield.descriptors.bispectrum import Bispectrum
from surefield.descriptors.symmetry_functions import SymmetryFunctions
from surefield.descriptors.zernike import ZernikeFunctions
from surefield.errors import ConfigError, nearest

__all__ = ["descriptor_from_config"]


def descriptor_from_config(config: Mapping[str, Any]) -> AtomicDescriptor:
    """Descriptor from its description; nothing in it is run.

    Raises:
        ConfigError: an unknown kind, or a description that is damaged.
    """
    kinds = {"bispectrum": Bispectrum, "gaussian": SymmetryFunctions, "zernike": ZernikeFunctions}
    kind = config.get("kind") if isinstance(config, Mapping) else None
    if kind not in kinds:
        raise ConfigError(f"unknown kind of descriptor {kind!r}; {nearest(str(kind), kinds)}")
    try:
        return kinds[kind].from_config(config)
    except (KeyError, TypeError, ValueError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise ConfigError(f"damaged description of a {kind} descriptor", got=cause) from error
