"""What some uncertainties have and others do not: an abstract class each, which `Uncertainty` asks for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from surefield.potentials.potential import Potential

__all__ = ["HasMembers", "HasSources"]


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
