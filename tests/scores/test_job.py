"""Scores as jobs of real processes: a killed job, and numbers that are those of one call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from tests.scoring.in_process import InProcess
from tests.scoring.killing import kill_job

from surefield import LTAUForcesUQScore
from surefield.errors import ExecutionError
from surefield.execution.workflows import get_workflow
from surefield.scores.classes import SCORES, score_class


@pytest.mark.parametrize("name", SCORES)
def test_every_score_is_where_the_table_says(name: str) -> None:
    assert score_class(name).__name__ == name


def test_other_names_are_refused() -> None:
    with pytest.raises(ExecutionError, match="names 'os', which is no score"):
        score_class("os")


@pytest.mark.filterwarnings("ignore:.*unlike all training atoms")
@pytest.mark.parametrize(
    "settings",
    [
        {"error_logs_norm": True, "bin_spacing": "linear", "nbins": 11},
        {"error_logs_norm": True, "compat": "ltau-ff", "bin_spacing": "linear"},
        {"error_logs_norm": True, "bins": [0.0, 0.5, 2.0, 9.0]},
    ],
)
def test_logs_are_prepared_once(tmp_path: Path, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(4)
    frames = [Atoms("Cu2", rng.uniform(0, 9, (2, 3))) for _ in range(3)]
    for atoms in frames:
        atoms.arrays["descriptors"] = rng.standard_normal((2, 5))
    np.save(tmp_path / "descriptors.npy", rng.standard_normal((30, 5)))
    logs = [rng.standard_normal((n, 30, 3)) for n in (6, 8)]
    score = LTAUForcesUQScore(tmp_path / "descriptors.npy", logs, from_error_logs=True, **settings)
    flow = InProcess(tmp_path / "runs")
    calc_ids = score.run("ltau", frames, {}, flow, batch_size=2)
    run = flow.get_job_path(calc_ids[0]).parent
    stored = np.load(run / "arguments" / "settings" / "error_pdfs.npy")
    assert stored.shape == (30, len(score.bins) - 1)
    assert not (
        run / "arguments" / "settings" / "train_descriptors.npy"
    ).exists()  # a file is named, not copied
    labelled = score.data_from_calc_ids(calc_ids, flow)
    expected = score.labelled(score.compute_batch(frames), frames)
    for got, wanted in zip(labelled, expected, strict=True):
        result, direct = (a.arrays["ltau_forces_uq_score"] for a in (got, wanted))
        np.testing.assert_allclose(result, direct, rtol=1e-12)
        assert got.info["_metadata"] == wanted.info["_metadata"]


@pytest.mark.slow
def test_on_slurm(slurm_cluster: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [Atoms("Cu", rng.uniform(0, 9, (1, 3))) for _ in range(2)]
    rows = rng.standard_normal((50, 3))
    for atoms, row in zip(frames, rows, strict=False):
        atoms.arrays["descriptors"] = row[None]
    score = LTAUForcesUQScore(rows, rng.lognormal(-2, 1, (9, 50)), from_error_logs=True)
    flow = {"workflow_type": "SLURM", "workflow_args": {"root": str(tmp_path)}}
    calc_ids = score.run("slurm", frames, {}, flow, {"walltime": 5, "tasks": 1})
    assert len(calc_ids) == 2
    labelled = score.data_from_calc_ids(calc_ids, flow)
    for atoms, result in zip(labelled, score.compute_batch(frames), strict=True):
        np.testing.assert_allclose(atoms.arrays["ltau_forces_uq_score"], result, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*unlike all training atoms")
def test_two_hundred_configurations_in_eight_jobs_of_which_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)  # all are submitted at once
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(200):
        n = int(rng.integers(2, 12))
        frames.append(Atoms(f"Cu{n}", rng.uniform(0, 9, (n, 3))))
        frames[-1].arrays["descriptors"] = rng.standard_normal((n, 6))
    log = rng.lognormal(-2, 1, (50, 500))
    score = LTAUForcesUQScore(rng.standard_normal((500, 6)), log, from_error_logs=True)
    flow = get_workflow({"workflow_type": "LOCAL", "workflow_args": {"root": str(tmp_path)}})
    arguments = {"score_quantity": "UNCERTAINTY", "num_nearest_neighbors": 5}
    first = score.run("big", frames, arguments, flow, batch_size=25)
    assert len(first) == 8
    kill_job(flow, first[3])
    flow.block_until_completed(first)
    assert [flow.get_job_status(i).state for i in first] == ["done"] * 3 + ["failed"] + ["done"] * 4
    second = score.run("big", frames, arguments, flow, batch_size=25)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True] * 3 + [False] + [True] * 4
    labelled = score.data_from_calc_ids(second, flow)
    expected = score.labelled(score.compute_batch(frames, **arguments), frames)
    for got, wanted in zip(labelled, expected, strict=True):
        result = got.arrays["ltau_forces_uq_score"]
        np.testing.assert_allclose(result, wanted.arrays["ltau_forces_uq_score"], rtol=1e-12)
        assert got.info["_metadata"] == wanted.info["_metadata"]
        np.testing.assert_array_equal(got.positions, wanted.positions)
