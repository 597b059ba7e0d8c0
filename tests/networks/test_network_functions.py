from __future__ import annotations

import json

import numpy as np
import pytest
from ase.io import read

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.networks.network_functions import (
    atomic_energy,
    atomic_energy_gradient,
    calculate_charge_fp,
    calculate_charge_fpprime,
    calculate_dOutputs_dInputs,
    calculate_nodal_outputs,
    calculate_ohat_D_delta,
    force,
    force_gradient,
)
from surefield.networks.parameters import Parameters
from surefield.networks.raveler import Raveler
from surefield.potentials.network_parameters import get_random_weights


def layers(weights):
    return {int(k): np.array(w) for k, w in weights.items()}


@pytest.fixture(scope="module")
def small(shared):
    return shared / "reference" / "networks" / "small"


@pytest.fixture(scope="module")
def reference(small):
    return json.loads((small / "functions.json").read_text())


@pytest.fixture(scope="module")
def model(small):
    """The peer's model, amp mode."""
    given = json.loads((small / "model.json").read_text())
    return Parameters(
        hiddenlayers=given["hiddenlayers"],
        weights={e: layers(w) for e, w in given["weights"].items()},
        scalings=given["scalings"],
        fprange=given["fprange"],
        activation="tanh",
        output_activation="activation",
        mode="atom-centered",
    )


@pytest.fixture(scope="module")
def fingerprints(small):
    with np.load(small / "fingerprints.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module", params=[0, 1], ids=["Pt", "Cu"])
def case(request, reference, fingerprints):
    """Numbers of one atom, its features and a direction of them that gives the stored derivative."""
    numbers = reference["atoms"][request.param]
    return numbers | {"afp": fingerprints["image3"][numbers["atom"]]}


def unscaled(model, case):
    """dG/dR from the derivative of the scaled features."""
    low, high = np.array(model.fprange[case["symbol"]]).T
    return np.array(case["dOutputs_dInputs"]["0"]) * (high - low) / 2


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


def test_nodes_and_their_derivatives(model, case):
    symbol = case["symbol"]
    outputs = calculate_nodal_outputs(model, case["afp"], symbol)
    assert sorted(outputs) == sorted(map(int, case["nodal_outputs"]))
    for k, values in outputs.items():
        close(values, case["nodal_outputs"][str(k)])
    derivatives = calculate_dOutputs_dInputs(model, unscaled(model, case), outputs, symbol)
    assert sorted(derivatives) == sorted(outputs)
    for k, values in derivatives.items():
        close(values, case["dOutputs_dInputs"][str(k)])


def test_back_propagation(model, case):
    symbol = case["symbol"]
    outputs = calculate_nodal_outputs(model, case["afp"], symbol)
    W = {k: w[:-1] for k, w in model.weights[symbol].items()}
    ohat, D, delta = calculate_ohat_D_delta(model, outputs, W)
    for found, name in ((ohat, "ohat"), (delta, "delta")):
        assert sorted(found) == sorted(map(int, case[name]))
        for k, values in found.items():
            close(values.ravel(), case[name][str(k)])
    assert sorted(D) == sorted(map(int, case["D_diagonal"]))
    for k, values in D.items():
        close(values, np.diag(case["D_diagonal"][str(k)]))
    assert (ohat[0].T @ delta[1].T).shape == model.weights[symbol][1].shape


def test_energy_force_and_their_gradients(model, case):
    symbol, afp, derafp = case["symbol"], case["afp"], unscaled(model, case)
    close(atomic_energy(model, afp, symbol), case["atomic_energy"])
    close(force(model, afp, derafp, symbol), case["calculate_force"])
    close(atomic_energy_gradient(model, list(afp), symbol), case["dAtomicEnergy_dParameters"])
    close(force_gradient(model, afp, list(derafp), symbol), case["dForce_dParameters"])


def test_energies_of_all_images(model, small, fingerprints):
    """Sums over the atoms, with the elements of the structures."""
    expected = json.loads((small / "expected.json").read_text())["energies"]
    for i, atoms in enumerate(read(small / "images.extxyz", ":")):
        symbols = atoms.get_chemical_symbols()
        found = sum(
            atomic_energy(model, g, s) for g, s in zip(fingerprints[f"image{i}"], symbols, strict=True)
        )
        assert found == pytest.approx(expected[i], abs=1e-10)


@pytest.mark.parametrize("name", ["fprange_from_images", "fprange_minus1_plus1_is_raw_positions"])
def test_image_centred(small, name):
    given = json.loads((small.parent / "image_centred" / "expected.json").read_text())
    expected = given["cases"][name]
    model = Parameters(
        weights=layers(given["weights"]),
        scalings=given["scalings"],
        fprange=expected["fprange"],
        activation="tanh",
        output_activation="activation",
        mode="image-centered",
    )
    for i, atoms in enumerate(read(small / "images.extxyz", ":3")):
        x = atoms.positions.ravel()
        assert atomic_energy(model, x) == pytest.approx(expected["energies"][i], abs=1e-10)
        found = [force(model, x, unit) for unit in np.eye(len(x))]
        np.testing.assert_allclose(np.reshape(found, (-1, 3)), expected["forces"][i], rtol=0, atol=1e-10)
    assert atomic_energy_gradient(model, x).shape == (145,)


def random_model(activation, output_activation, hiddenlayers, image=False):
    """A model of made-up numbers, one constant feature, features in reach of the activations' curvature."""
    rng = np.random.default_rng(3)
    weights = (
        get_random_weights(hiddenlayers, activation, no_of_atoms=2, seed=1)
        if image
        else get_random_weights({"Cu": hiddenlayers, "Pt": (2,)}, activation, len_of_fps=6, seed=1)
    )
    scaling = {"intercept": -0.7, "slope": 1.9}
    low = rng.normal(size=6)
    fprange = np.stack([low, low + rng.uniform(0.5, 2, 6)], axis=1)
    fprange[2, 1] = fprange[2, 0]
    model = Parameters(
        weights=weights,
        scalings=scaling if image else {"Cu": scaling, "Pt": {"intercept": 0.3, "slope": 0.4}},
        fprange=fprange if image else {"Cu": fprange, "Pt": [-1.0, 1.0]},
        activation=activation,
        output_activation=output_activation,
        mode="image-centered" if image else "atom-centered",
    )
    return model, rng.normal(size=6), rng.normal(size=6)


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("hiddenlayers", [(4, 3), (5,), ()])
@pytest.mark.parametrize("output_activation", ["linear", "activation"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
def test_central_differences(activation, output_activation, hiddenlayers, image):
    model, afp, derafp = random_model(activation, output_activation, hiddenlayers, image)
    symbol = None if image else "Cu"
    step = 1e-5
    rise = atomic_energy(model, afp + step * derafp, symbol) - atomic_energy(
        model, afp - step * derafp, symbol
    )
    assert force(model, afp, derafp, symbol) == pytest.approx(-rise / (2 * step), rel=1e-7, abs=1e-9)

    raveler = Raveler(model.weights, model.scalings)
    vector = raveler.to_vector(model.weights, model.scalings)

    def at(vector):
        weights, scalings = raveler.to_dicts(vector)
        changed = Parameters(model | {"weights": weights, "scalings": scalings})
        return np.array([atomic_energy(changed, afp, symbol), force(changed, afp, derafp, symbol)])

    numerical = np.array([(at(vector + d) - at(vector - d)) / (2 * step) for d in step * np.eye(len(vector))])
    found = [
        atomic_energy_gradient(model, afp, symbol),
        force_gradient(model, afp, derafp, symbol),
    ]
    np.testing.assert_allclose(found, numerical.T, rtol=1e-6, atol=1e-8)
    assert np.abs(found[1]).max() > 0.1


def test_linear_output_is_not_bounded(model, case):
    """Amp mode takes the activation of what the default mode returns."""
    linear = Parameters({k: v for k, v in model.items() if k != "output_activation"})
    outputs = calculate_nodal_outputs(linear, case["afp"], case["symbol"])
    close(np.tanh(outputs[max(outputs)]), case["nodal_outputs"][str(max(outputs))])


def test_constant_features():
    for mode, value, derivative in (("linear", 0.0, 0.0), ("activation", 0.8, 0.5)):
        model, _, _ = random_model("tanh", mode, (2,))
        outputs = calculate_nodal_outputs(model, np.full(6, 0.8), "Cu")
        assert outputs[0][2] == value
        assert calculate_dOutputs_dInputs(model, np.full(6, 0.5), outputs, "Cu")[0][2] == derivative


def test_one_range_for_all_features():
    model, afp, _ = random_model("tanh", "linear", (2,))
    np.testing.assert_allclose(calculate_nodal_outputs(model, afp, "Pt")[0], afp, rtol=1e-14)


def test_wrong_arguments():
    model, afp, _ = random_model("tanh", "linear", (2,))
    with pytest.raises(PotentialError, match="unknown element in scalings; got H; expected Cu, Pt"):
        atomic_energy(model, afp, "H")
    with pytest.raises(DataError, match=r"afp; got \(5,\); expected \(6,\)"):
        atomic_energy(model, afp[:5], "Cu")
    with pytest.raises(ConfigError, match="'tanh', 'sigmoid' or 'linear'"):
        atomic_energy(Parameters(model | {"activation": "relu"}), afp, "Cu")
    with pytest.raises(ConfigError, match="output_activation"):
        atomic_energy(Parameters(model | {"output_activation": "tanh"}), afp, "Cu")
    with pytest.raises(ConfigError, match="symbol is None"):
        atomic_energy_gradient(model, afp)
    with pytest.raises(DataError, match="fprange"):
        atomic_energy(Parameters(model | {"fprange": {"Cu": [[0, 1]] * 5}}), afp, "Cu")


def test_charge_fingerprint(shared):
    """The fingerprints of the reference, and their derivative by central differences."""
    folder = shared / "reference" / "networks" / "charge"
    etas = np.array(json.loads((folder / "model.json").read_text())["etas"])
    expected = json.loads((folder / "expected.json").read_text())["images"]
    for atoms, numbers in zip(read(folder / "images.extxyz", ":"), expected, strict=True):
        z, z0, phi = atoms.positions[:, 2, None], numbers["interface"], atoms.info["electrode_potential"]
        close(calculate_charge_fp(z, etas, z0, phi), numbers["charge_fingerprints"])
        rise = calculate_charge_fp(z + 1e-5, etas, z0, phi) - calculate_charge_fp(z - 1e-5, etas, z0, phi)
        found = calculate_charge_fpprime(z, etas, z0, phi)
        np.testing.assert_allclose(found, rise / 2e-5, rtol=1e-8, atol=1e-9)
        peer = calculate_charge_fpprime(z, etas, z0, phi, convention="amp-1.1")
        np.testing.assert_allclose(peer, found * (z - z0), rtol=1e-14)


def test_charge_fingerprint_of_single_atoms():
    assert calculate_charge_fp(2.0, 0.5, 2.0, 3.0) == 3.0
    assert calculate_charge_fp(-1e4, 0.5, 2.0, 3.0) == 0.0
    assert calculate_charge_fpprime(4.0, 0.5, 2.0, 3.0) == pytest.approx(-1.5 * np.exp(-1))
    assert calculate_charge_fpprime(4.0, 0.5, 2.0, 3.0, "amp-1.1") == pytest.approx(-3 * np.exp(-1))
    assert calculate_charge_fpprime(1.0, 0.5, 2.0, 3.0) == 0.0
    with pytest.raises(ConfigError, match="expected 'exact'"):
        calculate_charge_fpprime(1.0, 0.5, 2.0, 3.0, convention="fixed")
