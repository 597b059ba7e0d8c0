"""The names that scripts for Amp import."""

from __future__ import annotations

import pytest

import surefield
from surefield import networks

DOCUMENTED = (
    "Amp",
    "Gaussian",
    "Zernike",
    "Cosine",
    "Polynomial",
    "make_symmetry_functions",
    "make_default_symmetry_functions",
    "LossFunction",
    "Model",
    "NeuralNetwork",
    "ChargeNeuralNetwork",
    "Raveler",
    "OffsetCalculator",
    "NodePlot",
    "Regressor",
    "calculate_nodal_outputs",
    "calculate_dOutputs_dInputs",
    "calculate_ohat_D_delta",
    "get_random_weights",
    "get_initial_scalings",
    "calculate_fingerprints_range",
    "calculate_charge_fingerprints_range",
    "calculate_charge_fp",
    "calculate_charge_fpprime",
    "ravel_data",
    "hash_images",
    "ConvergenceOccurred",
    "TrainingConvergenceError",
)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_names(name):
    assert name in networks.__all__
    assert callable(getattr(networks, name))


@pytest.mark.parametrize("name", ["Amp", "ChargeNeuralNetwork", "Gaussian", "LossFunction", "NeuralNetwork"])
def test_common_names_are_at_the_top_too(name):
    assert getattr(surefield, name) is getattr(networks, name)


def test_the_table_names_them_all(project):
    """A name that the guide leaves out is one that nobody finds."""
    page = (project / "docs" / "coming-from" / "amp.md").read_text()
    missing = [name for name in networks.__all__ if name not in page]
    assert not missing
