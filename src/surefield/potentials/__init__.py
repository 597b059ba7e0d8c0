"""Potentials: differentiable functions of a structure, and what is common to all of them."""

from typing import TYPE_CHECKING

from surefield.lazy import import_on_first_use

if TYPE_CHECKING:
    from surefield.potentials.calculator import SurefieldCalculator
    from surefield.potentials.evaluate import Results, evaluate, predict
    from surefield.potentials.message_network import MessageNetwork, MessageNetworkConfig
    from surefield.potentials.moment_network import MomentNetwork, MomentNetworkConfig
    from surefield.potentials.potential import (
        DensityPotential,
        LastLayerPotential,
        Potential,
        SumPotential,
        trainable,
    )
    from surefield.potentials.prediction import Prediction
    from surefield.potentials.saving import load_potential, save_potential
    from surefield.potentials.zbl import ZBL

__all__ = [
    "ZBL",
    "DensityPotential",
    "LastLayerPotential",
    "MessageNetwork",
    "MessageNetworkConfig",
    "MomentNetwork",
    "MomentNetworkConfig",
    "Potential",
    "Prediction",
    "Results",
    "SumPotential",
    "SurefieldCalculator",
    "evaluate",
    "load_potential",
    "predict",
    "save_potential",
    "trainable",
]

import_on_first_use(
    __name__,
    {
        "surefield.potentials.calculator": ("SurefieldCalculator",),
        "surefield.potentials.evaluate": ("Results", "evaluate", "predict"),
        "surefield.potentials.message_network": ("MessageNetwork", "MessageNetworkConfig"),
        "surefield.potentials.moment_network": ("MomentNetwork", "MomentNetworkConfig"),
        "surefield.potentials.potential": (
            "DensityPotential",
            "LastLayerPotential",
            "Potential",
            "SumPotential",
            "trainable",
        ),
        "surefield.potentials.prediction": ("Prediction",),
        "surefield.potentials.saving": ("load_potential", "save_potential"),
        "surefield.potentials.zbl": ("ZBL",),
    },
)
