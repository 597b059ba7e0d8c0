"""Trainers: linear, many-body, neural and parametric potentials, fitted to stored configurations."""

from surefield.trainers.chimes import ChIMESPotential as ChIMESPotential
from surefield.trainers.chimes import ChIMESTrainer as ChIMESTrainer
from surefield.trainers.dunn import DUNNTrainer as DUNNTrainer
from surefield.trainers.dunn import KliffBPPotential as KliffBPPotential
from surefield.trainers.fitsnap import FitSnapPotential as FitSnapPotential
from surefield.trainers.fitsnap import FitSnapTrainer as FitSnapTrainer
from surefield.trainers.handle import PotentialHandle as PotentialHandle
from surefield.trainers.kim_potential import KIMPotential as KIMPotential
from surefield.trainers.parametric import ParametricModelTrainer as ParametricModelTrainer
from surefield.trainers.result import TrainingResult as TrainingResult
from surefield.trainers.result import TrainingWarning as TrainingWarning
from surefield.trainers.trainer import Trainer as Trainer
from surefield.training.breakdown import ErrorTable as ErrorTable
from surefield.training.breakdown import LossBreakdown as LossBreakdown

__all__ = [
    "ChIMESPotential",
    "ChIMESTrainer",
    "DUNNTrainer",
    "ErrorTable",
    "FitSnapPotential",
    "FitSnapTrainer",
    "KIMPotential",
    "KliffBPPotential",
    "LossBreakdown",
    "ParametricModelTrainer",
    "PotentialHandle",
    "Trainer",
    "TrainingResult",
    "TrainingWarning",
]
