"""Files of every kind that version 0.1 saved (`saved_by_0_1/write.py`) are read as that version read them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

import surefield as sf
from surefield.cli import main
from surefield.networks import Amp, Gaussian, LossFunction, NeuralNetwork, Regressor, hash_images
from surefield.potentials.parametric.eam import EAM
from surefield.report import load_run
from surefield.report.reasons import sentence
from surefield.selection import Selection
from surefield.sensitivity import RowCovariance
from surefield.storage import PotentialRegistry, open_storage
from surefield.trainers import (
    ChIMESPotential,
    ChIMESTrainer,
    FitSnapPotential,
    FitSnapTrainer,
    KIMPotential,
    KliffBPPotential,
    ParametricModelTrainer,
)
from surefield.uncertainty import LLPR, DropoutEnsemble

FILES = Path(__file__).parent / "saved_by_0_1" / "files"
EXPECTED = json.loads((FILES / "expected.json").read_text("utf-8"))
PREDICTIONS = {entry["file"]: entry for entry in EXPECTED["predictions"]}
#: What `surefield.load` reads.
LOADABLE = [file for file in PREDICTIONS if file.endswith(".npz") or file.startswith("models/")]
SILICON = "SW_StillingerWeber_1985_Si__MO_405512056662_006"
SNAP = {"BISPECTRUM": {"numTypes": 1, "type": "Si", "twojmax": 2, "rcutfac": 3.8}}
COPPER = {"Cu": [{"type": "G2", "element": "Cu", "eta": eta} for eta in (0.5, 4.0)]}
REPEATED = {
    *("potentials/atomic_network_float32.npz", "potentials/atomic_network_zernike.npz"),
    *("potentials/charge_network_amp.npz", "potentials/linearized_network.npz"),
    *("potentials/moment_network_float32.npz", "potentials/snap_quadratic.npz", "potentials/snap_sum.npz"),
    *("uncertainties/dropout_ensemble_sum.npz", "uncertainties/llpr_charges.npz"),
    *("uncertainties/llpr_float32.npz", "uncertainties/llpr_sum.npz"),
    *("training/sum/trained.npz", "training/atomic/trained.npz"),
    *("models/gaussian", "models/zernike", "models/charges"),
}
#: Every step of a training lets differences of rounding grow.
RESUMED = 1e-8

pytestmark = [
    pytest.mark.filterwarnings("ignore::surefield.trainers.TrainingWarning"),
    pytest.mark.filterwarnings("ignore:force_convention='amp-1.1':UserWarning"),
]


@pytest.fixture(scope="module")
def arrays():
    with np.load(FILES / "expected.npz") as file:
        return dict(file)


@pytest.fixture
def copied(tmp_path):
    """A function that copies a folder of the fixtures, with the paths in its files those of the copy."""

    def copy(name):
        shutil.copytree(FILES / name, tmp_path / name)
        for path in (tmp_path / name).rglob("*"):
            # The hash of a registry's manifest covers the paths in it.
            if path.suffix in (".json", ".jsonl", ".txt", ".yaml") and "registry" not in path.parts:
                text = path.read_text("utf-8")
                path.write_text(text.replace(EXPECTED["work"], str(tmp_path)), "utf-8")
        return tmp_path / name

    return copy


def frames_of(name):
    return list(sf.read_frames(FILES / "structures" / name))


def check(file, model, arrays, tolerance=None):
    """Compare the predictions of a potential or an uncertainty with those of version 0.1."""
    entry = PREDICTIONS[file]
    frames = frames_of(entry["structures"])[: entry["count"]]
    found = model.predict(frames, **entry["options"])
    values = [getattr(p, name) for p, names in zip(found, entry["results"], strict=True) for name in names]
    tolerance = tolerance or (1e-5 if entry["single"] else 1e-10)
    flat = np.concatenate([np.ravel(value) for value in values])
    np.testing.assert_allclose(flat, arrays[f"{file}|predictions"], rtol=tolerance, atol=tolerance)


def test_everything_is_there():
    kinds = {"atomic_network", "charge_network", "chimes", "dropout_network", "eam", "image_network"}
    kinds |= {"lennard_jones", "linearized", "moment_network", "morse", "quadratic_charge_network", "snap"}
    kinds |= {"stillinger_weber", "sum", "tersoff", "zbl"}
    with_suffix = [path.stem for path in (FILES / "potentials").glob("*.npz")]
    assert all(any(name.startswith(kind) for name in with_suffix) for kind in kinds)


def marked(files):
    """Files that hold what others hold too, of another precision or around another, are slow."""
    return [pytest.param(file, marks=pytest.mark.slow) if file in REPEATED else file for file in files]


@pytest.mark.parametrize("file", marked(LOADABLE))
def test_predictions(file, arrays):
    check(file, sf.load(FILES / file), arrays)


@pytest.mark.parametrize("load", [sf.load_potential, sf.potentials.load_potential])
def test_load_potential(load, arrays):
    check("potentials/sum.npz", load(FILES / "potentials" / "sum.npz"), arrays)


@pytest.mark.parametrize("file", marked(file for file in LOADABLE if file.startswith("potentials/")))
def test_saved_again_it_is_the_same(file, arrays, tmp_path):
    sf.save_potential(tmp_path / "again.npz", sf.load_potential(FILES / file))
    check(file, sf.load_potential(tmp_path / "again.npz"), arrays)


def test_uncertainties_by_their_classes(arrays, tmp_path):
    for kind, name in ((LLPR, "llpr"), (DropoutEnsemble, "dropout_ensemble")):
        sure = kind.load(FILES / "uncertainties" / f"{name}.npz")
        check(f"uncertainties/{name}.npz", sure, arrays)
        sure.save(tmp_path / name)
        check(f"uncertainties/{name}.npz", kind.load(tmp_path / name), arrays)
    found = dict(LLPR.load(FILES / "uncertainties" / "llpr.npz").statistics)
    assert json.loads(json.dumps(found)) == EXPECTED["statistics"]


@pytest.mark.parametrize("name", EXPECTED["models"])
@pytest.mark.parametrize("suffix", ["", ".json"])
def test_network_models(name, suffix, arrays):
    expected = EXPECTED["models"][name]
    calc = Amp.load(FILES / "models" / f"{name}{suffix}", extrapolation="ignore")
    model = calc.model
    assert (type(model).__name__, type(calc.descriptor).__name__) == (
        expected["model"],
        expected["descriptor"],
    )
    assert model.status == expected["status"]
    assert {key: model.parameters[key] for key in expected["settings"]} == expected["settings"]
    np.testing.assert_array_equal(model.vector, arrays[f"models/{name}|vector"])
    check(f"models/{name}", model, arrays)
    atoms = frames_of(PREDICTIONS[f"models/{name}"]["structures"])[0]
    (prediction,) = model.predict([atoms])
    atoms.calc = calc
    assert atoms.get_potential_energy() == pytest.approx(prediction.energy, rel=1e-12)


@pytest.mark.parametrize("name", ["network", pytest.param("sum", marks=pytest.mark.slow), "atomic"])
def test_training_goes_on(name, copied, arrays):
    folder = copied(f"training/{name}")
    start = sf.load_potential(folder / "untrained.npz")
    settings = {**EXPECTED["training"], "stress_weight": 0.0}  # the default of version 0.1
    fit = sf.train(start, frames_of("copper.xyz"), 0.25, folder=folder / "run", **settings)
    losses = [row["loss"] for row in fit.history]
    np.testing.assert_allclose(losses, arrays[f"training/{name}|loss"], rtol=RESUMED)
    # The epochs before the stop are those of the file, not trained again.
    assert losses[:2] == arrays[f"training/{name}|loss"][:2].tolist()
    check(f"training/{name}/trained.npz", fit.potential, arrays, RESUMED)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", EXPECTED["full_batch"])
def test_full_batch_training_goes_on(optimizer, copied, arrays):
    label = copied("full_batch") / optimizer
    expected = EXPECTED["full_batch"][optimizer]
    losses = []
    model = NeuralNetwork(
        (3,),
        randomseed=1,
        checkpoints=4,
        lossfunction=LossFunction(convergence={"energy_rmse": 1e-9, "force_rmse": 1e-9}, maxiter=20),
        regressor=Regressor(optimizer, expected["settings"]),
    )
    model.observer = lambda _, __, loss: losses.append(loss)
    calc = Amp(Gaussian(3.6, Gs=COPPER), model, label=str(label), logging=False, raise_unconverged=False)
    assert calc.train(frames_of("copper.xyz")) == expected["status"]
    whole = arrays[f"full_batch/{optimizer}|losses"]
    assert len(losses) < len(whole) - 3
    np.testing.assert_allclose(losses, whole[-len(losses) :], rtol=RESUMED)
    np.testing.assert_allclose(
        model.vector, arrays[f"full_batch/{optimizer}|vector"], rtol=1e-6, atol=RESUMED
    )


@pytest.mark.parametrize("name", EXPECTED["storages"])
def test_storages(name, copied):
    storage = open_storage(copied("storage") / name)
    expected = EXPECTED["storages"][name]
    assert [dataset.handle for dataset in storage.list_data()] == list(expected)
    for handle, entry in expected.items():
        dataset = storage.describe(handle)
        assert (dataset.size, dataset.hash, dataset.parent) == (entry["size"], entry["hash"], entry["parent"])
        assert dict(dataset.metadata) == entry["metadata"]
        frames = storage.get_data(handle)
        assert [atoms.info["configuration_id"] for atoms in frames] == entry["ids"]
        assert [atoms.get_potential_energy() for atoms in frames] == entry["energies"]
    if name == "local":
        storage.update_data("copper", storage.get_data("copper_1", {"index": ":1"}))
        assert storage.describe("copper").hash == expected["copper_1"]["hash"]


def test_registry(copied, arrays):
    registry = PotentialRegistry(copied("registry"))
    assert sorted(line.kim_id for line in registry.list_potentials()) == sorted(EXPECTED["registry"])
    kinds = {line.kim_id: line.kind for line in registry.list_potentials()}
    for kim_id, expected in EXPECTED["registry"].items():
        potential, manifest = registry.load(kim_id)
        check(f"registry|{kim_id}", potential, arrays)
        assert kinds[kim_id] == expected["kind"]
        assert registry.parents(kim_id) == expected["parents"]
        assert (manifest.get("seed"), manifest.get("loss")) == (expected["seed"], expected["loss"])
        assert sorted(manifest["files"]) == expected["files"]
    first = next(iter(EXPECTED["registry"]))
    potential, _ = registry.load(first)
    assert registry.save(potential, prefix="Copper", parent=first) == f"{first[:-3]}002"


def test_fingerprints_are_read(copied, arrays):
    folder = copied("fingerprints")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
    images = frames_of("copper.xyz")[:2]
    descriptor = Gaussian(3.6, Gs=COPPER, dblabel=str(folder))
    descriptor.calculate_fingerprints(images, calculate_derivatives=True)
    for key in hash_images(images):
        rows, primes = descriptor.fingerprints[key], descriptor.fingerprintprimes[key]
        np.testing.assert_array_equal([values for _, values in rows], arrays[f"fingerprints|{key}"])
        slopes = [primes[place] for place in sorted(primes)]
        np.testing.assert_array_equal(slopes, arrays[f"fingerprintprimes|{key}"])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")} == times


def test_selection():
    expected = EXPECTED["selection"]
    found = Selection.load(FILES / "selection" / "selection.npz")
    assert list(found) == expected["picks"]
    np.testing.assert_array_equal(found.gains, expected["gains"])
    np.testing.assert_array_equal(found.squared_distances, expected["squared_distances"])
    assert [[r.rule, r.value, r.score, r.score_value] for r in found.reasons] == expected["reasons"]
    assert (found.n_requested, found.stopped) == (expected["n_requested"], expected["stopped"])
    assert list(found.notes) == expected["notes"]
    assert json.loads(json.dumps(dict(found.config))) == expected["config"]


def test_row_covariance(arrays):
    expected = EXPECTED["covariance"]
    found = RowCovariance.load(FILES / "selection" / "covariance.npz")
    np.testing.assert_array_equal(found.combined(expected["weights"]), arrays["covariance|combined"])
    assert (found.n_rows, found.masked) == (expected["n_rows"], expected["masked"])
    assert found.sum_squared_residuals == expected["sum_squared_residuals"]


def test_files_for_other_programs(arrays):
    folder = FILES / "exports"
    check("exports/cu.eam.alloy", EAM.read(folder / "cu.eam.alloy"), arrays)
    check("exports/params.txt", ChIMESPotential(["Si"], None, folder / "params.txt").model, arrays)


def text_of(records):
    """Text by which tables are compared; JSON has no NaN, and null stands for it in files."""
    return json.dumps(records, sort_keys=True).replace("null", "NaN")


def handle_and_trainer(name):
    if name == "FitSnapTrainer":
        return FitSnapPotential(["Si"], settings_path=SNAP), FitSnapTrainer()
    if name == "ParametricModelTrainer":
        return KIMPotential(SILICON), ParametricModelTrainer(SILICON, ["A"])
    parameters = FILES / EXPECTED["trainers"][name]["folder"] / "potential" / "params.txt"
    return ChIMESPotential(["Si"], None, parameters), ChIMESTrainer()


@pytest.mark.parametrize("name", EXPECTED["trainers"])
def test_submitted_trainings(name, copied, arrays):
    expected = EXPECTED["trainers"][name]
    flow = {"workflow_type": "LOCAL", "workflow_args": {"root": str(copied("trainers") / "trainer")}}
    handle, trainer = handle_and_trainer(name)
    result = trainer.load_from_submitted_training(expected["job"], handle, flow)
    check(f"{expected['folder']}/potential/potential.npz", handle.model, arrays)
    for key in ("success", "message", "loss", "split", "kim_id", "rows", "seed", "n_evals"):
        assert getattr(result, key) == expected[key], key
    assert len(result.history) == expected["history"]
    assert text_of(result.errors.records()) == text_of(expected["errors"])
    assert handle.kim_id == expected["kim_id"]


def test_registry_of_the_trainers(copied, arrays):
    registry = PotentialRegistry(copied("trainers") / "registry")
    ids = [entry["kim_id"] for entry in EXPECTED["trainers"].values()]
    assert sorted(line.kim_id for line in registry.list_potentials()) == sorted(ids)
    for entry in EXPECTED["trainers"].values():
        potential, manifest = registry.load(entry["kim_id"])
        check(f"{entry['folder']}/potential/potential.npz", potential, arrays)
        assert manifest["split"] == entry["split"]
        assert text_of(manifest["metrics"]) == text_of(entry["errors"])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("FitSnapTrainer", "fitsnap_potential"),
        ("FitSnapTrainer", "potential.npz"),
        ("ParametricModelTrainer", "KIM_surefield_Si/KIM_surefield_Si.params"),
        ("ParametricModelTrainer", "."),
        ("ChIMESTrainer", "potential.npz"),
    ],
)
def test_handles_take_the_files_of_a_run(name, file, arrays):
    folder = EXPECTED["trainers"][name]["folder"]
    handle, _ = handle_and_trainer(name)
    handle.load_potential(FILES / folder / "potential" / file)
    check(f"{folder}/potential/potential.npz", handle.model, arrays)


def test_kim_files_of_dropout_networks(arrays, tmp_path):
    reached = FILES / "trainers" / "dunn" / "errors" / "reached"
    for path in reached.glob("*.params"):
        shutil.copy(path, tmp_path / path.name)
    handle = KliffBPPotential(["Si"], parameter_path=tmp_path)
    check("trainers/dunn/errors/reached/potential.npz", handle.model, arrays)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED["dunn"])
def test_a_stopped_job_goes_on(name, copied, arrays):
    from surefield.trainers.job import main as run_job

    folder = copied("trainers") / "dunn" / name
    run_job(str(folder))
    model = sf.load_potential(folder / "potential" / "potential.npz")
    check(f"trainers/dunn/{name}/reached/potential.npz", model, arrays, RESUMED)
    rows = json.loads((folder / "history.json").read_text())
    expected = arrays[f"dunn/{name}|loss"]
    np.testing.assert_allclose([row["loss"] for row in rows], expected, rtol=RESUMED)
    assert [row["loss"] for row in rows[:2]] == expected[:2].tolist()
    logs = sorted((folder / "force_errors").glob("*.npy"))
    assert {f"dunn/{name}|{path.stem}" for path in logs} | {f"dunn/{name}|loss"} == {
        key for key in arrays if key.startswith(f"dunn/{name}|")
    }
    for path in logs:
        np.testing.assert_allclose(
            np.load(path), arrays[f"dunn/{name}|{path.stem}"], rtol=RESUMED, atol=RESUMED
        )


@pytest.mark.slow
def test_a_training_script_runs_again(copied, tmp_path, arrays):
    copied("trainers")
    folder = tmp_path / EXPECTED["script"]
    script = shutil.copy(folder / "training_script.py.txt", folder / "training_script.py")
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=True, timeout=300)
    model = sf.load_potential(folder.with_name("00001") / "potential" / "potential.npz")
    check(f"{EXPECTED['script']}/potential/potential.npz", model, arrays, RESUMED)


def saved_predictions(verb):
    path = FILES / "command_line" / "runs" / f"copper-{verb}" / "predictions.npz"
    if not path.exists():
        return {}
    with np.load(path) as file:
        return dict(file)


#: Absolute rounding of a float32 network, which is now evaluated by a program that gives stresses as well.
SINGLE = 5e-7


def surefield(monkeypatch, folder, *words):
    """Run the command line in a folder."""
    monkeypatch.chdir(folder)
    defaults = [] if words[0] == "report" else ["training.stress_weight=0"]  # what version 0.1 had
    monkeypatch.setattr(sys, "argv", ["surefield", *words, *defaults])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)


def of(name):
    """Relative tolerance; rows of this network are float32 sums in batches, whose covariance is inverted."""
    return 1e-4 if name.endswith("_uncertainty") else RESUMED


def picks_of(run):
    return [[pick.method, pick.round, pick.index, pick.reason] for pick in run.picks]


def in_words(picks):
    """Version 0.1 recorded reasons as Python shows them; reports say them in words."""
    return [[*pick, sentence(reason)] for *pick, reason in picks]


@pytest.mark.parametrize("verb", EXPECTED["command_line"])
def test_run_folders(verb, arrays):
    expected = EXPECTED["command_line"][verb]
    run = load_run(FILES / "command_line" / "runs" / f"copper-{verb}")
    assert (run.verb, dict(run.summary)) == (expected["verb"], expected["summary"])
    assert picks_of(run) == in_words(expected["picks"])
    assert {curve.method: curve.n_labels.tolist() for curve in run.curves} == expected["labels"]
    assert [curve.finished for curve in run.curves] == expected["finished"]
    assert {name: len(values) for name, values in run.metrics.items()} == expected["metrics"]
    assert len(run.doctor.get("findings", ())) == expected["doctor"]
    assert list(run.notes) == expected["notes"]
    assert sorted(run.predictions) == expected["predictions"]
    for name, values in saved_predictions(verb).items():
        np.testing.assert_array_equal(run.predictions[name], values)
    for curve in run.curves:
        for name, values in curve.test.items():
            np.testing.assert_array_equal(values, arrays[f"command_line/{verb}|{curve.method}|{name}"])


@pytest.mark.parametrize("verb", EXPECTED["command_line"])
def test_report(verb, copied, monkeypatch):
    folder = copied("command_line")
    surefield(monkeypatch, folder, "report", f"runs/copper-{verb}")
    assert f"copper-{verb}" in (folder / "runs" / f"copper-{verb}" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    "verb",
    [pytest.param("eval", marks=pytest.mark.slow), pytest.param("uq", marks=pytest.mark.slow), "select"],
)
def test_verbs_that_follow_a_training(verb, copied, monkeypatch):
    """They read the trained potential, its uncertainty and the training structures of the saved run."""
    folder = copied("command_line")
    run = folder / "runs" / f"copper-{verb}"
    for name in ("predictions.npz", "predictions.xyz", "selection.json", "picks.xyz", "summary.json"):
        (run / name).unlink(missing_ok=True)
    surefield(monkeypatch, folder, verb, "copper.yaml")
    found = load_run(run)
    expected = EXPECTED["command_line"][verb]
    assert [pick[:3] for pick in picks_of(found)] == [pick[:3] for pick in expected["picks"]]
    assert set(found.predictions) >= set(expected["predictions"])
    for name, values in saved_predictions(verb).items():
        np.testing.assert_allclose(found.predictions[name], values, rtol=of(name), atol=SINGLE)
    if verb == "uq":
        saved = FILES / "command_line" / "runs" / "copper-uq" / "predictions.xyz"
        for again, atoms in zip(read(run / "predictions.xyz", ":"), read(saved, ":"), strict=True):
            np.testing.assert_allclose(
                again.arrays["surefield_forces_uncertainty"],
                atoms.arrays["surefield_forces_uncertainty"],
                rtol=of("forces_uncertainty"),
                atol=1e-8,
            )


@pytest.mark.slow
def test_a_finished_training_run_goes_on(copied, monkeypatch):
    folder = copied("command_line")
    before = (folder / "runs" / "copper-train" / "metrics.csv").read_bytes()
    surefield(monkeypatch, folder, "train", "copper.yaml")
    run = load_run(folder / "runs" / "copper-train")
    for name, values in saved_predictions("train").items():
        np.testing.assert_allclose(run.predictions[name], values, rtol=of(name), atol=SINGLE)
    assert (folder / "runs" / "copper-train" / "metrics.csv").read_bytes() == before


def test_a_finished_loop_is_not_run_again(copied, monkeypatch):
    folder = copied("command_line")
    journal = folder / "runs" / "copper-loop" / "journal.jsonl"
    before = journal.read_bytes()
    surefield(monkeypatch, folder, "loop", "copper.yaml")
    assert journal.read_bytes() == before


@pytest.mark.slow
def test_a_loop_goes_on(copied, monkeypatch, arrays):
    """Killed in its last round, the loop of version 0.1 ends with the picks it had there.

    That round is trained anew, in float32 and on rows whose sums have another order now: its errors agree to
    half a percent, not to the last digits.
    """
    folder = copied("command_line")
    run = folder / "runs" / "copper-loop"
    journal = run / "journal.jsonl"
    lines = journal.read_text("utf-8").splitlines(keepends=True)
    events = [json.loads(line) for line in lines]
    last = max(i for i, e in enumerate(events) if e["event"] == "round" and e["method"] == "max_dist")
    journal.write_text("".join(lines[:last]), "utf-8")
    for name in ("predictions.npz", "potential.npz", "summary.json"):
        (run / name).unlink()
    surefield(monkeypatch, folder, "loop", "copper.yaml")
    found = load_run(run)
    expected = EXPECTED["command_line"]["loop"]
    assert picks_of(found) == in_words(expected["picks"])
    assert all(curve.finished for curve in found.curves)
    for curve in found.curves:
        for name, values in curve.test.items():
            wanted = arrays[f"command_line/loop|{curve.method}|{name}"]
            np.testing.assert_allclose(values, wanted, rtol=0.02)
    for name, values in saved_predictions("loop").items():
        np.testing.assert_allclose(found.predictions[name], values, rtol=1e-3, atol=2e-4)
