"""How a potential is trained where a training leaves it open: what suits its kind."""

from __future__ import annotations

from typing import NamedTuple

from surefield.potentials.potential import Potential
from surefield.training.config import TrainConfig

__all__ = ["EpochSettings", "recipe"]


class EpochSettings(NamedTuple):
    """Settings of the epochs; see `TrainConfig` for each."""

    epochs: int
    batch_size: int
    learning_rate: float
    radial_factor: float
    weight_decay: float
    ema: float
    patience: int


#: Of potentials that name none themselves, see `Potential.training_defaults`.
_USUAL = EpochSettings(
    epochs=60,
    batch_size=8,
    learning_rate=1e-3,
    radial_factor=0.1,
    weight_decay=0.0,
    ema=0.99,
    patience=20,
)


def recipe(config: TrainConfig, potential: Potential) -> EpochSettings:
    """What a training names, else what the potential names, else what is usual."""
    given = {name: value for name in EpochSettings._fields if (value := getattr(config, name)) is not None}
    return _USUAL._replace(**{**potential.training_defaults, **given})
