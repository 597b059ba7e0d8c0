"""The `architecture` block of metatrain's LLPR page, accepted unchanged, and the keys beyond it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from surefield.config import Config, parse, read_mapping
from surefield.uncertainty.config import LossName, MapName, Regularizer

__all__ = ["ArchitectureConfig", "GradientWeights", "LLPRTraining", "LossTerm", "architecture_of"]


class _Weight(Config):
    weight: float = Field(default=1.0, ge=0, description="of the term; 0 leaves it out")


class GradientWeights(Config):
    """Weights of the terms of a target's gradients."""

    positions: _Weight = Field(default=_Weight(), description="forces")
    strain: _Weight = Field(default=_Weight(), description="stresses")


class LossTerm(Config):
    """The loss of one target."""

    type: LossName = Field(default="ensemble_nll", description="which loss")
    weight: float = Field(default=1.0, ge=0, description="of the term of the target itself")
    reduction: Literal["mean"] = Field(default="mean", description="over the entries")
    gradients: GradientWeights = Field(default=GradientWeights(), description="terms of its gradients")
    eps: float | None = Field(
        default=None,
        gt=0,
        description="floor of the variance, squared units; null: relative to residuals",
    )

    @property
    def name(self) -> str:
        """Of the loss, in one spelling."""
        return "ensemble_nll" if self.type == "gaussian_nll_ensemble" else self.type


class _Model(Config):
    num_ensemble_members: dict[str, Annotated[int, Field(ge=2)]] = Field(
        default={}, description="members to sample, by target; targets that are not listed get none"
    )


class LLPRTraining(Config):
    """How an LLPR is fitted, and how its members are trained."""

    distributed: bool = Field(default=False, description="every process sums its share of the rows")
    distributed_port: int = Field(default=39591, ge=1, le=65535, description="of the coordinator")
    batch_size: int = Field(default=8, ge=1, description="structures per pass; results do not depend on it")
    regularizer: Regularizer = Field(
        default=None, description="a number (squared once), evidence, val_nll, {relative: x}; null: evidence"
    )
    model_checkpoint: str | None = Field(default=None, description="a trained potential, as a file")
    loss: LossName | dict[str, LossTerm] = Field(default="ensemble_nll", description="of the members")
    num_epochs: int | None = Field(default=None, ge=0, description="of the training of members, in all")
    train_all_parameters: bool = Field(default=False, description="train the potential with the members")
    warmup_fraction: float = Field(default=0.01, ge=0, le=1, description="of the steps")
    learning_rate: float = Field(default=0.0003, gt=0, description="after the warm-up")
    weight_decay: float | None = Field(default=None, ge=0, description="null: Adam, a number: AdamW")
    log_interval: int = Field(default=1, ge=1, description="epochs from one line of metrics to the next")
    checkpoint_interval: int = Field(default=100, ge=1, description="epochs between files model_{epoch}.ckpt")
    per_structure_targets: tuple[str, ...] = Field(default=(), description="not divided by the atoms")
    num_workers: int | None = Field(
        default=None, ge=0, description="that find neighbours; null: automatic, 0: none"
    )
    log_mae: bool = Field(default=False, description="mean absolute errors, too")
    log_separate_blocks: bool = Field(default=False, description="a column for each component")
    best_model_metric: Literal["loss", "rmse_prod", "mae_prod"] = Field(
        default="loss", description="which the kept state has the lowest of, on the validation set"
    )
    grad_clip_norm: float = Field(default=1.0, gt=0, description="largest norm of a gradient")
    calibration_method: Literal["squared_residuals", "absolute_residuals", "crps"] = Field(
        default="squared_residuals", description="of the map alpha"
    )
    calibration_map: dict[str, MapName] | None = Field(default=None, description="by quantity")
    row_kinds: tuple[str, ...] | None = Field(default=None, description="null: every kind with labels")
    row_weights: Literal["unit", "precision", "loss"] | dict[str, Annotated[float, Field(ge=0)]] = Field(
        default="precision", description="of the rows of each quantity"
    )
    residual_offset: Literal["none", "per_atom", "per_element"] = Field(
        default="none", description="of energies, removed first: for another level of theory"
    )
    layer: Literal["auto"] = Field(default="auto", description="the readout of the potential")
    seed: int = Field(default=0, ge=0, description="of members and of the order of batches")
    ensemble_sampling: Literal["moment_matched", "iid"] = Field(
        default="moment_matched", description="how members are drawn"
    )
    compat: Literal["metatrain"] | None = Field(default=None, description="the rules of that program")
    max_atoms_per_batch: int | None = Field(default=None, ge=1, description="null: no limit")
    min_atoms_per_batch: int = Field(default=0, ge=0, description="fewer are joined to the next batch")

    @model_validator(mode="after")
    def _fit_together(self) -> LLPRTraining:
        if self.best_model_metric == "mae_prod" and not self.log_mae:
            raise ValueError("best_model_metric mae_prod needs log_mae: true")
        if self.best_model_metric != "loss" and not self.train_all_parameters:
            raise ValueError(
                f"best_model_metric {self.best_model_metric} is constant with train_all_parameters: false, "
                "where the mean cannot change; use loss"
            )
        limit = self.max_atoms_per_batch
        if limit is not None and limit < self.min_atoms_per_batch:
            raise ValueError(f"max_atoms_per_batch {limit} is below min_atoms_per_batch")
        return self

    @property
    def loss_targets(self) -> tuple[str, ...]:
        """Targets that `loss` names."""
        return () if isinstance(self.loss, str) else tuple(self.loss)

    def term(self, target: str) -> LossTerm:
        """The loss of a target; of one that `loss` does not name the default."""
        if isinstance(self.loss, str):
            return LossTerm(type=self.loss)
        return self.loss.get(target, LossTerm())


class ArchitectureConfig(Config):
    """The block `architecture` of a configuration."""

    name: Literal["llpr"] = "llpr"
    model: _Model = Field(default=_Model(), description="what the model has")
    training: LLPRTraining = Field(default=LLPRTraining(), description="how it is fitted")

    @model_validator(mode="before")
    @classmethod
    def _other_spelling(cls, block: Any) -> Any:
        if isinstance(block, Mapping) and "trainer" in block:
            if "training" in block:
                raise ValueError("give training or trainer, which are the same, not both")
            rest = {key: value for key, value in block.items() if key != "trainer"}
            return {**rest, "training": block["trainer"]}
        return block

    @model_validator(mode="after")
    def _with_members(self) -> ArchitectureConfig:
        if self.training.num_epochs is not None and not self.model.num_ensemble_members:
            raise ValueError("training.num_epochs needs an ensemble: model.num_ensemble_members is empty")
        return self

    @field_validator("model", "training", mode="before")
    @classmethod
    def _empty(cls, section: Any) -> Any:
        return {} if section is None else section


def architecture_of(
    config: ArchitectureConfig | Mapping[str, Any] | str | Path | None, keys: Mapping[str, Any]
) -> ArchitectureConfig:
    """The block of a dict or a file, with or without the word `architecture` above it.

    Args:
        config: the block; None: defaults.
        keys: entries of its training part, and `num_ensemble_members`, that take the place of those.

    Raises:
        ConfigError: not a block, an unknown key (the nearest is offered), a value out of range.
    """
    if isinstance(config, ArchitectureConfig):
        block = config.model_dump(exclude_unset=True)
        where = "architecture"
    elif isinstance(config, str | Path):
        where, block = str(config), read_mapping(config)
    else:
        where, block = "architecture", dict(config or {})
    if isinstance(block.get("architecture"), Mapping):
        block = dict(block["architecture"])
    if keys:
        part = "trainer" if "trainer" in block else "training"
        own = dict(keys)
        members = own.pop("num_ensemble_members", None)
        block = {**block, part: {**(block.get(part) or {}), **own}}
        if members is not None:
            block["model"] = {**(block.get("model") or {}), "num_ensemble_members": members}
    return parse(ArchitectureConfig, block, where)
