"""Settings of the handles that users of Amp know: a dictionary with attributes."""

from __future__ import annotations

from typing import Any

from surefield.errors import ConfigError, nearest

__all__ = ["ATOM_CENTERED", "IMAGE_CENTERED", "Parameters", "check_version", "descriptor_mode"]

ATOM_CENTERED = "atom-centered"
IMAGE_CENTERED = "image-centered"
_VERSION = "2015.12"


class Parameters(dict[str, Any]):
    """Dictionary whose entries are attributes too: `parameters.Gs` is `parameters['Gs']`."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"no parameter {name!r}; {nearest(name, self)}")


def descriptor_mode(mode: object) -> str:
    """The mode in its usual spelling, 'atom-centered' or 'image-centered'.

    Raises:
        ConfigError: another mode.
    """
    name = str(mode).replace("centred", "centered")
    if name not in (ATOM_CENTERED, IMAGE_CENTERED):
        raise ConfigError(f"unknown mode {mode!r}; {nearest(name, (ATOM_CENTERED, IMAGE_CENTERED))}")
    return name


def check_version(version: object) -> None:
    """Raise `ConfigError` unless the version of a descriptor or model is None or '2015.12'."""
    if version not in (None, _VERSION):
        raise ConfigError("unknown version", got=repr(version), expected=f"None or {_VERSION!r}")
