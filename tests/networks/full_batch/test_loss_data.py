from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.networks.full_batch import LossFunction, loss_data
from surefield.networks.full_batch.loss_data import loss_batches
from surefield.networks.full_batch.training_images import Terms, training_images

FORCES = {"convergence": {"force_rmse": 1e-9}}
TERMS = Terms(energy=True, force=True, charge=False, stress=False)


def _labelled(atoms, rng):
    atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if all(atoms.pbc):
        results["stress"] = atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.fixture(scope="module")
def mixed():
    """Copper crystals of 1, 2 and 32 atoms, cells smaller and larger than the cutoff, and a cluster."""
    rng = np.random.default_rng(4)
    crystals = [bulk("Cu"), bulk("Cu") * (2, 1, 1), bulk("Cu", cubic=True) * 2]
    cluster = bulk("Cu", cubic=True)
    cluster.pbc = False
    cluster.cell = None
    return [_labelled(atoms, rng) for atoms in (*crystals, cluster)]


@pytest.fixture(scope="module")
def network(make_network, mixed):
    return make_network(mixed)


def _loss(network, images, handle, **options):
    model = handle(network, LossFunction(**(FORCES | options)), images)
    return model.lossfunction.get_loss(model.vector, True), model


def _same(found, expected):
    for key in ("loss", "energy_loss", "force_loss", "stress_loss", "force_maxresid"):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-12)
    slopes = expected["dloss_dparameters"]
    scale = np.abs(slopes).max()
    np.testing.assert_allclose(found["dloss_dparameters"], slopes, rtol=0, atol=1e-12 * scale)
    assert found["force_worst"] == expected["force_worst"]


def test_layouts(network, mixed):
    batches = loss_batches(training_images(mixed, network, TERMS), network, TERMS)
    layouts = {
        "folded" if b.data.primes is not None else "edges" if b.data.jacobian is not None else "remade"
        for b in batches
    }
    assert layouts == {"folded", "edges"}


def test_folded_edges_and_remade_derivatives_agree(network, mixed, handle, monkeypatch):
    expected, _ = _loss(network, mixed, handle)
    monkeypatch.setattr(loss_data, "STORED_BYTES", 0)
    batches = loss_batches(training_images(mixed, network, TERMS), network, TERMS)
    assert all(b.data.features is None for b in batches)
    _same(_loss(network, mixed, handle)[0], expected)


def test_small_batches_and_common_shapes(network, mixed, handle, monkeypatch):
    expected, _ = _loss(network, mixed, handle)
    monkeypatch.setattr(loss_data, "_BATCH_NUMBERS", 1)
    monkeypatch.setattr(loss_data, "_ATOMS_REMADE", 1)
    _same(_loss(network, mixed, handle)[0], expected)
    monkeypatch.setattr(loss_data, "_SHAPES", 1)
    _same(_loss(network, mixed, handle)[0], expected)


def test_without_forces_no_derivative_is_computed(network, mixed, handle, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("derivatives of a descriptor")

    monkeypatch.setattr(type(network.descriptor), "jacobian", fail)
    monkeypatch.setattr(loss_data, "dense_derivatives", fail)
    found, model = _loss(network, mixed, handle, convergence=None)
    assert not model.lossfunction.forcetraining
    assert found["force_loss"] == 0
    batches = loss_batches(training_images(mixed, network, TERMS), network, TERMS._replace(force=False))
    assert all(b.data.primes is None and b.data.jacobian is None for b in batches)


def test_stress(network, mixed, handle, monkeypatch):
    options = {"stress_coefficient": 30.0}
    expected, model = _loss(network, mixed, handle, **options)
    predicted = [p.stress for p in model.potential.predict(mixed)]
    labels = [a.calc.results.get("stress") for a in mixed]
    squares = [np.mean((p - r) ** 2) for p, r in zip(predicted, labels, strict=True) if r is not None]
    np.testing.assert_allclose(expected["stress_loss"], np.sum(squares), rtol=1e-10)
    np.testing.assert_allclose(expected["stress_rmse"], np.sqrt(np.mean(squares)), rtol=1e-10)
    total = expected["energy_loss"] + 0.04 * expected["force_loss"] + 30 * expected["stress_loss"]
    np.testing.assert_allclose(expected["loss"], total, rtol=1e-12)
    monkeypatch.setattr(loss_data, "STORED_BYTES", 0)
    _same(_loss(network, mixed, handle, **options)[0], expected)


def test_rows_belong_to_images(network, mixed):
    batches = loss_batches(training_images(mixed, network, TERMS), network, TERMS)
    for batch in batches:
        for image, start in zip(batch.images, batch.starts, strict=True):
            n = len(mixed[image])
            assert batch.image_of_row(start) == (image, 0)
            assert batch.image_of_row(start + n - 1) == (image, n - 1)
            np.testing.assert_allclose(batch.data.graph.positions[start : start + n], mixed[image].positions)
    assert sorted(i for b in batches for i in b.images) == [0, 1, 2, 3]


def test_single_precision(make_network, mixed, handle):
    single, double = (make_network(mixed, dtype=dtype) for dtype in ("float32", "float64"))
    single = single.with_vector(double.vector)
    found, _ = _loss(single, mixed, handle)
    expected, _ = _loss(double, mixed, handle)
    assert found["dloss_dparameters"].dtype == np.float64
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-4)


def test_unlike_molecules(make_network, handle):
    rng = np.random.default_rng(1)
    images = [_labelled(molecule(name), rng) for name in ("CH4", "H2O", "C2H6", "CH3OH", "C6H6")]
    network = make_network(images)
    found, model = _loss(network, images, handle)
    energy = force = 0.0
    for atoms, prediction in zip(images, model.potential.predict(images), strict=True):
        energy += ((prediction.energy - atoms.get_potential_energy()) / len(atoms)) ** 2
        force += np.mean((prediction.forces - atoms.get_forces()) ** 2)
    np.testing.assert_allclose([found["energy_loss"], found["force_loss"]], [energy, force], rtol=1e-11)
