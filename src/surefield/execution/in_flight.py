"""Many tasks on an executor, few at a time: results as they come, and what a dead worker took once more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

from surefield.errors import ExecutionError
from surefield.execution.executor import SerialExecutor
from surefield.execution.pool_successor import capacity_of_successor, submit_to
from surefield.execution.worker_process import MOST_DEATHS, is_worker_death

if TYPE_CHECKING:
    # Workers import this module, and progress needs JAX.
    from surefield.execution.progress import Track

__all__ = ["Finished", "TasksInFlight", "capacity", "map_ordered"]

K = TypeVar("K")
R = TypeVar("R")
T = TypeVar("T")
#: Tasks at a time on an executor that does not say how many workers it has.
_UNKNOWN: Final = 32


@final
@dataclass(frozen=True)
class Finished(Generic[K, R]):
    """How one task ended.

    Attributes:
        key: what it was submitted under.
        value: its result.
        error: what it raised; `BrokenExecutor` when every attempt ended with its worker.
        deaths: how workers ended in it, oldest first.
    """

    key: K
    value: R | None = None
    error: BaseException | None = None
    deaths: tuple[str, ...] = ()


@final
class TasksInFlight(Generic[K, R]):
    """Tasks that are submitted and not yet reported; leaving the block cancels those that have not begun.

    Args:
        executor: where they run.
        fn: function of one argument, importable where workers are other processes.
    """

    def __init__(self, executor: Executor, fn: Callable[[Any], R]) -> None:
        self._executor, self._fn = executor, fn
        self._capacity = capacity(executor)
        self._pending: dict[Future[R], tuple[K, Any, tuple[str, ...]]] = {}
        self._finished: deque[Finished[K, R]] = deque()

    def __enter__(self) -> TasksInFlight[K, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for future in self._pending:
            future.cancel()

    def __len__(self) -> int:
        return len(self._pending) + len(self._finished)

    @property
    def full(self) -> bool:
        """Whether `next` should be asked before more is submitted."""
        return len(self) >= self._capacity

    def submit(self, key: K, item: Any) -> None:
        """Begin a task.

        Raises:
            ExecutionError: the executor takes no more, see `submit_to`.
        """
        self._submit(key, item, ())

    def next(self) -> Finished[K, R]:
        """Wait for a task to end; there must be one.

        Raises:
            ExecutionError: a task has to begin again, and the executor takes no more.
        """
        while not self._finished:
            done, _ = wait(self._pending, return_when=FIRST_COMPLETED)
            # In the order of submission, so that of several failures the same one is told.
            for future in [one for one in self._pending if one in done]:
                key, item, deaths = self._pending.pop(future)
                error = _error(future)
                if error is None:
                    self._finished.append(Finished(key, future.result(), None, deaths))
                elif not (is_worker_death(error) or isinstance(error, CancelledError)):
                    self._finished.append(Finished(key, None, error, deaths))
                else:
                    deaths = (*deaths, str(error) or type(error).__name__)
                    if len(deaths) > MOST_DEATHS:
                        self._finished.append(Finished(key, None, BrokenExecutor(deaths[-1]), deaths))
                    else:
                        self._submit(key, item, deaths)
        return self._finished.popleft()

    def _submit(self, key: K, item: Any, deaths: tuple[str, ...]) -> None:
        self._pending[submit_to(self._executor, self._fn, item)] = (key, item, deaths)


def map_ordered(
    executor: Executor,
    fn: Callable[[T], R],
    items: Sequence[T],
    progress: Track | None = None,
    *,
    lost: Callable[[T, str], R] | None = None,
) -> list[R]:
    """Apply a function to every item; results are in the order of the items, whichever is done first.

    A job whose worker died is begun again some times, also where a plain `ProcessPoolExecutor` has lost one.

    Args:
        executor: where the jobs run.
        fn: function of one item; for worker processes it must be importable (no lambda).
        items: arguments.
        progress: is advanced by one for each item that is done.
        lost: what stands for the result of an item that took every worker with it, from the item and how the
            last one ended; None: that is a failure.

    Raises:
        ExecutionError: a job failed; names its item. Jobs that have not begun are cancelled.
    """
    results: dict[int, R] = {}
    begun = 0
    with TasksInFlight[int, R](executor, fn) as tasks:
        while len(results) < len(items):
            if begun < len(items) and not tasks.full:
                tasks.submit(begun, items[begun])
                begun += 1
                continue
            finished = tasks.next()
            if finished.error is None:
                results[finished.key] = finished.value  # pyright: ignore[reportArgumentType]
            elif lost is not None and isinstance(finished.error, BrokenExecutor):
                results[finished.key] = lost(items[finished.key], str(finished.error))
            else:
                raise _job_failed(finished, items) from finished.error
            if progress is not None:
                progress.advance()
    return [results[place] for place in range(len(items))]


def _job_failed(finished: Finished[int, Any], items: Sequence[object]) -> ExecutionError:
    error, index = finished.error, finished.key
    where = f"job {index} of {len(items)} (counted from 0; item {items[index]!r:.80})"
    cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    fix = ""
    if isinstance(error, BrokenExecutor):
        fix = (
            "its worker process died at every attempt: out of memory, killed, or a script that starts "
            "workers outside `if __name__ == '__main__':`"
        )
    elif "pickle" in str(error):
        fix = "it cannot be sent to another process: compute it in this one (nprocs=1, executor=None), or "
        fix += "make it of what is importable, no function inside of a function"
    return ExecutionError(f"{where} failed", got=cause, fix=fix)


def capacity(executor: Executor) -> int:
    """Tasks that an executor should have at a time: what it says itself, or enough that no worker waits."""
    if isinstance(executor, SerialExecutor):
        return 1
    if (n := capacity_of_successor(executor)) is not None:
        return n
    stated = getattr(executor, "in_flight", None)
    if isinstance(stated, int):
        return stated
    workers = getattr(executor, "_max_workers", None)
    return 2 * workers if isinstance(workers, int) and workers > 0 else _UNKNOWN


def _error(future: Future[Any]) -> BaseException | None:
    try:
        return future.exception()
    except CancelledError as error:
        return error
