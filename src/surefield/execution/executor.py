"""Where jobs run: in this process, in worker processes, or on whatever executor the user brings."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from surefield.errors import ConfigError, ExecutionError, nearest
from surefield.execution.worker_process import MOST_DEATHS, is_worker_death

if TYPE_CHECKING:
    # Workers import this module, and progress needs JAX.
    from surefield.execution.progress import Track

__all__ = ["SerialExecutor", "get_executor", "map_ordered", "usable_cores"]

T = TypeVar("T")
R = TypeVar("R")

_NAMES: Final = ("serial", "processes")


@final
class SerialExecutor(Executor):
    """Runs every job in this process, at the moment it is submitted."""

    def __init__(self) -> None:
        self._closed = False

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Run the job now; its result or its exception is in the future. Ctrl-C is not caught."""
        if self._closed:
            raise RuntimeError("cannot submit to an executor after shutdown")
        future: Future[R] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further jobs."""
        self._closed = True


def get_executor(executor: Executor | str | None = None, max_workers: int | None = None) -> Executor:
    """Turn a setting into an executor.

    Args:
        executor: None or "serial" for this process, "processes" for worker processes (spawned, because a
            forked JAX hangs), or any `concurrent.futures.Executor` (Dask, Parsl, MPI, executorlib), which is
            passed through and which its owner shuts down.
        max_workers: number of processes; as many as this process may use cores by default.

    Raises:
        ConfigError: unknown name, or `max_workers` where it has no effect.
    """
    if executor == "processes":
        if max_workers is not None and max_workers < 1:
            raise ConfigError(f"max_workers must be at least 1, got {max_workers}")
        return ProcessPoolExecutor(max_workers or usable_cores(), mp_context=get_context("spawn"))
    if isinstance(executor, Executor) or executor in (None, "serial"):
        if max_workers not in (None, 1):
            raise ConfigError(f"max_workers={max_workers} needs executor='processes', got {executor!r}")
        return executor if isinstance(executor, Executor) else SerialExecutor()
    fix = nearest(executor, _NAMES) if isinstance(executor, str) else f"known: {', '.join(_NAMES)}"
    raise ConfigError(
        "unknown executor", got=repr(executor), expected="a name or a concurrent.futures.Executor", fix=fix
    )


def map_ordered(
    executor: Executor,
    fn: Callable[[T], R],
    items: Sequence[T],
    progress: Track | None = None,
) -> list[R]:
    """Apply a function to every item; results are in the order of the items, whichever is done first.

    Args:
        executor: where the jobs run.
        fn: function of one item; for worker processes it must be importable (no lambda).
        items: arguments.
        progress: is advanced by one for each item that is done.

    Raises:
        ExecutionError: a job failed; names the first such item. Jobs that have not begun are cancelled. A job
            whose worker died is begun again some times, where the executor goes on after that.
    """
    futures: list[Future[R]] = []

    def begin(item: T) -> Future[R]:
        future = executor.submit(fn, item)
        if progress is not None:
            future.add_done_callback(partial(_count, progress))
        return future

    try:
        for item in items:
            futures.append(begin(item))
            if futures[-1].done() and futures[-1].exception() is not None:
                break
        deaths = Counter[int]()
        while True:
            wait(futures, return_when=FIRST_EXCEPTION)
            dead = [i for i, future in enumerate(futures) if _died(future) and deaths[i] < MOST_DEATHS]
            if not dead:
                break
            deaths.update(dead)
            for i in dead:
                futures[i] = begin(items[i])
        for i, future in enumerate(futures):
            error = future.exception() if future.done() and not future.cancelled() else None
            if error is not None:
                raise _job_failed(i, items, error) from error
        return [future.result() for future in futures]
    except BrokenProcessPool as error:  # raised by submit when a worker died early
        raise _job_failed(len(futures), items, error) from error
    finally:
        for future in futures:
            future.cancel()


def _died(future: Future[Any]) -> bool:
    """Whether a job's worker died, and a new one takes its place."""
    if not future.done() or future.cancelled():
        return False
    error = future.exception()
    return is_worker_death(error) and not isinstance(error, BrokenProcessPool)


def _count(progress: Track, future: Future[Any]) -> None:
    if not future.cancelled() and future.exception() is None:
        progress.advance()


def _job_failed(index: int, items: Sequence[object], error: BaseException) -> ExecutionError:
    where = f"job {index} of {len(items)} (counted from 0; item {items[index]!r:.80})"
    cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    fix = ""
    if isinstance(error, BrokenProcessPool):
        fix = (
            "a worker process died in this job or in one beside it: out of memory, killed, or a script that "
            "starts workers outside `if __name__ == '__main__':`"
        )
    return ExecutionError(f"{where} failed", got=cause, fix=fix)


def usable_cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
