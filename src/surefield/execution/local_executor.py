"""Worker processes of this machine: a killed one takes its own task with it and is started anew."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, TypeVar, final

from surefield.errors import ConfigError
from surefield.execution.executor import usable_cores
from surefield.execution.worker_process import WorkerProcess

__all__ = ["LocalExecutor"]

R = TypeVar("R")
_Call = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]
#: Variables by which libraries learn how many threads to use.
_THREADS: Final[tuple[str, ...]] = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@final
class LocalExecutor(Executor):
    """Executor over processes of this machine, each with its share of the cores.

    As `ProcessPoolExecutor` with spawned workers, but when a worker is killed, its task fails with
    `WorkerDied` and everything else goes on. Leaving a `with` block by an exception (Ctrl-C too) ends the
    workers; leaving it otherwise waits for what was submitted.

    Args:
        n_workers: processes; by default as many as there are shares of `cores_per_worker`.
        cores_per_worker: threads that libraries use in each.

    Raises:
        ConfigError: fewer than one.
    """

    def __init__(self, n_workers: int | None = None, cores_per_worker: int = 1) -> None:
        if n_workers is None:
            n_workers = max(1, usable_cores() // max(1, cores_per_worker))
        if min(n_workers, cores_per_worker) < 1:
            raise ConfigError(f"n_workers and cores_per_worker must be at least 1, got {n_workers}")
        self.n_workers, self.in_flight = n_workers, 2 * n_workers
        self._environment: dict[str, str] = dict.fromkeys(_THREADS, str(cores_per_worker))
        self._queue: SimpleQueue[_Call | None] = SimpleQueue()
        self._workers: list[tuple[threading.Thread, WorkerProcess]] = []
        self._closed = False

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Queue a call; function and arguments must be importable or plain data."""
        if self._closed:
            raise RuntimeError("cannot submit to an executor after shutdown")
        future: Future[R] = Future()
        self._queue.put((future, partial(fn, **kwargs) if kwargs else fn, args))
        if len(self._workers) < self.n_workers:
            worker = WorkerProcess(self._environment)
            thread = threading.Thread(target=self._work, args=(worker,), daemon=True)
            self._workers.append((thread, worker))
            thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls, and end the workers when they have done what was submitted."""
        self._closed = True
        if cancel_futures:
            self._cancel()
        for _ in self._workers:
            self._queue.put(None)
        if wait:
            for thread, _ in self._workers:
                thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._closed = True
            self._cancel()
            for _, worker in self._workers:
                worker.stop()
        self.shutdown()

    def _cancel(self) -> None:
        while True:
            try:
                entry = self._queue.get_nowait()
            except Empty:
                return
            if entry is not None:
                entry[0].cancel()

    def _work(self, worker: WorkerProcess) -> None:
        try:
            while (entry := self._queue.get()) is not None:
                future, fn, args = entry
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    result = worker.call(fn, *args)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                del entry, future, fn, args  # a waiting thread would keep the last task
        finally:
            worker.close()
