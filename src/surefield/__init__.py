"""surefield: machine-learned interatomic potentials that know when they are sure.

Names are imported on first use, so that `import surefield` and the command line answer at once.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from surefield.lazy import import_on_first_use

if TYPE_CHECKING:
    from surefield.acquisition.replay import replay
    from surefield.acquisition.select import feature_rows, select
    from surefield.descriptors.quests import QUESTSDescriptor
    from surefield.foreign import JaxPotential, TorchLastLayer, TorchPotential
    from surefield.networks import Amp, ChargeNeuralNetwork, NeuralNetwork
    from surefield.networks.fingerprints import Gaussian
    from surefield.networks.full_batch import LossFunction
    from surefield.potentials import (
        ZBL,
        MessageNetwork,
        MomentNetwork,
        Prediction,
        load_potential,
        save_potential,
    )
    from surefield.potentials.chimes import Chimes
    from surefield.potentials.dropout_network import DropoutNetwork
    from surefield.potentials.parametric import EAM, LennardJones, Morse, StillingerWeber, Tersoff
    from surefield.potentials.snap.snap import Snap
    from surefield.properties import (
        CohesiveEnergy,
        ElasticConstants,
        EquationOfState,
        LatticeConstant,
        PhononFrequencies,
        StackingFaultEnergy,
        SurfaceEnergy,
        VacancyFormationEnergy,
    )
    from surefield.report import write_report
    from surefield.scores.fim import FIMMatchingScore, FIMPropertyScore, FIMTrainingSetScore, fim_match
    from surefield.scores.learned_descriptors import with_site_features
    from surefield.scores.pruning import prune
    from surefield.scores.quests.classes import (
        QUESTSDeltaEntropyScore,
        QUESTSDiversityScore,
        QUESTSEfficiencyScore,
    )
    from surefield.scores.quests.entropy import suggest_bandwidth
    from surefield.scoring import ScoreQuantity
    from surefield.structures.doctor import doctor
    from surefield.structures.read import read_frames, write_frames
    from surefield.testing.gradients import check_gradients
    from surefield.trainers import KIMPotential
    from surefield.training import Fit, TrainConfig, train
    from surefield.uncertainty import (
        LLPR,
        LTAU,
        ConformalIntervals,
        ConstantUncertainty,
        DeepEnsemble,
        FeatureDistance,
        LTAUForcesUQScore,
        ShallowEnsemble,
        uq_compare,
    )
    from surefield.uncertainty.dropout_ensemble import DropoutEnsemble

# 64-bit types must be on before the first array is made; JAX itself is imported when it is needed.
os.environ["JAX_ENABLE_X64"] = "1"
if "jax" in sys.modules:
    sys.modules["jax"].config.update("jax_enable_x64", True)
# On one core JAX has one thread, and a call from its programs to code outside, see `call_outside`, waits for
# ever for arrays that this thread would have to copy.
_affinity = getattr(os, "sched_getaffinity", None)
if os.environ.get("NPROC", str(len(_affinity(0)) if _affinity else os.cpu_count())) == "1":
    os.environ["NPROC"] = "2"

__version__ = "0.1.0"

_HOMES = {
    "surefield.acquisition.replay": ("replay",),
    "surefield.acquisition.select": ("feature_rows", "select"),
    "surefield.networks.fingerprints": ("Gaussian",),
    "surefield.potentials": (
        "ZBL",
        "MessageNetwork",
        "MomentNetwork",
        "Prediction",
        "load_potential",
        "save_potential",
    ),
    "surefield.potentials.chimes": ("Chimes",),
    "surefield.potentials.dropout_network": ("DropoutNetwork",),
    "surefield.foreign": ("JaxPotential", "TorchLastLayer", "TorchPotential"),
    "surefield.potentials.parametric": ("EAM", "LennardJones", "Morse", "StillingerWeber", "Tersoff"),
    "surefield.potentials.snap.snap": ("Snap",),
    "surefield.properties": (
        "CohesiveEnergy",
        "ElasticConstants",
        "EquationOfState",
        "LatticeConstant",
        "PhononFrequencies",
        "StackingFaultEnergy",
        "SurfaceEnergy",
        "VacancyFormationEnergy",
    ),
    "surefield.report": ("write_report",),
    "surefield.scores.fim": (
        "FIMMatchingScore",
        "FIMPropertyScore",
        "FIMTrainingSetScore",
        "fim_match",
    ),
    "surefield.descriptors.quests": ("QUESTSDescriptor",),
    "surefield.scores.learned_descriptors": ("with_site_features",),
    "surefield.scores.pruning": ("prune",),
    "surefield.scores.quests.classes": (
        "QUESTSDeltaEntropyScore",
        "QUESTSDiversityScore",
        "QUESTSEfficiencyScore",
    ),
    "surefield.scores.quests.entropy": ("suggest_bandwidth",),
    "surefield.scoring": ("ScoreQuantity",),
    "surefield.structures.doctor": ("doctor",),
    "surefield.structures.read": ("read_frames", "write_frames"),
    "surefield.testing.gradients": ("check_gradients",),
    "surefield.trainers": ("KIMPotential",),
    "surefield.training": ("Fit", "TrainConfig", "train"),
    "surefield.networks.full_batch": ("LossFunction",),
    "surefield.networks": ("Amp", "ChargeNeuralNetwork", "NeuralNetwork"),
    "surefield.uncertainty": (
        "LLPR",
        "LTAU",
        "ConformalIntervals",
        "ConstantUncertainty",
        "DeepEnsemble",
        "FeatureDistance",
        "LTAUForcesUQScore",
        "ShallowEnsemble",
        "uq_compare",
    ),
    "surefield.uncertainty.dropout_ensemble": ("DropoutEnsemble",),
}
__all__ = [
    "EAM",
    "LLPR",
    "LTAU",
    "ZBL",
    "Amp",
    "ChargeNeuralNetwork",
    "Chimes",
    "CohesiveEnergy",
    "ConformalIntervals",
    "ConstantUncertainty",
    "DeepEnsemble",
    "DropoutEnsemble",
    "DropoutNetwork",
    "ElasticConstants",
    "EquationOfState",
    "FIMMatchingScore",
    "FIMPropertyScore",
    "FIMTrainingSetScore",
    "FeatureDistance",
    "Fit",
    "Gaussian",
    "JaxPotential",
    "KIMPotential",
    "LTAUForcesUQScore",
    "LatticeConstant",
    "LennardJones",
    "LossFunction",
    "MessageNetwork",
    "MomentNetwork",
    "Morse",
    "NeuralNetwork",
    "PhononFrequencies",
    "Prediction",
    "QUESTSDeltaEntropyScore",
    "QUESTSDescriptor",
    "QUESTSDiversityScore",
    "QUESTSEfficiencyScore",
    "ScoreQuantity",
    "ShallowEnsemble",
    "Snap",
    "StackingFaultEnergy",
    "StillingerWeber",
    "SurfaceEnergy",
    "Tersoff",
    "TorchLastLayer",
    "TorchPotential",
    "TrainConfig",
    "VacancyFormationEnergy",
    "check_gradients",
    "doctor",
    "feature_rows",
    "fim_match",
    "load",
    "load_potential",
    "prune",
    "read_frames",
    "replay",
    "save_potential",
    "select",
    "suggest_bandwidth",
    "train",
    "uq_compare",
    "with_site_features",
    "write_frames",
    "write_report",
]


def load(path: str | os.PathLike[str]) -> Any:
    """What is in a file: a potential, an uncertainty, or a network model (also of a .amp file).

    Raises:
        PotentialError: no such file, damaged, or of another kind.
        DataError: a .amp file that is not what such files are.
    """
    from surefield.loading import load_any

    return load_any(path)


import_on_first_use(__name__, _HOMES)
