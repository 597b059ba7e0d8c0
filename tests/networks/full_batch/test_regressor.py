from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from ase.io import read
from scipy.optimize import fmin_bfgs, minimize

from surefield.errors import ConfigError
from surefield.networks.fingerprints import Gaussian
from surefield.networks.full_batch import Checkpoints, LossFunction, Regressor
from surefield.networks.raveler import Raveler
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.potentials.network_parameters import get_initial_scalings, get_random_weights
from surefield.potentials.potential import TrainingData
from surefield.potentials.saving import load_potential, save_potential
from surefield.storage.dataset import package_version
from surefield.structures.read import write_frames

RESTARTABLE = {"BFGS": {}, "L-BFGS-B": {"ftol": 0.0}, "adam": {"learning_rate": 0.02}}
FORCES = {"energy_rmse": 1e-9, "force_rmse": 1e-9}
EVALUATIONS = 40


class Killed(BaseException):
    """Stands for a kill: nothing may handle it."""


@pytest.fixture(scope="module")
def network(make_network, copper):
    return make_network(copper)


@pytest.fixture
def train(network, copper, handle):
    """Train, with an observer; gives the model and whether it converged."""

    def run(optimizer="BFGS", settings=None, files=None, observer=None, log=None, lossprime=True, **options):
        loss = LossFunction(**({"convergence": FORCES, "maxiter": EVALUATIONS} | options))
        model = handle(network, loss, copper, files, log)
        model.observer = observer
        return model, Regressor(optimizer, settings, lossprime).regress(model)

    return run


def _path(train, **options):
    """Vectors and losses of all evaluations."""
    seen = []
    model, _ = train(observer=lambda _, vector, loss: seen.append((vector, loss)), **options)
    return model, seen


@pytest.mark.parametrize("name", ["energy_rmse", "energy_maxresid", "force_rmse", "force_maxresid"])
def test_stops_at_the_first_evaluation_where_a_criterion_holds(name, train):
    model, seen = _path(train)
    loss = model.lossfunction
    values = [loss._evaluation("training").loss(vector, False)[name] for vector, _ in seen]
    tolerance = min(values[:25])
    first = next(i for i, value in enumerate(values) if value <= tolerance)
    criteria = {"energy_rmse": None, "force_rmse": None, name: tolerance}
    if not name.startswith("force"):
        criteria["force_rmse"] = 1e3
    model, again = _path(train, convergence=criteria)
    assert (model.lossfunction.status, len(again)) == ("converged", first + 1)
    np.testing.assert_array_equal(model.vector, again[-1][0])


def test_a_run_that_cannot_converge_keeps_the_best(train):
    lines = []
    model, seen = _path(train, log=lines.append)
    best = min(seen, key=lambda entry: entry[1])
    assert (model.lossfunction.status, len(seen)) == ("maxiter", EVALUATIONS)
    np.testing.assert_array_equal(model.vector, best[0])
    text = "\n".join(lines)
    assert f"maxiter after {EVALUATIONS} evaluations" in text
    assert "kept: the parameters of step" in text
    assert "force: RMSE" in text


def test_converged_run_says_so(train):
    model, converged = train(convergence={"energy_rmse": 0.05, "force_rmse": 0.5}, maxiter=1000)
    assert converged
    assert model.lossfunction.status == "converged"


def test_goes_on_behind_convergence_if_asked(train):
    options = {"convergence": {"energy_rmse": 0.05, "force_rmse": 0.5}, "raise_ConvergenceOccurred": False}
    model, converged = train(maxiter=200, **options)
    assert model.lossfunction.status == "maxiter"
    assert not converged
    model, converged = train("L-BFGS-B", {"ftol": 1e-2}, maxiter=10000, **options)
    assert (
        converged == (model.lossfunction.status == "converged") == model.lossfunction.progress.best_converged
    )


def test_the_optimizers_own_end(train):
    model, converged = train("L-BFGS-B", {"ftol": 0.5}, maxiter=1000)
    assert not converged
    assert model.lossfunction.status == "stopped"
    assert "ftol" in model.lossfunction.reason


@pytest.mark.parametrize(
    ("optimizer", "settings", "lossprime"),
    [
        ("TNC", {}, True),
        ("NCG", {}, True),
        ("Newton-CG", {}, True),
        ("Nelder-Mead", {}, False),
        (minimize, {"method": "CG"}, True),
        (minimize, {"method": "Powell"}, False),
        (fmin_bfgs, {"disp": False}, True),
    ],
)
def test_other_optimizers(train, optimizer, settings, lossprime):
    model, seen = _path(train, optimizer=optimizer, settings=settings, lossprime=lossprime)
    assert len(seen) == EVALUATIONS
    assert model.lossfunction.status == "maxiter"
    assert min(loss for _, loss in seen) < 0.999 * seen[0][1]


@pytest.mark.parametrize("name", RESTARTABLE)
@pytest.mark.parametrize("every", [4, -4], ids=["keep_last", "keep_all"])
def test_killed_ten_times(train, tmp_path, name, every):
    expected, whole = _path(train, optimizer=name, settings=RESTARTABLE[name])
    rng = random.Random(5)
    moments = sorted(rng.sample(range(1, EVALUATIONS), 10))
    starts = []

    def run(kill_at):
        steps = []

        def observer(model, vector, loss):
            steps.append(model.lossfunction.step)
            starts.extend(steps if len(steps) == 1 else ())
            np.testing.assert_array_equal(vector, whole[model.lossfunction.step - 1][0])
            if model.lossfunction.step == kill_at:
                raise Killed

        files = Checkpoints(tmp_path / "amp", every)
        return train(name, RESTARTABLE[name], files, observer)[0]

    for moment in moments:
        with pytest.raises(Killed):
            run(moment)
    model = run(None)
    assert model.lossfunction.step == EVALUATIONS
    np.testing.assert_array_equal(model.vector, expected.vector)
    # The step counter goes on: no run began at the start once there was a checkpoint.
    assert all((start > 1) == (moment > 4) for start, moment in zip(starts[1:], moments, strict=True))


def test_start_vector_of_the_first_run_counts(train, tmp_path):
    """Weights may be drawn anew at every start; the checkpoint has those of the first."""
    files = Checkpoints(tmp_path / "amp", 1)

    def kill(model, vector, loss):
        if model.lossfunction.step == 2:
            raise Killed

    with pytest.raises(Killed):
        train(files=files, observer=kill)
    expected, _ = train()
    lines = []
    seen = []
    loss = LossFunction(convergence=FORCES, maxiter=EVALUATIONS)
    other = expected.potential.with_vector(np.ones(len(expected.vector)))
    model = type(expected)(other, loss, _attached(expected), files, lines.append)
    model.observer = lambda _, vector, value: seen.append(vector)
    Regressor().regress(model)
    np.testing.assert_array_equal(model.vector, expected.vector)
    assert any("resumed from the checkpoint of step" in line for line in lines)


def _attached(model):
    return model.lossfunction._images


def test_a_longer_run_goes_on_where_the_shorter_ended(train, tmp_path):
    expected, _ = train(maxiter=30)
    files = Checkpoints(tmp_path / "amp", 100)
    model, _ = train(files=files, maxiter=17)
    assert model.lossfunction.step == 17
    seen = []
    model, _ = train(files=files, maxiter=30, observer=lambda m, v, loss: seen.append(m.lossfunction.step))
    assert min(seen) > 10
    np.testing.assert_array_equal(model.vector, expected.vector)
    again = []
    model, converged = train(files=files, maxiter=20, observer=lambda *a: again.append(a))
    assert (model.lossfunction.status, again, converged) == ("maxiter", [], False)


@pytest.mark.parametrize("optimizer", ["TNC", minimize])
def test_what_cannot_go_on_in_the_middle_starts_at_the_best(train, tmp_path, optimizer):
    files = Checkpoints(tmp_path / "amp", 3)

    def kill(model, vector, loss):
        if model.lossfunction.step == 8:
            raise Killed

    with pytest.raises(Killed):
        train(optimizer, files=files, observer=kill)
    lines, seen = [], []
    model, _ = train(
        optimizer, files=files, log=lines.append, observer=lambda m, v, loss: seen.append((v, loss))
    )
    assert any("cannot go on in the middle" in line for line in lines)
    assert len(seen) == EVALUATIONS - 6
    run = {"optimizer": Regressor(optimizer).fingerprint(), "version": package_version()}
    best = files.load(model.lossfunction.fingerprint() | run).progress
    assert best.best_loss <= seen[0][1]


def test_checkpoint_of_other_settings(train, tmp_path):
    files = Checkpoints(tmp_path / "amp", 5)
    train(files=files, maxiter=6)
    for options in ({"overfit": 0.1}, {"optimizer": "adam"}, {"settings": {"gtol": 1e-3}}):
        with pytest.raises(ConfigError, match="another training"):
            train(files=files, **options)
    assert train(files=files, convergence=FORCES | {"force_rmse": 1e-3})[0].lossfunction.step == EVALUATIONS


def test_initial_parameters_are_those_of_the_start(train, tmp_path, network):
    files = Checkpoints(tmp_path / "amp", 5)
    train(files=files, maxiter=6)
    path = tmp_path / "amp-initial-parameters"
    np.testing.assert_array_equal(load_potential(path).vector, network.vector)
    written = path.stat().st_mtime_ns
    train(files=files, maxiter=8)
    assert path.stat().st_mtime_ns == written


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need it")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_with_a_checkpoint(train, tmp_path, number):
    before = signal.getsignal(number)
    files = Checkpoints(tmp_path / "amp", 1000)

    def interrupt(model, vector, loss):
        if model.lossfunction.step == 7:
            signal.raise_signal(number)  # to this thread: others may take a signal of the process late

    model, converged = train(files=files, observer=interrupt)
    assert not converged
    assert model.lossfunction.status == "stopped"
    assert model.lossfunction.reason.startswith("interrupted")
    assert model.lossfunction.step in (7, 8)
    assert signal.getsignal(number) is before
    expected, _ = train()
    again, _ = train(files=files)
    assert again.lossfunction.step == EVALUATIONS
    np.testing.assert_array_equal(again.vector, expected.vector)


def test_keyboard_interrupt_of_others(train):
    def interrupt(model, vector, loss):
        if model.lossfunction.step == 5:
            raise KeyboardInterrupt

    model, converged = train(observer=interrupt)
    assert not converged
    assert model.lossfunction.reason == "interrupted: Ctrl-C"


@pytest.mark.parametrize("optimizer", ["BFGS", "adam", "TNC", "Nelder-Mead"])
def test_start_that_is_not_finite(network, copper, handle, optimizer):
    vector = np.full(len(network.vector), np.nan)
    model = handle(network.with_vector(vector), LossFunction(convergence=FORCES, maxiter=5), copper)
    assert not Regressor(optimizer, lossprime=optimizer != "Nelder-Mead").regress(model)
    assert model.lossfunction.status in ("stopped", "maxiter")
    np.testing.assert_array_equal(model.vector, vector)


def test_a_loss_that_becomes_infinite_keeps_the_good_parameters(train):
    model, seen = _path(train, optimizer="sgd", settings={"learning_rate": 1e4})
    assert model.lossfunction.status == "stopped"
    assert "non-finite" in model.lossfunction.reason
    best = min((entry for entry in seen if np.isfinite(entry[1])), key=lambda entry: entry[1])
    np.testing.assert_array_equal(model.vector, best[0])


def test_wrong_settings():
    with pytest.raises(ConfigError, match="did you mean 'BFGS'"):
        Regressor("BFSG")
    with pytest.raises(ConfigError, match="did you mean 'gtol'"):
        Regressor("BFGS", {"gtoll": 1e-3})
    with pytest.raises(ConfigError, match="needs gradients"):
        Regressor("adam", lossprime=False)
    with pytest.raises(ConfigError, match="callable"):
        Regressor(3)


def test_fingerprint_of_callables_is_the_same_in_other_processes():
    assert "0x" not in Regressor(minimize, {"callback": print}).fingerprint()
    assert Regressor("adam", {"learning_rate": 0.1}).fingerprint() != Regressor("adam").fingerprint()


def test_three_hundred_evaluations_of_bfgs(shared, handle):
    """100 images of Pt8Cu2, (10, 10), documented start values; the peer reaches 0.196."""
    images = read(shared / "reference/networks/speed/emt_ptcu_100.extxyz", ":")
    descriptor = Gaussian().for_elements(["Cu", "Pt"])
    network = AtomicNetwork(descriptor, [(10, 10)] * 2, "tanh", "activation")
    network = network.prepared(
        TrainingData([network.neighborhood(a) for a in images], [None] * len(images), {})
    )
    weights = get_random_weights((10, 10), "tanh", len_of_fps={"Cu": 20, "Pt": 20}, seed=3)
    scalings = get_initial_scalings(images, "tanh", elements=["Cu", "Pt"])
    network = network.with_vector(Raveler(weights, scalings).to_vector(weights, scalings))
    model = handle(network, LossFunction(convergence={"force_rmse": 0.02}, maxiter=300), images)
    losses = []
    model.observer = lambda model, vector, loss: losses.append(loss)
    assert not Regressor().regress(model)
    np.testing.assert_allclose(losses[0], 4.036, atol=5e-4)
    assert min(losses) == model.lossfunction.progress.best_loss <= 0.25


SCRIPT = """
import surefield
import sys
import jax.numpy as jnp, numpy as np
from surefield.execution.cache import enable_compilation_cache
from surefield.potentials.saving import load_potential
from surefield.structures.read import read_frames
from surefield.networks.full_batch import Checkpoints, LossFunction, Regressor

enable_compilation_cache()
folder, optimizer = sys.argv[1:]


class Model:
    def __init__(self):
        self.potential = load_potential(folder + "/start.npz")
        self.lossfunction = LossFunction(
            convergence={"energy_rmse": 1e-9, "force_rmse": 1e-9}, maxiter=4000, log_losses=False
        )
        self.lossfunction.attach_model(self, images=read_frames(folder + "/images.extxyz"))
        self.log = None
    vector = property(
        lambda self: np.asarray(self.potential.vector),
        lambda self, v: setattr(self, "potential", self.potential.with_vector(jnp.asarray(v))),
    )
    def get_loss(self, vector, lossprime):
        found = self.lossfunction.get_loss(vector, lossprime)
        return found["loss"], found["dloss_dparameters"]
    def checkpoint_files(self):
        return Checkpoints(folder + "/" + optimizer, 50)


model = Model()
Regressor(optimizer, {"ftol": 0.0} if optimizer == "L-BFGS-B" else None).regress(model)
np.save(folder + "/" + optimizer + ".npy", model.vector)
"""


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", RESTARTABLE)
def test_processes_killed_at_ten_random_moments(network, copper, tmp_path, optimizer):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        save_potential(folder / "start.npz", network)
        write_frames(folder / "images.extxyz", copper)
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", SCRIPT, str(whole), optimizer], check=True, timeout=600)
    took = time.monotonic() - began
    rng = random.Random(7)
    for _ in range(10):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(killed), optimizer])
        try:
            process.wait(rng.uniform(0.3, 1.0) * took)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    subprocess.run([sys.executable, "-c", SCRIPT, str(killed), optimizer], check=True, timeout=600)
    expected, found = (np.load(folder / f"{optimizer}.npy") for folder in (whole, killed))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
