"""What some uncertainties have and others do not: an abstract class each, which `Uncertainty` asks for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Final, Self

import numpy as np
from jaxtyping import Float

from surefield.errors import ConfigError, nearest
from surefield.potentials.potential import Potential
from surefield.structures.neighbors import Neighborhood
from surefield.uncertainty.spread import Spread

__all__ = ["FromFeatures", "HasMembers", "HasSources", "check_source"]

#: Where sigmas come from, and how they are computed.
SOURCES: Final = ("auto", "analytic", "ensemble")
METHODS: Final = ("exact", "sampled")


class FromFeatures(ABC):
    """An uncertainty that needs, for some quantities, the inputs of the last layer alone.

    These come with a prediction, so that sigmas cost hardly more than it.
    """

    @abstractmethod
    def features_suffice(self, names: Collection[str]) -> bool:
        """Whether they do for these quantities."""

    @abstractmethod
    def spreads_of_features(
        self,
        features: Float[np.ndarray, "n_atoms n_site_features"],
        structure: Neighborhood,
        names: Collection[str],
    ) -> Mapping[str, Spread]:
        """Raw spreads of one structure, without vectors and members."""


class HasMembers(ABC):
    """An uncertainty with members, each a potential."""

    @abstractmethod
    def count_members(self) -> int:
        """How many there are."""

    @abstractmethod
    def member_potential(self, member: int) -> Potential:
        """The potential of a member that there is."""


class HasSources(ABC):
    """An uncertainty with more than one source of its sigmas, or way to compute them."""

    @abstractmethod
    def with_sigmas(self, source: str, method: str, n_probes: int, seed: int) -> Self:
        """Copy whose sigmas have a source and a method, see `predict`."""

    @abstractmethod
    def sampling_error(self) -> float | None:
        """Relative standard error of sigmas that are sampled; None of others."""


def check_source(source: str, method: str) -> None:
    """Raise `ConfigError` unless a source and a method of sigmas have known names."""
    for what, name, known in (("source", source, SOURCES), ("method", method, METHODS)):
        if name not in known:
            raise ConfigError(f"unknown {what} of sigmas {name!r}", fix=nearest(name, known))
