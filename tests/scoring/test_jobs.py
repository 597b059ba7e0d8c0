from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from tests.scoring import small_job
from tests.scoring.in_process import InProcess
from tests.scoring.killing import kill_job
from tests.scoring.scores import Count, Heights, Masked, Square

from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.execution.workflow import Workflow
from surefield.execution.workflows import get_workflow
from surefield.scores import classes
from surefield.scoring import jobs
from surefield.storage import LocalStorage
from surefield.testing.frames import Snapshot


@pytest.fixture(autouse=True)
def small_program(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.setattr(jobs, "_PROGRAM", "tests.scoring.small_job")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(project), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(classes, "SCORES", classes.SCORES | small_job.SMALL)


@pytest.fixture
def flow(tmp_path: Path) -> Workflow:
    return InProcess(tmp_path / "runs")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Workflow]:
    with ThreadPoolExecutor(2) as executor:
        yield get_workflow(executor, tmp_path / "runs")


@pytest.fixture
def frames() -> list[Atoms]:
    rng = np.random.default_rng(1)
    return [Atoms(f"Cu{n}", rng.uniform(0.1, 3.0, (n, 3)), info={"place": n}) for n in (1, 2, 3, 4, 5)]


def test_jobs_give_the_numbers_of_compute_batch(frames: list[Atoms], flow: Workflow) -> None:
    before = Snapshot(frames)
    unit, arguments = np.array([1.5]), {"score_quantity": "uncertainty", "power": 3.0}
    score = Heights(unit)
    calc_ids = score.run("heights", frames, arguments, flow, batch_size=2)
    assert len(calc_ids) == 3
    run = Path(flow.get_job_path(calc_ids[0])).parent
    np.testing.assert_array_equal(np.load(run / "arguments" / "settings" / "unit.npy"), unit)
    labelled = score.data_from_calc_ids(calc_ids[::-1], flow)
    expected = score.labelled(score.compute_batch(frames, **arguments), frames)
    assert [atoms.info["place"] for atoms in labelled] == [1, 2, 3, 4, 5]
    for got, wanted in zip(labelled, expected, strict=True):
        np.testing.assert_array_equal(got.arrays["heights_score"], wanted.arrays["heights_score"])
        np.testing.assert_array_equal(got.arrays["heights_low"], wanted.arrays["heights_low"])
        assert got.info["_metadata"] == wanted.info["_metadata"]
    assert before.changed() is None
    assert arguments == {"score_quantity": "uncertainty", "power": 3.0}
    # inputs are gone, results stay and are read again
    assert not (run / "arguments").exists()
    assert not list(run.glob("*/inputs"))
    assert len(score.data_from_calc_ids(calc_ids, flow)) == 5
    again = score.run("heights", frames, arguments, flow, batch_size=5)
    assert not {*again} & {*calc_ids}
    (atoms,) = score.data_from_calc_ids(again, flow)[:1]
    np.testing.assert_array_equal(atoms.arrays["heights_score"], labelled[0].arrays["heights_score"])


def test_entries_of_configurations_go_with_them(frames: list[Atoms], flow: Workflow) -> None:
    masks = [np.arange(i + 1) for i in range(5)]
    arguments = {
        "score_quantity": "SENSITIVITY",
        "list_of_mask": masks,
        "options": {"scale": [5, 4, 3, 2, 1]},
    }
    score = Masked(3)
    calc_ids = score.run("masked", frames, arguments, flow, batch_size=2)
    labelled = score.data_from_calc_ids(calc_ids, flow, cleanup=False)
    expected = score.labelled(score.compute_batch(frames, **arguments), frames)
    for got, wanted in zip(labelled, expected, strict=True):
        np.testing.assert_array_equal(got.info["masked_score"], wanted.info["masked_score"])
        assert got.info["_metadata"] == wanted.info["_metadata"]
    run = Path(flow.get_job_path(calc_ids[0])).parent
    assert (run / "00000" / "inputs").exists()
    score.cleanup(run)
    assert not (run / "00000" / "inputs").exists()
    with pytest.raises(DataError, match="list_of_mask needs one entry per configuration; got 2; expected 5"):
        score.run("masked", frames, arguments | {"list_of_mask": masks[:2]}, flow)
    with pytest.raises(
        DataError, match=r"options\.scale needs one entry per configuration; got 2; expected 5"
    ):
        score.run("masked", frames, arguments | {"options": {"scale": [1, 2]}}, flow)


def test_a_data_set_and_a_model_are_one_job(frames: list[Atoms], flow: Workflow) -> None:
    count, square = Count(), Square()
    with pytest.raises(ConfigError, match="Count is always one job; got batch_size 2"):
        count.run("count", frames, {"score_quantity": "diversity"}, flow, batch_size=2)
    calc_ids = count.run("count", frames, {"score_quantity": "diversity", "bandwidth": 2.0}, flow)
    rows = [[[1.0, 2.0], [0.5, -1.0]], [[1 / 3, 0.0]]]
    calc_ids_of_square = square.run("square", rows, {"score_quantity": "sensitivity"}, flow)
    (result,) = count.data_from_calc_ids(calc_ids, flow)
    assert result["count_score"] == 7.5
    assert result["_metadata"]["bandwidth"] == 2.0
    (result,) = square.data_from_calc_ids(calc_ids_of_square, flow)
    np.testing.assert_array_equal(result["square_score"], square.compute_batch(rows, "sensitivity"))


def test_a_job_that_fails_says_why(frames: list[Atoms], flow: Workflow) -> None:
    score = Heights([0.0])  # divides by it
    calc_ids = score.run("bad", frames[:1], {"score_quantity": "uncertainty"}, flow)
    with pytest.raises(
        ExecutionError, match=r"(?s)failed.*File .*DataError: the heights_score must be finite.*same `run`"
    ):
        score.data_from_calc_ids(calc_ids, flow)
    assert flow.get_job_status(calc_ids[0]).state == "failed"


def test_a_run_with_a_killed_job_is_gone_on_with(frames: list[Atoms], processes: Workflow) -> None:
    flow = processes
    score, arguments = Heights([1.0]), {"score_quantity": "uncertainty"}

    def begun() -> list[str]:
        return score.run("killed", frames, arguments, flow, batch_size=2)

    first = begun()
    kill_job(flow, first[1])
    flow.block_until_completed(first)
    assert [flow.get_job_status(i).state for i in first] == ["done", "failed", "done"]
    with pytest.raises(ExecutionError, match="failed"):
        score.data_from_calc_ids(first, flow)
    second = begun()
    assert (second[0], second[2]) == (first[0], first[2])
    assert second[1] != first[1]
    labelled = score.data_from_calc_ids(second, flow)
    for atoms, result in zip(labelled, score.compute_batch(frames, **arguments), strict=True):
        np.testing.assert_array_equal(atoms.arrays["heights_score"], result)


def test_runs_do_not_share_files_and_others_are_not_gone_on_with(frames: list[Atoms], flow: Workflow) -> None:
    score = Heights([1.0])
    bad = score.run("one", frames[:1], {"score_quantity": "uncertainty", "power": -1e6}, flow)
    flow.block_until_completed(bad)
    assert flow.get_job_status(bad[0]).state == "failed"
    good = score.run("one", frames[:1], {"score_quantity": "uncertainty"}, flow)
    assert flow.get_job_path(good[0]).parent != flow.get_job_path(bad[0]).parent
    assert len(score.data_from_calc_ids(good, flow)) == 1


def test_cleanup_of_all_runs_of_an_object(frames: list[Atoms], flow: Workflow) -> None:
    score, arguments = Heights([1.0]), {"score_quantity": "uncertainty"}
    runs = [score.run("clean", frames[:2], arguments, flow, batch_size=size) for size in (1, 2)]
    folders = [flow.get_job_path(calc_ids[0]).parent for calc_ids in runs]
    assert folders[0] != folders[1]
    assert all((folder / "arguments").exists() for folder in folders)
    score.cleanup()
    assert not any((folder / "arguments").exists() or [*folder.glob("*/inputs")] for folder in folders)
    for calc_ids in (*runs, score.run("clean", frames[:2], arguments, flow)):
        for atoms, result in zip(
            score.data_from_calc_ids(calc_ids, flow),
            score.compute_batch(frames[:2], **arguments),
            strict=True,
        ):
            np.testing.assert_array_equal(atoms.arrays["heights_score"], result)
    with pytest.raises(DataError, match=r"no run of a score.*run\.json"):
        score.cleanup(flow.root)


def test_what_no_job_can_take_is_refused_before_any(frames: list[Atoms], flow: Workflow) -> None:
    score = Heights([1.0])
    cases: list[tuple[Any, str]] = [
        ({"score_quantity": "efficiency"}, "Heights does not compute"),
        (
            {"score_quantity": "uncertainty", "colour": 1},
            r"do not fit compute_batch.*'colour'.*expected score_quantity",
        ),
        ({}, "missing a required argument: 'score_quantity'"),
        ([1], "expected a dictionary"),
        ({"score_quantity": "uncertainty", "power": np.mean}, "power cannot be given to a job; got mean"),
    ]
    for arguments, message in cases:
        with pytest.raises(ConfigError, match=message):
            score.run("refused", frames, arguments, flow)
    with pytest.raises(ConfigError, match="batch_size is too small"):
        score.run("refused", frames, {"score_quantity": "uncertainty"}, flow, batch_size=0)
    with pytest.raises(DataError, match="empty list"):
        score.run("refused", [], {"score_quantity": "uncertainty"}, flow)
    assert not (flow.root / "jobs").exists()


def test_results_go_into_a_storage(frames: list[Atoms], flow: Workflow, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "store")
    handle = storage.new_dataset("copper", frames)
    stored = storage.get_data(handle)
    score, count = Heights([1.0]), Count()
    calc_ids = score.run("heights", stored[:2], {"score_quantity": "uncertainty"}, flow, batch_size=2)
    first = score.save_labeled_configs(calc_ids, storage, "scored", workflow=flow)
    assert [len(a.arrays["heights_score"]) for a in storage.get_data(first)] == [1, 2]
    second = score.save_labeled_configs(calc_ids, storage, dataset_handle=handle, workflow=flow)
    assert second == "copper_1"
    assert ["heights_score" in atoms.arrays for atoms in storage.get_data(second)] == [True] * 2 + [False] * 3
    calc_ids = count.run("count", stored, {"score_quantity": "diversity"}, flow)
    third = count.save_labeled_configs(calc_ids, storage, dataset_handle=second, workflow=flow)
    metadata = storage.describe(third).metadata
    assert metadata["count_score"] == 15.0
    assert metadata["_metadata"]["count_score"]["bandwidth"] == 1.0
    assert len(storage.get_data(third)) == 5
    with pytest.raises(DataError, match=r"not there any more.*give the dataset_handle"):
        count.save_labeled_configs(calc_ids, storage, "new", workflow=flow)
    again = count.run("count", stored, {"score_quantity": "diversity"}, flow)
    fourth = count.save_labeled_configs(again, storage, "new", workflow=flow)
    assert fourth == "new_0"
    assert storage.describe(fourth).metadata["count_score"] == 15.0
    assert len(storage.get_data(fourth)) == 5
    assert not (flow.get_job_path(again[0]) / "inputs").exists()
    with pytest.raises(ConfigError, match="not both; got neither"):
        score.save_labeled_configs(calc_ids, storage, workflow=flow)


def test_this_machine_gets_no_more_jobs_than_processors(
    frames: list[Atoms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(jobs, "_PROGRAM", "tests.scoring.sleeping")
    flow = get_workflow({"workflow_type": "LOCAL", "workflow_args": {"root": str(tmp_path)}})
    before, submit = [], type(flow).submit_job

    def watched(self: Workflow, *args: Any, **kwargs: Any) -> str:
        earlier = sorted((self.root / "jobs").glob("0*")) if before else []
        before.append([self.get_job_status(folder.name).ended for folder in earlier])
        return submit(self, *args, **kwargs)

    monkeypatch.setattr(type(flow), "submit_job", watched)
    Heights([1.0]).run("heights", frames[:3], {"score_quantity": "uncertainty"}, flow, verbose=True)
    assert before == [[], [True], [True, True]]
    assert "batch 3 of 3" in capsys.readouterr().out
