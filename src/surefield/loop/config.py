"""Configuration of the active-learning loop."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from surefield.acquisition.candidate_score_config import (
    CandidateScore,
    PerStructure,
    may_be_negative,
    score_name,
)
from surefield.acquisition.config import FeatureMap, LabelNoise, Transforms, check_methods
from surefield.acquisition.constraints_config import ConstraintsConfig
from surefield.config import Config
from surefield.execution.config import ExecutorConfig, SerialExecutorConfig
from surefield.exploration.config import DynamicsConfig, ExplorationConfig
from surefield.loop.oracles.config import OracleConfig, ReplayOracleConfig, TBLiteOracleConfig
from surefield.selection.methods import METHODS

__all__ = ["EngineTrialConfig", "FilePoolConfig", "LoopConfig", "MolecularDynamicsPoolConfig", "StopConfig"]


#: What comparisons of methods do not have.
_ONE_ARM: Final = ("labelled", "stop", "trial", "constraints", "n_audit")


class FilePoolConfig(Config):
    """Candidates from a file: `data.train`, whose labels a replay reveals, or else `data.pool`."""

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
    n_test: int = Field(
        default=100, ge=2, description="structures of other trajectories, for the errors of a comparison"
    )
    steps_between: int = Field(default=100, ge=1, description="steps between kept structures")
    timestep_fs: float = Field(default=0.5, gt=0, description="fs")
    equilibration_steps: int = Field(default=500, ge=0, description="steps before the first structure")
    seed: int = Field(default=0, ge=0, description="of velocities and noise")


class StopConfig(Config):
    """When a loop ends before its rounds are done: with the first of these that is met."""

    target_force_mae: float | None = Field(
        default=None, gt=0, description="eV/Å: mean absolute error of the forces in the audit of a round"
    )
    target_force_rmse: float | None = Field(default=None, gt=0, description="eV/Å: the same of the RMSE")
    least_gain: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="feature distance of the last pick of the next batch, in that of the first pick of all",
    )
    budget_labels: int | None = Field(
        default=None, ge=1, description="labels that are paid for: initial ones, picks and audits"
    )
    budget_node_hours: float | None = Field(
        default=None, gt=0, description="hours of nodes for labels, failed ones, too"
    )
    cores_per_node: int = Field(default=1, ge=1, description="what a node is")


class EngineTrialConfig(Config):
    """What a loop ends with: dynamics of its potential beside those of the engine that labelled.

    That costs as many steps of the engine as the dynamics are long, so it is for engines that are quick.
    """

    structure: str | None = Field(
        default=None, description="that all dynamics start from, as in loop.starts; null: the first of these"
    )
    temperature: float = Field(default=500.0, gt=0, description="K")
    picoseconds: float = Field(default=5.0, gt=0, description="of each run")
    timestep_fs: float = Field(default=0.5, gt=0, description="fs")
    n_test: int = Field(default=100, ge=2, description="structures of the engine's dynamics, for the errors")
    plain: bool = Field(
        default=True, description="compare with equally many labels that are drawn from plain dynamics"
    )


class LoopConfig(Config):
    """Rounds of fit, exploration, selection and labels: the fewest labels, all of them used.

    With several methods or seeds it is a benchmark: each has labels of its own, beside random selection.
    """

    oracle: OracleConfig = Field(default=ReplayOracleConfig(), description="who labels")
    pool: Annotated[
        FilePoolConfig | MolecularDynamicsPoolConfig,
        Field(discriminator="kind", description="candidates, where the loop has no exploration"),
    ] = FilePoolConfig()
    starts: tuple[str, ...] = Field(
        default=(), description="molecules of ASE by name, or files: what exploration starts from"
    )
    exploration: tuple[ExplorationConfig, ...] = Field(
        default=(),
        description="what finds candidates in every round with the current potential; none: dynamics, where "
        "there are starts",
    )
    initial_displacements: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.05, 0.1, 0.2),
        min_length=1,
        description="Å; of periodic starts, for the first labels of a loop that explores; they take turns",
    )
    initial_temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(300.0, 500.0, 700.0),
        description="K; of molecules, in place of displacements: as by springs between their atoms; []: none",
    )
    labelled: tuple[str, ...] = Field(
        default=(), description="files of labels that are there already, by the same oracle; all are fitted"
    )
    methods: tuple[str, ...] = Field(
        default=(),
        description=f"of {', '.join(METHODS)}; several compared, with random; none: what suits the potential",
    )
    features: FeatureMap | None = Field(
        default=None, description="what selection sees; null: what goes with the first method"
    )
    transforms: Transforms = ()
    sigma: LabelNoise = 0.1
    score: CandidateScore | None = Field(
        default=None,
        description="max_diag ranks by it, others weight by it: forces_variance or energy_variance, the "
        "expected squared error, or a score by its name or with its settings: ltau, quests_efficiency, "
        "quests_diversity, quests_delta_entropy (to the labels; may be negative: for max_diag alone), "
        "fim_training_set",
    )
    per_structure: PerStructure = Field(
        default="max", description="how a score of atoms becomes that of their structure"
    )
    constraints: ConstraintsConfig = Field(
        default=ConstraintsConfig(), description="that the picks of a round keep to, as those of a selection"
    )
    seeds: tuple[int, ...] = Field(
        default=(0,), min_length=1, description="of all that is random; several are repetitions to compare"
    )
    n_initial: int = Field(default=10, ge=2, description="labels of the first round, drawn at random")
    n_per_round: int = Field(default=10, ge=1, description="labels a round")
    n_rounds: int = Field(default=5, ge=1, description="rounds with picks")
    n_audit: int | None = Field(
        default=None,
        ge=0,
        description="labels a round that are drawn at random and tell the error before they are fitted; "
        "null: none with data.test, else a fifth of n_per_round, at least 2",
    )
    n_candidates: int | None = Field(
        default=None, ge=1, description="structures of an exploration to choose from, at most; null: all"
    )
    stop: StopConfig = StopConfig()
    validation: float = Field(
        default=0.2, gt=0, lt=1, description="share of the labels for early stop and calibration"
    )
    executor: ExecutorConfig = Field(
        default=SerialExecutorConfig(), description="where labels and walkers run"
    )
    trial: EngineTrialConfig | None = Field(
        default=None, description="the final potential beside the engine; null: none"
    )
    registry: str | None = Field(
        default="potentials", description="folder of the registry, in root; null: do not register"
    )

    @property
    def compares(self) -> bool:
        """Whether methods or seeds are compared, each with labels of its own."""
        return len(self.methods) > 1 or len(self.seeds) > 1

    @property
    def explores(self) -> bool:
        """Whether candidates come from dynamics with the current potential, or whatever else explores."""
        return bool(self.starts or self.exploration)

    @property
    def explorations(self) -> tuple[ExplorationConfig, ...]:
        """What explores."""
        return self.exploration or (DynamicsConfig(),)

    def audits(self, tested: bool) -> int:
        """Random labels a round, of a loop with or without a test set."""
        usual = 0 if tested else max(2, self.n_per_round // 5)
        return usual if self.n_audit is None else self.n_audit

    @field_validator("methods")
    @classmethod
    def _once(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(methods))

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        check_methods(self.methods, self.features, self.transforms)
        weighting = [method for method in self.methods or ("lcmd",) if METHODS[method].weighted]
        if may_be_negative(self.score) and weighting:
            name = score_name(self.score)
            raise ValueError(
                f"score {name} may be negative, which is no weight: methods: [max_diag] ranks by it"
            )
        if not self.compares:
            return self
        if self.explores:
            raise ValueError("methods or seeds are compared on one pool: no loop.starts, or one of each")
        for name in _ONE_ARM:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for a loop with one method and one seed, not for a comparison")
        return self
