"""Every estimator through every door: the verbs of the command line, calculator, save and load."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import ase.io
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import surefield as sf
from surefield.acquisition.select import feature_rows, score_frames
from surefield.cli.config import RunConfig
from surefield.cli.jobs import run_verb
from surefield.cli.main import app
from surefield.config import parse
from surefield.errors import ConfigError
from surefield.loop import LoopConfig
from surefield.loop.method_comparison import MethodComparison
from surefield.loop.oracles import Oracle
from surefield.report import load_run
from surefield.report.reasons import sentence
from surefield.structures.read import read_frames
from surefield.testing import check_uncertainty
from surefield.training import TrainConfig
from surefield.uncertainty import (
    LLPR,
    LTAU,
    ConstantUncertainty,
    DeepEnsemble,
    DropoutEnsemble,
    FeatureDistance,
    ShallowEnsemble,
)
from surefield.uncertainty.config import DropoutConfig

LISTS = {"g2": [{"eta": 0.1, "Rs": 0.0}, {"eta": 0.5, "Rs": 2.0}, {"eta": 2.0, "Rs": 2.5}]}
SMALL = {"cutoff": 3.5, "n_basis": 4, "n_channels": 3, "n_triple": 2, "hidden": [8]}
ESTIMATORS = {
    "llpr": {
        "estimator": LLPR,
        "file": "llpr.npz",
        "potential": SMALL,
        # no kind: files of version 0.1 name none
        "uncertainty": {"calibration_map": {"forces": "alpha"}},
        "features": "ll_posterior",
    },
    "constant": {
        "estimator": ConstantUncertainty,
        "file": "uncertainty.npz",
        "potential": SMALL,
        "uncertainty": {"kind": "constant"},
        "features": "full_grad_rp",
    },
    "distance": {
        "estimator": FeatureDistance,
        "file": "uncertainty.npz",
        "potential": SMALL,
        "uncertainty": {"kind": "distance", "k": 3},
        "features": "ll_grad",
    },
    "deep_ensemble": {
        "estimator": DeepEnsemble,
        "file": "uncertainty.npz",
        "potential": SMALL,
        "uncertainty": {"kind": "deep_ensemble", "M": 2},
        "features": "full_grad_rp",
    },
    "shallow_ensemble": {
        "estimator": ShallowEnsemble,
        "file": "uncertainty.npz",
        "potential": SMALL,
        "uncertainty": {"kind": "shallow_ensemble", "M": 3},
        "features": "ll_grad",
    },
    "ltau": {
        "estimator": LTAU,
        "file": "uncertainty.npz",
        "potential": SMALL,
        "uncertainty": {"kind": "ltau", "k": 2},
        "features": "ll_grad",
    },
    "dropout": {
        "estimator": DropoutEnsemble,
        "file": "uncertainty.npz",
        "potential": {"kind": "dropout_network", "cutoff": 3.5, "hyperparams": LISTS, "neurons": [6, 6]},
        "uncertainty": {"kind": "dropout", "M": 5},
        "features": "ll_grad",
    },
}


#: Each is a training: the quick tests have one of the kinds that share most of their code.
SLOW = ("constant", "distance", "deep_ensemble", "shallow_ensemble", "dropout")


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=pytest.mark.slow) if kind in SLOW else kind for kind in ESTIMATORS],
)
def trained(request, tmp_path_factory, copper):
    """Configuration and run folder of `surefield train`."""
    own, folder = ESTIMATORS[request.param], tmp_path_factory.mktemp(request.param)
    ase.io.write(folder / "train.xyz", copper[:6])
    ase.io.write(folder / "test.xyz", copper[6:])
    config = {
        "name": "copper",
        "root": str(folder / "runs"),
        "data": {"train": "train.xyz", "test": "test.xyz", "pool": "test.xyz", "validation": 0.34},
        "potential": own["potential"],
        "training": {"epochs": 1, "stress_weight": 1.0},
        "uncertainty": own["uncertainty"],
        "compare": {
            "estimators": [{"kind": "constant"}, {"kind": "deep_ensemble", "M": 2}, {"kind": "ltau", "k": 2}],
            **{"ood": "train.xyz", "n_bootstrap": 5},
        },
        "selection": {"method": "max_diag", "features": own["features"], "score": "forces_variance", "n": 1},
        "loop": {
            **{"methods": ["max_dist"], "features": own["features"], "score": "energy_variance"},
            **{"seeds": [0], "n_initial": 5, "n_per_round": 1, "n_rounds": 1, "validation": 0.4},
        },
    }
    (folder / "copper.yaml").write_text(yaml.safe_dump(config))
    run = verb_folder("train", folder / "copper.yaml")
    return SimpleNamespace(config=folder / "copper.yaml", run=run, test=copper[6:], **own)


def verb_folder(verb: str, config: Path) -> Path:
    written = run_verb(verb, config, [], dry_run=False, overwrite=False)
    assert written is not None
    return written.parent


def run(verb: str, trained) -> Path:
    return verb_folder(verb, trained.config)


def test_train(trained):
    summary = json.loads((trained.run / "summary.json").read_text())
    assert {"energy", "forces", "stress"} <= set(summary["calibration"])
    assert 0 < summary["test"]["forces_rmse"] < 5


def test_saved_and_loaded(trained):
    uncertainty = sf.load(trained.run / trained.file)
    assert isinstance(uncertainty, trained.estimator)
    check_uncertainty(uncertainty, trained.test)
    # A prediction with sigmas costs at least the prediction.
    assert uncertainty.statistics["cost"]["prediction"] >= 1
    assert uncertainty.statistics["cost"]["fit"] >= 1


def test_calculator(trained):
    atoms = trained.test[0].copy()
    atoms.calc = sf.load(trained.run / trained.file).calculator(extrapolation="ignore", forces=True)
    assert np.isfinite(atoms.get_potential_energy())
    assert atoms.calc.results["max_force_uncertainty"] > 0


def test_recalibrated(trained, copper):
    uncertainty = sf.load(trained.run / trained.file)
    again = uncertainty.calibrated(copper[:4], calibration_map={"energy": "alpha"})
    residuals = [
        p.energy - a.get_potential_energy() for p, a in zip(again.predict(copper[:4]), copper, strict=False)
    ]
    sigmas = [p.energy_uncertainty for p in again.predict(copper[:4])]
    assert np.mean(np.square(np.divide(residuals, sigmas))) == pytest.approx(1.0)


def test_uq(trained):
    written = read_frames(run("uq", trained) / "predictions.xyz")
    assert written[0].arrays["surefield_forces_uncertainty"].shape == (2, 3)
    assert written[0].arrays["surefield_energies_uncertainty"].shape == (2,)
    assert len(written[0].info["surefield_stress_uncertainty"]) == 6


@pytest.mark.parametrize("trained", ["ltau"], indirect=True)
def test_uq_compare(trained):
    """Deep ensembles are trained as the run was, LTAU reads the log that the run has left."""
    done = CliRunner().invoke(app, ["uq", "compare", str(trained.config)])
    assert done.exit_code == 0, done.output
    folder = trained.run.parent / "copper-uq-compare"
    content = json.loads((folder / "comparison.json").read_text())
    assert {row["estimator"] for row in content["rows"]} == {"constant", "deep_ensemble", "ltau"}
    assert content["recommendation"] in " ".join(done.output.split())
    assert "Uncertainties compared" in (folder / "report.html").read_text()
    assert (folder / "fits" / "deep_ensemble" / "members" / "member-2" / "member.npz").exists()


def test_select(trained):
    folder = run("select", trained)
    selection = json.loads((folder / "selection.json").read_text())
    uncertainty = sf.load(trained.run / trained.file)
    scores = score_frames(uncertainty, trained.test, "forces_variance")
    assert selection["picks"] == [int(np.argmax(scores))]
    (reason,) = selection["reasons"]
    assert reason["score"] == "forces_variance"
    (pick,) = load_run(folder).picks
    assert pick.reason == sentence(reason)
    assert "σ" in pick.reason


def test_loop_and_report(trained):
    folder = run("loop", trained)
    assert isinstance(sf.load(folder / "potential.npz"), trained.estimator)
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    first = next(e for e in events if e["event"] == "picked" and e["method"] == "max_dist")
    assert first["reasons"][0]["rule"] == "max_dist"
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    assert "Calibration along the loop" in (folder / "report.html").read_text()


def test_posterior_features_need_llpr(trained, tmp_path):
    uncertainty = sf.load(trained.run / trained.file)
    if isinstance(uncertainty, LLPR):
        assert len(feature_rows(uncertainty, trained.test, "ll_posterior")) == 2
        return
    with pytest.raises(ConfigError, match=f"need an LLPR; got {trained.estimator.__name__}"):
        feature_rows(uncertainty, trained.test, "ll_posterior")
    with pytest.raises(ConfigError, match="need an LLPR; got dropout"):
        MethodComparison(
            tmp_path,
            LoopConfig(n_initial=2, n_per_round=1, n_rounds=1, features="ll_posterior"),
            uncertainty.potential,
            TrainConfig(),
            cast(Oracle, None),
            trained.test * 2,
            trained.test,
            uncertainty=DropoutConfig(),
        )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{kind: dropout, sead: 5}", "did you mean 'seed'"),
        ("{row_kind: 1}", "did you mean 'row_kinds'"),
        ("{row_kinds: [force]}", "unknown quantity 'force'"),
        ("{kind: lpr}", "'llpr'"),
    ],
)
def test_mistakes_in_the_configuration(section, message):
    with pytest.raises(ConfigError, match=message):
        parse(RunConfig, {"name": "x", "uncertainty": yaml.safe_load(section)})
