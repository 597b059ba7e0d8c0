"""What goes on for a pool of processes that has lost a worker: such a pool takes no more tasks."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from typing import Any, Final, TypeVar

from surefield.errors import ExecutionError
from surefield.execution.executor import usable_cores
from surefield.execution.local_executor import LocalExecutor

__all__ = ["capacity_of_successor", "submit_to"]

R = TypeVar("R")
_log = logging.getLogger(__name__)
#: Of pools that have lost a worker; a successor lives as long as the pool of the user is there.
_SUCCESSORS: Final[weakref.WeakKeyDictionary[ProcessPoolExecutor, LocalExecutor]] = (
    weakref.WeakKeyDictionary()
)
_LOCK: Final = threading.Lock()


def submit_to(executor: Executor, fn: Callable[..., R], /, *args: Any) -> Future[R]:
    """Submit a call, also to a `ProcessPoolExecutor` one of whose workers was killed.

    Such a pool fails everything that it was given, and takes nothing more. As many workers of
    `LocalExecutor`, whose deaths take one task each, go on in its place, for as long as the pool is there.

    Args:
        executor: any.
        fn: importable function, where workers are other processes.
        args: its arguments.

    Raises:
        ExecutionError: the executor takes no more: of other kinds, or a pool with an `initializer`, which
            its successor would not know.
    """
    pool = executor if isinstance(executor, ProcessPoolExecutor) else None
    going_on = None if pool is None else _SUCCESSORS.get(pool)
    try:
        return (going_on or executor).submit(fn, *args)
    except BrokenExecutor as error:
        if pool is None or getattr(pool, "_initializer", None) is not None:
            fix = (
                "go on with a new one (`executor: {kind: local}` outlives its workers); what is done is kept"
            )
            raise ExecutionError("the executor has lost its workers", got=str(error), fix=fix) from error
    return _successor(pool).submit(fn, *args)


def capacity_of_successor(executor: Executor) -> int | None:
    """Tasks at a time of the workers that go on for a pool; None while it is whole."""
    successor = _SUCCESSORS.get(executor) if isinstance(executor, ProcessPoolExecutor) else None
    return None if successor is None else successor.in_flight


def _successor(pool: ProcessPoolExecutor) -> LocalExecutor:
    with _LOCK:
        if pool not in _SUCCESSORS:
            n_workers = getattr(pool, "_max_workers", None) or usable_cores()
            _log.warning("a pool of processes has lost a worker; %d other workers go on", n_workers)
            _SUCCESSORS[pool] = LocalExecutor(n_workers)
            weakref.finalize(pool, _SUCCESSORS[pool].shutdown, wait=False)
        return _SUCCESSORS[pool]
