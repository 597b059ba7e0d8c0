"""Network models with the interface of Amp: set up by images, trained on whole sets, used as calculators."""

from surefield.training.models.amp import Amp
from surefield.training.models.charge_neural_network import ChargeNeuralNetwork
from surefield.training.models.model import Model
from surefield.training.models.model_files import load_model, save_model
from surefield.training.models.neural_network import NeuralNetwork

__all__ = ["Amp", "ChargeNeuralNetwork", "Model", "NeuralNetwork", "load_model", "save_model"]
