"""Full-batch training: the documented loss function, steppable optimizers, exact resume."""

from surefield.networks.full_batch.checkpoints import Checkpoints, CheckpointState
from surefield.networks.full_batch.loss_function import LossFunction
from surefield.networks.full_batch.outcome import (
    ConvergenceOccurred,
    Progress,
    TrainingConvergenceError,
    TrainingStopped,
)
from surefield.networks.full_batch.regressor import Regressor
from surefield.networks.full_batch.trainable_model import TrainableModel

__all__ = [
    "CheckpointState",
    "Checkpoints",
    "ConvergenceOccurred",
    "LossFunction",
    "Progress",
    "Regressor",
    "TrainableModel",
    "TrainingConvergenceError",
    "TrainingStopped",
]
