"""Configuration of selections."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from surefield.config import Config
from surefield.errors import nearest
from surefield.selection.methods import METHODS

__all__ = ["FeatureMap", "Score", "SelectionConfig"]

FeatureMap = Literal["ll_grad", "full_grad_rp", "ll_posterior"]
Score = Literal["forces_variance", "energy_variance"]


class SelectionConfig(Config):
    """What to label next."""

    method: str = Field(default="lcmd", description=f"one of {', '.join(METHODS)}")
    features: FeatureMap = Field(default="full_grad_rp", description="what the method sees")
    score: Score | None = Field(
        default=None, description="expected squared error: max_diag ranks by it, others weight by it"
    )
    n: int = Field(default=10, ge=1, description="picks")
    seed: int = Field(default=0, ge=0, description="of sketches and random methods")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; {nearest(self.method, METHODS)}")
        if self.score is not None and not METHODS[self.method].uses_features:
            raise ValueError(f"{self.method} takes no score; max_diag ranks by it")
        return self
