"""Training: exact last layer, minibatch gradients, checkpoints."""

from typing import TYPE_CHECKING

from surefield.lazy import import_on_first_use

if TYPE_CHECKING:
    from surefield.training.config import TrainConfig
    from surefield.training.train import Fit, train

__all__ = ["Fit", "TrainConfig", "train"]

import_on_first_use(
    __name__,
    {
        "surefield.training.config": ("TrainConfig",),
        "surefield.training.train": ("Fit", "train"),
    },
)
