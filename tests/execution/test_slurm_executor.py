"""Tasks as jobs of a real Slurm of one node."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.execution.test_worker_process import bad

from surefield.errors import DataError
from surefield.execution.config import SlurmExecutorConfig, make_executor
from surefield.execution.in_flight import TasksInFlight
from surefield.execution.pickled_call import RESULT, read_result
from surefield.execution.slurm_executor import SlurmExecutor
from surefield.execution.worker_process import WorkerDied


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def wait_for(path: str) -> int:
    """Say that it runs, and wait for a word; the second time there is no waiting."""
    with Path(path).open("a") as file:
        file.write("x")
    n = Path(path).stat().st_size
    while n == 1:
        time.sleep(0.1)
    return n


@pytest.mark.slow
def test_results_errors_and_threads(slurm_cluster: Path, tmp_path: Path) -> None:
    with make_executor(SlurmExecutorConfig(walltime=5), folder=tmp_path) as executor:
        assert isinstance(executor, SlurmExecutor)
        assert executor.in_flight == 16
        futures = [executor.submit(int, "11", base=2), executor.submit(os.getenv, "SLURM_JOB_ID")]
        failed = executor.submit(bad, "no good")
        assert futures[0].result(60) == 3
        assert int(futures[1].result(60)) > 0
        with pytest.raises(DataError, match="no good"):
            failed.result(60)
    assert not list((tmp_path / "surefield-jobs" / "tasks" / "task").glob("*"))


@pytest.mark.slow
def test_a_job_that_is_killed_is_begun_again(slurm_cluster: Path, tmp_path: Path) -> None:
    with (
        SlurmExecutor(tmp_path / "jobs") as executor,
        TasksInFlight[str, int](executor, wait_for) as tasks,
    ):
        tasks.submit("a", str(tmp_path / "running"))
        until((tmp_path / "running").exists)
        subprocess.run(["scancel", "--user=root"], check=True)
        finished = tasks.next()
    assert finished.value == 2
    assert len(finished.deaths) == 1
    assert "CANCELLED" in finished.deaths[0]


@pytest.mark.slow
def test_an_exception_cancels_the_jobs(slurm_cluster: Path, tmp_path: Path) -> None:
    executor = SlurmExecutor(tmp_path / "jobs")
    future = executor.submit(wait_for, str(tmp_path / "running"))
    until(future.running)
    with pytest.raises(KeyboardInterrupt), executor:
        raise KeyboardInterrupt
    assert isinstance(future.exception(), WorkerDied)
    until(lambda: not subprocess.run(["squeue", "--noheader"], capture_output=True, text=True).stdout.strip())


@pytest.mark.slow
def test_a_damaged_result_is_computed_again(
    slurm_cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = []

    def read(folder: Path) -> tuple[bool, object]:
        if not damaged:
            damaged.append(folder)
            (folder / RESULT).write_bytes((folder / RESULT).read_bytes()[:10])
        return read_result(folder)

    monkeypatch.setattr("surefield.execution.slurm_executor.read_result", read)
    with SlurmExecutor(tmp_path / "jobs") as executor, TasksInFlight[str, int](executor, abs) as tasks:
        tasks.submit("a", -3)
        finished = tasks.next()
    assert finished.value == 3
    assert len(finished.deaths) == 1
    assert "left a damaged result" in finished.deaths[0]
