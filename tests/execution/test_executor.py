from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.execution.executor import SerialExecutor, get_executor
from surefield.execution.in_flight import map_ordered


class Counter:
    def __init__(self) -> None:
        self.n = 0
        self.lock = threading.Lock()

    def advance(self, n: int = 1, **fields: object) -> None:
        with self.lock:
            self.n += n


def sleep_then_square(x: int) -> int:
    time.sleep(0.01 * (5 - x))
    return x * x


def fails_at_three(x: int) -> int:
    if x == 3:
        raise DataError("three is bad")
    return x


def test_serial_runs_in_this_thread_at_once() -> None:
    executor = get_executor()
    assert isinstance(executor, SerialExecutor)
    future = executor.submit(threading.get_ident)
    assert future.done()
    assert future.result() == threading.get_ident()
    failed = executor.submit(fails_at_three, 3)
    with pytest.raises(DataError, match="three"):
        failed.result()
    assert list(executor.map(abs, [-1, 2])) == [1, 2]
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(abs, 1)


def test_serial_lets_an_interrupt_through() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SerialExecutor().submit(interrupted)


def test_an_executor_is_passed_through() -> None:
    with ThreadPoolExecutor(1) as own:
        assert get_executor(own) is own


@pytest.mark.parametrize(
    ("executor", "workers", "message"),
    [
        ("proceses", None, "did you mean 'processes'"),
        (3, None, "known: serial, processes"),
        (None, 4, "needs executor='processes'"),
        ("processes", 0, "at least 1"),
    ],
)
def test_wrong_settings(executor: object, workers: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_executor(executor, workers)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("threads", [0, 3])
def test_results_are_in_order_and_counted(threads: int) -> None:
    progress = Counter()
    with ThreadPoolExecutor(threads) if threads else get_executor() as executor:
        assert map_ordered(executor, sleep_then_square, range(5), progress) == [0, 1, 4, 9, 16]
    assert progress.n == 5
    assert map_ordered(SerialExecutor(), sleep_then_square, []) == []


@pytest.mark.parametrize("threads", [0, 2])
def test_a_failure_names_the_item_and_the_cause(threads: int) -> None:
    progress = Counter()
    with (
        ThreadPoolExecutor(threads) if threads else get_executor() as executor,
        pytest.raises(ExecutionError, match=r"job 3 of 6 .*item 3\) failed; got DataError: three") as caught,
    ):
        map_ordered(executor, fails_at_three, range(6), progress)
    assert isinstance(caught.value.__cause__, DataError)
    if not threads:
        assert progress.n == 3  # nothing is begun after the failure


def test_worker_processes_are_spawned_and_a_dead_one_is_reported() -> None:
    executor = get_executor("processes", max_workers=1)
    assert isinstance(executor, ProcessPoolExecutor)
    with executor:
        # A builtin: a spawned worker need not be able to import the tests.
        questions = ["__import__('os').getpid()", "__import__('multiprocessing').get_start_method()"]
        pid, method = map_ordered(executor, eval, questions)
        assert pid != os.getpid()
        assert method == "spawn"
        with pytest.raises(ExecutionError, match="worker process died"):
            map_ordered(executor, os._exit, [1])
        # The pool takes nothing more; other workers do.
        assert map_ordered(executor, abs, [-1, -2]) == [1, 2]
        assert map_ordered(executor, os._exit, [1, 2], lost=lambda code, how: f"{code}: {how}") == [
            "1: ended with exit code 1",
            "2: ended with exit code 2",
        ]
