"""The contract that all trainers share: run folders, weights, splits, registry, jobs, failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.files import read_json
from surefield.potentials import ZBL
from surefield.potentials.saving import pack
from surefield.storage import LocalStorage, PotentialRegistry
from surefield.trainers.chimes import ChIMESPotential, ChIMESTrainer
from surefield.trainers.dunn import DUNNTrainer, KliffBPPotential
from surefield.trainers.fitsnap import FitSnapPotential, FitSnapTrainer
from surefield.trainers.inputs import gather
from surefield.trainers.job_folder import run_job, write_inputs
from surefield.trainers.kim_potential import KIMPotential
from surefield.trainers.parametric import ParametricModelTrainer
from surefield.trainers.result import Call, TrainingWarning

pytestmark = pytest.mark.filterwarnings("ignore::surefield.trainers.result.TrainingWarning")

SW = "SW_StillingerWeber_1985_Si__MO_405512056662_006"
SNAP = {"BISPECTRUM": {"numTypes": 1, "type": "Si", "twojmax": 2, "rcutfac": 3.8}}
CHIMES = {
    "PAIRTYP": "CHEBYSHEV 4 0 0 -1 1",
    "TYPEIDX": [{"ATM_TYP": "Si"}],
    "PAIRIDX": [{"ATM_TY1": "Si", "ATM_TY2": "Si", "S_MINIM": 1.5, "S_MAXIM": 4.0, "MORSE_LAMBDA": 2.3}],
}
FUNCTIONS = {
    "g2": [{"eta": 0.1, "Rs": 0.0}, {"eta": 0.4, "Rs": 0.0}],
    "g4": [{"zeta": 1, "lambda": 1, "eta": 0.05}, {"zeta": 1, "lambda": -1, "eta": 0.05}],
}
TRAINERS = {
    "FitSnapTrainer": FitSnapTrainer,
    "ChIMESTrainer": lambda: ChIMESTrainer(algorithm="ridge"),
    "DUNNTrainer": lambda: DUNNTrainer(epochs=2, batch_size=4, training_split=1.0),
    "ParametricModelTrainer": lambda: ParametricModelTrainer(SW, ["A", "lambda"], max_evals=6),
}


def handle(name):
    if name == "FitSnapTrainer":
        return FitSnapPotential(["Si"], settings_path=SNAP)
    if name == "ChIMESTrainer":
        return ChIMESPotential(["Si"], settings_path=CHIMES)
    if name == "DUNNTrainer":
        return KliffBPPotential(["Si"], cutoff={"Si-Si": 4.0}, hyperparams=FUNCTIONS, neurons=(4,))
    potential = KIMPotential(SW)
    potential.set_params({"A": [[0], [13.0]]})
    return potential


@pytest.fixture(params=TRAINERS)
def name(request):
    return request.param


@pytest.fixture
def train(name, silicon, tmp_path):
    """A function that trains in a folder of its own, without registry unless asked for."""

    def call(frames=silicon, potential=None, trainer=None, **options):
        flow = {"workflow_type": "LOCAL", "workflow_args": {"root": str(tmp_path / "runs")}}
        options = {"register": False, "registry": tmp_path / "potentials"} | options
        used = potential or handle(name)
        return (trainer or TRAINERS[name]()).train("test", used, frames, None, flow, **options)

    return call


def parameters(result):
    arrays = pack(result.potential.model)
    return np.concatenate([np.ravel(arrays[key]).astype(float) for key in sorted(arrays)])


def test_files_of_a_run(train, name, tmp_path, silicon, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = [atoms.positions.copy() for atoms in silicon]
    result = train(per_atom_weights=[1.0] * 64)
    assert result.path == tmp_path / "runs" / name / "test" / "00000"
    for file in ("config.resolved.yaml", "training_script.py", "split.json", "weights.csv", "metrics.csv"):
        assert (result.path / file).is_file()
    for file in ("metrics.md", "log.txt", "result.json", "potential/potential.npz"):
        assert (result.path / file).is_file()
    assert not os.listdir(tmp_path / "elsewhere")
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "runs"]
    config = yaml.safe_load((result.path / "config.resolved.yaml").read_text())
    assert config["trainer"]["class"] == name
    assert config["call"]["eweight"] == 1.0
    assert result.split == {"train": [f"{i:06d}" for i in range(8)], "validation": []}
    model, errors = result
    assert model is result.potential.model
    assert errors["forces", "train", "unweighted"].count == 192
    assert not any(part == "validation" for _, part, _ in errors)
    assert all(np.array_equal(a.positions, b) for a, b in zip(silicon, before, strict=True))
    assert train().path.name == "00001"


def test_the_loss_of_the_result_is_that_of_its_potential(train, name, silicon):
    result = train(vweight=10.0, force_error_log=True)
    errors = np.load(result.path / "force_errors" / "errors.npy")
    frames = zip(result.potential.model.predict(silicon), silicon, strict=True)
    own = np.concatenate([np.linalg.norm(p.forces - a.get_forces(), axis=1) for p, a in frames])
    assert len(errors) == (2 if name == "DUNNTrainer" else 1)
    np.testing.assert_allclose(errors[-1], own, rtol=1e-6, atol=1e-9)
    found = TRAINERS[name]().evaluate_loss(result.potential, silicon, None, vweight=10.0)
    assert found.total == pytest.approx(result.loss, rel=1e-9)
    assert found.per_configuration.shape == (8, 3)
    assert found.total == pytest.approx(found.energy + found.forces + found.stress, rel=1e-12)


def test_twice_the_same(train):
    np.testing.assert_array_equal(parameters(train()), parameters(train()))


@pytest.mark.parametrize("name", ["FitSnapTrainer", "ParametricModelTrainer"], indirect=True)
def test_the_script_repeats_the_call(train, name):
    result = train(per_atom_weights=list(np.linspace(0.5, 2.0, 64)), eweight=3.0)
    done = subprocess.run(
        [sys.executable, str(result.path / "training_script.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    again = result.path.with_name("00001")
    assert read_json(again / "result.json")["training_hash"] == result.potential.training_hash


def test_submitted_training_gives_the_same(train, name, silicon, tmp_path):
    options = {"per_atom_weights": [*[1.0] * 63, 2.0], "training_split": 0.75, "seed": 3, "eweight": 2.0}
    here = train(registry=tmp_path / "a", register=True, **options)
    flow = {"workflow_type": "LOCAL", "workflow_args": {"root": str(tmp_path / "jobs with space")}}
    job = TRAINERS[name]().submit_train(
        "job", handle(name), silicon, None, flow, {"synchronous": True}, registry=tmp_path / "b", **options
    )
    other = handle(name)
    there = TRAINERS[name]().load_from_submitted_training(job, other, flow)
    np.testing.assert_array_equal(parameters(there), parameters(here))
    assert other.model is there.potential.model
    assert there.split == here.split
    assert len(there.split["validation"]) == 2
    assert there.kim_id.endswith("_000")
    assert PotentialRegistry(tmp_path / "b").holds(there.kim_id)


def test_registered_twice_is_the_next_version(train, tmp_path):
    first = train(register=True)
    handle = first.potential
    second = train(potential=handle, register=True)
    assert second.kim_id == first.kim_id[:-3] + "001"
    registry = PotentialRegistry(tmp_path / "potentials")
    assert registry.parents(second.kim_id) == [first.kim_id]
    forked = train(potential=handle, register=True, fork_potential=True)
    assert forked.kim_id.endswith("_000")
    assert forked.kim_id[:-4] != first.kim_id[:-4]


def test_forms_of_atom_weights_agree(name, silicon, tmp_path):
    weights = np.linspace(0.2, 2.0, 64)
    storage = LocalStorage(str(tmp_path / "store"))
    frames = [atoms.copy() for atoms in silicon]
    for i, (atoms, original) in enumerate(zip(frames, silicon, strict=True)):
        atoms.calc = original.calc
        atoms.arrays["atomic_weights"] = weights[8 * i : 8 * i + 8]
    data = storage.new_dataset("silicon", frames)
    ids = [atoms.info["configuration_id"] for atoms in storage.get_data(data)]
    np.savetxt(tmp_path / "weights.txt", weights, fmt="%.17g")
    forms = [
        weights,
        weights[:, None],
        str(tmp_path / "weights.txt"),
        True,
        dict(reversed([(key, weights[8 * i : 8 * i + 8]) for i, key in enumerate(ids)])),
    ]
    trainer = TRAINERS[name]()
    losses = [
        trainer.evaluate_loss(handle(name), storage, data, per_atom_weights=form).total for form in forms
    ]
    assert len(set(losses)) == 1
    plain = trainer.evaluate_loss(handle(name), storage, data)
    ones = trainer.evaluate_loss(handle(name), storage, data, per_atom_weights=np.ones(64))
    assert ones.total == pytest.approx(plain.total, rel=1e-12)
    assert losses[0] != plain.total
    double = trainer.evaluate_loss(handle(name), storage, data, per_atom_weights=np.full(64, 2.0))
    assert double.forces == pytest.approx(4 * plain.forces, rel=1e-12)
    assert double.energy == plain.energy


def test_structure_weights_follow_their_frame(train, silicon):
    frames = [atoms.copy() for atoms in silicon]
    for atoms, original in zip(frames, silicon, strict=True):
        atoms.calc = original.calc
    frames[5].info["structure_weight"] = 0.0
    result = train(frames)
    without = train([*frames[:5], *frames[6:]])
    if "DUNN" not in str(result.path):  # its batches differ when a frame is absent
        np.testing.assert_allclose(parameters(result), parameters(without), rtol=1e-6, atol=1e-9)
    table = (result.path / "weights.csv").read_text().splitlines()
    assert table[1 + 5 * 8].startswith("000005,0,0.0,")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"per_atom_weights": [1.0] * 60}, DataError, "60 weights given, the dataset has 64 atoms in 8 conf"),
        ({"per_atom_weights": [1.0] * 63 + [-1.0]}, DataError, "atom 7 of configuration 000007"),
        ({"per_atom_weights": True}, DataError, "configuration 000000 has no 'atomic_weights'"),
        ({"per_atom_weights": 3.0}, ConfigError, "expected False, True, a list"),
        ({"per_atom_weights": np.zeros(64), "eweight": 0, "vweight": 0}, DataError, "nothing is left to fit"),
        ({"eweight": -1}, ConfigError, "unusable eweight"),
        ({"training_split": 1.5}, ConfigError, "must be in"),
        ({"split": {"train": ["nobody"], "validation": []}}, DataError, "nobody"),
        ({"split": "family"}, DataError, "no such info"),
    ],
)
def test_bad_arguments(train, options, error, text):
    with pytest.raises(error, match=text):
        train(**options)


@pytest.mark.parametrize("path_type", ["", "/abs", "../up", 3])
def test_bad_names_of_runs(name, silicon, path_type):
    with pytest.raises(ConfigError, match="path_type"):
        TRAINERS[name]().train(path_type, handle(name), silicon, None)


def test_a_potential_of_another_kind(name, silicon):
    with pytest.raises(ConfigError, match=rf"{name} cannot train a ZBL"):
        TRAINERS[name]().train("test", ZBL(["Si"]), silicon, None)


def test_unknown_species(train, silicon):
    other = silicon[0].copy()
    other.symbols[0] = "Ge"
    other.calc = silicon[0].calc
    other.calc = None
    other.info["energy"] = 1.0
    with pytest.raises(Exception, match="does not know Ge"):
        train([*silicon, other])


def test_labels_of_some_and_of_none(train, silicon):
    frames = [atoms.copy() for atoms in silicon]
    for i, (atoms, original) in enumerate(zip(frames, silicon, strict=True)):
        atoms.info["energy"] = original.get_potential_energy()
        if i < 3:
            atoms.arrays["forces"] = original.get_forces()
    with pytest.warns(TrainingWarning, match="no configuration has stress labels"):
        result = train(frames)
    assert result.rows == {"energy": 8, "forces": 72, "stress": 0, "configurations": 8}
    with pytest.raises(DataError, match="nothing is left to fit"):
        train(frames, eweight=0, fweight=0)


def test_labels_that_are_not_finite(train, silicon):
    """They are no labels: the fit is that of structures without them, and a set without any is refused."""

    def labelled(forces):
        copies = [atoms.copy() for atoms in silicon]
        for i, (atoms, original) in enumerate(zip(copies, silicon, strict=True)):
            results = dict(original.calc.results)
            if i == 2:
                results["forces"] = forces
            kept = {key: value for key, value in results.items() if value is not None}
            atoms.calc = SinglePointCalculator(atoms, **kept)
        return copies

    damaged = silicon[2].get_forces().copy()
    damaged[4, 1] = np.nan
    with_damage, without = train(labelled(damaged)), train(labelled(None))
    np.testing.assert_allclose(parameters(with_damage), parameters(without), rtol=1e-9)
    nothing = labelled(None)
    for atoms in nothing:
        atoms.calc.results = {"forces": np.full((len(atoms), 3), np.nan)}
    with pytest.raises(DataError):
        train(nothing)


def test_a_failed_fit_leaves_the_handle(train, name, monkeypatch, silicon, tmp_path):
    potential = handle(name)
    model = potential.build_potential()

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("surefield.trainers.handle.save_potential", full)
    with pytest.raises(OSError, match="No space left"):
        train(potential=potential, write_training_script=False)
    assert potential.model is model
    assert potential.training_hash is None
    folder = tmp_path / "runs" / name / "test" / "00000"
    assert not (folder / "result.json").exists()


def test_a_job_that_dies(silicon, tmp_path, monkeypatch):
    name = "ChIMESTrainer"
    flow = {"workflow_type": "LOCAL", "workflow_args": {"root": str(tmp_path)}}
    trainer = TRAINERS[name]()
    monkeypatch.setattr("surefield.trainers.job_folder._START", "moved.npz")
    job = trainer.submit_train(
        "job", handle(name), silicon, None, flow, {"synchronous": True}, register=False
    )
    with pytest.raises(ExecutionError, match="there is no saved potential"):
        trainer.load_from_submitted_training(job, handle(name), flow)


def test_a_job_folder_of_version_0_1_still_runs(silicon, tmp_path):
    trainer, weights = FitSnapTrainer(), {f"{i:06}": np.full(8, 1.0 + i) for i in range(len(silicon))}
    call = Call("job", per_atom_weights=True, upload_to_kimkit=False)
    write_inputs(tmp_path, trainer, handle("FitSnapTrainer"), gather(silicon, None, weights), call)
    run_job(tmp_path)
    expected = read_json(tmp_path / "result.json")
    (tmp_path / "result.json").unlink()
    old = tmp_path / "inputs"
    (old / "job.json").write_text(json.dumps(read_json(old / "task.json")["arguments"]))
    (old / "task.json").unlink()
    (old / "arrays.npz").rename(old / "atom_weights.npz")
    run_job(tmp_path)
    assert read_json(tmp_path / "result.json")["training_hash"] == expected["training_hash"]


def test_groups_stay_together(train):
    split = train(split="config_type", training_split=0.5).split
    parts = [{int(i) % 2 for i in ids} for ids in split.values()]
    assert sorted(map(len, parts)) == [1, 1]
