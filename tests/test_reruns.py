"""Reruns: whatever goes on refuses when what went in has changed, and else does nothing twice."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from tests.copper import copper

import surefield as sf
from surefield.cli.jobs import VERBS, run_verb
from surefield.errors import SurefieldError
from surefield.files import read_json
from surefield.loop import LoopConfig, MethodComparison
from surefield.loop.oracles import ReplayOracle
from surefield.networks import Gaussian, LossFunction, NeuralNetwork
from surefield.potentials.snap.snap import Snap, SnapConfig
from surefield.structures.read import write_frames
from surefield.trainers import DUNNTrainer, FitSnapTrainer, KliffBPPotential
from surefield.trainers.handle import BareHandle
from surefield.trainers.inputs import gather
from surefield.trainers.job_folder import run_job, write_inputs
from surefield.trainers.result import Call
from surefield.trainers.run import execute
from surefield.training import TrainConfig

SETS = ("train", "validation", "test", "pool")
#: Change, the set that it is made in, and what the refusal says.
CHANGES = {
    "forces": ("train", "forces of the"),
    "cell": ("train", "cell"),
    "pbc": ("train", "pbc"),
    "weights": ("train", "weights"),
    "validation": ("validation", "forces of the validation set"),
    "settings": (
        None,
        ("settings", "another configuration; got training.energy_weight", "loss function (then"),
    ),
    "order": ("train", "order of the"),
    "test": ("test", "forces of the test set"),
    "pool": ("pool", "order of the pool"),
    "start": (None, "start.randomseed was 1, now 2"),
}


def _changed(frames: list[Atoms], change: str) -> list[Atoms]:
    if change in ("order", "pool"):
        return frames[::-1]
    copies = []
    for i, atoms in enumerate(frames):
        copy, results = atoms.copy(), dict(atoms.calc.results)  # type: ignore[union-attr]
        if change in ("forces", "validation", "test"):
            results["forces"] = -results["forces"]
        if change == "cell":
            copy.set_cell(1.001 * copy.cell.array)
        if change == "pbc" and i == 0:
            copy.pbc = (True, True, False)
        if change == "weights" and i == 0:
            copy.info["weight"] = 2.0
        copy.calc = SinglePointCalculator(copy, **results)
        copies.append(copy)
    return copies


class Given:
    """What a door is given: sets of structures, and whether a setting or a start value is another."""

    def __init__(self, sets: dict[str, list[Atoms]], change: str = "") -> None:
        self.sets, self.change = dict(sets), change
        which = CHANGES[change][0] if change else None
        if which is not None:
            self.sets[which] = _changed(sets[which], change)

    def __getattr__(self, name: str) -> list[Atoms]:
        return self.sets[name]

    def setting(self, value: Any, other: Any) -> Any:
        return other if self.change == "settings" else value

    def start(self, value: Any, other: Any) -> Any:
        return other if self.change == "start" else value


@pytest.fixture(scope="module")
def sets() -> dict[str, list[Atoms]]:
    return {name: copper(5 if name == "train" else 3, i) for i, name in enumerate(SETS)}


def _snap() -> Snap:
    return Snap.from_settings(SnapConfig(cutoff=3.6, twojmax=2), ["Cu"])


def _train(folder: Path, given: Given) -> Any:
    settings = {"epochs": 0, "progress": False, "energy_weight": given.setting(30.0, 31.0)}
    fit = sf.train(_snap(), given.train, given.validation, folder=folder, **settings)
    return [p.energy for p in fit.potential.predict(given.validation)]


def _regressor(folder: Path, given: Given) -> Any:
    loss = LossFunction(
        convergence={"energy_rmse": 1e-9, "force_rmse": 1e-9},
        force_coefficient=given.setting(0.04, 0.05),
        maxiter=2,
        validation=given.validation,
    )
    gs = {"Cu": [{"type": "G2", "element": "Cu", "eta": 0.5}]}
    seed = given.start(1, 2)
    model = NeuralNetwork((2,), lossfunction=loss, checkpoints=1, randomseed=seed)
    model.label = str(folder / "amp")
    model.fit(given.train, Gaussian(3.6, Gs=gs, dblabel=None))
    return np.asarray(model.vector).tolist()


def _trainer(folder: Path, given: Given) -> Any:
    frames = [*given.train, *given.validation]
    names = [f"{i:06d}" for i in range(len(frames))]
    call = Call(
        "run",
        fweight=given.setting(1.0, 2.0),
        split={"train": names[: len(given.train)], "validation": names[len(given.train) :]},
        upload_to_kimkit=False,
    )
    execute(FitSnapTrainer(), BareHandle(_snap()), gather(frames, None, False), call, folder)
    return read_json(folder / "result.json")["training_hash"]


def _network_trainer(folder: Path, given: Given) -> Any:
    """Stopped after its first epoch, so that it goes on from a checkpoint."""
    frames = [*given.train, *given.validation]
    names = [f"{i:06d}" for i in range(len(frames))]
    split = {"train": names[: len(given.train)], "validation": names[len(given.train) :]}
    functions = {"g2": [{"eta": 0.1, "Rs": 0.0}]}
    handle = KliffBPPotential(["Cu"], cutoff={"Cu-Cu": 3.6}, hyperparams=functions, neurons=(2,))
    handle.build_potential()
    trainer = DUNNTrainer(epochs=1, learning_rate=given.setting(1e-3, 2e-3), log_per_atom_pred=False)
    call = Call("run", split=split, upload_to_kimkit=False)
    (folder / "inputs.json").unlink(missing_ok=True)  # what is left is the checkpoint
    execute(trainer, handle, gather(frames, None, False), call, folder)
    return read_json(folder / "result.json")["training_hash"]


def _submitted(folder: Path, given: Given) -> Any:
    """A job that is started again, after its files have been changed."""
    frames = [*given.train, *given.validation]
    names = [f"{i:06d}" for i in range(len(frames))]
    split = {"train": names[: len(given.train)], "validation": names[len(given.train) :]}
    call = Call("run", fweight=given.setting(1.0, 2.0), split=split, upload_to_kimkit=False)
    kept = folder / "inputs" / "contents.json"
    known = kept.read_bytes() if kept.exists() else None
    if known is not None:
        kept.unlink()
    write_inputs(folder, FitSnapTrainer(), BareHandle(_snap()), gather(frames, None, False), call)
    if known is not None:
        kept.write_bytes(known)
    run_job(folder)
    return read_json(folder / "result.json")["training_hash"]


def _loop(folder: Path, given: Given) -> Any:
    settings = {"methods": ("max_dist",), "seeds": (0,), "n_initial": 3, "n_per_round": 1, "n_rounds": 1}
    config = LoopConfig(**settings, validation=given.setting(0.34, 0.4))
    oracle = ReplayOracle(given.train)
    training = TrainConfig(epochs=0)
    return MethodComparison(folder, config, _snap(), training, oracle, oracle.pool, given.test).run(
        progress=False
    )


def _command_line(folder: Path, given: Given, verb: str) -> Any:
    for name in SETS:
        write_frames(folder / f"{name}.xyz", given.sets[name])
    config = {
        "name": "copper",
        "data": {name: f"{name}.xyz" for name in SETS},
        "root": str(folder / "runs"),
        "potential": {"kind": "snap", "cutoff": 3.6, "twojmax": 2},
        "training": {"energy_weight": given.setting(30.0, 31.0)},
        "selection": {"n": 1, "features": "ll_grad"},
        "compare": {"estimators": [{"kind": "constant"}]},
        "stability": False,
        "loop": {"methods": ["max_dist", "random"], "n_initial": 3, "n_per_round": 1, "n_rounds": 1},
    }
    config["loop"]["validation"] = 0.34
    config["replay"] = {"methods": ["max_dist"], "n_initial": 2, "n_per_round": 1, "n_rounds": 1, "seeds": 3}
    if verb == "score":
        del config["loop"]
        config |= {"uncertainty": {"kind": "ltau", "k": 1}, "score": {"kind": "ltau"}}
    if verb == "properties":
        del config["loop"]
        crystal = {"lattice_param": 3.6, "lattice_type": "fcc", "elements": ["Cu"]}
        held = {"kind": "elastic_constants", "components": ["C11"], "clamped": True, "fixed_cell": True}
        config |= {"uncertainty": {"kind": "constant"}, "properties": [held | crystal]}
    (folder / "copper.yaml").write_text(yaml.safe_dump(config))
    train = folder / "runs" / "copper-train" / "outputs.json"
    if verb in ("eval", "uq", "uq-compare", "select", "score", "properties") and not train.exists():
        run_verb("train", folder / "copper.yaml", [], dry_run=False, overwrite=False)
    run_verb(verb, folder / "copper.yaml", [], dry_run=False, overwrite=False)
    return read_json(folder / "runs" / f"copper-{verb}" / "summary.json")


def _verb(verb: str) -> Callable[[Path, Given], Any]:
    return lambda folder, given: _command_line(folder, given, verb)


DATA = ("forces", "cell", "pbc", "weights", "order", "settings")
TRAINED = (*DATA, "validation")
#: Doors, the changes that enter their results, and what a rerun must not call again.
DOORS: dict[str, tuple[Callable[[Path, Given], Any], tuple[str, ...], str]] = {
    "train": (_train, TRAINED, "surefield.training.train.solve_readout"),
    "regressor": (_regressor, (*TRAINED, "start"), "surefield.networks.model.Model.get_loss"),
    "trainer": (_trainer, TRAINED, "surefield.trainers.fitsnap.FitSnapTrainer.fit"),
    "network trainer": (_network_trainer, TRAINED, "surefield.training.gradient_steps._train_step"),
    "submitted trainer": (_submitted, TRAINED[:-1], "surefield.trainers.fitsnap.FitSnapTrainer.fit"),
    "loop": (_loop, (*DATA, "test"), "surefield.loop.fit_plan.fit_samples"),
    "train verb": (_verb("train"), (*TRAINED, "test"), "surefield.cli.jobs.train"),
    "eval verb": (_verb("eval"), (*TRAINED, "test"), "surefield.cli.jobs.compare"),
    "uq verb": (_verb("uq"), (*TRAINED, "test"), "surefield.cli.jobs.evaluate_uncertainty"),
    "uq-compare verb": (_verb("uq-compare"), (*TRAINED, "test"), "surefield.cli.jobs.uq_compare"),
    "select verb": (_verb("select"), (*TRAINED, "pool"), "surefield.cli.jobs.select"),
    "select-replay verb": (_verb("select-replay"), DATA, "surefield.cli.jobs.replay"),
    "score verb": (_verb("score"), (*TRAINED, "pool"), "surefield.cli.scores.LTAUForcesUQScore"),
    "properties verb": (_verb("properties"), TRAINED, "surefield.cli.properties.computed_rows"),
    "loop verb": (_verb("loop"), (*DATA, "test"), "surefield.cli.loop_job.MethodComparison"),
}


@pytest.mark.filterwarnings("ignore::surefield.trainers.TrainingWarning")
@pytest.mark.filterwarnings("ignore:.*force errors are|.*unlike all training atoms")
@pytest.mark.parametrize("door", DOORS)
def test_a_rerun(door, sets, tmp_path, monkeypatch):
    run, changes, work = DOORS[door]
    first = run(tmp_path, Given(sets))

    def twice(*args: Any, **options: Any) -> None:
        raise AssertionError(f"{door} calls {work} again")

    place, _, name = work.rpartition(".")
    home = sys.modules.get(place)  # a function of the same name may hide it
    monkeypatch.setattr(work, twice) if home is None else monkeypatch.setattr(home, name, twice)
    for change in changes:
        with pytest.raises(SurefieldError) as refused:
            run(tmp_path, Given(sets, change))
        words = CHANGES[change][1]
        named = [word in str(refused.value) for word in ((words,) if isinstance(words, str) else words)]
        assert any(named), (change, str(refused.value))
        assert any(word in str(refused.value) for word in ("anew", "another folder", "another label"))
    assert run(tmp_path, Given(sets)) == first
    assert set(VERBS) - {"doctor"} == {name.split()[0] for name in DOORS if name.endswith("verb")}


def test_a_potential_that_was_trained_anew_is_noticed(sets, tmp_path):
    """Other forces, `train --overwrite`, and `uq` again: its folder has the old result."""
    _command_line(tmp_path, Given(sets), "uq")
    files = {path: path.read_bytes() for path in tmp_path.glob("*.xyz")}
    for path, content in files.items():  # written again, without a change
        path.unlink()
        path.write_bytes(content)
    _command_line(tmp_path, Given(sets), "uq")
    write_frames(tmp_path / "train.xyz", _changed(sets["train"], "forces"))
    run_verb("train", tmp_path / "copper.yaml", [], dry_run=False, overwrite=True)
    with pytest.raises(SurefieldError, match="another trained llpr; forces of the training set"):
        run_verb("uq", tmp_path / "copper.yaml", [], dry_run=False, overwrite=False)
    assert run_verb("uq", tmp_path / "copper.yaml", [], dry_run=False, overwrite=True) is not None
