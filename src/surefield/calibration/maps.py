"""Maps from the raw spread u to a calibrated standard deviation σ(u): frozen, and kept as JSON."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy.special import ndtri

from surefield.errors import ConfigError, DataError, nearest

__all__ = [
    "AlphaMap",
    "AlphaPowerMap",
    "AlphaSigma0Map",
    "CalibrationMap",
    "CommitteeMap",
    "ConformalMap",
    "IsotonicMap",
    "LocalMap",
    "PowerMap",
    "PropertyMaps",
    "StructureFloorMap",
    "of_atoms",
]


@dataclass(frozen=True)
class CalibrationMap(ABC):
    """A fitted map from the uncalibrated spread u to a standard deviation.

    u = 0 exactly marks a quantity that symmetry fixes, and gives σ = 0 whatever the map.

    Attributes:
        calibrated: False for the α = 1 that stands in where there were no validation labels.
    """

    name: ClassVar[str]
    calibrated: bool = field(default=True, kw_only=True)

    def sigma(self, u: ArrayLike, groups: ArrayLike | None = None) -> Float64[np.ndarray, "*shape"]:
        """Standard deviations for u of any shape, in the unit of the calibrated quantity.

        Args:
            u: the spread.
            groups: of a map that was fitted by groups, that of each entry of the leading axis.

        Raises:
            DataError: groups given or missing against the fit, or a group that was not fitted.
        """
        spread = np.asarray(u, dtype=np.float64)
        if isinstance(self, GroupedMap):
            return self.sigma_of_groups(spread, groups)
        if groups is not None:
            raise DataError(f"a map {self.name!r} has no groups", fix="leave groups out, or fit 'conformal'")
        zero = spread == 0
        return np.where(zero, 0.0, self.of_structure(spread)._sigma(np.where(zero, 1.0, spread)))

    def of_structure(self, u: ArrayLike) -> CalibrationMap:
        """The map of the values of one structure, whose spreads are u (zeros do not count)."""
        return self.with_floor(u) if isinstance(self, FlooredMap) else self

    @abstractmethod
    def _sigma(self, u: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """σ for u > 0."""

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to make the map again, as JSON types."""
        entries = self.entries() if isinstance(self, NestedMap) else dataclasses.asdict(self)
        return {"map": self.name, **entries}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> CalibrationMap:
        """Make the map that `to_dict` described.

        Raises:
            ConfigError: unknown map, missing or unknown entries.
        """
        entries = dict(data)
        name = entries.pop("map", None)
        kind = _MAPS.get(str(name))
        if kind is None:
            raise ConfigError(f"unknown calibration map {name!r}", fix=nearest(str(name), _MAPS))
        try:
            return kind._from_entries(entries)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"bad entries for the calibration map {name!r}", got=error) from error

    @classmethod
    def _from_entries(cls, entries: Mapping[str, Any]) -> Self:
        if issubclass(cls, NestedMap):
            return cls.of_entries(entries)
        # JSON has lists where the frozen maps have tuples
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()}
        return cls(**values)


class FlooredMap(ABC):
    """A map whose σ depends on the other spreads of a structure."""

    @abstractmethod
    def with_floor(self, u: ArrayLike) -> CalibrationMap:
        """The map of the values of one structure, whose spreads are u."""


class GroupedMap(ABC):
    """A map that may differ between groups of data."""

    @abstractmethod
    def sigma_of_groups(
        self, u: Float64[np.ndarray, "*shape"], groups: ArrayLike | None
    ) -> Float64[np.ndarray, "*shape"]:
        """Standard deviations; zeros of u give zeros."""


class NestedMap(ABC):
    """A map whose attributes are no lists of numbers."""

    @abstractmethod
    def entries(self) -> dict[str, Any]:
        """Its attributes, as JSON types."""

    @classmethod
    @abstractmethod
    def of_entries(cls, entries: Mapping[str, Any]) -> Self:
        """The map of what `entries` gave."""


@dataclass(frozen=True)
class AlphaMap(CalibrationMap):
    """σ = αu."""

    name: ClassVar[str] = "alpha"
    alpha: float

    def _sigma(self, u: np.ndarray) -> np.ndarray:
        return self.alpha * u


@dataclass(frozen=True)
class AlphaPowerMap(CalibrationMap):
    """σ = αu(u/level)^power, for one value per structure: α at the usual u, and more beyond it.

    Attributes:
        alpha: factor at the level.
        power: by which errors grow faster than u, see `structure_power`.
        level: u that is usual among the calibration structures.
    """

    name: ClassVar[str] = "alpha_power"
    alpha: float
    power: float = 0.0
    level: float = 1.0

    def _sigma(self, u: np.ndarray) -> np.ndarray:
        return self.alpha * u * (u / self.level) ** self.power


def of_atoms(calibration: CalibrationMap) -> CalibrationMap:
    """The map of shares of atoms: that of a structure, without what grows with its spread."""
    if isinstance(calibration, AlphaPowerMap):
        return AlphaMap(calibration.alpha, calibrated=calibration.calibrated)
    return calibration


@dataclass(frozen=True)
class CommitteeMap(CalibrationMap):
    """σ = αs for the sample standard deviation s of M independent models, with α² corrected for finite M."""

    name: ClassVar[str] = "committee"
    alpha: float
    n_members: int

    def _sigma(self, u: np.ndarray) -> np.ndarray:
        return self.alpha * u


@dataclass(frozen=True)
class AlphaSigma0Map(CalibrationMap):
    """σ = √(α²u² + σ₀²); σ₀ is noise of each label on its own and has no covariances."""

    name: ClassVar[str] = "alpha_sigma0"
    alpha: float
    sigma0: float

    def _sigma(self, u: np.ndarray) -> np.ndarray:
        return np.hypot(self.alpha * u, self.sigma0)


@dataclass(frozen=True)
class StructureFloorMap(CalibrationMap, FlooredMap):
    """σ² = (α²u² + β²ū²)(ū/level)^(2 power) + σ₀², ū² the mean of u² over the values of one structure.

    u is of one structure. The floor stands for what the posterior of the last layer does not know of: it
    grows where whole structures are unlike the training set, and a constant one does not. So does the power:
    errors of structures often grow faster than their spreads.

    Attributes:
        alpha: factor of each value's own spread.
        beta: of the mean one of the structure.
        sigma0: constant floor.
        power: by which errors grow faster than spreads, see `structure_power`.
        level: mean spread that is usual among the calibration structures.
    """

    name: ClassVar[str] = "structure_floor"
    alpha: float
    beta: float
    sigma0: float
    power: float = 0.0
    level: float = 1.0

    def with_floor(self, u: ArrayLike) -> AlphaSigma0Map:
        """The map with the floor and the growth of this structure."""
        spread = np.asarray(u, dtype=np.float64)
        spread = spread[spread > 0]
        mean = float(np.sqrt(np.mean(spread**2))) if spread.size else 0.0
        growth = (mean / self.level) ** self.power
        floor = float(np.hypot(self.beta * mean * growth, self.sigma0))
        return AlphaSigma0Map(self.alpha * growth, floor)

    def _sigma(self, u: np.ndarray) -> np.ndarray:
        return self.with_floor(u)._sigma(u)


@dataclass(frozen=True)
class PowerMap(CalibrationMap):
    """σ = exp(a + γ ln u)."""

    name: ClassVar[str] = "power"
    a: float
    gamma: float

    def _sigma(self, u: np.ndarray) -> np.ndarray:
        return np.exp(self.a + self.gamma * np.log(u))


@dataclass(frozen=True)
class IsotonicMap(CalibrationMap):
    """σ = √(monotone fit of r² on u), linear between its knots, constant beyond them."""

    name: ClassVar[str] = "isotonic"
    knots: tuple[float, ...]
    variances: tuple[float, ...]

    def _sigma(self, u: np.ndarray) -> np.ndarray:
        return np.sqrt(np.interp(u, self.knots, self.variances))


@dataclass(frozen=True)
class LocalMap(CalibrationMap):
    """σ is the RMS residual of the calibration rows around u: linear between its knots, and beyond the last
    one as much larger as u is, since rows that far out were never seen."""

    name: ClassVar[str] = "local"
    knots: tuple[float, ...]
    sigmas: tuple[float, ...]

    def _sigma(self, u: np.ndarray) -> np.ndarray:
        return np.interp(u, self.knots, self.sigmas) * np.maximum(u / self.knots[-1], 1.0)


@dataclass(frozen=True)
class ConformalMap(CalibrationMap, GroupedMap, NestedMap):
    """Intervals μ ± q̂u that hold at least a share 1 - δ of exchangeable data (split conformal).

    σ is the standard deviation of the Gaussian with the same central 1 - δ interval.

    Attributes:
        delta: δ.
        quantiles: q̂ per group; the one key "" when there are no groups.
    """

    name: ClassVar[str] = "conformal"
    delta: float
    quantiles: tuple[tuple[str, float], ...]

    def half_width(self, u: ArrayLike, groups: ArrayLike | None = None) -> Float64[np.ndarray, "*shape"]:
        """q̂u, for the group of each entry (labels of the leading axis of u) where groups were fitted.

        Raises:
            DataError: groups given or missing against the fit, or a group that was not fitted.
        """
        spread, known = np.asarray(u, dtype=np.float64), dict(self.quantiles)
        grouped = set(known) != {""}
        if grouped != (groups is not None):
            fix = f"give one of {sorted(known)} per entry" if grouped else "leave groups out"
            raise DataError("groups do not match the conformal fit", got=groups, fix=fix)
        if groups is None:
            return known[""] * spread
        labels = np.asarray(groups).astype(str)
        if labels.shape != spread.shape[: labels.ndim]:
            raise DataError("one group per entry is needed", got=labels.shape, expected=spread.shape)
        for label in np.unique(labels):
            if str(label) not in known:
                raise DataError(f"group {str(label)!r} was not calibrated", fix=nearest(str(label), known))
        factors = np.array([known[str(label)] for label in labels.ravel()]).reshape(labels.shape)
        return factors.reshape(labels.shape + (1,) * (spread.ndim - labels.ndim)) * spread

    def sigma_of_groups(
        self, u: Float64[np.ndarray, "*shape"], groups: ArrayLike | None
    ) -> Float64[np.ndarray, "*shape"]:
        """Gaussian standard deviation with the conformal 1 - δ interval; groups as in `half_width`."""
        return self.half_width(u, groups) / float(ndtri(1 - self.delta / 2))

    def _sigma(self, u: np.ndarray) -> np.ndarray:
        return self.sigma_of_groups(u, None)

    def entries(self) -> dict[str, Any]:
        """Its attributes."""
        return dataclasses.asdict(self)

    @classmethod
    def of_entries(cls, entries: Mapping[str, Any]) -> Self:
        """The map of what `entries` gave."""
        rest = dict(entries)
        quantiles = tuple((str(group), float(q)) for group, q in rest.pop("quantiles", ()))
        return cls(quantiles=quantiles, **rest)


@dataclass(frozen=True)
class PropertyMaps(CalibrationMap, NestedMap):
    """One map per property; u is (..., n_properties), or (..., 1) for one spread shared by all of them."""

    name: ClassVar[str] = "properties"
    maps: tuple[CalibrationMap, ...]

    def _sigma(self, u: np.ndarray) -> np.ndarray:
        if u.ndim == 0 or u.shape[-1] not in (1, len(self.maps)):
            raise DataError(
                "u has no axis of properties", got=f"shape {u.shape}", expected=f"(..., {len(self.maps)})"
            )
        spread = np.broadcast_to(u, (*u.shape[:-1], len(self.maps)))
        return np.stack([m.sigma(spread[..., i]) for i, m in enumerate(self.maps)], axis=-1)

    def entries(self) -> dict[str, Any]:
        """Each map with its own."""
        return {"maps": [m.to_dict() for m in self.maps], "calibrated": self.calibrated}

    @classmethod
    def of_entries(cls, entries: Mapping[str, Any]) -> Self:
        """The maps of what `entries` gave."""
        rest = dict(entries)
        return cls(tuple(CalibrationMap.from_dict(m) for m in rest.pop("maps", ())), **rest)


_MAPS: Final[Mapping[str, type[CalibrationMap]]] = {
    m.name: m
    for m in (
        *(AlphaMap, AlphaPowerMap, AlphaSigma0Map, PowerMap, IsotonicMap),
        *(LocalMap, ConformalMap, CommitteeMap, PropertyMaps, StructureFloorMap),
    )
}
