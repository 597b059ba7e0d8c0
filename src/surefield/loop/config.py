"""Configuration of the active-learning loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from surefield.acquisition.config import FeatureMap, LabelNoise, Score, Transforms
from surefield.config import Config
from surefield.loop.oracles.config import OracleConfig, ReplayOracleConfig, TBLiteOracleConfig
from surefield.selection.methods import METHODS

__all__ = ["FilePoolConfig", "LoopConfig", "MolecularDynamicsPoolConfig"]


class FilePoolConfig(Config):
    """Candidates from the file `data.train`; test structures from `data.test`."""

    kind: Literal["file"] = "file"


class MolecularDynamicsPoolConfig(Config):
    """Candidates from molecular dynamics that is run on the spot."""

    kind: Literal["molecular_dynamics"] = "molecular_dynamics"
    structure: str = Field(description="name of a molecule of ASE, or a file with one structure")
    engine: OracleConfig = Field(default=TBLiteOracleConfig(), description="what drives the dynamics")
    temperatures: tuple[float, ...] = Field(
        default=(300.0, 500.0, 700.0), description="K, one trajectory each"
    )
    n_pool: int = Field(default=300, ge=2, description="candidates")
    n_test: int = Field(default=100, ge=2, description="structures of other trajectories, for the errors")
    steps_between: int = Field(default=100, ge=1, description="steps between kept structures")
    timestep_fs: float = Field(default=0.5, gt=0, description="fs")
    equilibration_steps: int = Field(default=500, ge=0, description="steps before the first structure")
    seed: int = Field(default=0, ge=0, description="of velocities and noise")


class LoopConfig(Config):
    """Rounds of fit, uncertainty, selection, labels, beside random selection with the same budget."""

    oracle: OracleConfig = Field(default=ReplayOracleConfig(), description="who labels")
    pool: Annotated[
        FilePoolConfig | MolecularDynamicsPoolConfig, Field(discriminator="kind", description="candidates")
    ] = FilePoolConfig()
    methods: tuple[str, ...] = Field(
        default=("max_dist",),
        description=f"selection methods, of {', '.join(METHODS)}; random is always added",
    )
    features: FeatureMap = Field(default="ll_posterior", description="what selection sees")
    transforms: Transforms = ()
    sigma: LabelNoise = 0.1
    score: Score | None = Field(
        default=None, description="expected squared error: max_diag ranks by it, others weight by it"
    )
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1, description="one repetition each")
    n_initial: int = Field(default=10, ge=2, description="labels of the first round, drawn at random")
    n_per_round: int = Field(default=10, ge=1, description="labels a round")
    n_rounds: int = Field(default=5, ge=1, description="rounds after the first")
    validation: float = Field(
        default=0.2, gt=0, lt=1, description="share of the labels for early stop and calibration"
    )

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        for method in methods:
            if method not in METHODS:
                raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
        return (*(m for m in dict.fromkeys(methods) if m != "random"), "random")
