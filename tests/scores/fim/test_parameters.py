from __future__ import annotations

import numpy as np
import pytest
from tests.conftest import SW, small_network

from surefield.errors import ConfigError
from surefield.potentials.parametric import LennardJones, StillingerWeber, Tersoff
from surefield.scores.fim.parameters import optimized_parameters, read_potential


@pytest.fixture(scope="module")
def sw() -> StillingerWeber:
    return StillingerWeber(SW, ["Si"])


def test_the_documented_form(sw) -> None:
    asked = {
        "lambda": [[40.0, "fix"]],
        "B": [["default", 0.1, 1.0]],
        "A": [[15.0]],
        "p": [["default", "fix"]],
    }
    got = optimized_parameters(sw, asked)
    assert got.fim_index_to_parameter == {
        0: {"parameter": "B", "extent": 0},
        1: {"parameter": "A", "extent": 0},
    }
    assert got.names == ("B", "A")
    np.testing.assert_array_equal(got.values, [SW["B"], 15.0])
    np.testing.assert_array_equal((got.lower[0], got.upper[0], got.lower[1]), (0.1, 1.0, -np.inf))
    changed = got.at(np.array([0.5, 14.0]))
    assert {k: float(changed.values[k][0]) for k in ("A", "B", "lambda", "p")} == {
        "A": 14.0, "B": 0.5, "lambda": 40.0, "p": 4.0,
    }  # fmt: skip
    assert float(sw.values["lambda"][0]) == SW["lambda"]


def test_extents_are_counted_in_their_order() -> None:
    lj = LennardJones({"epsilon": [1.0, 2.0, 3.0], "sigma": 2.0, "cutoff": 5.0}, ["Cu", "Au"])
    got = optimized_parameters(lj, {"epsilon": [["default"], [5.0, "fix"], [4.0]]})
    assert got.names == ("epsilon[0]", "epsilon[2]")
    np.testing.assert_array_equal(got.values, [1.0, 4.0])
    np.testing.assert_array_equal(got.at(np.array([7.0, 8.0])).values["epsilon"], [7.0, 5.0, 8.0])


def test_all_and_last_layer(sw) -> None:
    assert len(optimized_parameters(sw).fim_index_to_parameter) == len(sw.free) == 8
    network = small_network(("Cu", "Au"), "float32")
    every, last = optimized_parameters(network), optimized_parameters(network, "last_layer")
    assert len(every.entries) == network.vector.size
    assert len(last.entries) == network.n_features
    np.testing.assert_array_equal(last.values, np.asarray(network.readout, np.float64).ravel())
    for chosen in (every, last):
        moved = chosen.at(chosen.values + 1)
        assert moved.dtype == np.float64
        np.testing.assert_allclose(moved.readout, network.readout + 1.0, rtol=1e-7)
    assert set(e.name for e in every.entries) >= {"readout", "bias"}


def test_arrays_of_networks_by_name() -> None:
    network = small_network(("Cu",))
    size = network.bias.size
    got = optimized_parameters(
        network, {"bias": [[0.25]] * size, "readout": [["default", "fix"]] * network.n_features}
    )
    assert got.names == ("bias",)
    np.testing.assert_array_equal(got.at(np.array([3.0])).bias, [3.0])
    np.testing.assert_array_equal(got.chosen.potential.bias, [0.25])
    np.testing.assert_array_equal(got.at(np.array([3.0])).readout, network.readout)


def test_potentials_by_description() -> None:
    described = {
        "potential_type": "KIM",
        "potential_args": {"kim_id": "SW_StillingerWeber_1985_Si__MO_405512056662_006"},
    }
    assert isinstance(read_potential(described), StillingerWeber)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"lamda": [["default"]]}, "no parameter 'lamda'; did you mean 'lambda'.*one of A, B,"),
        ({"A": [["default"], ["default"]]}, "parameters_optimize: A; got 2 entries.*expected 1 lists"),
        ({"A": [["default", "fix"]]}, "no parameter free"),
        ({}, "no parameter free"),
        ({"A": [["start"]]}, "a finite number"),
        ({"A": [["default", 1.0]]}, "one bound only"),
        ("all", "parameters_optimize"),
        (["A"], "parameters_optimize"),
        ("last_layer", "has no last layer"),
    ],
)
def test_bad_requests_are_refused(sw, asked, message) -> None:
    with pytest.raises(ConfigError, match=message):
        optimized_parameters(sw, asked)


def test_integers_are_never_free() -> None:
    values = {name: (3 if form.integer else 1.0) for name, form in Tersoff.FORMS.items()}
    model = Tersoff(values, ["Si"])
    with pytest.raises(ConfigError, match="m is an integer"):
        optimized_parameters(model, {"m": [["default"]]})


@pytest.mark.parametrize(
    ("potential", "message"),
    [
        ({"potential_args": {}}, "no potential_type"),
        ({"potential_type": "KIMM"}, "known: ChIMESPotential, FitSnapPotential, KIMPotential"),
        ({"potential_type": "KIM", "potential_args": {"id": "x"}}, "potential_args of KIM"),
        ({"kind": "KIM"}, "unknown key 'kind'"),
        ("sw.npz", "read one from its file"),
    ],
)
def test_what_is_no_potential_is_refused(potential, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_potential(potential)
