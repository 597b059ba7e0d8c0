from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from surefield.descriptors.derivatives import atomic_features
from surefield.errors import ConfigError, PotentialError
from surefield.formats.dunn import FILES, read_dropout_files, write_dropout_files
from surefield.potentials import ZBL, predict
from surefield.potentials.dropout_network import DropoutNetwork
from surefield.potentials.potential import TrainingData
from surefield.potentials.saving import pack
from surefield.trainers.dunn import DUNNTrainer, KliffBPPotential
from surefield.trainers.inputs import gather, make_configurations
from surefield.training.breakdown import LossForm, breakdown
from surefield.training.gradient_steps import OPTIMIZERS, _masks
from surefield.training.problem import Problem, TrainingRun, Weights

LISTS = {
    "g2": [{"eta": 0.05, "Rs": 0.0}, {"eta": 0.5, "Rs": 2.0}],
    "g4": [{"zeta": 2, "lambda": -1, "eta": 0.01}],
}
SETTINGS = {"cutoff": {"Si-Si": 3.9}, "hyperparams": LISTS, "neurons": (6, 5)}


def handle(**changes):
    return KliffBPPotential(["Si"], **(SETTINGS | {"dropout": 0.2} | changes))


@pytest.fixture(scope="module")
def configurations(silicon):
    return make_configurations(handle().model, gather(silicon, None, False), Weights())


@pytest.fixture
def fit(configurations, tmp_path_factory):
    """A function that fits six configurations, with two for validation, in a folder of its own."""

    def call(
        weights=Weights(),  # noqa: B008
        model=None,
        folder=None,
        parts=None,
        seed=7,
        **settings,
    ):
        folder = tmp_path_factory.mktemp("run") if folder is None else folder
        train, held = parts or (configurations[:6], configurations[6:])
        problem = Problem(tuple(train), tuple(held), weights, seed, TrainingRun(folder))
        settings = {"epochs": 2, "batch_size": 3, "learning_rate": 1e-2} | settings
        trainer = DUNNTrainer(**settings)
        found = trainer.fit(handle().model if model is None else model, problem)
        return found, folder

    return call


def vector(model):
    arrays = pack(model)
    return np.concatenate([np.ravel(arrays[name]) for name in sorted(arrays)])


def test_training_learns(fit):
    """Errors on the validation set fall well below the spread of the labels."""
    found, _ = fit(model=handle(dropout=0.05).model, epochs=40)
    first, last = found.history[0], found.history[-1]
    assert last["validation_forces_rmse"] < 0.5 * first["validation_forces_rmse"]
    assert found.success
    assert found.message.startswith("40 epochs, 80 steps, kept epoch")


def test_best_validation_state_is_kept(fit, configurations):
    found, _ = fit(epochs=12, learning_rate=0.3)
    losses = [row["validation_loss"] for row in found.history]
    best = int(np.argmin(losses))
    assert best < 11  # or this test says nothing
    assert found.notes["best_epoch"] == best + 1
    full = found.model.of_member(0)
    again = breakdown(full, configurations[6:], Weights(), LossForm("mean"))
    assert again.total == pytest.approx(losses[best], rel=1e-10)
    without, _ = fit(epochs=2, learning_rate=0.3, parts=(configurations[:6], ()))
    assert without.notes["best_epoch"] == 2
    assert not any(key.startswith("validation") for key in without.history[0])


@pytest.mark.parametrize("method", ["mse", "mae"])
def test_metrics_are_those_of_the_network(fit, configurations, method):
    """Each epoch's numbers against the loss that all trainers share."""
    weights = Weights(0.5, 2.0, 30.0)
    found, folder = fit(weights, loss_method=method, epochs=1, parts=(configurations[:6], ()))
    row = found.history[-1]
    again = breakdown(found.model.of_member(0), configurations[:6], weights, LossForm("mean", method))
    assert row["train_loss"] == pytest.approx(again.total, rel=1e-10)
    for kind in ("energy", "forces", "stress"):
        expected = again.errors[kind, "train", "unweighted"]
        assert row[f"train_{kind}_rmse"] == pytest.approx(expected.rmse, rel=1e-8)
        assert row[f"train_{kind}_mae"] == pytest.approx(expected.mae, rel=1e-8)
    (written,) = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    assert {key: float(value) for key, value in written.items()} == row
    assert (row["eweight"], row["fweight"], row["vweight"]) == weights


@pytest.mark.parametrize("kind", ["energy", "forces", "stress"])
def test_weights_of_the_call_act(fit, kind):
    plain, heavy = Weights(), Weights()._replace(**{kind: 5.0})
    first, second = (fit(weights, epochs=1)[0] for weights in (plain, heavy))
    assert np.abs(vector(first.model) - vector(second.model)).max() > 1e-4
    assert second.history[0]["loss"] != first.history[0]["loss"]


def spoiled(configuration, weight):
    """Copy whose first atom has a wrong force and this weight."""
    labels, weights = configuration.labels, configuration.atom_weights.copy()
    forces = labels.forces.copy()
    forces[0] += 100.0
    weights[0] = weight
    return replace(configuration, labels=labels.replace(forces=forces), atom_weights=weights)


def test_weights_of_atoms_act(fit, configurations):
    """An atom of weight zero might have any force; of another weight its force counts."""

    def found(weight, wrong):
        first = spoiled(configurations[0], weight)
        if not wrong:
            first = replace(first, labels=configurations[0].labels)
        return fit(parts=([first, *configurations[1:6]], configurations[6:]), log_per_atom_pred=False)[0]

    np.testing.assert_array_equal(vector(found(0.0, True).model), vector(found(0.0, False).model))
    assert np.abs(vector(found(1.0, True).model) - vector(found(0.0, True).model)).max() > 1e-4
    assert np.abs(vector(found(2.0, False).model) - vector(found(1.0, False).model)).max() > 1e-4


def test_a_weight_is_that_many_rows(fit, configurations):
    """Without dropout and with one batch, twice a configuration is a weight of sqrt(2), up to the mean."""
    model = handle(dropout=0.0).model
    settings = {"optimizer": "SGD", "epochs": 1, "batch_size": 9, "log_per_atom_pred": False}
    first, others = configurations[0], configurations[1:6]
    twice = [first, *others, replace(first, id="again")]
    weighted = [replace(first, weight=np.sqrt(2.0)), *others]
    # The mean goes over 7 and over 6 configurations. The same start, standardisation included:
    start = model.prepared(TrainingData([c.structure for c in others], [None] * 5, {14: -4.0}))
    a, _ = fit(model=start, parts=(twice, ()), learning_rate=7e-3, **settings)
    b, _ = fit(model=start, parts=(weighted, ()), learning_rate=6e-3, **settings)
    np.testing.assert_allclose(vector(a.model), vector(b.model), rtol=0, atol=1e-12)
    assert np.abs(vector(a.model) - vector(start)).max() > 1e-5


def test_loss_batch_split_seed_and_optimizer_act(fit, configurations):
    base = vector(fit()[0].model)
    for settings in (
        {"loss_method": "mae"},
        {"batch_size": 6},
        {"epochs": 3},
        {"learning_rate": 2e-2},
        {"optimizer": "sgd"},
        {"seed": 8},
        {"parts": (configurations[:5], configurations[5:])},
    ):
        assert np.abs(vector(fit(**settings)[0].model) - base).max() > 1e-6, settings
    np.testing.assert_array_equal(vector(fit()[0].model), base)


def test_masks_are_new_for_each_step_and_configuration():
    network = handle(neurons=(40, 30)).model
    key = jax.random.key(3)
    first, second = _masks(network, np.arange(50), key)
    assert (first.shape, second.shape) == ((50, 40), (50, 30))
    assert set(np.unique(first)) == {0.0, 1 / 0.8}
    assert abs(float(first.mean()) - 1.0) < 0.03
    assert len({row.tobytes() for row in np.asarray(first)}) == 50
    other = _masks(network, np.arange(50), jax.random.fold_in(key, 1))
    assert not np.array_equal(first, other[0])
    few = _masks(network, np.array([7, 3]), key)
    np.testing.assert_array_equal(few[1], np.asarray(second)[[7, 3]])


def test_restart_goes_on_bit_by_bit(fit, monkeypatch):
    whole, reference = fit(epochs=5)
    calls = []
    add = TrainingRun.add_metrics

    def killed(self, row):
        add(self, row)
        calls.append(row)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, "add_metrics", killed)
    folder = reference.parent / "killed"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        fit(epochs=5, folder=folder)
    monkeypatch.undo()
    again, _ = fit(epochs=5, folder=folder)
    np.testing.assert_array_equal(vector(again.model), vector(whole.model))
    assert again.history == whole.history
    for name in ("metrics.csv", "force_errors/errors.npy", "optimizer_state.npz"):
        assert (folder / name).read_bytes() == (reference / name).read_bytes(), name
    longer, _ = fit(epochs=6, folder=folder)
    assert longer.history[:5] == whole.history
    assert longer.n_evals == 12
    with pytest.raises(PotentialError, match=r"another training; got settings training\.learning_rate was 0"):
        fit(epochs=6, folder=folder, learning_rate=1.0)
    with pytest.raises(PotentialError, match=r"got settings training\.eweight was 1\.0, now 2\.0"):
        fit(Weights(2.0, 1.0, 1.0), epochs=6, folder=folder)


def test_force_error_log(fit, configurations):
    train = [
        replace(configurations[0], labels=configurations[0].labels.replace(forces=None)),
        *configurations[1:6],
    ]
    found, folder = fit(epochs=2, parts=(train, ()))
    errors = np.load(folder / "force_errors/errors.npy")
    assert errors.shape == (2, 40)
    network = found.model.of_member(0)
    forces = [p.forces for p in predict(network, [c.atoms for c in train[1:]])]
    expected = [
        np.linalg.norm(own - c.labels.forces, axis=1) for own, c in zip(forces, train[1:], strict=True)
    ]
    np.testing.assert_allclose(errors[-1], np.concatenate(expected), rtol=0, atol=1e-10)
    index = json.loads((folder / "force_errors/index.json").read_text())
    assert index[:2] == [["000001", 0], ["000001", 1]]
    assert len(index) == 40
    descriptors = np.load(folder / "force_errors/descriptors.npy")
    features = np.concatenate(atomic_features(network.descriptor, [c.structure for c in train[1:]]))
    np.testing.assert_allclose(descriptors, network.inputs(features), rtol=0, atol=1e-12)
    _, other = fit(epochs=3, parts=(train, ()), log_per_atom_pred={"every": 2, "dtype": "float32"})
    thinned = np.load(other / "force_errors/errors.npy")
    assert (thinned.dtype, thinned.shape) == (np.float32, (2, 40))
    _, silent = fit(epochs=1, parts=(train, ()), log_per_atom_pred=False)
    assert not (silent / "force_errors").exists()


def test_members_of_the_trained_network(fit):
    found, _ = fit(seed=7)
    assert found.model.n_members == 100
    other, _ = fit(seed=7, epochs=1)
    np.testing.assert_array_equal(found.model.masks[0], other.model.masks[0])
    plain, _ = fit(model=handle(dropout=0.0).model, epochs=1)
    assert plain.model.n_members == 0


def test_a_fitted_network_keeps_its_standardisation(fit, configurations):
    first, _ = fit(epochs=2)
    assert float(first.model.offsets[0]) == pytest.approx(
        np.mean([c.labels.energy / c.n_atoms for c in configurations[:6]]), abs=1e-12
    )
    features = np.concatenate(
        atomic_features(first.model.descriptor, [c.structure for c in configurations[:6]])
    )
    np.testing.assert_allclose(first.model.mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(first.model.scale, features.std(axis=0), rtol=1e-10)
    second, _ = fit(model=first.model, epochs=1, parts=(configurations[2:], ()))
    np.testing.assert_array_equal(second.model.mean, first.model.mean)
    np.testing.assert_array_equal(second.model.offsets, first.model.offsets)
    assert second.history[0]["train_loss"] < first.history[0]["train_loss"]


def test_a_baseline_stays_as_it_is(fit, configurations):
    sum_ = handle(dropout=0.0).model + ZBL(("Si",), 1.0, 3.0)
    found, _ = fit(model=sum_, epochs=1, parts=(configurations[:6], ()))
    assert found.model.baseline.cutoff == 3.0
    again = breakdown(found.model, configurations[:6], Weights(), LossForm("mean"))
    assert found.history[0]["train_loss"] == pytest.approx(again.total, rel=1e-9)


def test_a_loss_that_is_no_longer_finite(fit):
    found, _ = fit(optimizer="sgd", learning_rate=1e200, epochs=4)
    assert not found.success
    assert "lower learning_rate" in found.message
    assert len(found.history) < 4
    assert np.isfinite(vector(found.model)).all()


@pytest.mark.filterwarnings("ignore:R2 of")
def test_training_through_the_whole_chain(silicon, tmp_path):
    """Split, files, and KIM's files that give the potential back."""
    flow = {"workflow_type": "LOCAL", "workflow_args": {"root": str(tmp_path)}}
    potential = handle(dropout=0.2)
    trainer = DUNNTrainer(epochs=1, batch_size=3, training_split=0.75)
    result = trainer.train("a b", potential, silicon, None, flow, register=False, seed=7)
    assert list(map(len, result.split.values())) == [6, 2]
    assert {"checkpoint.npz", "optimizer_state.npz", "metrics.csv", "force_errors"} <= {
        path.name for path in result.path.iterdir()
    }
    assert not list(result.path.rglob("*.pkl"))
    files = result.path / "potential"
    assert {*FILES, "CMakeLists.txt", "potential.npz"} == {path.name for path in files.iterdir()}
    (expected,), (found,) = (
        predict(m, silicon[:1]) for m in (result.potential.model, read_dropout_files(files))
    )
    assert found.energy == pytest.approx(expected.energy, abs=1e-12)
    np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=1e-12)
    again = KliffBPPotential(["Si"], parameter_path=files)
    np.testing.assert_array_equal(vector(again.model), vector(result.potential.model))
    assert result.potential.evaluate(silicon[0])[0] == expected.energy


def test_settings_make_the_same_handle_and_trainer():
    first = handle(model_driver="driver", kim_api="api", norm=False)
    settings = json.loads(json.dumps(first.settings()))
    again = KliffBPPotential(**settings)
    assert again.settings() == first.settings()
    assert again.model.config() == first.model.config()
    np.testing.assert_array_equal(vector(again.model), vector(first.model))
    trainer = DUNNTrainer(loss_method="mae", log_per_atom_pred={"histogram_edges": [0, 1, 2]})
    settings = json.loads(json.dumps(trainer.settings()))
    assert DUNNTrainer(**settings).settings() == trainer.settings()


def test_files_to_start_from(tmp_path):
    network = handle().model
    write_dropout_files(tmp_path, network, "x")
    potential = KliffBPPotential(["Si"], parameter_path=tmp_path)
    np.testing.assert_array_equal(potential.model.readout, network.readout)
    KliffBPPotential(["Si"], parameter_path=tmp_path, **SETTINGS).build_potential()
    for changes, message in (
        ({"neurons": (7,)}, r"neurons does not agree with the file.*expected \(6, 5\)"),
        ({"dropout": 0.3}, "dropout does not agree.*got 0.3; expected 0.2"),
        ({"norm": False}, "norm does not agree"),
        ({"hyperparams": "set30"}, "hyperparams and cutoff do not agree"),
    ):
        with pytest.raises(ConfigError, match=message):
            KliffBPPotential(["Si"], parameter_path=tmp_path, **changes).build_potential()
    with pytest.raises(ConfigError, match=r"species do not agree.*got \['Ge'\]; expected \['Si'\]"):
        KliffBPPotential(["Ge"], parameter_path=tmp_path).build_potential()
    other = handle()
    other.load_potential(tmp_path)
    assert isinstance(other.model, DropoutNetwork)
    shutil.rmtree(tmp_path)
    with pytest.raises(PotentialError, match="there is no"):
        KliffBPPotential(["Si"], parameter_path=tmp_path).build_potential()


def test_no_kim_files_for_several_elements(tmp_path):
    radii = {"Si-Si": 4.0, "C-Si": 3.0, "C-C": 3.0}
    potential = KliffBPPotential(["Si", "C"], cutoff=radii, hyperparams=LISTS)
    assert [path.name for path in potential.save_potential_files(tmp_path)] == ["potential.npz"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss_method": "rmse"}, "unknown loss_method 'rmse'; known: mse, mae"),
        ({"optimizer": "Adamm"}, f"unknown optimizer 'Adamm'; known: {', '.join(OPTIMIZERS)}"),
        ({"epochs": 0}, "epochs must be a whole number, at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"learning_rate": 0}, "learning_rate must be a positive number, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a positive number"),
        ({"training_split": 1.2}, "training_split must be above 0 and at most 1"),
        ({"use_gpu": "yes"}, "use_gpu must be True or False"),
        ({"log_per_atom_pred": {"evry": 2}}, "a dict with every, dtype, histogram_edges"),
    ],
)
def test_bad_trainers(arguments, message):
    with pytest.raises(ConfigError, match=message):
        DUNNTrainer(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cutoff_type": "exp"}, "unknown cutoff_type 'exp'; expected 'cos'"),
        ({"hyperparams": "set50"}, "unknown hyperparams 'set50'"),
        ({"cutoff": {"C-C": 3.0}}, "unknown pair 'C-C'"),
        ({"neurons": (0,)}, "neurons must be positive widths"),
        ({"dropout": 1.0}, "dropout must lie between 0 and 1"),
        ({"neurons": ()}, "dropout 0.2 needs a network with hidden layers"),
        ({"norm": "yes"}, "norm must be True or False"),
    ],
)
def test_bad_potentials(arguments, message):
    with pytest.raises(ConfigError, match=message):
        handle(**arguments)


def test_use_gpu_needs_one(fit, monkeypatch):
    """And with one, the training runs there; here a second name of the processor stands for it."""
    devices = jax.devices
    if any(device.platform == "gpu" for device in devices()):
        pytest.skip("this machine has a graphics processor")
    with pytest.raises(ConfigError, match="use_gpu=True, but there is no graphics processor; got cpu"):
        fit(use_gpu=True)
    asked = []

    def stand_in(kind=None):
        asked.append(kind)
        return devices("cpu")

    monkeypatch.setattr(jax, "devices", stand_in)
    fit(use_gpu=True, epochs=1)
    assert asked == ["gpu"]
