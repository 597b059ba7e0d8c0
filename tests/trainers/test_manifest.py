from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.io import write

from surefield.errors import ConfigError, DataError
from surefield.structures.labels import Labels
from surefield.structures.neighbors import neighborhood
from surefield.trainers.manifest import read_manifest, weighted_by_file
from surefield.training.dataset import Sample

FULL = {
    "workspace": {"name": "silicon", "seed": 7, "resume": False},
    "dataset": {"type": "path", "path": "data.xyz", "shuffle": False, "keys": {"energy": "Etot"}},
    "model": {"name": "SW_StillingerWeber_1985_Si", "path": None},
    "transforms": {"parameter": ["A", {"B": {"value": 0.6}}]},
    "training": {
        "loss": {"function": "MAE", "weights": {"energy": 2.0, "forces": 0.5, "config": 3.0}},
        "optimizer": {"name": "BFGS", "kwargs": {"gtol": 1e-6}},
        "epochs": 40,
        "training_dataset": {"train_size": 6},
        "validation_dataset": {"val_size": 2},
        "log_per_atom_pred": True,
        "verbose": True,
    },
    "export": {"model_path": "out", "model_name": "model_1", "generate_tarball": True},
}


def test_everything_arrives(tmp_path: Path):
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(FULL))
    for source in (FULL, tmp_path / "manifest.yaml"):
        found, document = read_manifest(source)
        assert document == FULL
        assert found.arguments == {
            "model_name": "SW_StillingerWeber_1985_Si",
            "params_to_update": ["A", {"B": {"value": 0.6}}],
            "loss_method": "mae",
            "optimization_method": "BFGS",
            "seed": 7,
        }
        assert (found.name, found.shuffle, found.verbose, found.log_per_atom_pred) == (
            "silicon",
            False,
            True,
            True,
        )
        assert found.options == {"gtol": 1e-6, "maxiter": 40}
        assert found.factors == {"energy": 2.0, "forces": 0.5, "config": 3.0}
        assert found.export is not None
        assert found.export.generate_tarball


def changed(path: str, value) -> dict:
    """A manifest with one entry."""
    *sections, key = path.split(".")
    inner: dict = {key: value}
    for name in reversed(sections):
        inner = {name: inner}
    return inner


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("trainig", {}, "unknown key 'trainig', did you mean 'training'"),
        ("training.optimiser", {}, "in training, did you mean 'optimizer'"),
        ("training.loss.weights.force", 1.0, "did you mean 'forces'"),
        ("training.optimizer.learning_rate", 0.1, "learning_rate cannot act here"),
        ("training.batch_size", 4, "batch_size cannot act here"),
        ("workspace.resume", True, "resume cannot act here"),
        ("training.loss.function", "RMSE", "did you mean 'MSE'"),
        ("training.loss.weights.energy", -1.0, "expected a finite number >= 0"),
        ("dataset.type", "xyz", "dataset.type 'xyz'"),
        ("training.epochs", "many", "training.epochs must be int"),
        ("training.verbose", 1, "verbose must be bool"),
        ("export.model_path", "/elsewhere", "folder below the run's"),
        ("training", 3, "training must hold keys"),
    ],
)
def test_wrong_entries_are_refused(path, value, match):
    with pytest.raises((ConfigError, DataError), match=match):
        read_manifest(changed(path, value))


def test_spellings_that_differ_are_refused():
    with pytest.raises(ConfigError, match=r"seed.*random_seed differ"):
        read_manifest({"workspace": {"seed": 1, "random_seed": 2}})
    with pytest.raises(ConfigError, match="both train_size and train_indices"):
        read_manifest({"training": {"training_dataset": {"train_size": 1, "train_indices": [0]}}})
    with pytest.raises(ConfigError, match="maxiter and epochs differ"):
        read_manifest({"training": {"epochs": 3, "optimizer": {"kwargs": {"maxiter": 4}}}})
    with pytest.raises(ConfigError, match="cannot read the manifest"):
        read_manifest("none.yaml")


def parts(train, validation, shuffle=True):
    training = {"training_dataset": train, "validation_dataset": validation}
    return read_manifest({"dataset": {"shuffle": shuffle}, "training": training})[0]


def test_splits():
    assert read_manifest({})[0].split(10, 0) is None
    assert parts({"train_size": 3}, {"val_size": 2}, shuffle=False).split(6, 0) == ([0, 1, 2], [3, 4])
    assert parts({}, {"val_size": 2}, shuffle=False).split(5, 0) == ([2, 3, 4], [0, 1])
    assert parts({"train_indices": [4, 1]}, {}).split(5, 0) == ([4, 1], [0, 2, 3])
    train, validation = parts({"train_size": 4}, {"val_indices": [0, 3]}).split(8, 1)
    assert validation == [0, 3]
    assert len(set(train)) == 4
    assert not set(train) & {0, 3}
    assert parts({"train_size": 4}, {}).split(8, 1) == parts({"train_size": 4}, {}).split(8, 1)
    assert parts({"train_size": 4}, {}).split(8, 1) != parts({"train_size": 4}, {}).split(8, 2)
    with pytest.raises(ConfigError, match=r"train_size \+ val_size = 9; expected at most 8"):
        parts({"train_size": 5}, {"val_size": 4}).split(8, 0)
    with pytest.raises(ConfigError, match="different indices below 8"):
        parts({"train_indices": [8]}, {}).split(8, 0)


def test_frames_under_their_own_keys(tmp_path: Path):
    atoms = Atoms("Si2", positions=[[0, 0, 0], [0, 0, 2.3]])
    atoms.info |= {"Etot": -3.0, "energy": -99.0}
    atoms.arrays["f"] = np.ones((2, 3))
    write(tmp_path / "a.xyz", atoms, format="extxyz")
    keys = {"energy": "Etot", "forces": "f"}
    manifest, _ = read_manifest({"dataset": {"type": "ase", "path": str(tmp_path / "a.xyz"), "keys": keys}})
    (found,) = manifest.frames()
    assert found.get_potential_energy() == -3.0
    np.testing.assert_array_equal(found.get_forces(), 1.0)
    with pytest.raises(ConfigError, match="names no file"):
        read_manifest({"dataset": {"type": "storage"}})[0].frames()


@pytest.fixture
def configurations():
    atoms = Atoms("Si2", positions=[[0, 0, 0], [0, 0, 2.3]])
    structure = neighborhood(atoms, 3.0)
    return [Sample(structure, Labels(), str(i), atoms, 1.0, np.ones(2)) for i in range(2)]


def test_weights_file(tmp_path: Path, configurations):
    path = tmp_path / "weights.yaml"
    path.write_text(yaml.safe_dump([{"config": 2.0, "energy": 0.5, "stress": None}, {"forces": [0.0, 3.0]}]))
    found, per_atom = weighted_by_file(path, configurations)
    assert per_atom
    kinds = ("energy", "forces", "stress")
    assert [[c.factors[k] for k in kinds] for c in found] == [[1.0, 2.0, 0.0], [1.0, 1.0, 1.0]]
    np.testing.assert_array_equal(found[1].atom_weights, [0.0, 3.0])
    np.testing.assert_array_equal(configurations[1].atom_weights, 1.0)


@pytest.mark.parametrize(
    ("entries", "error", "match"),
    [
        ([{}], DataError, "wrong number of entries.*got 1; expected 2"),
        ([{}, {"forces": [1.0]}], DataError, r"force weights in .*entry 1 \(1\); got 1; expected 2"),
        ([{}, {"energy": -1.0}], DataError, "expected a finite number"),
        ([{}, {"enrgy": 1.0}], ConfigError, "did you mean 'energy'"),
        ({"energy": 1.0}, ConfigError, "must be a list"),
    ],
)
def test_wrong_weights_files_are_refused(tmp_path: Path, configurations, entries, error, match):
    (tmp_path / "w.yaml").write_text(yaml.safe_dump(entries))
    with pytest.raises(error, match=match):
        weighted_by_file(tmp_path / "w.yaml", configurations)
