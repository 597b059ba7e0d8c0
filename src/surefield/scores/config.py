"""Scores as configurations, each with the argument names of its class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from surefield.config import Config

__all__ = [
    "FIMMatchingConfig",
    "FIMPropertyConfig",
    "FIMTrainingSetConfig",
    "LTAUScoreConfig",
    "PotentialScoreConfig",
    "QUESTSConfig",
    "QUESTSDeltaEntropyConfig",
    "QUESTSDiversityConfig",
    "QUESTSEfficiencyConfig",
    "ScoreConfig",
    "ScoreJobsConfig",
    "StructureScoreConfig",
]

Descriptors = Annotated[
    str,
    Field(
        description="of the atoms: 'potential' for last-layer features of the trained potential, 'quests' "
        "for the QUESTS descriptor, or a key of atoms.arrays in the structures"
    ),
]
Parameters = Annotated[
    dict[str, list[Any]] | str | None,
    Field(
        description="free parameters: {name: [entry, ...]}, an entry being [value], [default], [value, fix] "
        "or [value, low, high]; 'last_layer'; null: all that the potential trains"
    ),
]


class ScoreJobsConfig(Config):
    """A score as jobs of a workflow; a run whose jobs were killed is gone on with."""

    workflow_type: Literal["LOCAL", "SLURM"] = "LOCAL"
    batch_size: int = Field(default=100, ge=1, description="structures of a job")
    job_details: dict[str, Any] = Field(default={}, description="walltime (minutes), queue, account, ...")


class StructureScoreConfig(Config):
    """What all scores of structures have."""

    #: Entries that are paths, besides `structures`.
    PATHS: ClassVar[tuple[str, ...]] = ()

    structures: str | None = Field(default=None, description="structures to score: a file; null: data.pool")
    jobs: ScoreJobsConfig | None = Field(default=None, description="compute as jobs; null: here")

    def files(self) -> dict[str, str]:
        """Files that enter the score, by name, besides the structures."""
        entries = {name: getattr(self, name) for name in self.PATHS}
        listed = {name: [value] if isinstance(value, str) else value for name, value in entries.items()}
        return {
            name if len(paths) == 1 else f"{name}[{i}]": path
            for name, paths in listed.items()
            for i, path in enumerate(paths or ())
            if isinstance(path, str)
        }

    def placed(self, folder: Path) -> StructureScoreConfig:
        """Copy with paths that do not depend on the current folder.

        Args:
            folder: to which they are relative.
        """

        def place(value: Any) -> Any:
            if isinstance(value, tuple | list):
                return tuple(map(place, value))
            return str((folder / value).resolve()) if isinstance(value, str) else value

        names = ("structures", *self.PATHS)
        return self.model_copy(update={name: place(getattr(self, name)) for name in names})


class LTAUScoreConfig(StructureScoreConfig):
    """`LTAUForcesUQScore`: force errors that similar training atoms had during the training."""

    PATHS: ClassVar[tuple[str, ...]] = ("train_descriptors", "error_pdfs", "bins")

    kind: Literal["ltau"] = "ltau"
    descriptors: Descriptors = "potential"
    train_descriptors: str | None = Field(
        default=None, description=".npy or .txt, (n_train, n_features); null: the log of 'surefield train'"
    )
    error_pdfs: str | tuple[str, ...] | None = Field(
        default=None, description="error logs or densities; several logs: an ensemble; null: as above"
    )
    bins: str | tuple[float, ...] | None = Field(default=None, description="edges, eV/Å")
    from_error_logs: bool = Field(default=True, description="whether error_pdfs are logs (n_epochs, n_train)")
    error_logs_norm: bool = Field(default=False, description="logs are (n_epochs, n_train, 3) vectors")
    nbins: int | None = Field(default=None, ge=1, description="null: 100")
    range_limits: tuple[float, float] | None = Field(default=None, description="of the bins, eV/Å")
    bin_spacing: Literal["log", "linear"] = "log"
    index_type: Literal["IndexFlatL2", "IndexHNSWFlat", "HNSW+IVFPQ"] = "IndexFlatL2"
    index_args: dict[str, int] = Field(default={}, description="of approximate indices")
    out_of_range: Literal["clip", "drop", "error"] = "clip"
    compat: Literal["ltau-ff"] | None = None
    num_nearest_neighbors: int = Field(default=1, ge=1, description="training atoms that are averaged")


class QUESTSConfig(StructureScoreConfig):
    """What the scores of environments have."""

    descriptors: Descriptors = "quests"
    descriptor_args: dict[str, float] = Field(
        default={}, description="of the QUESTS descriptor: num_nearest_neighbors (32), cutoff (5 Å)"
    )
    bandwidth: float = Field(
        default=0.015, gt=0, description="in the unit of the descriptors; the default is made for 'quests'"
    )
    apply_mask: bool = Field(default=False, description="only atoms that arrays['selection_mask'] selects")
    batch_size: int = Field(default=20000, ge=1, description="environments held at once")


class QUESTSEfficiencyConfig(QUESTSConfig):
    """`QUESTSEfficiencyScore`: how little the environments of the structures repeat each other."""

    kind: Literal["quests_efficiency"] = "quests_efficiency"


class QUESTSDiversityConfig(QUESTSConfig):
    """`QUESTSDiversityScore`: logarithm of the number of distinct environments."""

    kind: Literal["quests_diversity"] = "quests_diversity"


class QUESTSDeltaEntropyConfig(QUESTSConfig):
    """`QUESTSDeltaEntropyScore`: how new each environment is to those of a reference."""

    PATHS: ClassVar[tuple[str, ...]] = ("reference_set",)

    kind: Literal["quests_delta_entropy"] = "quests_delta_entropy"
    reference_set: str | None = Field(
        default=None, description="structures, or .npy of descriptors; null: data.train"
    )
    approx: bool = Field(default=False, description="sum over the nearest reference environments only")
    num_nearest_neighbors: int = Field(default=3, ge=1, description="of these, for approx")


class PotentialScoreConfig(StructureScoreConfig):
    """What scores of a potential's parameters have."""

    PATHS: ClassVar[tuple[str, ...]] = ("potential",)

    potential: str | dict[str, Any] | None = Field(
        default=None,
        description="file of a saved potential, or {potential_type: KIM, potential_args: {kim_id: ...}}; "
        "null: the trained one",
    )
    parameters_optimize: Parameters = None
    transform: dict[str, Any] | None = Field(
        default=None, description="of the parameters: {transform_type: ..., transform_args: {...}}"
    )
    derivative_kwargs: dict[str, Any] | None = Field(
        default=None, description="method and step; null: automatic differentiation where it is possible"
    )


class FIMTrainingSetConfig(PotentialScoreConfig):
    """`FIMTrainingSetScore`: Fisher information of each structure about the parameters."""

    kind: Literal["fim_training_set"] = "fim_training_set"
    evaluate_kwargs: dict[str, bool] | None = Field(
        default=None, description="compute_energy, compute_forces, compute_stress; null: forces"
    )
    noise: dict[str, float] | None = Field(
        default=None, description="standard deviations of the data: energy eV, forces eV/Å, stress eV/Å^3"
    )


class FIMPropertyConfig(PotentialScoreConfig):
    """`FIMPropertyScore`: the information about the parameters that target properties need."""

    PATHS: ClassVar[tuple[str, ...]] = ("potential", "cov")

    kind: Literal["fim_property"] = "fim_property"
    list_of_target_property: tuple[dict[str, Any], ...] = Field(
        description="{init_args: {target_property_type: ElasticConstants, target_property_args: {...}}}, ..."
    )
    cov: str | tuple[tuple[float, ...], ...] = Field(
        description="covariance to which all values shall be known: a matrix, or a file of it"
    )
    nprocs: int = Field(default=1, ge=1, description="processes")

    @model_validator(mode="after")
    def _no_structures(self) -> Self:
        if self.structures is not None:
            raise ValueError("a score of properties has no structures")
        return self


class FIMMatchingConfig(StructureScoreConfig):
    """`FIMMatchingScore`: weights of structures whose information covers that of a property."""

    PATHS: ClassVar[tuple[str, ...]] = ("fim_property",)

    kind: Literal["fim_matching"] = "fim_matching"
    fim_property: str = Field(description="score_results.json of fim_property, or .npy")
    convexopt_init_kwargs: dict[str, Any] | None = Field(default=None, description="weight_upper_bound")
    fim_preconditioning_kwargs: dict[str, Any] | None = Field(default=None, description="scale_type")
    solver_kwargs: dict[str, Any] | None = Field(default=None, description="solver, and what it takes")
    weight_tolerance: dict[str, float] | None = Field(default=None, description="zero_tol, zero_tol_dual")


ScoreConfig = (
    LTAUScoreConfig
    | QUESTSEfficiencyConfig
    | QUESTSDiversityConfig
    | QUESTSDeltaEntropyConfig
    | FIMTrainingSetConfig
    | FIMPropertyConfig
    | FIMMatchingConfig
)
