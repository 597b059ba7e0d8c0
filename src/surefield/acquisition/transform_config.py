"""Transforms of features by configuration: one model a kind, told apart by `kind:`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from surefield.config import Config

__all__ = ["TransformConfig", "make_transforms"]


class PerAtomTransformConfig(Config):
    """Divided by a power of the number of atoms."""

    kind: Literal["per_atom"] = "per_atom"
    power: float = Field(default=1.0, description="1 or 0.5")

    @field_validator("power")
    @classmethod
    def _known(cls, power: float) -> float:
        if power not in (1.0, 0.5):
            raise ValueError("must be 1 or 0.5")
        return power


class CenterConfig(Config):
    """Without the mean of the training set."""

    kind: Literal["center"] = "center"


class StandardiseConfig(Config):
    """Mean 0 and standard deviation 1 in every column."""

    kind: Literal["standardise"] = "standardise"


class ScaleConfig(Config):
    """Times a factor."""

    kind: Literal["scale"] = "scale"
    factor: float | None = Field(default=None, description="null: rows of length 1 on average")


class L2Config(Config):
    """Rows of length 1."""

    kind: Literal["l2"] = "l2"


class WhitenConfig(Config):
    """Unit covariance."""

    kind: Literal["whiten"] = "whiten"
    eps: float = Field(default=1e-6, gt=0, description="of the mean variance, added to all")


class PCAConfig(Config):
    """First principal components."""

    kind: Literal["pca"] = "pca"
    k: int = Field(ge=1, description="components")


class SketchConfig(Config):
    """Random projection that keeps inner products on average."""

    kind: Literal["sketch"] = "sketch"
    p: int = Field(ge=1, le=65_536, description="columns")
    seed: int = Field(default=0, ge=0, description="of the projection")
    sketch: Literal["gaussian", "countsketch", "auto", "none"] = Field(
        default="auto", description="auto: gaussian where its matrix has 512 MB or less, else countsketch"
    )


class PosteriorConfig(Config):
    """Features of the posterior kernel after the training set."""

    kind: Literal["posterior"] = "posterior"
    sigma: float = Field(gt=0, description="noise of a label, in units of the features: `scale` them first")


class ACSRFConfig(Config):
    """Random features of the expected log likelihood (ACS-FW)."""

    kind: Literal["acsrf"] = "acsrf"
    p: int = Field(ge=1, description="columns")
    sigma: float = Field(gt=0, description="as of posterior")
    seed: int = Field(default=0, ge=0, description="of the features")


class ACSGradConfig(Config):
    """Product of the kernel and its posterior kernel."""

    kind: Literal["acsgrad"] = "acsgrad"
    sigma: float = Field(gt=0, description="as of posterior")


TransformConfig = Annotated[
    PerAtomTransformConfig
    | CenterConfig
    | StandardiseConfig
    | ScaleConfig
    | L2Config
    | WhitenConfig
    | PCAConfig
    | SketchConfig
    | PosteriorConfig
    | ACSRFConfig
    | ACSGradConfig,
    Field(discriminator="kind"),
]


def make_transforms(configs: Sequence[Config]) -> list[Any]:
    """The `RowTransform`s that configurations stand for, in their order."""
    # Imported here, so that configurations are read without the packages that transforms need.
    from surefield.selection.transforms import transforms_from

    return list(transforms_from([config.model_dump() for config in configs]))
