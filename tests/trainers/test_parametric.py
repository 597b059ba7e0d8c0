"""Fits of physics models: exact gradients, recovered parameters, limits, and a published comparison."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import ConfigError, DataError
from surefield.files import read_json
from surefield.formats.kim_models import MODELS
from surefield.potentials.parametric import FreeParameters, StillingerWeber
from surefield.structures.labels import Labels
from surefield.structures.read import read_frames
from surefield.trainers.parametric import KIMPotential, ParametricModelTrainer
from surefield.trainers.result import TrainingWarning
from surefield.training.breakdown import LossForm, breakdown
from surefield.training.dataset import Sample
from surefield.training.parametric_objective import BondLoss
from surefield.training.problem import Problem, TrainingRun, Weights

SILICON = "SW_StillingerWeber_1985_Si__MO_405512056662_006"


@pytest.fixture
def train(silicon, tmp_path: Path):
    """A function that fits silicon in a folder of its own."""

    def call(trainer, frames=silicon, potential=None, **options):
        flow = {"workflow_type": "LOCAL", "workflow_args": {"root": str(tmp_path / "runs")}}
        handle = potential or KIMPotential(SILICON)
        return trainer.train(
            "test", handle, frames, None, flow, **({"register": False, "vweight": 0.0} | options)
        )

    return call


def problem(frames, weights: Weights, tmp_path: Path, potential) -> Problem:
    """Configurations with different weights everywhere."""
    rng = np.random.default_rng(3)
    found = []
    for i, atoms in enumerate(frames):
        labels = atoms.calc.results
        stress = labels["stress"] + rng.normal(0, 1e-3, 6) if i else None
        forces = labels["forces"] + rng.normal(0, 0.1, (len(atoms), 3)) if i != 1 else None
        given = Labels(energy=labels["energy"] + rng.normal(), forces=forces, stress=stress)
        weighing = 1.0 + 0.2 * i, rng.uniform(0.5, 2, len(atoms)), {"forces": 1.5, "stress": 0.7}
        found.append(Sample(potential.neighborhood(atoms), given, str(i), atoms, *weighing))
    return Problem(tuple(found), (), weights, 0, TrainingRun(tmp_path))


@pytest.mark.parametrize("method", ["mse", "mae"])
def test_loss_and_gradient_with_all_labels_and_weights(silicon, tmp_path, method):
    potential = MODELS["SW_StillingerWeber_1985_Si"].make()
    asked = ["A", "q", {"gamma": {"transform_name": "LogParameterTransform"}}]
    free = FreeParameters.asked(asked, potential)
    case = problem(silicon[:3], Weights(0.3, 1.1, 20.0), tmp_path, potential)
    form = LossForm("sum", method, energy_per_atom=False)
    loss = BondLoss(free.applied(potential), free, case, form)
    x = free.coordinates(free.start * 1.01 + 0.01)
    value, gradient = loss.gradient(x)
    expected = breakdown(loss.model(x), case.train, case.weights, form).total
    assert value == pytest.approx(expected, rel=1e-12)
    for i in range(3):
        step = np.eye(3)[i] * 1e-5
        slope = (loss.loss(x + step) - loss.loss(x - step)) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-6)
    if method == "mse":
        rows, jacobian = loss.rows(x), loss.jacobian(x)
        assert len(rows) == 3 + 2 * 24 + 2 * 6
        assert rows @ rows == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(2 * rows @ jacobian, gradient, rtol=1e-9)


def test_a_free_cutoff_meets_neighbours_that_were_far(silicon, tmp_path):
    potential = MODELS["SW_StillingerWeber_1985_Si"].make()
    free = FreeParameters.asked(["cutoff"], potential)
    form = LossForm("sum", "mse", energy_per_atom=False)
    case = problem(silicon[:3], Weights(1.0, 1.0, 0.0), tmp_path, potential)
    loss = BondLoss(free.applied(potential), free, case, form)
    for cutoff in (3.77118, 4.6):
        moved = potential.with_values({"cutoff": [cutoff]})
        fresh = problem(silicon[:3], Weights(1.0, 1.0, 0.0), tmp_path, moved)
        expected = breakdown(moved, fresh.train, fresh.weights, form).total
        assert loss.loss(free.coordinates(np.array([cutoff]))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("method", ["L-BFGS-B", "lm"])
def test_forces_alone_give_the_generating_parameters_back(train, method):
    start = {"A": [[14.0]], "lambda": [[50.0]], "gamma": [[2.4]], "sigma": [[2.1]]}
    trainer = ParametricModelTrainer(SILICON, start, optimization_method=method)
    result = train(trainer, eweight=0.0)
    assert result.success, result.message
    generating = MODELS["SW_StillingerWeber_1985_Si"].values
    for name in start:
        assert float(result.potential.model.values[name][0]) == pytest.approx(generating[name], rel=1e-6)
    assert result.loss < 1e-10
    # LLPR and the like see what was fitted.
    assert [entry.name for entry in result.potential.model.free] == list(start)


def test_the_limit_of_evaluations_keeps_the_best(train):
    trainer = ParametricModelTrainer(SILICON, {"A": [[9.0, 1.0, 20.0]], "gamma": [[2.0]]}, max_evals=5)
    with pytest.warns(TrainingWarning, match="max_evals = 5"):
        result = train(trainer)
    losses = [record["loss"] for record in result.history]
    assert (result.success, result.n_evals, len(losses)) == (False, 5, 5)
    assert result.loss == pytest.approx(min(losses), rel=1e-9)
    assert result.loss < losses[0]


def test_a_start_without_a_finite_loss_is_an_error(train):
    trainer = ParametricModelTrainer(SILICON, ["A", "gamma", {"sigma": [[0.0, "fix"]]}])
    handle = KIMPotential(SILICON)
    before = np.asarray(handle.model.values["sigma"])
    with pytest.raises(DataError, match="loss at the start is"):
        train(trainer, potential=handle)
    np.testing.assert_array_equal(handle.model.values["sigma"], before)


def test_force_errors_of_every_iteration(train, silicon, tmp_path):
    frames = [atoms.copy() for atoms in silicon]
    for i, (atoms, labelled) in enumerate(zip(frames, silicon, strict=True)):
        values = dict(labelled.calc.results) | ({"forces": None} if i == 1 else {})
        atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in values.items() if v is not None})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "mine").write_text("kept")
    trainer = ParametricModelTrainer(
        SILICON, {"A": [[14.0]], "gamma": [[2.4]]}, log_per_atom_pred=True, scratch=scratch
    )
    result = train(trainer, frames)
    errors = np.load(result.path / "force_errors" / "errors.npy")
    index = json.loads((result.path / "force_errors" / "index.json").read_text())
    assert errors.shape[1] == len(index) == 56
    assert [row[0] for row in index[::8]] == [f"{i:06d}" for i in (0, 2, 3, 4, 5, 6, 7)]
    assert 2 <= len(errors) <= result.n_evals
    assert np.load(result.path / "force_errors" / "descriptors.npy").shape == (56, 2)
    _, forces, _ = result.potential.evaluate(frames[2])
    expected = np.linalg.norm(forces - silicon[2].calc.results["forces"], axis=1)
    np.testing.assert_allclose(errors[-1, 8:16], expected, atol=1e-9)
    folders = sorted(scratch.iterdir())
    assert (scratch / "mine").read_text() == "kept"
    assert len(folders) == 2
    best = read_json(next(f for f in folders if f.is_dir()) / "best.json")
    assert best["parameters"]["A"] == pytest.approx(result.notes["parameters"]["A"], rel=1e-6)


def test_a_manifest_rules_weights_split_and_export(train, tmp_path, silicon):
    weights = [{"energy": 2.0}, {"config": 0.5, "forces": [1.0] * 8}, *({"stress": None} for _ in range(6))]
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump(weights))
    manifest = {
        "model": {"name": SILICON},
        "transforms": {"parameter": ["A", {"gamma": {"value": 2.4}}]},
        "training": {
            "loss": {"function": "MSE", "weights": str(tmp_path / "weights.yaml")},
            "optimizer": {"name": "L-BFGS-B", "kwargs": {"gtol": 1e-7}},
            "training_dataset": {"train_size": 5},
            "validation_dataset": {"val_indices": [0, 3]},
        },
        "export": {"model_path": "out", "model_name": "silicon_1", "generate_tarball": True},
    }
    trainer = ParametricModelTrainer(manifest=manifest)
    result = train(trainer, vweight=3.0)
    assert result.split["validation"] == ["000000", "000003"]
    assert len(result.split["train"]) == 5
    with tarfile.open(result.path / "out" / "silicon_1.tar.gz") as tar:
        assert sorted(tar.getnames()) == ["silicon_1/CMakeLists.txt", "silicon_1/silicon_1.params"]
    with pytest.raises(ConfigError, match="both weigh atoms"):
        train(trainer, per_atom_weights=[1.0] * 64)
    again = ParametricModelTrainer(**json.loads(json.dumps(trainer.settings())))
    assert again.settings() == trainer.settings()
    found = trainer.weighted(
        problem(silicon, Weights(), tmp_path, KIMPotential(SILICON).model).train, None, ()
    )
    factors = [[c.factors.get(kind, 1.0) for kind in Weights._fields] for c in found[:3]]
    assert factors == [[2.0, 1.5, 0.7], [0.5, 0.75, 0.35], [1.0, 1.5, 0.0]]
    with pytest.raises(ConfigError, match="'lm' in the call and 'L-BFGS-B' in the manifest"):
        ParametricModelTrainer(manifest=manifest, optimization_method="lm")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"params_to_update": ["A"]}, "needs model_name"),
        ({"model_name": SILICON}, "needs params_to_update"),
        ({"loss_method": "rms"}, "loss_method must be"),
        ({"optimization_method": "BFSG"}, "did you mean 'BFGS'"),
        ({"optimization_method": "lm", "loss_method": "mae"}, "minimises squares"),
        ({"max_evals": 0}, "max_evals must be"),
        ({"training_split": 1.5}, "training_split must lie"),
    ],
)
def test_wrong_settings_are_refused(settings, match):
    good = {"model_name": SILICON, "params_to_update": ["A"]}
    kept = {} if set(settings) & set(good) else good
    with pytest.raises(ConfigError, match=match):
        ParametricModelTrainer(**{**kept, **settings})


def test_what_does_not_fit_together_is_refused(train):
    bounded = {"A": [[15.0, 1.0, 20.0]]}
    with pytest.raises(ConfigError, match="lm does not honour bounds"):
        train(ParametricModelTrainer(SILICON, bounded, optimization_method="lm"))
    with pytest.raises(ConfigError, match="no parameter 'epsilon'"):
        train(ParametricModelTrainer(SILICON, ["epsilon"]))
    with pytest.raises(ConfigError, match="model_name 'Morse_Shifted_Jelinek_1972_Ar'"):
        train(ParametricModelTrainer("Morse_Shifted_Jelinek_1972_Ar", ["C"]))
    wrong = {"training": {"optimizer": {"kwargs": {"speed": 1}}}}
    trainer = ParametricModelTrainer(SILICON, ["A", "gamma"], manifest=wrong)
    with pytest.raises(ConfigError, match="Unknown solver options: speed"):
        train(trainer)


def test_a_potential_without_a_handle(train):
    potential = StillingerWeber(MODELS["SW_StillingerWeber_1985_Si"].values, ["Si"])
    found = train(ParametricModelTrainer("StillingerWeber", ["A", "gamma"]), potential=potential)
    assert found.success
    assert type(found.potential.model) is StillingerWeber


@pytest.mark.slow
def test_the_published_comparison(shared, train, tmp_path):
    """KLIFF's fit of three parameters to 1000 configurations: its loss at the start and at the optimum."""
    expected = read_json(shared / "reference" / "trainers" / "expected" / "kliff_sw_fit.json")
    frames = list(read_frames(shared / "data" / "Si_SW" / "varying_alat.xyz.xz"))
    for atoms in read_frames(shared / "data" / "Si_SW" / "nvt.xyz.xz"):
        copy = atoms.copy()
        energy = copy.info.pop("energy_in_file")
        copy.calc = SinglePointCalculator(copy, energy=energy, forces=atoms.get_forces())
        frames.append(copy)
    # KLIFF divides forces by n where the bracket divides their squares by 3n.
    weights = [{"forces": 0.1 * float(np.sqrt(3 / len(atoms)))} for atoms in frames]
    (tmp_path / "weights.yaml").write_text(json.dumps(weights))
    trainer = ParametricModelTrainer(
        SILICON,
        {"A": [[5.0, 1.0, 20.0]], "B": [["default"]], "gamma": [[1.5]], "sigma": [[2.0951, "fix"]]},
        energy_per_atom=True,
        manifest={"training": {"loss": {"weights": str(tmp_path / "weights.yaml")}}},
    )
    result = train(trainer, frames)
    assert result.history[0]["loss"] / 2 == pytest.approx(expected["start_loss"], rel=1e-9)
    assert result.loss / 2 < expected["optimum"]["loss"] + 1e-9
    for name, value in result.notes["parameters"].items():
        assert value == pytest.approx(expected["optimum"][name], rel=1e-4)
    assert result.success
