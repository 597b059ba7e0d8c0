from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from surefield.errors import ConfigError, DataError
from surefield.execution.executor import SerialExecutor
from surefield.networks.fingerprints import Gaussian
from surefield.networks.full_batch import ConvergenceOccurred, LossFunction, TrainingStopped
from surefield.potentials.image_network import ImageNetwork
from surefield.potentials.potential import TrainingData
from surefield.structures.images import hash_images

FORCES = {"force_rmse": 1e-12}


@pytest.fixture(scope="module")
def network(make_network, copper):
    return make_network(copper)


@pytest.fixture
def model(network, copper, handle):
    """Model with a loss of energies and forces."""
    return handle(network, LossFunction(convergence=FORCES), copper)


def _close(found, expected, rtol=1e-12):
    for key in ("loss", "energy_loss", "force_loss", "energy_maxresid", "force_maxresid"):
        np.testing.assert_allclose(found[key], expected[key], rtol=rtol)
    slopes = expected["dloss_dparameters"]
    scale = np.abs(slopes).max()
    np.testing.assert_allclose(found["dloss_dparameters"], slopes, rtol=0, atol=rtol * scale)


def test_documented_defaults():
    loss = LossFunction()
    assert LossFunction.default_parameters["convergence"]["energy_rmse"] == 0.001
    assert set(loss.parameters["convergence"].values()) == {None, 0.001, 0.0005}
    assert (loss.maxiter, loss.overfit, loss.weight_duplicates) == (100000, 0.0, False)
    assert loss.coefficients == (1.0, None, 10.0, None)
    assert not loss.forcetraining


@pytest.mark.parametrize("name", ["force_rmse", "force_maxresid"])
def test_a_force_criterion_switches_forces_on(name):
    assert LossFunction(convergence={name: 0.1}).coefficients.force == 0.04


def test_a_coefficient_of_none_takes_the_criteria_with_it():
    loss = LossFunction(energy_coefficient=None, force_coefficient=None, convergence={"force_rmse": 0.1})
    assert loss.criteria.active == {"charge_rmse": 0.0005}
    assert not loss.forcetraining
    assert LossFunction(convergence={"charge_rmse": None}).coefficients.charge is None


def test_a_coefficient_of_zero_is_still_reported(network, copper, handle):
    model = handle(network, LossFunction(energy_coefficient=0.0, convergence=FORCES), copper)
    found = model.lossfunction.get_loss(model.vector, False)
    assert found["energy_loss"] > 0
    np.testing.assert_allclose(found["loss"], 0.04 * found["force_loss"], rtol=1e-14)


def test_without_gradient(model):
    found = model.lossfunction.get_loss(model.vector, False)
    assert found["dloss_dparameters"] == 0
    expected = model.lossfunction.get_loss(model.vector, True)["loss"]
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-14)


@pytest.mark.parametrize("overfit", [0.0, 1e-3])
def test_shards_do_not_change_the_result(network, copper, handle, overfit):
    expected = None
    for parallel in (1, 2, {"cores": 3}, 50):
        loss = LossFunction(convergence=FORCES, overfit=overfit, parallel=parallel)
        model = handle(network, loss, copper)
        found = loss.get_loss(model.vector, True)
        expected = found if expected is None else expected
        _close(found, expected)
        assert found["force_worst"] == expected["force_worst"]
    model.parallel = 2
    model.lossfunction = LossFunction(convergence=FORCES, overfit=overfit)
    model.lossfunction.attach_model(model, images=copper)
    _close(model.lossfunction.get_loss(model.vector, True), expected)


def test_penalty_is_that_of_the_first_layer_without_biases(network, copper, handle):
    plain, with_penalty = (
        handle(network, LossFunction(overfit=x), copper).lossfunction.get_loss(network.vector, True)
        for x in (0.0, 0.1)
    )
    squares = sum(float((w**2).sum()) for w in network.first_layers())
    np.testing.assert_allclose(with_penalty["loss"] - plain["loss"], 0.1 * squares, rtol=1e-10)
    n = network.first_layers()[0].size
    difference = with_penalty["dloss_dparameters"] - plain["dloss_dparameters"]
    np.testing.assert_allclose(difference[:n], 0.2 * np.asarray(network.vector)[:n], rtol=1e-9)
    assert not difference[n:].any()


@pytest.mark.parametrize("server", [SerialExecutor(), ThreadPoolExecutor(2)], ids=["serial", "threads"])
def test_process_parallels(model, server):
    expected = model.lossfunction.get_loss(model.vector, True)
    with server:
        for n_pids in (1, 3):
            _close(model.lossfunction.process_parallels(model.vector, server, n_pids), expected)
    assert model.lossfunction.step == 1


@pytest.mark.slow
def test_worker_processes(model):
    expected = model.lossfunction.get_loss(model.vector, True)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as server:
        _close(model.lossfunction.process_parallels(model.vector, server, 2), expected)


def test_numerical_gradient(network, copper, handle):
    exact, numerical = (
        handle(network, LossFunction(convergence=FORCES, d=d), copper[:3]).lossfunction.get_loss(
            network.vector, True
        )["dloss_dparameters"]
        for d in (None, 1e-5)
    )
    np.testing.assert_allclose(numerical, exact, rtol=1e-6, atol=1e-7)


def test_plain_path(network, copper, handle):
    model = handle(network, LossFunction(convergence=FORCES, overfit=1e-3), copper[:2])
    expected = model.lossfunction.get_loss(model.vector, True)
    _close(model.lossfunction.calculate_loss(model.vector, True), expected)
    assert model.lossfunction.step == 1
    model.fortran = False
    _close(model.lossfunction.get_loss(model.vector, True), expected)


def test_given_fingerprints(network, copper, handle, model):
    descriptor = Gaussian(cutoff=4.0, Gs=_functions(network))
    images = hash_images(copper)
    descriptor.calculate_fingerprints(images, calculate_derivatives=True)
    loss = LossFunction(convergence=FORCES)
    loss.attach_model(model, images, descriptor.fingerprints, descriptor.fingerprintprimes)
    expected = model.lossfunction.get_loss(model.vector, True)
    _close(loss.get_loss(model.vector, True), expected, rtol=1e-11)
    given = {key: [(s, np.array(g) * 1.1) for s, g in rows] for key, rows in descriptor.fingerprints.items()}
    loss.attach_model(model, images, given, descriptor.fingerprintprimes)
    assert abs(loss.get_loss(model.vector, False)["loss"] / expected["loss"] - 1) > 1e-6


def _functions(network):
    return {
        symbol: [f.todict() for f in functions]
        for symbol, functions in zip(network.descriptor.symbols, network.descriptor.functions, strict=True)
    }


def test_given_fingerprints_that_do_not_fit(network, copper, handle, model):
    loss = LossFunction(convergence=FORCES)
    images = hash_images(copper[:1])
    (key,) = images
    features = {key: [("Cu", [0.1, 0.2, 0.3])] * 2}
    with pytest.raises(ConfigError, match="need fingerprints"):
        loss.attach_model(model, images, None, {})
    with pytest.raises(ConfigError, match="charge_fp_appends"):
        loss.attach_model(model, images, charge_fp_appends={key: []})
    loss.attach_model(model, images, features)
    with pytest.raises(ConfigError, match="fingerprintprimes"):
        loss.get_loss(model.vector, False)
    loss.attach_model(model, images, {}, {})
    with pytest.raises(DataError, match="no fingerprints were given for image 0"):
        loss.get_loss(model.vector, False)
    loss.attach_model(model, images, {key: features[key][:1]}, {key: {}})
    with pytest.raises(DataError, match="1 atoms"):
        loss.get_loss(model.vector, False)


def test_given_coordinates_of_an_image_centred_model(copper, handle):
    images = hash_images([atoms for atoms in copper if np.allclose(atoms.cell, copper[0].cell)])
    network = ImageNetwork(copper[0], (3,))
    model = handle(network, LossFunction(), images)
    expected = model.lossfunction.get_loss(model.vector, False)["loss"]
    given = {key: atoms.positions.ravel().tolist() for key, atoms in images.items()}
    loss = LossFunction()
    loss.attach_model(model, images, given)
    assert loss.get_loss(model.vector, False)["loss"] == expected


def test_nothing_attached(network, handle):
    loss = LossFunction()
    with pytest.raises(ConfigError, match="attach_model"):
        loss.get_loss([1.0], False)
    model = handle(network, loss)
    loss.attach_model(model)
    with pytest.raises(ConfigError, match="attach_model"):
        loss.get_loss(model.vector, False)


def test_wrong_length(model):
    with pytest.raises(ConfigError, match=r"got \(3,\)"):
        model.lossfunction.get_loss([1.0, 2.0, 3.0], True)


def test_changed_ranges_are_seen(network, copper, handle, model):
    first = model.lossfunction.get_loss(model.vector, False)["loss"]
    model.potential = network.with_vector(2 * network.vector).with_vector(network.vector)
    assert model.lossfunction.get_loss(model.vector, False)["loss"] == first
    structures = [network.neighborhood(atoms) for atoms in copper[:2]]
    other = network.prepared(TrainingData(structures, [None, None], {})).with_vector(network.vector)
    model.potential = other
    changed = model.lossfunction.get_loss(model.vector, False)["loss"]
    fresh = handle(other, LossFunction(convergence=FORCES), copper)
    assert changed == fresh.lossfunction.get_loss(model.vector, False)["loss"] != first


def test_a_second_set_shares_nothing(network, copper, handle, model):
    expected = model.lossfunction.get_loss(model.vector, False)["loss"]
    other = handle(network, LossFunction(convergence=FORCES), copper[:3])
    other.lossfunction.get_loss(model.vector, False)
    assert model.lossfunction.get_loss(model.vector, False)["loss"] == expected
    assert other.lossfunction.step == 1


def test_convergence_raises_or_returns(network, copper, handle):
    easy = {"energy_rmse": 1e3}
    model = handle(network, LossFunction(convergence=easy), copper)
    with pytest.raises(ConvergenceOccurred):
        model.lossfunction.get_loss(model.vector, False)
    assert model.lossfunction.status == "converged"
    assert model.lossfunction.step == 1
    model = handle(network, LossFunction(convergence=easy, raise_ConvergenceOccurred=False), copper)
    assert model.lossfunction.get_loss(model.vector, False)["energy_rmse"] < 1e3


def test_check_convergence_speaks_of_the_numbers_it_is_given(model):
    loss = model.lossfunction
    n = 8
    fine = {"energy_loss": n * 0.0009**2, "force_loss": n * 0.9e-12**2, "charge_loss": 0.0}
    largest = dict.fromkeys(("energy_maxresid", "force_maxresid", "charge_maxresid"), 1.0)
    assert loss.check_convergence(1.0, **fine, **largest)
    assert not loss.check_convergence(1.0, **(fine | {"energy_loss": n * 0.0011**2}), **largest)
    assert not loss.check_convergence(np.nan, **fine, **largest)


def test_no_criteria_never_converge(network, copper, handle):
    lines = []
    loss = LossFunction(convergence={"energy_rmse": None})
    model = handle(network, loss, copper, log=lines.append)
    loss.get_loss(model.vector, False)
    assert loss.status is None
    assert any("no convergence criteria" in line for line in lines)


def test_log(network, copper, handle):
    lines = []
    model = handle(network, LossFunction(convergence={"energy_rmse": 1e-9}), copper, log=lines.append)
    for _ in range(2):
        model.lossfunction.get_loss(model.vector, False)
    assert any("forces in the data are not used" in line and "force_rmse" in line for line in lines)
    steps = [line.split()[0] for line in lines if re.match(r" +\d+ ", line)]
    assert steps == ["0", "1"]
    assert lines[-1].endswith("-")
    assert "ChargeRMSE" not in "".join(lines)
    quiet = []
    loss = LossFunction(convergence=FORCES, log_losses=False)
    loss.attach_model(model, images=copper, log=quiet.append)
    loss.get_loss(model.vector, False)
    assert quiet == []


def test_stops_after_exactly_maxiter(network, copper, handle):
    model = handle(network, LossFunction(convergence=FORCES, maxiter=3), copper)
    for _ in range(2):
        model.lossfunction.get_loss(model.vector, True)
    with pytest.raises(TrainingStopped, match="3 evaluations"):
        model.lossfunction.get_loss(model.vector, True)
    assert (model.lossfunction.status, model.lossfunction.step) == ("maxiter", 3)


def test_patience(network, copper, handle):
    model = handle(network, LossFunction(patience=2), copper)
    model.lossfunction.get_loss(model.vector, False)
    model.lossfunction.get_loss(model.vector + 0.1, False)
    with pytest.raises(TrainingStopped, match="plateau"):
        model.lossfunction.get_loss(model.vector + 0.1, False)
    assert model.lossfunction.status == "stopped"
    np.testing.assert_array_equal(model.lossfunction.progress.best_vector, model.vector)


def test_validation_chooses_the_best(network, copper, handle):
    loss = LossFunction(convergence=FORCES, validation=copper[4:], patience=1)
    model = handle(network, loss, copper[:4])
    other = model.vector + 0.05
    expected = {}
    for name, vector in (("start", model.vector), ("other", other)):
        held_out = handle(network, LossFunction(convergence=FORCES), copper[4:]).lossfunction
        expected[name] = held_out.get_loss(vector, False)["loss"]
    found = loss.get_loss(model.vector, False)
    np.testing.assert_allclose(found["validation_loss"], expected["start"], rtol=1e-12)
    better = expected["other"] < expected["start"]
    if better:
        loss.get_loss(other, False)
    else:
        with pytest.raises(TrainingStopped, match="validation"):
            loss.get_loss(other, False)
    np.testing.assert_array_equal(loss.progress.best_vector, other if better else model.vector)


def test_a_loss_that_is_not_finite_is_never_the_best(model):
    loss = model.lossfunction
    loss.get_loss(model.vector, True)
    found = loss.get_loss(np.full(len(model.vector), np.nan), True)
    assert not np.isfinite(found["loss"])
    np.testing.assert_array_equal(loss.progress.best_vector, model.vector)
    assert loss.step == 2


def test_observer(model):
    seen = []
    model.observer = lambda *arguments: seen.append(arguments)
    found = model.lossfunction.get_loss(model.vector, True)
    assert len(seen) == 1
    assert seen[0][0] is model
    np.testing.assert_array_equal(seen[0][1], model.vector)
    assert seen[0][2] == found["loss"]


def test_reset_keeps_the_data(model):
    loss = model.lossfunction
    loss.get_loss(model.vector, False)
    data = loss._evaluation("training")
    loss.reset()
    assert (loss.step, loss.progress.best_vector, loss.status) == (0, None, None)
    assert loss._evaluation("training") is data


def test_report_names_image_and_atom(model, copper):
    text = model.lossfunction.report(model.vector)
    errors = [
        np.abs(p.forces - atoms.get_forces())
        for atoms, p in zip(copper, model.potential.predict(copper), strict=True)
    ]
    image = int(np.argmax([e.max() for e in errors]))
    atom = int(np.argmax(errors[image].max(axis=1)))
    assert f"(image {image}, atom {atom})" in text.splitlines()[1]
    assert text.startswith("energy: RMSE")


def test_fingerprint_depends_on_data_and_settings_only(network, copper, handle):
    def of(images=copper, potential=network, **options):
        model = handle(potential, LossFunction(**({"convergence": FORCES} | options)), images)
        return model.lossfunction.fingerprint()

    base = of()
    moved = network.with_vector(2 * network.vector)
    assert of(potential=moved, maxiter=5, convergence={"force_rmse": 0.3}, log_losses=False) == base
    assert _changed(base, of(images=copper[:5])) == {"training set"}
    assert _changed(base, of(overfit=0.1)) == {"loss function"}
    assert _changed(base, of(validation=copper[:2])) == {"validation set"}
    structures = [network.neighborhood(atoms) for atoms in copper[:2]]
    assert _changed(base, of(potential=network.prepared(TrainingData(structures, [None] * 2, {})))) == {
        "fixed part of the networks"
    }


def _changed(first, second):
    return {name for name in first if first[name] != second[name]}
