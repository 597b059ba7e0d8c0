"""How a potential is trained where a training leaves it open: what suits its kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from surefield.potentials.learned_part import learned_part
from surefield.potentials.potential import Potential
from surefield.training.config import TrainConfig

__all__ = ["EpochSettings", "recipe", "settled_for"]


class EpochSettings(NamedTuple):
    """Settings of the epochs; see `TrainConfig` for each."""

    epochs: int
    max_steps: int | None
    batch_size: int
    learning_rate: float
    radial_factor: float
    weight_decay: float
    ema: float
    patience: int
    energy_ramp: tuple[float, float]
    fit_offsets: bool

    def n_epochs(self, per_epoch: int) -> int:
        """Epochs of so many steps that there will be: all, or those that `max_steps` leaves, at least one."""
        if self.max_steps is None or self.epochs == 0:
            return self.epochs
        return min(self.epochs, max(self.max_steps // max(per_epoch, 1), 1))

    def n_epochs_of(self, n_structures: int) -> int:
        """About the same, from the number of structures."""
        return self.n_epochs(math.ceil(n_structures / self.batch_size))


def settled_for(config: TrainConfig, potential: Potential) -> TrainConfig:
    """A training of which no setting of the epochs is open; of a sum the learned part decides."""
    return config.settled(_suited(potential))


def recipe(config: TrainConfig, potential: Potential) -> EpochSettings:
    """What a training names, else what the potential names, else what is usual."""
    values = settled_for(config, potential).model_dump(include={*EpochSettings._fields})
    if values["weight_decay"] is None:
        values["weight_decay"] = _suited(potential).get("weight_decay", 0.0)
    return EpochSettings(**values)


def _suited(potential: Potential) -> Mapping[str, Any]:
    return learned_part(potential).training_defaults
