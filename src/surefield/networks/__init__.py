"""The names of Amp: descriptors, network models, loss, regressor, calculator."""

from surefield.acquisition.nearsighted import chunk_convergence, cut_chunk, select_atoms
from surefield.descriptors.cutoffs import Cosine, Polynomial
from surefield.descriptors.function_lists import make_default_symmetry_functions, make_symmetry_functions
from surefield.networks.amp import Amp
from surefield.networks.charge_neural_network import (
    ChargeNeuralNetwork,
    calculate_charge_fingerprints_range,
)
from surefield.networks.fingerprints import Gaussian, ImageCentred, Zernike, calculate_fingerprints_range
from surefield.networks.full_batch import (
    ConvergenceOccurred,
    LossFunction,
    Regressor,
    TrainingConvergenceError,
)
from surefield.networks.model import Model, save_model
from surefield.networks.model_files import load_model
from surefield.networks.network_functions import (
    calculate_charge_fp,
    calculate_charge_fpprime,
    calculate_dOutputs_dInputs,
    calculate_nodal_outputs,
    calculate_ohat_D_delta,
)
from surefield.networks.neural_network import NeuralNetwork
from surefield.networks.node_plot import NodePlot
from surefield.networks.ravel_data import ravel_data
from surefield.networks.raveler import Raveler
from surefield.potentials.calculator import ExtrapolationWarning
from surefield.potentials.network_parameters import get_initial_scalings, get_random_weights
from surefield.structures.electrode import from_she
from surefield.structures.images import hash_images
from surefield.structures.offsets import OffsetCalculator
from surefield.testing.gradients import check_gradients

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
    "load_model",
    "make_default_symmetry_functions",
    "make_symmetry_functions",
    "ravel_data",
    "save_model",
    "select_atoms",
]
