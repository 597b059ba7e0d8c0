from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.execution.test_executor import Counter
from tests.execution.test_in_flight import dies_until

from surefield.errors import ConfigError, ExecutionError
from surefield.execution.in_flight import map_ordered
from surefield.execution.local_executor import LocalExecutor
from surefield.execution.worker_process import WorkerDied


def ends_at_one(x: int) -> None:
    if x == 1:
        os._exit(7)


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with LocalExecutor(2) as executor:
        yield executor


def test_results_and_errors_come_back(executor: LocalExecutor) -> None:
    assert map_ordered(executor, abs, [-1, 2, -3]) == [1, 2, 3]
    assert executor.submit(int, "11", base=2).result() == 3
    with pytest.raises(ValueError, match="invalid literal"):
        executor.submit(int, "x").result()
    assert executor.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
    with pytest.raises(AttributeError, match="lambda"):
        executor.submit(lambda: 1).result()


def test_a_killed_worker_takes_one_task_with_it(executor: LocalExecutor) -> None:
    slow = executor.submit(time.sleep, 0.5)
    dead = executor.submit(os._exit, 1)
    after = [executor.submit(os.getpid) for _ in range(4)]
    with pytest.raises(WorkerDied):
        dead.result()
    assert slow.result() is None
    assert all(future.result() != os.getpid() for future in after)


def test_an_ordered_map_outlives_workers(executor: LocalExecutor, tmp_path: Path) -> None:
    progress = Counter()
    paths = [str(tmp_path / name) for name in "abc"]
    assert map_ordered(executor, dies_until, paths, progress) == ["done"] * 3
    assert progress.n == 3
    with pytest.raises(ExecutionError, match=r"job 1 of 2 .*ended with exit code 7"):
        map_ordered(executor, ends_at_one, [0, 1])


def test_an_exception_in_the_block_ends_the_workers() -> None:
    executor = LocalExecutor(1)
    pid = executor.submit(os.getpid).result()
    running, queued = executor.submit(time.sleep, 100), executor.submit(abs, 1)
    while not running.running():
        time.sleep(0.01)
    with pytest.raises(KeyboardInterrupt), executor:
        raise KeyboardInterrupt
    assert queued.cancelled()
    assert isinstance(running.exception(), WorkerDied)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(abs, 1)


def test_workers_and_cores_are_counted() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        LocalExecutor(0)
    with pytest.raises(ConfigError, match="at least 1"):
        LocalExecutor(1, 0)
    assert LocalExecutor(cores_per_worker=1000).n_workers == 1
