"""Layers by name: of nested dictionaries, and of potentials."""

import numpy as np
import pytest

from surefield.errors import PotentialError
from surefield.selection import extract_feature_params
from surefield.sensitivity.layers import layer_of, named_arrays

PARAMS = {
    "params": {
        "readout": {"dense_0": {"w": np.zeros((3, 4)), "b": np.zeros(4)}, "dense_1": {"w": np.zeros((4, 1))}},
        "basis": {"coefficients": np.ones(5)},
    }
}


def test_layers_of_dictionaries():
    layer, rest = extract_feature_params(PARAMS, "dense_0")
    assert set(layer) == {("params", "readout", "dense_0", "w"), ("params", "readout", "dense_0", "b")}
    assert set(rest) == {("params", "readout", "dense_1", "w"), ("params", "basis", "coefficients")}
    assert layer[("params", "readout", "dense_0", "w")].shape == (3, 4)


def test_layers_of_potentials(network):
    layer, rest = extract_feature_params(network, "readout")
    assert set(layer) == {("readout",)}
    assert not layer.keys() & rest.keys()
    assert layer.keys() | rest.keys() == named_arrays(network).keys()
    last, others = extract_feature_params(network, "dense_2")
    assert set(last) == {("readout",), ("bias",)}
    assert last.keys() | others.keys() == named_arrays(network).keys()
    assert layer_of(network, "readout")[0] is layer_of(network, "dense_2")[0] is network


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "dense_7",
            r"there is no layer 'dense_7'; did you mean 'dense_\d'\?; expected one of .*dense_0, dense_1",
        ),
        ("readout", "'readout' means more than one layer; got params.readout.dense_0.b, "),
        ("w", "'w' means more than one layer"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(PotentialError, match=message):
        extract_feature_params(PARAMS, name)


def test_no_arrays():
    with pytest.raises(PotentialError, match="no arrays"):
        extract_feature_params({"dense_2": {}}, "dense_2")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "dense_9",
            r"there is no layer 'dense_9'; did you mean 'dense_2'\?; .* of bias, biases, biases.0, dense_2",
        ),
        ("offsets", "there is no layer 'offsets'"),
        ("0", "'0' means more than one layer; got biases.0, weights.0; name one of these"),
    ],
)
def test_bad_names_of_potentials(network, name, message):
    with pytest.raises(PotentialError, match=message):
        layer_of(network, name)
