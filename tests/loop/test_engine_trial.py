"""The potential of a loop beside the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from tests.copper import copper

from surefield.errors import ExecutionError
from surefield.loop.config import EngineTrialConfig
from surefield.loop.engine_trial import engine_trial, overlap
from surefield.loop.fit_plan import FitPlan
from surefield.loop.oracles import emt
from surefield.potentials.snap.snap import Snap, SnapConfig
from surefield.report.engine_trial import engine_trial_section
from surefield.report.run import load_run
from surefield.structures.read import read_frames, write_frames
from surefield.training import TrainConfig
from surefield.uncertainty.config import LLPRConfig


def test_overlap_of_histograms() -> None:
    assert overlap(np.array([1, 1, 0]), np.array([2, 2, 0])) == 1.0
    assert overlap(np.array([1, 1, 0]), np.array([0, 1, 1])) == pytest.approx(0.5)
    assert overlap(np.array([1]), np.array([0])) == 0.0


def test_a_potential_beside_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snap = Snap.from_settings(SnapConfig(cutoff=3.6, twojmax=2), ["Cu"])
    plan = FitPlan.of(snap, TrainConfig(), LLPRConfig(), 0.34, features="ll_posterior")
    known = copper(8, 0, rattle=0.1)
    write_frames(tmp_path / "labelled.xyz", known)
    plan.fit_all(known, 0)[0].save(tmp_path / "potential.npz")
    config = EngineTrialConfig(temperature=300, picoseconds=0.02, timestep_fs=1.0, n_test=4)
    start = bulk("Cu", cubic=True)
    outcome = engine_trial(tmp_path, config, plan, emt(), start, "hash", 0, progress=False)
    assert (outcome["n_labels"], outcome["n_test"]) == (8, 4)
    for entry in outcome["potentials"].values():
        assert 0 < entry["test"]["forces_mae"] < entry["worst_rmse"]
        assert entry["on_its_way"]["forces_mae"] > 0
        assert (entry["picoseconds"], entry["fault"]) == (0.02, "")
        assert 0.5 < entry["overlap"] <= 1.0
    test, plain = (read_frames(tmp_path / "trial" / f"{name}.xyz") for name in ("engine", "plain"))
    assert (len(test), len(plain)) == (4, 8)
    predicted = [
        p.forces - a.get_forces() for p, a in zip(plan.fit_all(known, 0)[0].predict(test), test, strict=True)
    ]
    error = np.abs(np.concatenate(predicted)).mean()
    assert outcome["potentials"]["loop"]["test"]["forces_mae"] == pytest.approx(error, rel=1e-6)
    better = (
        outcome["potentials"]["loop"]["test"]["forces_mae"]
        < outcome["potentials"]["plain"]["test"]["forces_mae"]
    )
    assert ("no less than" in outcome["verdict"]) is not better
    steps = round(0.02 / 1e-3 / config.timestep_fs)
    assert f"took {steps} calls of the engine, the loop's labels 8." in outcome["verdict"]
    with monkeypatch.context() as patch:
        patch.setattr("surefield.loop.engine_trial._dynamics", None)  # it is not run again
        assert engine_trial(tmp_path, config, plan, emt(), start, "hash", 0, progress=False) == outcome
    (tmp_path / "summary.json").write_text('{"verb": "loop"}')
    section = engine_trial_section(load_run(tmp_path))
    assert section is not None
    assert "labels of plain dynamics" in section.html
    assert section.lead == outcome["verdict"]


def test_dynamics_that_break_are_told(tmp_path: Path) -> None:
    """Steps that are far too long."""
    snap = Snap.from_settings(SnapConfig(cutoff=3.6, twojmax=2), ["Cu"])
    plan = FitPlan.of(snap, TrainConfig(), LLPRConfig(), 0.34, features="ll_posterior")
    known = copper(4, 0, rattle=0.3)
    write_frames(tmp_path / "labelled.xyz", known)
    plan.fit_all(known, 0)[0].save(tmp_path / "potential.npz")
    config = EngineTrialConfig(temperature=300, picoseconds=2.0, timestep_fs=100.0, n_test=10, plain=False)

    with pytest.raises(ExecutionError, match=r"dynamics of EMT broke.*loop\.trial"):
        engine_trial(tmp_path, config, plan, emt(), bulk("Cu", cubic=True), "hash", 0, progress=False)
