"""The configuration file of the command line: one file serves every verb."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from surefield.acquisition.config import ReplayConfig, SelectionConfig
from surefield.config import Config, load
from surefield.errors import DataError, nearest
from surefield.exploration.config import PoolFilesConfig, StabilityConfig
from surefield.loop.config import LoopConfig, MolecularDynamicsPoolConfig
from surefield.potentials.config import (
    AtomicNetworkConfig,
    AutoPotentialConfig,
    DropoutNetworkConfig,
    ForeignConfig,
    MessageNetworkConfig,
    MomentNetworkConfig,
    SnapConfig,
)
from surefield.properties.config import PropertyConfig
from surefield.quantities import labelled, names
from surefield.scores.config import ScoreConfig
from surefield.training.config import TrainConfig
from surefield.uncertainty.architecture import ArchitectureConfig
from surefield.uncertainty.config import (
    CompareConfig,
    DeepEnsembleConfig,
    LLPRConfig,
    ShallowEnsembleConfig,
    UncertaintyConfig,
)
from surefield.units import check_declared

__all__ = [
    "DataConfig",
    "RepulsionConfig",
    "RunConfig",
    "SelectionConfig",
    "UncertaintyConfig",
    "as_begun",
    "read_config",
    "settled",
]

#: Kinds of a section that names none: that which knows most of its keys, the first of several.
_UNNAMED = {
    "potential": (AutoPotentialConfig, MomentNetworkConfig, MessageNetworkConfig),
    "uncertainty": (LLPRConfig,),
}
#: What was selected by, before methods and features were left to the potential.
_FORMER: Final[dict[str, dict[str, Any]]] = {
    "selection": {"method": "lcmd", "features": "full_grad_rp"},
    "loop": {"methods": ("lcmd",), "features": "ll_posterior"},
}


class DataConfig(Config):
    """Where the structures are; paths are relative to the folder of the configuration file."""

    train: str | tuple[str, ...] | None = Field(
        default=None,
        description="labelled structures: a file or several, any format of ASE, also .xz and .gz; "
        "free atoms among them set the element offsets",
    )
    validation: float | str = Field(
        default=0.1, description="share of the training structures to hold out, or a file"
    )
    test: str | None = Field(default=None, description="labelled structures for the final errors")
    pool: str | None = Field(default=None, description="structures to select from")
    labels: dict[str, str | tuple[str, ...] | None] | None = Field(
        default=None,
        description="keys of the labels, if not the usual ones; several: the first that a structure has",
    )
    units: dict[str, str] | None = Field(
        default=None,
        description="of the labels, where a file does not state them: energy, length (forces are in "
        "energy/length), stress, such as {energy: Hartree}; default eV and Å",
    )

    @field_validator("validation")
    @classmethod
    def _share(cls, validation: float | str) -> float | str:
        if isinstance(validation, float) and not 0 <= validation < 1:
            raise ValueError("must be a share in [0, 1), or a file")
        return validation

    @field_validator("units")
    @classmethod
    def _known_units(cls, units: dict[str, str] | None) -> dict[str, str] | None:
        try:
            check_declared(units or {})
        except DataError as error:
            raise ValueError(str(error)) from None
        return units

    @field_validator("labels")
    @classmethod
    def _kinds(cls, labels: dict[str, Any] | None) -> dict[str, Any] | None:
        for name in labels or ():
            if name not in labelled(names()):
                raise ValueError(f"unknown kind of label {name!r}; {nearest(name, labelled(names()))}")
        return labels


class RepulsionConfig(Config):
    """Short-range repulsion (ZBL) that is added to the potential."""

    inner: float | None = Field(
        default=None, ge=0, description="where its switch begins, Å; null: 0.7 of outer"
    )
    outer: float | None = Field(
        default=None,
        gt=0,
        description="where it ends, Å; null: pair by pair at the shortest distance of the structures",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.inner is not None and self.outer is None:
            raise ValueError(f"inner {self.inner} Å needs outer, too")
        if self.inner is not None and self.outer is not None and not self.inner < self.outer:
            raise ValueError(f"the switch begins at inner {self.inner} Å and must end later")
        return self


class RunConfig(Config):
    """Everything a run can be told; only `name` and `data` are needed."""

    name: str = Field(description="of the run folder")
    root: str = Field(default="runs", description="folder of all runs")
    data: DataConfig = DataConfig()
    potential: Annotated[
        AutoPotentialConfig
        | MomentNetworkConfig
        | MessageNetworkConfig
        | AtomicNetworkConfig
        | DropoutNetworkConfig
        | ForeignConfig
        | SnapConfig,
        Field(
            discriminator="kind",
            description="where no kind is named: auto, that is moment_network for one element and "
            "message_network for several (of one layer for crystals), or the first of these that has the "
            "settings which are named",
        ),
    ] = AutoPotentialConfig()
    repulsion: RepulsionConfig | None = None
    training: TrainConfig = TrainConfig()
    uncertainty: Annotated[
        UncertaintyConfig, Field(discriminator="kind", description="llpr where no kind is named")
    ] = LLPRConfig()
    compare: CompareConfig = CompareConfig()
    architecture: ArchitectureConfig | None = Field(
        default=None,
        description="the block of metatrain's LLPR page: an uncertainty around the trained potential that "
        "`training.model_checkpoint` of the block names, in place of a training",
    )
    selection: SelectionConfig = SelectionConfig()
    replay: ReplayConfig = Field(default=ReplayConfig(), description="of 'surefield select --replay'")
    score: Annotated[ScoreConfig | None, Field(discriminator="kind", description="of 'surefield score'")] = (
        None
    )
    stability: StabilityConfig | None = Field(
        default=StabilityConfig(), description="short dynamics after a training; null or false: none"
    )
    properties: tuple[PropertyConfig, ...] = Field(default=(), description="of 'surefield properties'")
    loop: LoopConfig = LoopConfig()

    @field_validator("stability", mode="before")
    @classmethod
    def _none(cls, section: Any) -> Any:
        return {False: None, True: {}}[section] if isinstance(section, bool) else section

    @field_validator(*_UNNAMED, mode="before")
    @classmethod
    def _named(cls, section: Any, info: ValidationInfo) -> Any:
        if not isinstance(section, Mapping) or "kind" in section:
            return section
        models = _UNNAMED[str(info.field_name)]
        most = max(models, key=lambda model: len(section.keys() & model.model_fields.keys()))
        return {"kind": most.model_fields["kind"].default, **section}

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        estimator, potential = self.uncertainty.kind, self.potential.kind
        if self.architecture is not None:
            if self.architecture.training.model_checkpoint is None:
                raise ValueError("architecture.training.model_checkpoint must name a trained potential")
            if estimator != "llpr":
                raise ValueError(
                    f"architecture is that of an LLPR: uncertainty.kind {estimator} has no place"
                )
            if not isinstance(self.data.validation, str):
                raise ValueError(
                    "architecture needs data.validation: a file of structures that the potential has not seen"
                )
        if estimator == "dropout" and potential != "dropout_network":
            raise ValueError(
                f"uncertainty.kind dropout needs potential.kind dropout_network, not {potential}"
            )
        if isinstance(self.uncertainty, DeepEnsembleConfig | ShallowEnsembleConfig):
            if self.training.start_from is not None:
                raise ValueError(f"uncertainty.kind {estimator} trains members anew: no training.start_from")
            shallow = isinstance(self.uncertainty, ShallowEnsembleConfig)
            if shallow and potential == "snap":
                raise ValueError("uncertainty.kind shallow_ensemble needs a network, not potential.kind snap")
            if potential == "snap" and not getattr(self.uncertainty, "bootstrap", False):
                raise ValueError("members of a linear potential differ by uncertainty.bootstrap: true alone")
        for section, features in (("selection", self.selection.features), ("loop", self.loop.features)):
            named = section in self.model_fields_set
            if named and features == "ll_posterior" and estimator != "llpr":
                raise ValueError(
                    f"{section}.features ll_posterior needs uncertainty.kind llpr, not {estimator}"
                )
            if named and features in ("ll_grad", "ll_force") and estimator == "deep_ensemble":
                raise ValueError(f"{section}.features must be full_grad_rp for uncertainty.kind {estimator}")
        return self


def read_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A configuration from its file; its paths of data do not depend on the current folder.

    Raises:
        ConfigError: as `surefield.config.load`.
    """
    config, folder = load(RunConfig, path, overrides), path.parent

    def place(path: Any) -> Any:
        if isinstance(path, tuple):
            return tuple(map(place, path))
        return str((folder / path).resolve()) if isinstance(path, str) else path

    paths = ("train", "validation", "test", "pool")
    data = {name: place(value) for name, value in config.data if name in paths}
    loop, pool = config.loop, config.loop.pool
    if isinstance(pool, MolecularDynamicsPoolConfig) and (folder / pool.structure).is_file():
        pool = pool.model_copy(update={"structure": place(pool.structure)})
        loop = loop.model_copy(update={"pool": pool})
    loop = loop.model_copy(update=_placed(loop, folder, place))
    training = config.training.model_copy(update={"start_from": place(config.training.start_from)})
    compare = config.compare.model_copy(update={"ood": place(config.compare.ood)})
    changes: dict[str, Any] = {"loop": loop, "training": training, "compare": compare}
    changes["data"] = config.data.model_copy(update=data)
    if (block := config.architecture) is not None:
        checkpoint = {"model_checkpoint": place(block.training.model_checkpoint)}
        block = block.model_copy(update={"training": block.training.model_copy(update=checkpoint)})
        changes["architecture"] = block
    changes["properties"] = tuple(entry.placed(folder) for entry in config.properties)
    if config.score is not None:
        changes["score"] = config.score.placed(folder)
    if isinstance(config.potential, ForeignConfig):
        changes["potential"] = config.potential.model_copy(update={"file": place(config.potential.file)})
    return settled(config.model_copy(update=changes))


def _placed(loop: LoopConfig, folder: Path, place: Callable[[Any], Any]) -> dict[str, Any]:
    """Files of a loop with their whole paths; what starts are no files are molecules."""
    exploration = tuple(
        entry.model_copy(update={"files": place(entry.files)})
        if isinstance(entry, PoolFilesConfig)
        else entry
        for entry in loop.exploration
    )
    starts = tuple(
        place(name) if (folder / name.partition("@")[0]).is_file() else name for name in loop.starts
    )
    return {"exploration": exploration, "starts": starts, "labelled": place(loop.labelled)}


def as_begun(config: RunConfig, begun: RunConfig) -> RunConfig:
    """A configuration that leaves the kind of potential open, with that of a run which it goes on with."""
    if config.potential.kind != "auto" or begun.potential.kind == "auto":
        return config
    return settled(config.model_copy(update={"potential": begun.potential}))


def with_former_selection(config: RunConfig, begun: RunConfig) -> RunConfig:
    """A configuration that leaves selections open, with the defaults of before where its run began with them.

    So folders of that time are gone on with as they were begun.
    """
    changes: dict[str, Any] = {}
    for section, former in _FORMER.items():
        now, before = getattr(config, section), getattr(begun, section)
        left = {
            name: v for name, v in former.items() if not getattr(now, name) and getattr(before, name) == v
        }
        changes[section] = now.model_copy(update=left)
    return config.model_copy(update=changes)


def settled(config: RunConfig) -> RunConfig:
    """Copy in which settings that follow the kind of the potential are settled, where that is known."""
    # The kind of a potential to start from decides, or the elements of the data.
    if config.training.start_from is not None or config.potential.kind == "auto":
        return config
    training = config.training.settled(getattr(config.potential, "training_defaults", {}))
    return config.model_copy(update={"training": training})
