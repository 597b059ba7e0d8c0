"""Sensitivity: rows J, features, sketches and Gram algebra, computed once and shared by all."""

from surefield.sensitivity.covariance import RowCovariance
from surefield.sensitivity.gradients import gradient_features
from surefield.sensitivity.posterior import LLPRPosterior
from surefield.sensitivity.rows import (
    StructureRows,
    atom_features,
    energy_features,
    site_features,
    structure_rows,
)

__all__ = [
    "LLPRPosterior",
    "RowCovariance",
    "StructureRows",
    "atom_features",
    "energy_features",
    "gradient_features",
    "site_features",
    "structure_rows",
]
