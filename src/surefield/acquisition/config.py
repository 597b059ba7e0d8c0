"""Configuration of selections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from surefield.acquisition.candidate_score_config import PerStructure
from surefield.acquisition.constraints_config import ConstraintsConfig
from surefield.acquisition.transform_config import TransformConfig
from surefield.config import Config
from surefield.selection.methods import METHODS, nearest_method

__all__ = [
    "FeatureMap",
    "LabelNoise",
    "ReplayConfig",
    "SelectionConfig",
    "Transforms",
    "check_methods",
]

FeatureMap = Literal["ll_grad", "full_grad_rp", "ll_posterior", "ll_force"]
Transforms = Annotated[
    tuple[TransformConfig, ...],
    Field(description="of the features, in order, such as {kind: per_atom}"),
]
LabelNoise = Annotated[
    float,
    Field(ge=0, description="noise of a label for max_det and bait, relative to the length of the features"),
]


class SelectionConfig(Config):
    """What to label next."""

    method: str | None = Field(
        default=None, description=f"one of {', '.join(METHODS)}; null: what suits the potential"
    )
    features: FeatureMap | None = Field(
        default=None, description="what the method sees; null: what goes with it"
    )
    score: str | None = Field(
        default=None,
        description="max_diag ranks by it, others weight by it: forces_variance or energy_variance, the "
        "expected squared error; or the name of a score that the pool holds, as 'surefield score' wrote it",
    )
    per_structure: PerStructure = Field(
        default="max", description="how a score of atoms becomes that of their structure"
    )
    window: tuple[float | None, float | None] | None = Field(
        default=None,
        description="least and largest score of a pick, which then weighs no longer; of forces_variance and "
        "energy_variance of the root, σ in eV/Å or eV/atom",
    )
    drop_broken: bool = Field(
        default=False,
        description="leave out structures that cannot be computed, or with atoms nearer than half the sum of "
        "their covalent radii; else those that cannot be computed are an error",
    )
    transforms: Transforms = ()
    sigma: LabelNoise = 0.1
    n: int | None = Field(
        default=10, ge=1, description="picks; null: as many as the budget of the constraints allows"
    )
    constraints: ConstraintsConfig = ConstraintsConfig()
    seed: int = Field(default=0, ge=0, description="of sketches and random methods")

    @model_validator(mode="after")
    def _known(self) -> Self:
        methods = () if self.method is None else (self.method,)
        check_methods(methods, self.features, self.transforms)
        if self.window is not None and self.score is None:
            raise ValueError("window needs a score that it is of, such as score: forces_variance")
        weighs = self.score is not None and self.window is None
        if weighs and any(not METHODS[method].uses_features for method in methods):
            raise ValueError(f"{self.method} takes no score; max_diag ranks by it")
        if self.n is None and self.constraints.budget is None:
            raise ValueError("without n, constraints.budget has to say how many are picked")
        return self


class ReplayConfig(Config):
    """What selection methods would have saved on the labelled structures of `data.train`."""

    methods: tuple[str, ...] = Field(
        default=("lcmd", "max_dist"),
        description=f"of {', '.join(METHODS)}; random is always added",
    )
    features: Literal["ll_grad", "full_grad_rp", "ll_force"] = Field(
        default="ll_grad",
        description="of the untrained potential: what methods and the learner ridge see",
    )
    learner: Literal["ridge", "train"] = Field(
        default="ridge",
        description="ridge: regression of energies on the features; train: the potential, in every round",
    )
    n_initial: int = Field(default=20, ge=1, description="labels of the first round, drawn at random")
    n_per_round: int = Field(default=20, ge=1, description="labels a round")
    n_rounds: int = Field(default=5, ge=1, description="rounds after the first")
    seeds: int = Field(default=5, ge=3, description="repetitions")
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="of the structures that are held out")
    groups: str | None = Field(
        default=None, description="entry of info; groups are not split between training and test"
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        check_methods(self.methods, self.features)
        if self.features == "ll_force" and self.learner == "ridge":
            raise ValueError("ridge regression needs rows of energies, not ll_force: learner: train")
        return self


def check_methods(methods: Sequence[str], features: str | None, transforms: Sequence[object] = ()) -> None:
    """Raise ValueError for names of no method, and for what features have not."""
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}; {nearest_method(method)}")
    if features == "ll_force" and transforms:
        raise ValueError("features ll_force have no transforms")
    if features == "ll_force" and "bait_fb" in methods:
        raise ValueError("bait_fb takes no ll_force; bait_f does")
