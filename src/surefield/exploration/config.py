"""Configuration of the stability check."""

from __future__ import annotations

from pydantic import Field

from surefield.config import Config

__all__ = ["StabilityConfig"]


class StabilityConfig(Config):
    """Short molecular dynamics with a trained potential: does it run, also where there are no data?"""

    seconds: float = Field(
        default=20.0, gt=0, description="of all runs together, without compiling; each has its share"
    )
    steps: int = Field(default=500, ge=1, description="of each run, at most")
    temperature: float | None = Field(
        default=None,
        gt=0,
        description="of the hot runs, K; null: the highest that a training structure states, or 600",
    )
    n_structures: int = Field(default=2, ge=0, description="training structures, of different formulas")
    n_alloys: int = Field(default=3, ge=0, description="random alloys of the metals among the elements")
    seed: int = Field(default=0, ge=0, description="of velocities, thermostat and places in alloys")
