"""Configuration of uncertainties: one model a kind, told apart by `kind:`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from surefield.config import Config
from surefield.quantities import quantity

__all__ = [
    "ConstantConfig",
    "DropoutConfig",
    "FeatureDistanceConfig",
    "LLPRConfig",
    "UncertaintyConfig",
]

MapName = Literal["alpha", "alpha_sigma0", "power", "isotonic", "local", "conformal", "committee"]
_MAPS = "quantity to map; null: alpha, and alpha_sigma0 for forces and stresses"


class LLPRConfig(Config):
    """How the last-layer uncertainty is fitted; serves every potential with a last layer."""

    kind: Literal["llpr"] = "llpr"
    row_kinds: tuple[str, ...] | None = Field(default=None, description="null: every kind that has labels")
    regularizer: (
        Annotated[float, Field(ge=0)]
        | Literal["evidence", "val_nll"]
        | dict[Literal["relative"], Annotated[float, Field(ge=0)]]
        | None
    ) = Field(default=None, description="a number, evidence, val_nll, {relative: x}; null: by evidence")
    calibration_map: dict[str, MapName] | None = Field(default=None, description=_MAPS)

    @field_validator("row_kinds", "calibration_map")
    @classmethod
    def _known(cls, names: Any) -> Any:
        for name in names or ():
            quantity(name)
        return names


class DropoutConfig(Config):
    """The spread over members of a dropout network."""

    kind: Literal["dropout"] = "dropout"
    M: int = Field(default=100, ge=2, description="members")
    rate: float | None = Field(default=None, gt=0, lt=1, description="null: that of the training")
    seed: int = Field(default=0, ge=0, description="of the masks")
    calibration_map: dict[str, MapName] | None = Field(default=None, description=_MAPS)


class ConstantConfig(Config):
    """The held-out error as sigma of every structure; serves every potential."""

    kind: Literal["constant"] = "constant"


class FeatureDistanceConfig(Config):
    """Distances to training environments in last-layer features; serves every potential that has these."""

    kind: Literal["distance"] = "distance"
    k: int = Field(default=8, ge=1, description="nearest training atoms of the same element")
    max_environments: int | None = Field(
        default=10_000, ge=1, description="kept of each element, drawn by chance; null: all"
    )
    seed: int = Field(default=0, ge=0, description="of the draw")
    calibration_map: dict[str, MapName] | None = Field(
        default=None, description="quantity to map; local where none is named"
    )


#: Told apart by `kind`.
UncertaintyConfig = LLPRConfig | DropoutConfig | ConstantConfig | FeatureDistanceConfig
