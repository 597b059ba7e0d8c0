"""The command line as a user meets it: three configurations, run folders, one clear line per failure."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase.calculators.singlepoint import SinglePointCalculator
from tests.copper import copper
from typer.testing import CliRunner

import surefield
from surefield.cli.config import RunConfig
from surefield.cli.inputs import make_potential, read_loop, read_training
from surefield.cli.jobs import run_verb
from surefield.cli.main import app
from surefield.config import load
from surefield.errors import ConfigError, DataError, PotentialError, SurefieldError
from surefield.potentials import MomentNetwork, load_potential, save_potential
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.potentials.snap.snap import Snap, SnapConfig
from surefield.potentials.zbl import ZBL
from surefield.report import load_run
from surefield.structures.read import Frames, _read_file
from surefield.training import train
from surefield.units import EV_PER_HARTREE

SMALL = [
    "potential.cutoff=3.6",
    "potential.n_basis=4",
    "potential.n_channels=3",
    "potential.n_triple=2",
    "potential.hidden=[8]",
    "training.epochs=2",
]

SNAP = ["potential.kind=snap", "potential.cutoff=3.6", "potential.twojmax=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    ase.io.write(folder / "train.xyz", copper(14, strain=0.03))
    ase.io.write(folder / "test.xyz", copper(5, 1, strain=0.03))
    return folder


def run(verb: str, path: Path, *overrides: str) -> Path:
    report = run_verb(verb, path, list(overrides), dry_run=False, overwrite=False)
    assert report is not None
    return report.parent


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "copper.yaml"
    found = {
        "name": "copper",
        "root": str(tmp_path / "runs"),
        "data": {
            "train": str(data / "train.xyz"),
            "test": str(data / "test.xyz"),
            "pool": str(data / "test.xyz"),
            "validation": 0.25,
        },
        "stability": False,
    }
    path.write_text(yaml.safe_dump(found))
    return path


def test_train_uq_eval_select(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("train", config, *SNAP)
    assert {"potential.npz", "llpr.npz", "metrics.csv", "summary.json", "config.yaml"} <= {
        p.name for p in folder.iterdir()
    }
    summary = json.loads((folder / "summary.json").read_text())
    assert 0 < summary["test"]["forces_mae"] < 0.5
    assert "energy from calculator.energy" in capsys.readouterr().out
    uq = run("uq", config, *SNAP)
    found = ase.io.read(uq / "predictions.xyz", ":")
    assert found[0].arrays["surefield_forces_uncertainty"].shape == (4, 3)
    assert "energy" in found[0].calc.results  # the label stays the label
    run("eval", config, *SNAP)
    picks = json.loads((run("select", config, *SNAP, "selection.n=2") / "selection.json").read_text())[
        "picks"
    ]
    assert len(set(picks)) == 2
    limits = f"selection.constraints={{cost: n_atoms, budget: 9, exclude: [{picks[0]}]}}"
    report = run_verb("select", config, [*SNAP, "selection.n=null", limits], dry_run=False, overwrite=True)
    assert report is not None
    others = json.loads((report.parent / "selection.json").read_text())["picks"]
    assert len(others) == 2  # of four atoms each
    assert picks[0] not in others

    pool = [atoms.copy() for atoms in copper(5, 1, strain=0.03)]
    pool[0].positions[1] = pool[0].positions[0] + 0.01
    ase.io.write(config.parent / "pool.xyz", [pool[0], *copper(5, 1, strain=0.03)])
    broken = [*SNAP, "data.pool=pool.xyz", "selection.n=5", "selection.constraints={exclude: [1]}"]
    with pytest.raises(DataError, match="apart in frame 0 of"):
        run_verb("select", config, broken, dry_run=False, overwrite=True)
    broken.append("selection.drop_broken=true")
    report = run_verb("select", config, broken, dry_run=False, overwrite=True)
    assert report is not None
    found = json.loads((report.parent / "selection.json").read_text())
    assert sorted(found["picks"]) == [2, 3, 4, 5]
    assert re.match(r"left out, frame 0 of .*pool.xyz: atoms Cu0 and Cu1 are 0.01", found["notes"][0])
    assert found["notes"][-1] == "4 of 5 picks: the pool has no more structures"
    assert "left out, frame 0 of" in report.read_text()

    held = config.parent / "runs" / "copper-train" / "validation.xyz"
    few = [*SNAP, f"data.pool={held}", "selection.n=1"]
    with pytest.raises(DataError, match=r"no structure of the pool is left.*copies of validation structures"):
        run_verb("select", config, few, dry_run=False, overwrite=True)
    ase.io.write(config.parent / "pool.xyz", [*ase.io.read(held, ":"), copper(1, 7)[0]])
    few[-2] = "data.pool=pool.xyz"
    report = run_verb("select", config, few, dry_run=False, overwrite=True)
    assert report is not None
    found = json.loads((report.parent / "selection.json").read_text())
    assert found["picks"] == [4]
    note = "copies of validation structures in the pool, which are never picked: 4"
    assert note in found["notes"]


def test_short_dynamics_follow_a_training(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("train", config, *SNAP, "stability={steps: 4, n_structures: 1, seconds: 60}")
    checked = json.loads((folder / "summary.json").read_text())["stability"]
    assert [(t["kind"], t["temperature"], t["steps"]) for t in checked["trials"]] == [
        ("training", 600.0, 4),
        ("training", 300.0, 4),
    ]
    said = capsys.readouterr().out
    assert re.search(r"Runs +atoms +K +first force eV/Å +steps +outcome\n", said)
    assert len(re.findall(r"Cu \(training\) .* 4 of 4 +ran", said)) == 2
    page = (folder / "report.html").read_text()
    assert "Stability" in page
    assert page.count("Cu (training)") == 2


def test_repulsion_ends_where_the_data_begin(config: Path, data: Path) -> None:
    potential = load_potential(run("train", config, *SNAP, "repulsion={}") / "potential.npz")
    frames = [*ase.io.read(data / "train.xyz", ":")]
    shortest = min(np.min(a.get_all_distances(mic=True)[~np.eye(len(a), dtype=bool)]) for a in frames)
    assert potential.baseline.outer == pytest.approx(shortest)
    assert max(np.abs(p.forces).max() for p in potential.baseline.predict(frames)) < 1e-9
    whole = RunConfig(name="x", repulsion={"outer": 2.0})
    assert make_potential(whole, frames).baseline.inner == pytest.approx(1.4)
    with pytest.raises(ConfigError, match=r"inner 0\.7 Å needs outer"):
        run("train", config, "repulsion={inner: 0.7}")


def test_a_trained_potential_is_continued(config: Path, tmp_path: Path, data: Path) -> None:
    start = run("train", config, *SNAP) / "potential.npz"
    more = config.parent / "more.yaml"
    settings = yaml.safe_load(config.read_text()) | {"name": "more"}
    settings["training"] = {"start_from": str(start.relative_to(config.parent))}
    settings["data"] |= {"train": str(data / "test.xyz"), "validation": 0.4}
    more.write_text(yaml.safe_dump(settings))
    folder = run("train", more)
    first, second = load_potential(start), load_potential(folder / "potential.npz")
    assert second.config() == first.config()
    assert not np.allclose(second.readout, first.readout)
    assert run("train", more) == folder
    with pytest.raises(ConfigError, match=r"another shape; got potential\.kind: moment_network, there snap"):
        run("train", more, "potential.kind=moment_network", "name=wide")
    for stated, there in {"twojmax=4": 2, "cutoff=5.5": 3.6}.items():
        setting, value = stated.split("=")
        with pytest.raises(
            ConfigError, match=rf"another shape; got potential\.{setting}: {value}, there {there}"
        ):
            run("train", more, "potential.kind=snap", f"potential.{stated}", "name=wide")
    with pytest.raises(ConfigError, match=r"another shape; got repulsion\.outer: 1\.4, there None"):
        run("train", more, "repulsion={outer: 1.4}", "name=repelled")
    save_potential(start, second)
    with pytest.raises(ConfigError, match="another potential it starts from"):
        run("train", more)


def test_networks_on_symmetry_functions(config: Path) -> None:
    """`potential.kind` chooses the potential; all else is the same."""
    small = ["potential.kind=neural_network", "potential.cutoff=3.6", "potential.hiddenlayers=[4]"]
    folder = run("train", config, *small, "training.epochs=2")
    found = load_potential(folder / "potential.npz")
    assert isinstance(found, AtomicNetwork)
    assert run("uq", config, *small, "training.epochs=2").exists()
    with pytest.raises(ConfigError, match="did you mean 'hiddenlayers'"):
        run("train", config, "potential.kind=neural_network", "potential.hiddenlayer=[4]")


def test_snap(config: Path) -> None:
    found = load_potential(run("train", config, *SNAP) / "potential.npz")
    assert isinstance(found, Snap)
    assert np.any(np.asarray(found.readout))
    assert run("uq", config, *SNAP).exists()


def test_second_train_reuses_the_first(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = (run("train", config, *SNAP) / "potential.npz").read_bytes()
    assert (run("train", config, *SNAP) / "potential.npz").read_bytes() == first
    assert "continuing" in capsys.readouterr().out


EXAMPLES = ("minimal", "everything", "realistic", "replay")


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_configurations_are_read(name: str, project: Path, tmp_path: Path) -> None:
    """Every key, and all files that they name."""
    verb = "loop" if name in ("realistic", "replay") else "train"
    path = project / "examples" / "configs" / f"{name}.yaml"
    run_verb(verb, path, [f"root={tmp_path / 'runs'}"], dry_run=True, overwrite=False)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "name", ["minimal", *(pytest.param(x, marks=pytest.mark.slow) for x in EXAMPLES[1:])]
)
def test_example_configurations(name: str, project: Path, tmp_path: Path) -> None:
    path = project / "examples" / "configs" / f"{name}.yaml"
    small = [*SMALL[2:], f"root={tmp_path}"]
    if name in ("realistic", "replay"):
        small += ["loop.seeds=[0]", "loop.n_rounds=1"]
        folder = run("loop", path, *small)
        method = {"realistic": "max_dist", "replay": "lcmd"}[name]
        assert {c.method for c in load_run(folder).curves} == {method, "random"}
    else:
        folder = run("train", path, *small)
    assert (folder / "report.html").stat().st_size > 1e6


def test_doctor(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (run("doctor", config) / "doctor.json").exists()


def test_dry_run_checks_and_writes_nothing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [*SNAP, "loop.n_rounds=2", "loop.n_initial=4", "loop.n_per_round=3"]
    code = "from ase.calculators.emt import EMT\nclass Code(EMT):\n    pass\n"
    (config.parent / "code_of_a_user.py").write_text(code)
    own = "loop.oracle={kind: ase, calculator: 'code_of_a_user:Code'}"
    run_verb("loop", config, [*few, own], dry_run=True, overwrite=False)
    shown = capsys.readouterr().out
    for words in ("parameters", "GB of memory", "10 labels by Code", "would run 'loop'"):
        assert words in shown
    for wrong, words in (
        (own.replace("Code'", "Cod'"), "did you mean 'Code'"),
        ("loop={n_rounds: 20, n_initial: 4, n_per_round: 3, seeds: [0, 1]}", "wants 64 labels"),
        ("selection.method=lcdm", "did you mean 'lcmd'"),
        ("data.test=nowhere.xyz", "nowhere"),
        ("data.validation=1.5", r"share in \[0, 1\)"),
        ("uncertainty.kind=dropout", "dropout_network"),
    ):
        with pytest.raises(SurefieldError, match=words):
            run_verb("loop", config, [*few, wrong], dry_run=True, overwrite=False)
    with pytest.raises(ConfigError, match=r"run 'surefield train'.*first"):
        run_verb("uq", config, [], dry_run=True, overwrite=False)
    assert not (config.parent / "runs").exists()


def test_unknown_key_names_the_nearest(config: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        run("train", config, "training.epoch=3")


def test_what_an_error_offers_is_a_key_of_the_configuration(config: Path, tmp_path: Path) -> None:
    frames = copper(3)
    for atoms in frames:
        atoms.info["mine"] = atoms.calc.results.pop("energy")
    ase.io.write(tmp_path / "bad.xyz", frames)
    with pytest.raises(DataError, match=r"no energy.*mine.*data\.labels=\{'energy'"):
        run("train", config, f"data.train={tmp_path / 'bad.xyz'}")
    assert "data.labels" in (tmp_path / "runs" / "copper-train" / "error.log").read_text()
    with pytest.raises(DataError, match=r"no energy.* labels=\{'energy'"):
        train(MomentNetwork(["Cu"]), frames)
    keys = r"data.labels={'energy': 'mine', 'forces': 'minne'}"
    with pytest.raises(
        DataError, match=r"no structure has 'minne', .* its forces, in .*bad.xyz.*did you mean 'mine'"
    ):
        run("train", config, f"data.train={tmp_path / 'bad.xyz'}", keys)
    with pytest.raises(DataError, match=r"no structure has 'minne'"):
        train(MomentNetwork(["Cu"]), frames, labels={"energy": "mine", "forces": "minne"})


@pytest.mark.filterwarnings("default:one geometry")
def test_warnings_are_lines_of_the_log(config: Path, tmp_path: Path) -> None:
    (first,) = copper(1)
    states = [first.copy() for _ in range(6)]
    for q, atoms in enumerate(states):
        atoms.info["charge"] = q
        atoms.calc = SinglePointCalculator(atoms, energy=float(q), forces=first.get_forces())
    ase.io.write(tmp_path / "states.xyz", states)
    sets = [f"data.train={tmp_path / 'states.xyz'}", "data.validation=0", "data.test=null", "data.pool=null"]
    done = CliRunner().invoke(app, ["train", str(config), *SNAP, *sets])
    assert "warning: one geometry has several energies" in done.output
    assert "UserWarning" not in done.output
    assert "several energies" in (tmp_path / "runs" / "copper-train" / "run.log").read_text()


@pytest.mark.filterwarnings("default:selection stopped")
def test_a_pool_of_training_structures_alone_has_no_pick(config: Path, data: Path) -> None:
    run("train", config, *SNAP)
    with pytest.raises(
        DataError, match=r"no structure of the pool is left to pick in .*train.xyz; got .*cop"
    ):
        run(
            "select",
            config,
            *SNAP,
            f"data.pool={data.parent / config.parent / 'runs/copper-train/train.xyz'}",
        )


@pytest.mark.parametrize("key", ["test", "validation"])
def test_sets_that_hold_training_structures_are_named(
    config: Path, data: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_verb("train", config, [*SNAP, f"data.{key}={data / 'train.xyz'}"], dry_run=True, overwrite=False)
    assert f"{key} structures have a copy, possibly rotated, in the training set" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["test", "pool", "validation"])
def test_all_files_are_read_before_training(config: Path, tmp_path: Path, key: str) -> None:
    frames = copper(3)
    frames[1].numbers[:] = 13
    ase.io.write(tmp_path / "aluminium.xyz", frames)
    for name, error, words in (
        ("nowhere.xyz", DataError, "nowhere"),
        ("aluminium.xyz", PotentialError, "does not know Al"),
    ):
        if key == "pool" and name == "nowhere.xyz":
            continue
        with pytest.raises(error, match=words):
            run("train", config, f"data.{key}={tmp_path / name}", f"name={name[:3]}")
    assert not list((tmp_path / "runs").glob("*/checkpoint"))


def test_a_pool_may_come_after_the_training(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = read_training(load(RunConfig, config, ["data.pool=later.xyz", *SNAP]))
    assert len(inputs.train) > 0
    assert "pool: later.xyz is not there yet; 'select' needs it" in capsys.readouterr().out


def test_what_stresses_count_is_said(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = copper(8, strain=0.03, properties=("energy", "forces", "stress"))
    ase.io.write(tmp_path / "stressed.xyz", frames)
    repelled = ["repulsion.inner=0.8", "repulsion.outer=1.6"]
    files = [f"data.{key}={tmp_path / 'stressed.xyz'}" for key in ("train", "validation", "test")]
    run("train", config, *SNAP, *repelled, *files)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "a weight of" in line]
    assert line.startswith("stress counts with a weight of ")
    weight = float(line.split()[-4])
    snap = Snap.from_settings(SnapConfig(cutoff=3.6, twojmax=2), ["Cu"])
    fit = train(snap + ZBL(["Cu"], 0.8, 1.6), frames, frames)
    assert fit.weights["stress"] == weight
    assert fit.label_note.endswith(f"; {line}")
    unused = train(snap, frames, 0.0, stress_weight=0.0)
    assert unused.label_note.endswith("stress has labels and is not trained on: stress_weight is 0")


def test_comment_lines_of_cp2k_are_read_as_the_refusal_says(config: Path, tmp_path: Path) -> None:
    """Their `E` states no unit; the offer, given to the same command, has it in hartree."""
    text, energies = "", -17.0 + 0.01 * np.arange(8)
    for i, (atoms, energy) in enumerate(zip(copper(8), energies, strict=True)):
        text += f"{len(atoms)}\n i = {i:8d}, time = {i / 2:12.3f}, E = {energy:20.10f}\n"
        text += "".join(f"{'Cu':>3} {x:19.10f} {y:19.10f} {z:19.10f}\n" for x, y, z in atoms.positions)
    (tmp_path / "run-pos-1.xyz").write_text(text)
    files = [f"data.{key}={tmp_path / 'run-pos-1.xyz'}" for key in ("train", "test", "pool")]
    with pytest.raises(DataError, match="CP2K's comment lines have it in hartree") as error:
        run("train", config, *SNAP, *files)
    offer = re.findall(r"data\.\w+=\{.*?\}", str(error.value))
    assert offer == ["data.labels={'energy': 'E'}", "data.units={'energy': 'Hartree'}"]
    folder = run("train", config, *SNAP, *files, *offer)
    found = [
        atoms.get_potential_energy()
        for part in ("train", "validation")
        for atoms in ase.io.read(folder / f"{part}.xyz", ":")
    ]
    np.testing.assert_allclose(np.sort(found), EV_PER_HARTREE * energies, rtol=1e-12)
    assert (run("doctor", config, *files, *offer) / "doctor.json").exists()
    with pytest.raises(ConfigError, match=r"data\.units.*unit 'hartree'; did you mean 'Hartree'"):
        run("train", config, *files, "data.units={'energy': 'hartree'}")


def test_a_loop_reads_each_file_once(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []

    def counted(source: str, index: str) -> Frames:
        files.append(Path(source).name)
        return _read_file(source, index)

    monkeypatch.setattr("surefield.structures.read._read_file", counted)
    inputs = read_loop(load(RunConfig, config, SNAP))
    assert (len(inputs.pool.candidates), len(inputs.test)) == (14, 5)
    assert sorted(files) == ["test.xyz", "train.xyz"]


def test_structures_without_forces_count_with_their_energies(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed, test = copper(12, strain=0.03), copper(4, 1, strain=0.03)
    for atoms in (mixed[3], *test):
        del atoms.calc.results["forces"]
    ase.io.write(tmp_path / "mixed.xyz", mixed)
    ase.io.write(tmp_path / "energies.xyz", test)
    files = [f"data.train={tmp_path / 'mixed.xyz'}", f"data.test={tmp_path / 'energies.xyz'}"]
    summary = json.loads((run("train", config, *SNAP, *files) / "summary.json").read_text())
    assert "1 structures have no forces: of them the energies count" in capsys.readouterr().out
    assert summary["train"]["n_structures"] + summary["validation"]["n_structures"] == 12
    assert summary["validation"]["forces_mae"] > 0
    assert {key for key in summary["test"] if key.endswith("_mae")} == {"energy_mae"}
    low, high = summary["intervals"]["test"]["energy_rmse"]
    assert low < summary["test"]["energy_rmse"] < high


def test_uq_says_what_a_training_without_validation_lacks(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = [*SNAP, "data.validation=0"]
    summary = json.loads((run("train", config, *none) / "summary.json").read_text())
    assert summary["test"]["forces_mae"] > 0
    shown = capsys.readouterr().out
    assert "Force MAE (meV/Å)" in shown
    assert "next: surefield select" in shown
    with pytest.raises(ConfigError, match=r"without validation none was fitted.*data\.validation"):
        run("uq", config, *none)


def test_the_folder_of_a_run_says_what_happened_and_its_index_lists_it(config: Path) -> None:
    folder = run("doctor", config)
    log = (folder / "run.log").read_text()
    assert "surefield doctor" in log
    assert "findings" in log
    index = (folder.parent / "copper.html").read_text()
    assert 'href="copper-doctor/report.html"' in index


def test_replay_of_selections(config: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the labelled training data: a table, a verdict for each method, and a section of the report."""
    few = ["replay.n_initial=4", "replay.n_per_round=3", "replay.n_rounds=2", "replay.seeds=3"]
    done = CliRunner().invoke(app, ["select", str(config), *SNAP, *few, "--replay", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "would run 'select-replay'" in done.output
    assert "replay: 21 fits by ridge, 10 labels" in done.output
    done = CliRunner().invoke(app, ["select", str(config), *SNAP, *few, "--replay"])
    assert done.exit_code == 0, done.output
    folder = config.parent / "runs" / "copper-select-replay"
    assert done.output.count("energy    rmse   ") == 2
    summary = json.loads((folder / "summary.json").read_text())
    for method in ("lcmd", "max_dist"):
        assert re.search(rf"{method} (reaches|shows no|did not).*energy MAE", summary["verdict"])
    entries = json.loads((folder / "replay.json").read_text())
    assert entries["methods"] == ["lcmd", "max_dist", "random"]
    assert np.array(entries["labels"]["lcmd"]).tolist() == [[4, 7, 10]] * 3
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "RMSE of the energy per atom" in page
    assert page.count("<td>largest error</td>") == 2
    assert page.count("<td>RMSE of the worst structure</td>") == 2
    assert summary["verdict"].split(" (")[0] in page
    with pytest.raises(SurefieldError, match="the replay wants 18 labels"):
        run_verb(
            "select-replay",
            config,
            [*SNAP, *few, "replay.n_rounds=4", "replay.n_initial=6"],
            dry_run=True,
            overwrite=False,
        )
    with pytest.raises(SurefieldError, match=r"unknown method 'lcdm'; did you mean 'lcmd'"):
        run("select-replay", config, "replay.methods=[lcdm]")


def test_an_interrupt_says_how_to_go_on(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("surefield.cli.jobs.run_verb", interrupted)
    done = CliRunner().invoke(app, ["train", str(config)])
    assert done.exit_code == 130
    assert done.stderr == "interrupted; run the same command again to go on\n"


def test_configurations_are_read_without_jax(config: Path) -> None:
    """So that a fault is told within a second."""
    start = "import sys\nfrom surefield.cli import main\n"
    code = f"{start}try: main()\nexcept SystemExit: print('jax' in sys.modules)"
    command = [sys.executable, "-c", code, "train", str(config), "training.epochs=-1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "training.epochs: must be greater than or equal to 0, got -1" in done.stderr
    assert done.stdout == "False\n"


def test_version() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"surefield {surefield.__version__}\n")


def test_unknown_element(config: Path) -> None:
    with pytest.raises(PotentialError, match="does not know Cu"):
        run("train", config, "potential.species=[Al]")


def test_atoms_too_close(config: Path, tmp_path: Path) -> None:
    frames = copper(3)
    frames[1].positions[1] = frames[1].positions[0] + [0.1, 0, 0]
    ase.io.write(tmp_path / "bad.xyz", frames)
    with pytest.raises(DataError, match=r"frame 1 of .*bad\.xyz"):
        run("train", config, f"data.train={tmp_path / 'bad.xyz'}")


def test_zero_cell(config: Path, tmp_path: Path) -> None:
    frames = copper(3)
    frames[2].cell[:] = 0
    frames[2].pbc = True
    potential = MomentNetwork(["Cu"])
    with pytest.raises(DataError, match="frame 2"):
        train(potential, frames)


def test_a_failure_is_one_line_and_exit_code_one(config: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.xyz").write_text("")
    command = [sys.executable, "-c", "from surefield.cli import main; main()"]
    done = subprocess.run(
        [*command, "train", str(config), f"data.train={tmp_path / 'empty.xyz'}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("DataError:")
    assert "empty.xyz" in line
