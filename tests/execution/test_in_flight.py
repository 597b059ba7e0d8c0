from __future__ import annotations

import os
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from surefield.errors import ExecutionError
from surefield.execution.executor import SerialExecutor
from surefield.execution.in_flight import TasksInFlight, capacity
from surefield.execution.local_executor import LocalExecutor


def dies_until(path: str) -> str:
    """Kills its worker until the third time."""
    with Path(path).open("a") as file:
        file.write("x")
    if Path(path).stat().st_size < 3:
        os._exit(7)
    return "done"


class Kept(Executor):
    """Keeps what is submitted."""

    in_flight = 4

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]


def test_results_come_as_they_are_done() -> None:
    executor = Kept()
    with TasksInFlight[int, int](executor, abs) as tasks:
        for i in range(4):
            assert not tasks.full
            tasks.submit(i, i)
        assert tasks.full
        executor.futures[2].set_result(20)
        first = tasks.next()
        assert (first.key, first.value) == (2, 20)
        executor.futures[0].set_exception(ValueError("no"))
        assert isinstance(tasks.next().error, ValueError)
        assert len(tasks) == 2
    assert executor.futures[1].cancelled()
    assert executor.futures[3].cancelled()


def test_what_a_dead_worker_took_is_done_again(tmp_path: Path) -> None:
    with LocalExecutor(1) as executor, TasksInFlight[str, Any](executor, dies_until) as tasks:
        tasks.submit("a", str(tmp_path / "a"))
        finished = tasks.next()
    assert finished.value == "done"
    assert finished.deaths == ("ended with exit code 7",) * 2
    with LocalExecutor(1) as executor, TasksInFlight[str, Any](executor, os._exit) as tasks:
        tasks.submit("b", 7)
        finished = tasks.next()
    assert isinstance(finished.error, BrokenExecutor)
    assert len(finished.deaths) == 5


def test_a_pool_that_has_lost_a_worker_is_gone_on_for(tmp_path: Path) -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        TasksInFlight[str, Any](pool, dies_until) as tasks,
    ):
        tasks.submit("a", str(tmp_path / "a"))
        finished = tasks.next()
        assert finished.value == "done"
        assert len(finished.deaths) == 2
        assert capacity(pool) == 2
        with TasksInFlight[str, Any](pool, str.upper) as later:
            later.submit("b", "b")
            assert later.next().value == "B"


def test_a_pool_with_an_initializer_that_is_lost_is_said() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=int) as pool,
        TasksInFlight[int, Any](pool, os._exit) as tasks,
    ):
        tasks.submit(0, 7)
        with pytest.raises(ExecutionError, match=r"lost its workers.*kind: local"):
            tasks.next()


def test_capacity() -> None:
    assert capacity(SerialExecutor()) == 1
    assert capacity(LocalExecutor(3)) == 6
    with ThreadPoolExecutor(2) as pool:
        assert capacity(pool) == 4
    assert capacity(Executor()) == 32
