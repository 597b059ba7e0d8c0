from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.symmetry_functions import SymmetryFunctions
from surefield.errors import DataError
from surefield.networks.full_batch import LossFunction, Regressor
from surefield.potentials.electrode.charge_network import ChargeNetwork
from surefield.potentials.potential import TrainingData
from surefield.structures.read import read_frames

FORCES = {"force_rmse": 1e-9, "energy_rmse": 1e-9, "charge_rmse": 1e-9}


@pytest.fixture
def images(shared):
    """Three slabs with potential, electrons, energies and forces."""
    return list(read_frames(shared / "reference/networks/charge/images.extxyz"))[:3]


@pytest.fixture(scope="module")
def network(shared):
    frames = read_frames(shared / "reference/networks/charge/images.extxyz")
    functions = [{"type": "G2", "element": symbol, "eta": 2.0} for symbol in ("H", "Pt")]
    descriptor = SymmetryFunctions.from_lists(["H", "Pt"], Cosine(4.0), {"H": functions, "Pt": functions})
    network = ChargeNetwork(descriptor, [(2,)] * 2, [(2,)] * 2, etas=[1.0], slab_metal="Pt", seed=2)
    structures = [network.neighborhood(atoms) for atoms in frames]
    energies = [atoms.get_potential_energy() for atoms in frames]
    return network.prepared(TrainingData(structures, energies, {1: 0.3, 78: 0.6}))


def _model(network, images, handle, observer=None, **options):
    model = handle(network, LossFunction(**({"convergence": FORCES} | options)), images)
    model.observer = observer
    return model


def test_terms_against_predictions(network, images, handle):
    model = _model(network, images, handle)
    found = model.lossfunction.get_loss(model.vector, True)
    predictions = network.predict(images)
    pairs = list(zip(images, predictions, strict=True))
    energy = sum(((p.energy - a.get_potential_energy()) / len(a)) ** 2 for a, p in pairs)
    charge = sum(((p.excess_electrons - a.info["excess_electrons"]) / len(a)) ** 2 for a, p in pairs)
    force = sum(np.mean((p.forces - a.get_forces()) ** 2) for a, p in pairs)
    terms = [found[f"{kind}_loss"] for kind in ("energy", "force", "charge")]
    np.testing.assert_allclose(terms, [energy, force, charge], rtol=1e-10)
    np.testing.assert_allclose(found["loss"], energy + 0.04 * force + 10 * charge, rtol=1e-12)
    np.testing.assert_allclose(found["charge_rmse"], np.sqrt(charge / 3), rtol=1e-10)


def test_gradient_in_every_block(network, images, handle):
    rng = np.random.default_rng(3)
    vector = np.asarray(network.vector) + rng.normal(0, 0.05, len(network.vector))
    exact, numerical = (
        _model(network, images, handle, d=d).lossfunction.get_loss(vector, True)["dloss_dparameters"]
        for d in (None, 1e-5)
    )
    np.testing.assert_allclose(numerical, exact, rtol=1e-6, atol=1e-7 * np.abs(exact).max())


@pytest.mark.parametrize("name", ["charge_rmse", "charge_maxresid"])
def test_stops_at_the_first_evaluation_where_a_criterion_holds(name, network, images, handle):
    seen = []

    def observer(model, vector, loss):
        seen.append(vector)

    model = _model(network, images, handle, observer, maxiter=20)
    Regressor().regress(model)
    values = [model.lossfunction._evaluation("training").loss(v, False)[name] for v in seen]
    tolerance = min(values[:12])
    first = next(i for i, value in enumerate(values) if value <= tolerance)
    criteria = {"energy_rmse": None, "charge_rmse": None, "force_rmse": 1e3, name: tolerance}
    model = _model(network, images, handle, convergence=criteria)
    assert Regressor().regress(model)
    assert model.lossfunction.step == first + 1
    model = _model(network, images, handle, convergence=criteria | {name: 1e-12}, maxiter=20)
    assert not Regressor().regress(model)
    assert model.lossfunction.status == "maxiter"


@pytest.mark.parametrize(
    "options", [{"charge_coefficient": None}, {"convergence": FORCES | {"charge_rmse": None}}]
)
def test_charges_can_be_off(network, images, handle, options):
    for atoms in images:
        del atoms.info["excess_electrons"]
    found = _model(network, images, handle, **options).lossfunction.get_loss(network.vector, False)
    assert found["charge_loss"] == 0
    assert found["charge_rmse"] is None
    with pytest.raises(DataError, match="no number of excess electrons in image 0"):
        _model(network, images, handle).lossfunction.get_loss(network.vector, False)


def test_sign_of_every_source(network, images, handle):
    expected = _model(network, images, handle).lossfunction.get_loss(network.vector, False)["charge_loss"]
    others = []
    for number, atoms in enumerate(images):
        other = atoms.copy()
        electrons = other.info.pop("excess_electrons")
        other.calc = SinglePointCalculator(other, **atoms.calc.results)
        if number == 0:
            other.info["charge"] = -electrons
        elif number == 1:
            other.calc.results["ne"] = electrons
        else:
            other.calc.parameters["sj"] = {"excess_electrons": electrons}
        others.append(other)
    found = _model(network, others, handle).lossfunction.get_loss(network.vector, False)["charge_loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_energy_that_is_not_grand_canonical(network, images, handle):
    lines = []
    model = _model(network, images, handle)
    model.log = lines.append
    expected = model.lossfunction.get_loss(network.vector, False)["energy_loss"]
    assert any("3 images do not say" in line for line in lines)
    others = []
    for atoms in images:
        other = atoms.copy()
        work = other.info["electrode_potential"] * other.info["excess_electrons"]
        results = atoms.calc.results | {"energy": atoms.get_potential_energy() - work}
        other.calc = SinglePointCalculator(other, **results)
        other.info["grand_canonical"] = False
        others.append(other)
    found = _model(network, others, handle).lossfunction.get_loss(network.vector, False)["energy_loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_one_geometry_at_two_potentials_is_two_images(network, images, handle):
    other = images[0].copy()
    other.info["electrode_potential"] += 0.3
    other.calc = SinglePointCalculator(other, **images[0].calc.results)
    model = _model(network, [images[0], other], handle)
    assert len(model.lossfunction._evaluation("training").images) == 2


def test_force_only_images_have_no_charge_term(network, images, handle):
    found = _model(network, images, handle, nft_ids=[(1, 3)]).lossfunction
    weights = [image.weights["excess_electrons"] for image in found._evaluation("training").images]
    assert weights == [1, 0, 1]
