"""Where jobs run: in this process, in worker processes, or on whatever executor the user brings."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Final, TypeVar, final

from surefield.errors import ConfigError, nearest

__all__ = ["SerialExecutor", "get_executor", "usable_cores"]

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


def usable_cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
