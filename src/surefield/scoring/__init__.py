"""The contract of scores: their quantities, bases, array arguments, result files and jobs."""

from surefield.scoring.quantity import ScoreQuantity as ScoreQuantity
from surefield.scoring.score import AtomCenteredScore as AtomCenteredScore
from surefield.scoring.score import ConfigurationScore as ConfigurationScore
from surefield.scoring.score import DatasetScore as DatasetScore
from surefield.scoring.score import ModelScore as ModelScore

__all__ = ["AtomCenteredScore", "ConfigurationScore", "DatasetScore", "ModelScore", "ScoreQuantity"]
