from __future__ import annotations

import json

import numpy as np
import pytest
from ase.io import read

from surefield import load_potential, save_potential
from surefield.errors import ConfigError, DataError
from surefield.loop import select
from surefield.networks.fingerprints import Gaussian, ImageCentred
from surefield.networks.full_batch import LossFunction
from surefield.networks.neural_network import NeuralNetwork
from surefield.structures.images import hash_images
from surefield.testing import check_potential
from surefield.training import train
from surefield.uncertainty import LLPR


@pytest.fixture(scope="module")
def small(shared):
    folder = shared / "reference" / "networks" / "small"
    return (
        read(folder / "images.extxyz", ":"),
        json.loads((folder / "model.json").read_text()),
        json.loads((folder / "functions.json").read_text()),
        json.loads((folder / "expected.json").read_text()),
    )


def numbered(weights):
    return {s: {int(k): np.array(v) for k, v in layers.items()} for s, layers in weights.items()}


@pytest.fixture(scope="module")
def descriptor(small):
    images, model, _, _ = small
    found = Gaussian(6.5, model["Gs"])
    found.calculate_fingerprints(images, calculate_derivatives=True)
    return found


@pytest.fixture
def reference(small, descriptor):
    """The network of the reference file."""
    images, model, _, _ = small
    made = NeuralNetwork(
        {s: tuple(h) for s, h in model["hiddenlayers"].items()},
        weights=numbered(model["weights"]),
        scalings=model["scalings"],
        fprange=model["fprange"],
        output_activation="activation",
    )
    assert made.vector is None
    assert made.fit(images, descriptor, only_setup=True) is None
    return made


def test_energies_and_forces_from_fingerprints(small, descriptor, reference):
    images, _, _, expected = small
    for number, key in enumerate(hash_images(images)):
        energy = reference.calculate_energy(descriptor.fingerprints[key])
        np.testing.assert_allclose(energy, expected["energies"][number], rtol=0, atol=1e-10)
        np.testing.assert_allclose(
            reference.atomic_energies, expected["atomic_energies"][number], rtol=0, atol=1e-10
        )
        forces = reference.calculate_forces(descriptor.fingerprints[key], descriptor.fingerprintprimes[key])
        np.testing.assert_allclose(forces, expected["forces"][number], rtol=0, atol=1e-10)


def test_parameter_derivatives_of_the_reference(small, descriptor, reference):
    images, _, functions, _ = small
    key = list(hash_images(images))[3]
    fingerprints, primes = descriptor.fingerprints[key], descriptor.fingerprintprimes[key]
    found = reference.calculate_dEnergy_dParameters(fingerprints)
    np.testing.assert_allclose(found, functions["dEnergy_dParameters"], rtol=0, atol=1e-11)
    numerical = reference.calculate_numerical_dEnergy_dParameters(fingerprints, 1e-5)
    np.testing.assert_allclose(numerical, found, rtol=0, atol=1e-8)
    found = reference.calculate_dForces_dParameters(fingerprints, primes)
    for name, values in functions["dForces_dParameters"].items():
        m, x = map(int, name.split(","))
        np.testing.assert_allclose(found[m, x], values, rtol=0, atol=1e-11)
    numerical = reference.calculate_numerical_dForces_dParameters(fingerprints, primes)
    assert set(numerical) == set(found)
    for place, values in found.items():
        np.testing.assert_allclose(numerical[place], values, rtol=0, atol=1e-8)


def test_functions_of_one_atom(small, descriptor, reference):
    images, _, functions, _ = small
    key = list(hash_images(images))[3]
    symbols = images[3].get_chemical_symbols()
    for case in functions["atoms"]:
        atom, moved, x = case["atom"], case["moved_atom"], case["direction"]
        symbol, afp = descriptor.fingerprints[key][atom]
        der = descriptor.fingerprintprimes[key][moved, symbols[moved], atom, symbol, x]
        energy = reference.calculate_atomic_energy(afp, atom, symbol)
        np.testing.assert_allclose(energy, case["atomic_energy"], rtol=0, atol=1e-11)
        force = reference.calculate_force(afp, der, x, atom, symbol)
        np.testing.assert_allclose(force, case["calculate_force"], rtol=0, atol=1e-11)
        gradient = reference.calculate_dAtomicEnergy_dParameters(afp, atom, symbol)
        np.testing.assert_allclose(gradient, case["dAtomicEnergy_dParameters"], rtol=0, atol=1e-11)
        gradient = reference.calculate_dForce_dParameters(afp, der, x, atom, symbol)
        np.testing.assert_allclose(gradient, case["dForce_dParameters"], rtol=0, atol=1e-11)


def test_vector_and_parameters(small, reference):
    _, model, _, _ = small
    np.testing.assert_array_equal(reference.vector, model["vector"])
    before, potential = reference.parameters, reference.potential
    assert before.activation == "tanh"
    assert before["hiddenlayers"] == {"Cu": (4, 3), "Pt": (5,)}
    np.testing.assert_array_equal(before.weights["Cu"][1], model["weights"]["Cu"]["1"])
    reference.vector = reference.vector + 1.0
    assert reference.potential is not potential
    np.testing.assert_allclose(
        reference.parameters.weights["Cu"][1], before.weights["Cu"][1] + 1.0, rtol=1e-14
    )
    reference.set(weights=before.weights, scalings=before.scalings)
    np.testing.assert_array_equal(reference.vector, model["vector"])
    with pytest.raises(ConfigError, match="217 entries"):
        reference.vector = np.zeros(217)
    with pytest.raises(ConfigError, match="did you mean 'weights'"):
        reference.set(weigths=before.weights)
    with pytest.raises(ConfigError, match="hiddenlayers cannot be changed"):
        reference.set(hiddenlayers=(3,))


def test_randomize(small, reference):
    images, model, functions, _ = small
    reference.randomize(weights=True, scalings=False, seed=11)
    expected = functions["get_random_weights"]["weights"]
    for symbol, layers in numbered(expected).items():
        for layer, values in layers.items():
            np.testing.assert_allclose(
                reference.parameters.weights[symbol][layer], values, rtol=0, atol=1e-15
            )
    assert reference.parameters.scalings["Cu"] == model["scalings"]["Cu"]
    weights = reference.parameters.weights
    reference.randomize(images, weights=False, scalings=True)
    np.testing.assert_array_equal(reference.parameters.weights["Pt"][1], weights["Pt"][1])
    tanh = functions["get_initial_scalings"]["tanh"]
    np.testing.assert_allclose(reference.parameters.scalings["Cu"]["slope"], tanh["Cu"]["slope"], rtol=1e-13)
    with pytest.raises(ConfigError, match="trainingimages"):
        reference.randomize()


def test_start_values_of_both_modes(small):
    images, model, functions, _ = small
    peer = NeuralNetwork(randomseed=11, output_activation="activation")
    peer.fit(images, Gaussian(6.5, model["Gs"]), only_setup=True)
    assert peer.parameters.scalings["Pt"] == pytest.approx(
        functions["get_initial_scalings"]["tanh"]["Pt"], rel=1e-13
    )
    ours = NeuralNetwork(randomseed=11)
    lines = []
    ours.fit(images, Gaussian(6.5, model["Gs"]), lines.append, only_setup=True)
    exact = functions["prescale_intercepts_exact"]
    for symbol in ("Cu", "Pt"):
        assert ours.parameters.scalings[symbol]["intercept"] == pytest.approx(exact[symbol], abs=1e-12)
        np.testing.assert_allclose(
            np.array(ours.parameters.fprange[symbol]), model["fprange"][symbol], rtol=0, atol=1e-12
        )
    residual = [
        (a.get_potential_energy() - sum(exact[s] for s in a.get_chemical_symbols())) / np.sqrt(len(a))
        for a in images
    ]
    slope = max(np.sqrt(np.mean(np.square(residual))), 0.01)
    assert ours.parameters.scalings["Cu"]["slope"] == pytest.approx(slope, rel=1e-9)
    prescaled = NeuralNetwork(prescale=True)
    prescaled.fit(images, Gaussian(6.5, model["Gs"]), lines.append, only_setup=True)
    assert prescaled.parameters.scalings["Cu"] == pytest.approx({"intercept": exact["Cu"], "slope": 1.0})
    assert any("random seed" in line for line in lines)
    assert prescaled.parameters.randomseed is not None


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"activation": "relu"}, "tanh"),
        ({"hiddenlayers": {"Cu": (3,)}}, "Pt missing"),
        ({"hiddenlayers": {"Cu": (3,), "Pt": (3,), "Au": (2,)}}, "Au"),
        ({"mode": "image-centred"}, "descriptor 'atom-centered'"),
        ({"version": "2016.1"}, "2015.12"),
        ({"output_activation": "lineer"}, "linear"),
        ({"scalings": {"Cu": {"intercept": 0.0, "slope": 1.0}}}, "Pt"),
        ({"weights": {"Cu": {1: np.zeros((3, 1))}, "Pt": {1: np.zeros((3, 1))}}}, "layers"),
        ({"fprange": {"Cu": [1.0, 0.0], "Pt": [0.0, 1.0]}}, "low <= high"),
    ],
)
def test_unusable_arguments(small, settings, text):
    images, model, _, _ = small
    with pytest.raises(ConfigError, match=text):
        NeuralNetwork(**settings).fit(images, Gaussian(6.5, model["Gs"]), only_setup=True)


def test_a_short_range_serves_all_features(small):
    images, model, _, _ = small
    made = NeuralNetwork(fprange={"Cu": [0.0, 2.0], "Pt": [0.0, 3.0]})
    made.fit(images, Gaussian(6.5, model["Gs"]), only_setup=True)
    np.testing.assert_array_equal(made.parameters.fprange["Pt"], np.tile([0.0, 3.0], (20, 1)))


def test_an_untrained_model_says_so():
    with pytest.raises(ConfigError, match="only_setup=True"):
        NeuralNetwork().predict([])


def test_image_centred(small):
    images = small[0][:3]
    made = NeuralNetwork((4, 3), randomseed=1)
    made.fit(images, ImageCentred(), only_setup=True)
    assert made.parameters.mode == "image-centered"
    assert set(made.parameters.weights) == {1, 2, 3}
    flat = images[1].positions.ravel().tolist()
    energy = made.calculate_energy(flat)
    np.testing.assert_allclose(energy, made.predict(images[1:2])[0].energy, rtol=1e-12)
    np.testing.assert_allclose(
        made.calculate_forces(flat, {}), made.predict(images[1:2])[0].forces, rtol=0, atol=1e-12
    )
    gradient = made.calculate_dEnergy_dParameters(flat)
    numerical = made.calculate_numerical_dEnergy_dParameters(flat)
    np.testing.assert_allclose(numerical, gradient, rtol=0, atol=1e-7)
    with pytest.raises(DataError, match=r"image 3 has 9 atoms, the model was made for 10 \(Pt8Cu2\)"):
        NeuralNetwork((4, 3)).fit(small[0], ImageCentred(), only_setup=True)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(4,), ()])
def test_a_handle_goes_where_a_potential_goes(alloy, copper, hidden, tmp_path):
    """Minibatch training, sigma, selection, contract, saving: without a special case."""
    model = NeuralNetwork(hidden, randomseed=3, descriptor=Gaussian(4.0))
    fit = train(model, copper, 0.25, epochs=2, progress=False)
    sure = LLPR.fit(fit.potential, fit.train_frames, fit.validation_frames, progress=False)
    (found,) = sure.predict(copper[:1], forces=True, stress=True)
    assert found.energy_uncertainty > 0
    assert np.all(found.forces_uncertainty >= 0)
    picks = select(sure, copper[:3], copper[3:], method="max_dist", n=2, features="ll_posterior")
    assert len(set(picks.indices)) == 2
    model.fit(copper, Gaussian(4.0), only_setup=True)
    picks = select(model, copper[:3], copper[3:], method="max_dist", n=2)
    assert len(set(picks.indices)) == 2
    check_potential(model, copper[:2])
    LLPR.fit(model, copper[:6], copper[6:], progress=False)
    save_potential(tmp_path / "p.npz", model.potential)
    assert load_potential(tmp_path / "p.npz").predict(copper[:1])[0].energy == pytest.approx(
        model.predict(copper[:1])[0].energy, rel=1e-13
    )


def test_given_values_are_kept_by_minibatch_training(copper):
    scalings = {"Cu": {"intercept": -1.25, "slope": 0.5}}
    model = NeuralNetwork((3,), scalings=scalings, fprange={"Cu": [0.0, 4.0]}, descriptor=Gaussian(4.0))
    fit = train(model, copper, 0.25, epochs=0, progress=False)
    assert fit.potential.offsets.tolist() == [-1.25]
    assert fit.potential.slopes.tolist() == [0.5]
    assert set(fit.potential.high.ravel().tolist()) == {4.0}


def test_a_new_loss_function_is_attached_at_once(reference):
    assert not reference.forcetraining
    reference.lossfunction = LossFunction(convergence={"force_rmse": 0.1})
    assert reference.forcetraining
