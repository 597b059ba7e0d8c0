from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import Hookean
from ase.io import read

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.networks.raveler import Raveler
from surefield.potentials.network_parameters import (
    check_weights,
    get_initial_scalings,
    get_random_weights,
    hidden_layers,
    hidden_sizes,
    image_energies,
)
from surefield.structures.offsets import OffsetCalculator, least_squares_intercepts


@pytest.fixture(scope="module")
def networks(shared):
    return shared / "reference" / "networks"


@pytest.fixture(scope="module")
def reference(networks):
    return json.loads((networks / "small" / "functions.json").read_text())


@pytest.fixture(scope="module")
def images(networks):
    return read(networks / "small" / "images.extxyz", ":")


def arrays(weights):
    """Layers of a JSON file: keys to integers, lists to arrays; any depth."""
    if isinstance(weights, dict):
        return {int(k) if k.isdigit() else k: arrays(w) for k, w in weights.items()}
    return np.array(weights)


def labelled(symbols, energy):
    atoms = Atoms(symbols, positions=np.arange(3 * len(Atoms(symbols))).reshape(-1, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


def test_hidden_layers():
    assert hidden_layers((5, 4), ["Pt", "Cu"]) == {"Cu": (5, 4), "Pt": (5, 4)}
    assert hidden_layers(7, ["Cu"]) == {"Cu": (7,)}
    assert hidden_layers({"Cu": [3, np.int64(2)], "Pt": ()}, ["Cu", "Pt"]) == {"Cu": (3, 2), "Pt": ()}
    assert hidden_sizes([4, 3]) == (4, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"Cu": (5,)}, "Pt missing"),
        ({"Cu": (5,), "Pt": (5,), "H": (5,)}, "H too many"),
        ((5, 0), "without nodes"),
        (-1, "without nodes"),
        (2.5, "unusable"),
        ("55", "unusable"),
        ({"Cu": (5,), "Pt": "5"}, r"hiddenlayers\['Pt'\]"),
    ],
)
def test_unusable_hidden_layers(given, message):
    with pytest.raises(ConfigError, match=message):
        hidden_layers(given, ["Cu", "Pt"])


def test_random_weights_are_the_documented_ones(reference):
    case = reference["get_random_weights"]
    found = get_random_weights(case["hiddenlayers"], "tanh", len_of_fps=case["len_of_fps"], seed=case["seed"])
    expected = arrays(case["weights"])
    assert {e: list(w) for e, w in found.items()} == {e: sorted(w) for e, w in expected.items()}
    for element, layers in expected.items():
        for k, layer in layers.items():
            np.testing.assert_array_equal(found[element][k], layer)


def test_random_weights_of_an_image(reference):
    case = reference["get_random_weights_image_centred"]
    found = get_random_weights(
        case["hiddenlayers"], "tanh", no_of_atoms=case["no_of_atoms"], seed=case["seed"]
    )
    for k, layer in arrays(case["weights"]).items():
        np.testing.assert_array_equal(found[k], layer)


def test_random_weights_with_sizes_per_element():
    found = get_random_weights((4,), "sigmoid", len_of_fps={"Pt": 3, "Cu": 6}, seed=0)
    assert [found[e][1].shape for e in ("Cu", "Pt")] == [(7, 4), (4, 4)]
    assert np.abs(found["Pt"][1]).max() < np.sqrt(6 / 7)
    again = get_random_weights((4,), "sigmoid", len_of_fps={"Cu": 6, "Pt": 3}, seed=0)
    np.testing.assert_array_equal(again["Pt"][2], found["Pt"][2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"len_of_fps": 3, "no_of_atoms": 2}, "both"),
        ({}, "neither"),
        ({"len_of_fps": 3}, "elements are unknown"),
        ({"no_of_atoms": 3, "activation": "relu"}, "'tanh', 'sigmoid' or 'linear'"),
    ],
)
def test_wrong_arguments_for_random_weights(settings, message):
    with pytest.raises(ConfigError, match=message):
        get_random_weights(**({"hiddenlayers": (5,), "activation": "tanh"} | settings))


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
def test_initial_scalings(reference, images, activation):
    keyed = {f"key{i}": atoms for i, atoms in enumerate(images)}
    for given in (images, keyed):
        found = get_initial_scalings(given, activation, elements=["Cu", "Pt"], seed=3)
        expected = reference["get_initial_scalings"][activation]
        assert found.keys() == expected.keys()
        for element, values in expected.items():
            assert found[element] == pytest.approx(values, rel=1e-13, abs=0)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
def test_initial_scalings_of_an_image(networks, images, activation):
    expected = json.loads((networks / "image_centred" / "expected.json").read_text())["initial_scalings"]
    found = get_initial_scalings(images[:3], activation)
    assert found == pytest.approx(expected[activation], rel=1e-13, abs=0)


def test_energies_are_free_of_constraints_and_must_be_there():
    atoms = labelled("Cu2", 1.5)
    atoms.set_constraint(Hookean(0, 1, k=3.0, rt=0.1))
    assert atoms.get_potential_energy() > 2
    np.testing.assert_array_equal(image_energies([atoms]), [1.5])
    with pytest.raises(DataError, match="image a has no energy"):
        image_energies({"a": Atoms("Cu")})
    with pytest.raises(DataError, match="not finite in image 1"):
        image_energies([atoms, labelled("Cu", np.nan)])
    with pytest.raises(DataError, match="at least one image"):
        get_initial_scalings([], "tanh")


def test_intercepts(reference, images):
    expected = reference["prescale_intercepts_exact"]
    found, rank, undetermined = least_squares_intercepts(images, image_energies(images))
    assert found == pytest.approx({e: expected[e] for e in ("Cu", "Pt")}, abs=1e-12, rel=0)
    assert rank == expected["rank"]
    assert undetermined == ()
    peer = reference["prescale_intercepts_amp_nelder_mead"]
    assert found == pytest.approx({e: s["intercept"] for e, s in peer.items()}, abs=1e-4)


def test_intercepts_that_are_not_determined():
    one = least_squares_intercepts([{"Pt": 8, "Cu": 2}] * 2, [5.0, 7.0])
    assert one.intercepts == pytest.approx({"Cu": 0.6, "Pt": 0.6})
    assert one.rank == 1
    assert one.undetermined == ("4 Cu - Pt",)
    # Oxygen always comes with two hydrogens: their sum is fixed, and the correction is the smallest one.
    water = least_squares_intercepts([Atoms("H2O"), Atoms("CuH4O2"), Atoms("Cu")], [-3.0, -2.0, 4.0])
    assert water.rank == 2
    assert water.undetermined == ("H - 2 O",)
    assert water.intercepts["Cu"] == pytest.approx(4.0)
    assert 2 * water.intercepts["H"] + water.intercepts["O"] == pytest.approx(-3.0)
    mean = np.mean([-3 / 3, -2 / 7, 4.0])
    correction = [water.intercepts[e] - mean for e in ("H", "O")]
    assert correction[0] == pytest.approx(2 * correction[1])
    with pytest.raises(DataError, match="unknown element 'Xy'"):
        least_squares_intercepts([{"Xy": 1}], [0.0])
    with pytest.raises(DataError, match="at least one image"):
        least_squares_intercepts([], [])


def test_offset_calculator(reference, images):
    case = reference["OffsetCalculator"]
    calculator = OffsetCalculator(case["scalings"])
    found = [calculator.get_potential_energy(atoms) for atoms in images]
    np.testing.assert_allclose(found, case["energies"], rtol=0, atol=1e-12)
    with pytest.raises(PotentialError, match="H"):
        calculator.get_potential_energy(Atoms("CuH"))


def test_vector_of_an_atom_centred_model(networks):
    model = json.loads((networks / "small" / "model.json").read_text())
    weights, scalings = arrays(model["weights"]), model["scalings"]
    raveler = Raveler(weights, scalings)
    vector = raveler.to_vector(weights, scalings)
    assert raveler.count == 218
    np.testing.assert_array_equal(vector, model["vector"])
    back, scales = raveler.to_dicts(vector)
    assert scales == scalings
    np.testing.assert_array_equal(raveler.to_vector(back, scales), vector)
    back["Cu"][1][:] = 0
    np.testing.assert_array_equal(vector, model["vector"])


def test_vector_of_an_image_centred_model(networks):
    model = json.loads((networks / "image_centred" / "expected.json").read_text())
    raveler = Raveler(arrays(model["weights"]), model["scalings"])
    np.testing.assert_array_equal(
        raveler.to_vector(arrays(model["weights"]), model["scalings"]), model["vector"]
    )
    weights, scalings = raveler.to_dicts(model["vector"])
    assert scalings == model["scalings"]
    assert [weights[k].shape for k in (1, 2, 3)] == [(31, 4), (5, 3), (4, 1)]


def test_vector_of_a_charge_model(networks):
    model = json.loads((networks / "charge" / "model.json").read_text())
    names = ("weights", "scalings", "charge_weights", "charge_scalings", "Ei", "Jii")
    parts = [arrays(model[name]) if "weights" in name else model[name] for name in names]
    raveler = Raveler(*parts)
    assert raveler.count == 352
    np.testing.assert_array_equal(raveler.to_vector(*parts), model["vector"])
    back = raveler.to_dicts(model["vector"])
    assert back[1] == model["scalings"]
    assert back[4:] == (model["Ei"], model["Jii"])
    np.testing.assert_array_equal(back[2]["Pt"][1], model["charge_weights"]["Pt"]["1"])
    with pytest.raises(ConfigError, match="all four charge parameters"):
        Raveler(*parts[:5])


def test_wrong_vectors_and_parameters():
    weights = {"Cu": {1: np.ones((3, 1))}}
    scalings = {"Cu": {"intercept": 0.0, "slope": 1.0}}
    raveler = Raveler(weights, scalings)
    with pytest.raises(ConfigError, match="length 4; expected length 5"):
        raveler.to_dicts(np.zeros(4))
    with pytest.raises(ConfigError, match=r"weights\['Cu'\]\[1\]; got \(2, 1\)"):
        raveler.to_vector({"Cu": {1: np.ones((2, 1))}}, scalings)
    with pytest.raises(ConfigError, match="Pt missing"):
        Raveler(weights | {"Pt": weights["Cu"]}, scalings)
    with pytest.raises(ConfigError, match="intercept"):
        Raveler(weights, {"Cu": {"slope": 1.0}})
    with pytest.raises(ConfigError, match="array"):
        Raveler({"Cu": {2: np.ones((3, 1))}}, scalings)


def test_check_weights():
    given = {"Cu": {1: [[1, 2], [3, 4]], 2: [[1], [2], [3]]}, "Pt": {1: [[1], [2], [3]]}}
    found = check_weights(given, {"Cu": (2,), "Pt": ()}, {"Cu": 1, "Pt": 2})
    np.testing.assert_array_equal(found["Cu"][1], [[1.0, 2.0], [3.0, 4.0]])
    assert found["Pt"][1].dtype == np.float64
    assert check_weights(given["Pt"], (), 2)[1].shape == (3, 1)
    for wrong, message in [
        ({"Cu": given["Cu"]}, "Pt missing"),
        (given | {"Pt": {1: [[1], [2]]}}, r"weights\['Pt'\]\[1\]; got \(2, 1\); expected \(3, 1\)"),
        (given | {"Pt": {1: [[1], [2], [3]], 2: [[1], [2]]}}, "wrong layers"),
        (given | {"Pt": {1: [[1], [2], [np.nan]]}}, "not finite"),
        (given | {"Pt": {1: [[1], [2, 3]]}}, "not an array"),
    ]:
        with pytest.raises(ConfigError, match=message):
            check_weights(wrong, {"Cu": (2,), "Pt": ()}, {"Cu": 1, "Pt": 2})
