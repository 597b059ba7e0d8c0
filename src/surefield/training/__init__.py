"""Training: exact last layer, minibatch gradients, checkpoints."""

from surefield.training.config import TrainConfig
from surefield.training.train import Fit, train

__all__ = ["Fit", "TrainConfig", "train"]
