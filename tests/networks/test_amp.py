from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read

from surefield.errors import ConfigError, DataError, ExecutionError, PotentialError
from surefield.networks.amp import Amp
from surefield.networks.charge_neural_network import ChargeNeuralNetwork
from surefield.networks.fingerprints import Gaussian, ImageCentred
from surefield.networks.full_batch import LossFunction, Regressor, TrainingConvergenceError
from surefield.networks.full_batch.arguments import shard_count
from surefield.networks.model_files import load_model
from surefield.networks.neural_network import NeuralNetwork
from surefield.structures.images import hash_images

EASY = {"energy_rmse": 0.05}
NEVER = {"energy_rmse": 1e-12}


def test_documented_script(copper, tmp_path):
    """Train, use as calculator, save, load: the same numbers."""
    label = str(tmp_path / "calc")
    calc = Amp(Gaussian(4.0), NeuralNetwork((4,), lossfunction=LossFunction(convergence=EASY)), label=label)
    assert calc.train(copper) == "converged"
    atoms = copper[0].copy()
    atoms.calc = calc
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    assert abs(energy - copper[0].get_potential_energy()) / len(atoms) < 0.2
    assert atoms.get_stress().shape == (6,)
    assert (tmp_path / "calc").exists()
    log = (tmp_path / "calc-log.txt").read_text()
    assert "parameters" in log
    atoms.calc = Amp.load(label)
    assert atoms.get_potential_energy() == energy
    np.testing.assert_array_equal(atoms.get_forces(), forces)
    with pytest.raises(ExecutionError, match="overwrite=True"):
        calc.train(copper)
    with pytest.raises(ExecutionError, match="exists"):
        calc.save(label)
    calc.save(label, overwrite=True)


def test_text_restores_the_model(copper, tmp_path):
    model = NeuralNetwork((4,), randomseed=1)
    model.fit(copper, Gaussian(4.0), only_setup=True)
    text = model.tostring()
    json.loads(text)
    again = load_model(text)
    np.testing.assert_array_equal(again.vector, model.vector)
    assert again.tostring() == text
    (tmp_path / "model.json").write_text(text)
    (tmp_path / "x.amp").write_text(text)
    for name in ("x", "x.amp", "model.json.amp"):
        np.testing.assert_array_equal(Amp.load(str(tmp_path / name)).model.vector, model.vector)
    np.testing.assert_array_equal(Amp.load(tmp_path / "model.json").model.vector, model.vector)
    with pytest.raises(PotentialError, match="cut short"):
        load_model(text[:-40])


def test_unconverged_training_keeps_the_best(copper, tmp_path):
    loss = LossFunction(convergence=NEVER, maxiter=12)
    calc = Amp(Gaussian(4.0), NeuralNetwork((3,), lossfunction=loss, randomseed=2), label=str(tmp_path / "x"))
    with pytest.raises(TrainingConvergenceError, match="maxiter"):
        calc.train(copper)
    assert not (tmp_path / "x").exists()
    kept = Amp.load(tmp_path / "x-untrained-parameters").model
    assert kept.status == "maxiter"
    best = loss.calculate_loss(kept.vector, lossprime=False)["loss"]
    assert best == pytest.approx(loss.progress.best_loss, rel=1e-12)
    quiet = Amp(
        Gaussian(4.0),
        NeuralNetwork((3,), lossfunction=LossFunction(convergence=NEVER, maxiter=3), randomseed=2),
        label=str(tmp_path / "y"),
        raise_unconverged=False,
    )
    assert quiet.train(copper) == "maxiter"


def test_observer_and_log(copper):
    seen = []
    model = NeuralNetwork((3,), lossfunction=LossFunction(convergence=NEVER, maxiter=5), randomseed=0)
    model.observer = lambda model, vector, loss: seen.append((len(vector), loss))
    lines = []
    assert model.fit(copper, Gaussian(4.0), lines.append) is False
    assert len(seen) == 5
    assert seen[0][0] == len(model.vector)
    assert any("maxiter" in line for line in lines)


@pytest.mark.parametrize("optimizer", ["BFGS", "L-BFGS-B", "adam"])
@pytest.mark.parametrize("checkpoints", [3, -3])
def test_a_killed_training_ends_at_the_same_parameters(copper, tmp_path, optimizer, checkpoints):
    def model(maxiter):
        loss = LossFunction(convergence=NEVER | {"force_rmse": 1e-12}, maxiter=maxiter)
        return NeuralNetwork(
            (3,),
            lossfunction=loss,
            regressor=Regressor(optimizer),
            checkpoints=checkpoints,
            randomseed=5,
        )

    whole = model(14)
    whole.label = str(tmp_path / "whole")
    whole.fit(copper, Gaussian(4.0))

    class Killed(Exception):
        pass

    cut = model(14)
    cut.label = str(tmp_path / "cut")
    count = 0

    def observer(*_):
        nonlocal count
        count += 1
        if count == 8:
            raise Killed

    cut.observer = observer
    with pytest.raises(Killed):
        cut.fit(copper, Gaussian(4.0))
    again = model(14)
    again.label = str(tmp_path / "cut")
    lines = []
    again.fit(copper, Gaussian(4.0), lines.append)
    np.testing.assert_allclose(again.vector, whole.vector, rtol=1e-10)
    assert again.lossfunction.progress.step == whole.lossfunction.progress.step == 14
    assert any("checkpoint" in line for line in lines)


def test_a_checkpoint_of_other_data_is_refused(copper, tmp_path):
    def fit(images):
        model = NeuralNetwork(
            (3,), lossfunction=LossFunction(convergence=NEVER, maxiter=5), checkpoints=1, randomseed=5
        )
        model.label = str(tmp_path / "calc")
        model.fit(images, Gaussian(4.0))

    fit(copper[:6])
    with pytest.raises(ConfigError, match="checkpoint"):
        fit(copper[2:])


def test_image_centred_script(tmp_path):
    rng = np.random.default_rng(0)
    images = []
    for _ in range(12):
        shift = rng.normal(0, 0.1, (3, 3))
        atoms = Atoms("OH2", np.array([[0, 0, 0], [1.1, 0, 0], [0, 1.2, 0.1]]) + shift)
        atoms.info["REF_energy"] = -14.0 + float(np.sum(shift**2))
        images.append(atoms)
    model = NeuralNetwork((6,), lossfunction=LossFunction(convergence={"energy_rmse": 0.005}), randomseed=1)
    calc = Amp(None, model, label=str(tmp_path / "im"))
    calc.train(images)
    loaded = Amp.load(tmp_path / "im")
    assert isinstance(loaded.descriptor, ImageCentred)
    images[0].calc = loaded
    assert abs(images[0].get_potential_energy() - images[0].info["REF_energy"]) < 0.1


@pytest.mark.parametrize("name", ["small", "small_ordereddict", "small_numpy2"])
def test_files_of_the_older_program(shared, name):
    folder = shared / "reference" / "networks"
    images = read(folder / "small" / "images.extxyz", ":")
    expected = json.loads((folder / "small" / "expected.json").read_text())
    calc = Amp.load(folder / "amp_files" / f"{name}.amp")
    found = [p.energy for p in calc.model.predict(images)]
    np.testing.assert_allclose(found, expected["energies"], rtol=0, atol=1e-10)
    assert calc.model.parameters.output_activation == "activation"


def test_a_file_with_arrays(shared):
    folder = shared / "reference" / "networks"
    images = read(folder / "small" / "images.extxyz", ":")
    expected = json.loads((folder / "small" / "functions.json").read_text())["random_init_energies"]
    calc = Amp.load(folder / "amp_files" / "random_init_arrays.amp")
    found = [p.energy for p in calc.model.predict(images)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_a_file_with_charges(shared):
    folder = shared / "reference" / "networks"
    images = read(folder / "charge" / "images.extxyz", ":")
    expected = json.loads((folder / "charge" / "expected.json").read_text())["images"]
    model = Amp.load(folder / "amp_files" / "charge.amp").model
    assert isinstance(model, ChargeNeuralNetwork)
    found = [p.energy for p in model.predict(images)]
    np.testing.assert_allclose(found, [e["omega"] for e in expected], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "name", ["hostile_attribute", "hostile_call", "hostile_comprehension", "hostile_importname", "truncated"]
)
def test_hostile_files(shared, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        Amp.load(shared / "reference" / "networks" / "amp_files" / f"{name}.amp")
    assert not list(tmp_path.rglob("HOSTILE_FILE_RAN"))


def test_workers_on_other_hosts_are_refused():
    with pytest.raises(ConfigError, match="executor"):
        Amp(Gaussian(), NeuralNetwork(), envcommand="source x")
    for cores in ({"host": 2}, {"localhost": 1, "host": 2}):
        with pytest.raises(ConfigError, match="executor"):
            Amp(Gaussian(), NeuralNetwork(), cores=cores)
    assert Amp(Gaussian(), NeuralNetwork(), cores={"localhost": 4}).cores == 4
    assert shard_count({"cores": {"localhost": 4}}) == 4


def test_keys_are_those_of_the_images(copper):
    images = hash_images(copper)
    assert list(hash_images([a.copy() for a in copper])) == list(images)


@pytest.mark.parametrize(("place", "message"), [(np.nan, "is not finite in"), (0.0, "Å apart in")])
def test_images_that_cannot_be_computed_are_named(tmp_path: Path, place: float, message: str):
    frames = [bulk("Cu", cubic=True) for _ in range(3)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=k)
    frames[2].positions[1] = frames[2].positions[0] + place
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((4, 3)))
    calc = Amp(Gaussian(), NeuralNetwork(hiddenlayers=(2,)), label=str(tmp_path / "amp"))
    with pytest.raises(DataError, match=f"{message} (frame|image) 2"):
        calc.train(frames)
