"""Sensitivity: rows J, features, sketches and Gram algebra, computed once and shared by all."""

from typing import TYPE_CHECKING

from surefield.lazy import import_on_first_use

if TYPE_CHECKING:
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

import_on_first_use(
    __name__,
    {
        "surefield.sensitivity.covariance": ("RowCovariance",),
        "surefield.sensitivity.gradients": ("gradient_features",),
        "surefield.sensitivity.posterior": ("LLPRPosterior",),
        "surefield.sensitivity.rows": (
            "StructureRows",
            "atom_features",
            "energy_features",
            "site_features",
            "structure_rows",
        ),
    },
)
