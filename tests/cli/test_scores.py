"""`surefield score`: result files, numbers of the library, and a figure in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from tests.conftest import SW

import surefield as sf
from surefield.cli.config import RunConfig
from surefield.cli.jobs import run_verb
from surefield.config import load
from surefield.errors import ConfigError, DataError, PotentialError
from surefield.potentials.config import SnapConfig
from surefield.potentials.parametric import StillingerWeber
from surefield.potentials.saving import save_potential
from surefield.potentials.snap import Snap
from surefield.scores.quests.entropy import delta_entropy, diversity, efficiency
from surefield.structures.read import read_frames, write_frames

pytestmark = pytest.mark.filterwarnings("ignore:.*unlike all training atoms")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    frames = []
    for n in (2, 3, 4):
        frames.append(Atoms(f"Cu{n}", rng.uniform(0, 6, (n, 3))))
        frames[-1].arrays["features"] = rng.standard_normal((n, 4))
    write_frames(tmp_path / "pool.xyz", frames)
    np.save(tmp_path / "descriptors.npy", rng.standard_normal((20, 4)))
    np.save(tmp_path / "errors.npy", rng.lognormal(-2, 1, (9, 20)))
    return tmp_path


def run(
    folder: Path, score: dict[str, Any], *, name: str = "si", dry_run: bool = False, **more: Any
) -> Path | None:
    config = {
        "name": name,
        "root": str(folder / "runs"),
        "data": {"pool": "pool.xyz"},
        "score": score,
        **more,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    report = run_verb("score", folder / f"{name}.yaml", [], dry_run=dry_run, overwrite=False)
    return report and report.parent


def test_ltau(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"kind": "ltau", "descriptors": "features", "num_nearest_neighbors": 2}
    settings |= {"train_descriptors": "descriptors.npy", "error_pdfs": "errors.npy", "nbins": 20}
    assert run(files, settings, dry_run=True) is None
    assert "ltau of 3 structures, 9 atoms" in capsys.readouterr().out
    folder = run(files, settings)
    assert folder is not None
    frames = read_frames(files / "pool.xyz")
    log = files / "descriptors.npy", files / "errors.npy"
    score = sf.LTAUForcesUQScore(*log, from_error_logs=True, nbins=20)
    expected = score.compute_batch(list(frames), "uncertainty", "features", 2)
    written = read_frames(folder / "score_results.xyz")
    for atoms, result in zip(written, expected, strict=True):
        np.testing.assert_array_equal(atoms.arrays["ltau_forces_uq_score"], result)
        assert atoms.info["_metadata"]["ltau_forces_uq_score"]["nbins"] == 20
    facts = json.loads((folder / "score.json").read_text())
    assert facts["words"].startswith("ltau_forces_uq_score of 9 atoms: median")
    page = (folder / "report.html").read_text()
    assert "Expected force error" in page
    assert "LTAUForcesUQScore" in page
    assert "score_results.xyz" in capsys.readouterr().out


def test_scores_of_a_training_reach_select(files: Path, copper: list[Atoms], capsys: Any) -> None:
    write_frames(files / "train.xyz", copper[:5])
    write_frames(files / "valid.xyz", copper[5:7])
    data = {"train": "train.xyz", "validation": "valid.xyz", "pool": "pool.xyz"}
    write_frames(files / "pool.xyz", copper[7:10])
    potential = {"kind": "snap", "cutoff": 3.6, "twojmax": 2}
    more = {"data": data, "potential": potential, "stability": False, "uncertainty": {"kind": "ltau", "k": 2}}
    more["selection"] = {"method": "max_diag", "n": 1, "features": "ll_grad", "score": "ltau_forces_uq_score"}
    with pytest.raises(ConfigError, match="run 'surefield train' with this configuration first"):
        run(files, {"kind": "ltau"}, **more)
    run_verb("train", files / "si.yaml", [], dry_run=False, overwrite=False)
    folder = run(files, {"kind": "ltau", "num_nearest_neighbors": 2}, **more)
    assert folder is not None
    written = read_frames(folder / "score_results.xyz")
    assert "descriptors" not in written[0].arrays
    largest = [float(atoms.arrays["ltau_forces_uq_score"].max()) for atoms in written]
    pool = f"data.pool={folder / 'score_results.xyz'}"
    run_verb("select", files / "si.yaml", [pool], dry_run=False, overwrite=False)
    picks = json.loads((files / "runs" / "si-select" / "selection.json").read_text())
    assert picks["picks"] == [int(np.argmax(largest))]
    assert picks["reasons"][0]["score"] == "ltau_forces_uq_score"


def test_information_about_parameters(files: Path) -> None:
    silicon = StillingerWeber(SW, ["Si"])
    frames = [bulk("Si"), bulk("Si", cubic=True)]
    for i, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=i)
    write_frames(files / "pool.xyz", frames)
    save_potential(files / "sw.npz", silicon)
    parameters = {"A": [["default"]], "B": [["default"]], "lambda": [["default"]]}
    settings = {"kind": "fim_training_set", "potential": "sw.npz", "parameters_optimize": parameters}
    folder = run(files, settings)
    assert folder is not None
    expected = sf.scores.FIMTrainingSetScore().compute_batch(frames, "sensitivity", silicon, parameters)
    for atoms, fim in zip(read_frames(folder / "score_results.xyz"), expected, strict=True):
        np.testing.assert_allclose(atoms.info["fim_training_set_score"], fim, rtol=1e-12)
    page = (folder / "report.html").read_text()
    for words in ("Fisher information", "Eigenvalues", "Information of a structure"):
        assert words in page
    assert json.loads((folder / "score.json").read_text())["parameters"]["2"]["parameter"] == "lambda"


def test_as_jobs(files: Path) -> None:
    """Batches of two structures, as processes of this machine: the same results as here, and nothing more."""
    settings = {"kind": "quests_delta_entropy", "reference_set": "pool.xyz", "bandwidth": 1.0}
    here = run(files, settings)
    jobs = run(files, settings | {"jobs": {"batch_size": 2}}, name="jobs")
    assert here is not None
    assert jobs is not None
    assert len(list((jobs / "jobs" / "QUESTSDeltaEntropyScore" / "score" / "00000").glob("0*"))) == 2
    pairs = zip(*(read_frames(folder / "score_results.xyz") for folder in (here, jobs)), strict=True)
    for direct, atoms in pairs:
        key = "quests_delta_entropy_score"
        np.testing.assert_allclose(atoms.arrays[key], direct.arrays[key], rtol=1e-12)
        assert atoms.arrays.keys() == direct.arrays.keys()
        assert atoms.info["_metadata"].keys() == direct.info["_metadata"].keys()
    assert json.loads((jobs / "score.json").read_text()) == json.loads((here / "score.json").read_text())


@pytest.mark.parametrize("kind", ["quests_efficiency", "quests_diversity"])
def test_entropies_of_a_set(files: Path, kind: str) -> None:
    settings = {
        "kind": kind,
        "bandwidth": 0.1,
        "descriptor_args": {"num_nearest_neighbors": 6, "cutoff": 4.0},
    }
    folder = run(files, settings)
    assert folder is not None
    frames = sf.QUESTSDescriptor(6, 4.0).described(list(read_frames(files / "pool.xyz")))
    rows = np.concatenate([atoms.arrays["quests_descriptor_descriptors"] for atoms in frames])
    function = efficiency if kind == "quests_efficiency" else diversity
    result = json.loads((folder / "score_results.json").read_text())
    assert result[f"{kind}_score"] == pytest.approx(function(rows, 0.1), rel=1e-12)
    assert result["_metadata"]["bandwidth"] == 0.1
    assert kind.removeprefix("quests_").capitalize() in (folder / "report.html").read_text()


def test_novelty(files: Path) -> None:
    rng = np.random.default_rng(1)
    reference = rng.standard_normal((30, 4))
    np.save(files / "reference.npy", reference)
    settings = {"kind": "quests_delta_entropy", "descriptors": "features", "reference_set": "reference.npy"}
    folder = run(files, settings | {"bandwidth": 1.0})
    assert folder is not None
    for atoms in read_frames(folder / "score_results.xyz"):
        expected = delta_entropy(atoms.arrays["features"], reference, 1.0)
        np.testing.assert_allclose(atoms.arrays["quests_delta_entropy_score"], expected, rtol=1e-12)
    assert "Novelty of the environment" in (folder / "report.html").read_text()
    # without a reference: that of data.train, with the same descriptor
    data = {"pool": "pool.xyz", "train": "pool.xyz"}
    own = run(files, {"kind": "quests_delta_entropy", "bandwidth": 1.0}, name="own", data=data)
    assert own is not None
    values = [a.arrays["quests_delta_entropy_score"].max() for a in read_frames(own / "score_results.xyz")]
    assert max(values) <= 0  # each is in its own reference


def test_information_matching(files: Path) -> None:
    pytest.importorskip("cvxpy")
    frames = list(read_frames(files / "pool.xyz"))
    for i, atoms in enumerate(frames):
        atoms.info["fim_training_set_score"] = np.diag([1.0 + i, 0.5])
    write_frames(files / "candidates.xyz", frames)
    np.save(files / "target.npy", np.diag([6.0, 0.0]))
    settings = {"kind": "fim_matching", "structures": "candidates.xyz", "fim_property": "target.npy"}
    folder = run(files, settings)
    assert folder is not None
    weights = [a.info["fim_matching_weight_score"] for a in read_frames(folder / "score_results.xyz")]
    np.testing.assert_allclose(weights, [0.0, 0.0, 2.0], rtol=1e-6)
    assert "Weight of a structure" in (folder / "report.html").read_text()


def test_information_of_a_property(files: Path) -> None:
    save_potential(files / "sw.npz", StillingerWeber(SW, ["Si"]))
    crystal = {"lattice_param": 5.43, "lattice_type": "diamond", "elements": ["Si"]}
    target = {"target_property_type": "CohesiveEnergy", "target_property_args": crystal}
    settings = {
        "kind": "fim_property",
        "potential": "sw.npz",
        "cov": [[0.01]],
        "parameters_optimize": {"A": [["default"]]},
    }
    folder = run(files, settings | {"list_of_target_property": [{"init_args": target}]})
    assert folder is not None
    result = json.loads((folder / "score_results.json").read_text())
    assert np.shape(result["fim_property_score"]) == (1, 1)
    assert result["fim_property_score"][0][0] > 0


def test_what_is_missing_is_named(files: Path) -> None:
    with pytest.raises(ConfigError, match="'score' needs the section score"):
        run(files, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"score\.kind|'quests'"):
        run(files, {"kind": "quests"})
    with pytest.raises(ConfigError, match=r"unknown key 'score\.nbin', did you mean 'nbins'"):
        run(files, {"kind": "ltau", "nbin": 3})


@pytest.mark.parametrize("dry_run", [True, False])
def test_structures_that_cannot_be_computed(files: Path, copper: list[Atoms], dry_run: bool) -> None:
    near, flat, lost = copper[0].copy(), copper[1].copy(), copper[2].copy()
    near.positions[1] = near.positions[0] + 0.1
    flat.set_cell(np.zeros((3, 3)))
    lost.positions[0, 0] = np.nan
    (files / "runs" / "si-train").mkdir(parents=True)
    save_potential(
        files / "runs" / "si-train" / "potential.npz",
        Snap.from_settings(SnapConfig(cutoff=3.6, twojmax=2), ["Cu"]),
    )
    novel = {"kind": "quests_delta_entropy", "reference_set": "bad.xyz", "structures": "good.xyz"}
    write_frames(files / "good.xyz", copper[3:5])
    for bad, words in ((near, "Å apart"), (flat, "no volume"), (lost, "not finite")):
        write_frames(files / "bad.xyz", [copper[3], bad])
        for settings in (
            {"kind": "quests_efficiency", "structures": "bad.xyz"},
            {"kind": "quests_diversity", "descriptors": "potential", "structures": "bad.xyz"},
            {"kind": "fim_training_set", "structures": "bad.xyz"},
            *([] if dry_run else [novel]),
        ):
            with pytest.raises(DataError, match=rf"{words}.* in frame 1 of \S*bad\.xyz"):
                run(files, settings, dry_run=dry_run)
    write_frames(files / "other.xyz", [Atoms("Ni")])
    with pytest.raises(PotentialError, match=r"does not know Ni in frame 0 of \S*other\.xyz"):
        run(files, {"kind": "fim_training_set", "structures": "other.xyz"}, dry_run=dry_run)


def test_every_key_is_in_the_example(project: Path) -> None:
    path = project / "examples" / "configs" / "everything.yaml"
    config = load(RunConfig, path)
    assert config.score is not None
    named = set(yaml.safe_load(path.read_text())["score"])
    assert named == set(type(config.score).model_fields)
