"""Names that scripts for Amp use, in one place: descriptors, network models, loss, regressor, calculator.

Every name here is defined in its own layer and only passed on.
"""

from surefield.descriptors.cutoffs import Cosine, Polynomial
from surefield.descriptors.fingerprints import Gaussian, ImageCentred, Zernike, calculate_fingerprints_range
from surefield.descriptors.function_lists import make_default_symmetry_functions, make_symmetry_functions
from surefield.descriptors.images import hash_images
from surefield.loop.nearsighted import chunk_convergence, cut_chunk, select_atoms
from surefield.potentials.calculator import ExtrapolationWarning
from surefield.potentials.network_functions import (
    calculate_charge_fp,
    calculate_charge_fpprime,
    calculate_dOutputs_dInputs,
    calculate_nodal_outputs,
    calculate_ohat_D_delta,
)
from surefield.potentials.network_parameters import (
    OffsetCalculator,
    Raveler,
    get_initial_scalings,
    get_random_weights,
)
from surefield.report.node_plot import NodePlot
from surefield.structures.electrode import from_she
from surefield.testing.gradients import check_gradients
from surefield.training.full_batch import (
    ConvergenceOccurred,
    LossFunction,
    Regressor,
    TrainingConvergenceError,
)
from surefield.training.models.amp import Amp
from surefield.training.models.charge_neural_network import (
    ChargeNeuralNetwork,
    calculate_charge_fingerprints_range,
)
from surefield.training.models.model import Model
from surefield.training.models.neural_network import NeuralNetwork
from surefield.training.models.ravel_data import ravel_data

__all__ = [
    "Amp",
    "ChargeNeuralNetwork",
    "ConvergenceOccurred",
    "Cosine",
    "ExtrapolationWarning",
    "Gaussian",
    "ImageCentred",
    "LossFunction",
    "Model",
    "NeuralNetwork",
    "NodePlot",
    "OffsetCalculator",
    "Polynomial",
    "Raveler",
    "Regressor",
    "TrainingConvergenceError",
    "Zernike",
    "calculate_charge_fingerprints_range",
    "calculate_charge_fp",
    "calculate_charge_fpprime",
    "calculate_dOutputs_dInputs",
    "calculate_fingerprints_range",
    "calculate_nodal_outputs",
    "calculate_ohat_D_delta",
    "check_gradients",
    "chunk_convergence",
    "cut_chunk",
    "from_she",
    "get_initial_scalings",
    "get_random_weights",
    "hash_images",
    "make_default_symmetry_functions",
    "make_symmetry_functions",
    "ravel_data",
    "select_atoms",
]
