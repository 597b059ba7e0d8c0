from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from ase.io import read

from surefield.errors import ConfigError, DataError
from surefield.networks.amp import Amp
from surefield.networks.charge_neural_network import (
    ChargeNeuralNetwork,
    calculate_charge_fingerprints_range,
)
from surefield.networks.fingerprints import Gaussian
from surefield.networks.full_batch import LossFunction
from surefield.networks.model_files import load_model
from surefield.structures.images import hash_images


@pytest.fixture(scope="module")
def reference(shared):
    folder = shared / "reference" / "networks"
    images = read(folder / "charge" / "images.extxyz", ":")
    expected = json.loads((folder / "charge" / "expected.json").read_text())
    calc = Amp.load(folder / "amp_files" / "charge.amp")
    calc.descriptor.calculate_fingerprints(images, calculate_derivatives=True)
    return images, expected, calc


def test_gc_energies_of_the_reference(reference):
    images, expected, calc = reference
    for atoms, key, wanted in zip(images, hash_images(images), expected["images"], strict=True):
        phi = atoms.info["electrode_potential"]
        fingerprints = calc.descriptor.fingerprints[key]
        omega, charge = calc.model.calculate_gc_energy(fingerprints, phi, wanted["charge_fingerprints"])
        np.testing.assert_allclose(omega, wanted["omega"], rtol=0, atol=1e-10)
        np.testing.assert_allclose(charge, wanted["charge"], rtol=0, atol=1e-10)
        np.testing.assert_allclose(calc.model.atomic_charges, wanted["atomic_charges"], rtol=0, atol=1e-10)
        np.testing.assert_allclose(calc.model.atomic_energies, wanted["atomic_energies"], rtol=0, atol=1e-10)


def test_gc_forces_with_the_interface_fixed(reference):
    """Forces from fingerprints know no z0: they are those of the convention with a fixed interface."""
    images, expected, calc = reference
    etas = np.array(calc.model.parameters.etas)
    for atoms, key, wanted in zip(images, hash_images(images), expected["images"], strict=True):
        fingerprints, primes = calc.descriptor.fingerprints[key], calc.descriptor.fingerprintprimes[key]
        append = np.array(wanted["charge_fingerprints"])
        phi = atoms.info["electrode_potential"]
        forces = calc.model.calculate_gc_forces(fingerprints, primes, phi, append, -etas * append)
        np.testing.assert_allclose(forces, wanted["forces"]["fixed-interface"], rtol=0, atol=1e-10)


def test_gc_parameter_gradients(reference):
    images, expected, calc = reference
    key = next(iter(hash_images(images)))
    wanted = expected["images"][0]
    arguments = (
        calc.descriptor.fingerprints[key],
        images[0].info["electrode_potential"],
        wanted["charge_fingerprints"],
    )
    by_omega, by_charge = calc.model.calculate_dgcEnergy_dParameters(*arguments)
    np.testing.assert_allclose(by_omega, expected["dgcEnergy_dParameters_image0"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(by_charge, expected["dcharge_dParameters_image0"], rtol=0, atol=1e-10)
    numerical = calc.model.calculate_numerical_dgcEnergy_dParameters(*arguments)
    np.testing.assert_allclose(numerical[0], by_omega, rtol=0, atol=1e-7)
    np.testing.assert_allclose(numerical[1], by_charge, rtol=0, atol=1e-7)


def test_gc_force_gradients(reference):
    images, expected, calc = reference
    key = next(iter(hash_images(images)))
    append = np.array(expected["images"][0]["charge_fingerprints"])
    arguments = (
        calc.descriptor.fingerprints[key],
        calc.descriptor.fingerprintprimes[key],
        images[0].info["electrode_potential"],
        append,
        -np.array(calc.model.parameters.etas) * append,
    )
    found = calc.model.calculate_dgcForces_dParameters(*arguments)
    vector = calc.model.vector
    index, step = int(np.argmax(np.abs(found[9, 2]))), 1e-5
    forces = []
    for sign in (1, -1):
        moved = vector.copy()
        moved[index] += sign * step
        calc.model.vector = moved
        forces.append(calc.model.calculate_gc_forces(*arguments))
    calc.model.vector = vector
    slopes = (forces[0] - forces[1]) / (2 * step)
    for (m, x), gradient in found.items():
        assert abs(gradient[index] - slopes[m, x]) < 1e-7
    numerical = calc.model.calculate_numerical_dgcForces_dParameters(*arguments)
    assert set(numerical) == set(found)
    for place, values in found.items():
        np.testing.assert_allclose(numerical[place], values, rtol=0, atol=1e-7)


def test_ranges(reference):
    images, expected, calc = reference
    appends = {
        key: e["charge_fingerprints"] for key, e in zip(hash_images(images), expected["images"], strict=True)
    }
    found = calculate_charge_fingerprints_range(calc.descriptor, images, appends)
    for symbol, values in calc.model.parameters.charge_fprange.items():
        np.testing.assert_allclose(found[symbol], values, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def slabs(shared):
    return read(shared / "reference" / "networks" / "charge" / "made_up_train.extxyz", ":24")


def made(**settings):
    given = {"hiddenlayers": (4,), "charge_hiddenlayers": (3,), "slab_metal": "Au", "randomseed": 1}
    return ChargeNeuralNetwork(**(given | settings))


def test_training_with_charges(slabs, tmp_path):
    """Charges are learnt, results carry the names, and the model comes back from its file."""
    loss = LossFunction(convergence={"charge_rmse": 1e-9, "force_rmse": 1e-9}, maxiter=60)
    calc = Amp(Gaussian(4.0), made(lossfunction=loss), label=str(tmp_path / "au"), raise_unconverged=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calc.train(slabs)
    electrons = np.array([p.excess_electrons for p in calc.model.predict(slabs)])
    labels = np.array([a.info["excess_electrons"] for a in slabs])
    assert np.sqrt(np.mean((electrons - labels) ** 2)) < 0.5 * labels.std()
    atoms = slabs[0].copy()
    atoms.calc = Amp.load(tmp_path / "au-untrained-parameters", extrapolation="ignore")
    atoms.get_potential_energy()
    results = atoms.calc.results
    assert results["excess_electrons"] == pytest.approx(electrons[0], rel=1e-12)
    assert results["charges"].sum() == pytest.approx(-electrons[0], rel=1e-9)
    assert results["electrode_potential"] == atoms.info["electrode_potential"]
    energy, phi = results["energy"], atoms.info.pop("electrode_potential")
    with pytest.raises(DataError, match="electrode potential"):
        atoms.calc.model.predict([atoms.copy()])
    atoms.calc.set(electrode_potential=phi)
    assert atoms.get_potential_energy() == pytest.approx(energy, rel=1e-12)
    atoms.calc.set(electrode_potential=phi + 0.2)
    assert atoms.calc.model.predict([atoms])[0].electrode_potential == pytest.approx(phi + 0.2)
    changed = atoms.get_potential_energy() - energy
    assert changed == pytest.approx(0.2 * electrons[0], abs=0.05)
    direct = atoms.calc.model.calculator(extrapolation="ignore")
    direct.set(electrode_potential=phi)
    atoms.calc = direct
    assert atoms.get_potential_energy() == pytest.approx(energy, rel=1e-12)


def test_without_charge_criteria_charges_are_not_needed(slabs):
    bare = []
    for atoms in slabs[:6]:
        copy = atoms.copy()
        del copy.info["excess_electrons"]
        bare.append(copy)
    loss = LossFunction(convergence={"energy_rmse": 1e-9, "charge_rmse": None}, maxiter=2)
    model = made(lossfunction=loss)
    model.fit(bare, Gaussian(4.0))
    assert model.predict(slabs[:1])[0].excess_electrons is not None
    with pytest.raises(DataError, match="excess electrons"):
        made(lossfunction=LossFunction(maxiter=2)).fit(bare, Gaussian(4.0))


def test_given_parameters_are_kept(slabs):
    first = made()
    first.fit(slabs[:4], Gaussian(4.0), only_setup=True)
    known = first.parameters
    again = made(
        **{name: known[name] for name in ("weights", "charge_weights", "scalings", "charge_scalings")},
        Ei={"Au": 1.0, "H": 2.0, "O": 3.0},
        Jii={"Au": 0.1, "H": 0.2, "O": 0.3},
    )
    again.fit(slabs[:4], Gaussian(4.0), only_setup=True)
    found = again.parameters
    assert found.Ei == {"Au": 1.0, "H": 2.0, "O": 3.0}
    assert found.Jii == pytest.approx({"Au": 0.1, "H": 0.2, "O": 0.3})
    np.testing.assert_array_equal(found.charge_weights["H"][1], known.charge_weights["H"][1])
    assert load_model(again.tostring()).vector.tolist() == again.vector.tolist()


def test_quadratic_response(slabs):
    model = made(response="quadratic")
    model.fit(slabs[:4], Gaussian(4.0), only_setup=True)
    assert all(p.capacitance > 0 for p in model.predict(slabs[:4]))
    assert load_model(model.tostring()).vector.tolist() == model.vector.tolist()
    with pytest.raises(ConfigError, match="quadratic"):
        made(response="quadratic", Ei={"Au": 1.0})


def test_unusable_arguments():
    with pytest.raises(ConfigError, match="order"):
        ChargeNeuralNetwork(order=2.0)
    with pytest.raises(ConfigError, match="response"):
        ChargeNeuralNetwork(response="cubic")
