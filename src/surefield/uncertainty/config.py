"""Configuration of uncertainties: one model a kind, told apart by `kind:`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from surefield.config import Config
from surefield.quantities import quantity

__all__ = [
    "CompareConfig",
    "ConstantConfig",
    "DeepEnsembleConfig",
    "DropoutConfig",
    "FeatureDistanceConfig",
    "LLPRConfig",
    "LTAUConfig",
    "LossName",
    "MapName",
    "Regularizer",
    "ShallowEnsembleConfig",
    "UncertaintyConfig",
]

LossName = Literal[
    "ensemble_nll", "gaussian_nll_ensemble", "gaussian_crps_ensemble", "empirical_crps_ensemble"
]
MapName = Literal[
    "alpha",
    "alpha_power",
    "alpha_sigma0",
    "structure_floor",
    "power",
    "isotonic",
    "local",
    "conformal",
    "committee",
]
Regularizer = (
    Annotated[float, Field(ge=0)]
    | Literal["evidence", "val_nll"]
    | dict[Literal["relative"], Annotated[float, Field(ge=0)]]
    | None
)
_MAPS = "quantity to map; null: alpha_power of the energy, structure_floor of forces and stresses, else alpha"


class LLPRConfig(Config):
    """How the last-layer uncertainty is fitted; serves every potential with a last layer."""

    kind: Literal["llpr"] = "llpr"
    row_kinds: tuple[str, ...] | None = Field(default=None, description="null: every kind that has labels")
    regularizer: Regularizer = Field(
        default=None, description="a number, evidence, val_nll, {relative: x}; null: by evidence"
    )
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


class DeepEnsembleConfig(Config):
    """The spread of potentials that are trained like the one of the run, from other seeds."""

    kind: Literal["deep_ensemble"] = "deep_ensemble"
    M: int = Field(default=4, ge=2, description="members; that of the run is the first")
    seed: int = Field(default=0, ge=0, description="member k has this plus k")
    bootstrap: bool = Field(
        default=False, description="each member sees as many structures, drawn with replacement"
    )
    processes: int = Field(default=1, ge=1, description="members that are trained at the same time")
    calibration_map: dict[str, MapName] | None = Field(default=None, description=_MAPS)


class ShallowEnsembleConfig(Config):
    """The spread of last layers that are trained together with one body like that of the run."""

    kind: Literal["shallow_ensemble"] = "shallow_ensemble"
    M: int = Field(default=16, ge=2, description="members")
    seed: int = Field(default=0, ge=0, description="of the start and the members")
    loss: LossName = Field(default="ensemble_nll", description="of the members")
    learning_rate: float = Field(default=1e-3, gt=0, description="of Adam, after the warm-up")
    calibration_map: dict[str, MapName] | None = Field(default=None, description=_MAPS)


class LTAUConfig(Config):
    """Force errors that similar training atoms had during the training of the run."""

    kind: Literal["ltau"] = "ltau"
    k: int = Field(default=10, ge=1, description="training atoms of the same element that are averaged")
    n_bins: int = Field(default=100, ge=1, description="of the errors")
    bin_spacing: Literal["log", "linear"] = Field(default="log", description="of their bins")
    max_environments: int | None = Field(
        default=None, ge=1, description="training atoms of each element, drawn by chance; null: all"
    )
    seed: int = Field(default=0, ge=0, description="of the draw")
    index: Literal["exact", "faiss"] = Field(
        default="exact", description="of the search; faiss, approximate, for very many training atoms"
    )
    calibration_map: dict[str, MapName] | None = Field(default=None, description=_MAPS)


#: Told apart by `kind`.
UncertaintyConfig = (
    LLPRConfig
    | DropoutConfig
    | ConstantConfig
    | FeatureDistanceConfig
    | DeepEnsembleConfig
    | ShallowEnsembleConfig
    | LTAUConfig
)


class CompareConfig(Config):
    """Several uncertainties around the potential of `train`, on the test set."""

    estimators: tuple[Annotated[UncertaintyConfig, Field(discriminator="kind")], ...] = Field(
        default=(ConstantConfig(), LLPRConfig(), FeatureDistanceConfig()),
        min_length=1,
        description="each with its kind and settings; the usual ones where none are named",
    )
    ood: str | None = Field(
        default=None, description="structures unlike those of the training, to be told from the test set"
    )
    level: dict[str, float] = Field(
        default={},
        description="quantity to the size of a large error; else what a fifth of errors exceed",
    )
    n_bootstrap: int = Field(default=200, ge=0, description="draws of test structures for the intervals")
    seed: int = Field(default=0, ge=0, description="of the draws")
