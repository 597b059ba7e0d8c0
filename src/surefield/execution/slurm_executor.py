"""Executor over Slurm: every task is a job; a job that is killed takes its own task with it."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar, final

from surefield.errors import ExecutionError
from surefield.execution.pickled_call import RESULT, read_result, write_call
from surefield.execution.slurm_workflow import SlurmWorkflow
from surefield.execution.worker_process import WorkerDied

__all__ = ["SlurmExecutor"]

R = TypeVar("R")
#: Shortest and longest pause between two looks at the jobs, s.
_PAUSES: Final = (0.3, 10.0)
#: How often a job is submitted that Slurm does not take, and the pause before the next time, s.
_ATTEMPTS, _PATIENCE = 4, 5.0
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, eq=False)
class _Job:
    """A task that was submitted."""

    future: Future[Any]
    calc_id: str
    folder: Path


@final
class SlurmExecutor(Executor):
    """Executor whose tasks are jobs of Slurm, with or without accounting.

    A job that is cancelled, killed or over its walltime fails its task with `WorkerDied`. Leaving a `with`
    block by an exception cancels all jobs. When this process is killed, its jobs go on: what they keep, such
    as labels in a store, is kept.

    Args:
        root: folder of calls, on a disk that the nodes share; folders of tasks that succeeded are removed.
        job_details: of every job (`JobDetails`): walltime in minutes, queue, account, extra_args.
        max_jobs: in Slurm's queue at a time (`in_flight`, which those who submit go by).
        cores_per_job: that each job asks for, and threads that libraries use in it.

    Raises:
        ConfigError: unusable details.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] = "surefield-jobs",
        job_details: Mapping[str, Any] | None = None,
        max_jobs: int = 16,
        cores_per_job: int = 1,
    ) -> None:
        details = dict(job_details or {})
        details["extra_args"] = {"cpus-per-task": cores_per_job, **(details.get("extra_args") or {})}
        self._workflow = SlurmWorkflow(root, details)
        self._environment: dict[str, str] = dict.fromkeys(_THREADS, str(cores_per_job))
        self.in_flight = max_jobs
        self._jobs: list[_Job] = []
        self._lock = threading.Lock()
        self._closed = False
        self._watcher: threading.Thread | None = None

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Submit a job; function and arguments must be importable or plain data.

        Raises:
            ExecutionError: Slurm does not take it, also after some time.
        """
        if self._closed:
            raise RuntimeError("cannot submit to an executor after shutdown")
        future: Future[R] = Future()
        folder = self._workflow.make_path("tasks", "task")
        write_call(folder, partial(fn, **kwargs) if kwargs else fn, args, self._environment)
        job = _Job(future, self._submit(folder), folder)
        with self._lock:
            self._jobs.append(job)
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, daemon=True)
                self._watcher.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further tasks; wait for those that were submitted, or cancel those that have not begun."""
        self._closed = True
        if cancel_futures:
            with self._lock:
                for job in self._jobs:
                    job.future.cancel()
        if wait and self._watcher is not None:
            self._watcher.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with self._lock:
                for job in self._jobs:
                    if not job.future.cancel() and not job.future.done():
                        self._workflow.cancel_job(job.calc_id)
        self.shutdown()

    def _submit(self, folder: Path) -> str:
        command = [sys.executable, "-m", "surefield.execution.pickled_call", str(folder)]
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._workflow.submit_job(command, folder, expects=RESULT)
            except ExecutionError:  # a controller that restarts, a limit on jobs in the queue
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(_PATIENCE)
        raise AssertionError

    def _watch(self) -> None:
        """Look after jobs until there are none."""
        shortest, longest = _PAUSES
        pause = shortest
        while True:
            with self._lock:
                jobs = list(self._jobs)
                if not jobs:
                    self._watcher = None
                    return
            ended = [job for job in jobs if self._look(job)]
            with self._lock:
                self._jobs = [job for job in self._jobs if job not in ended]
            pause = shortest if ended else min(1.2 * pause, longest)
            time.sleep(pause)

    def _look(self, job: _Job) -> bool:
        """Whether a job has ended; its future is told."""
        future = job.future
        try:
            if future.cancelled():
                self._workflow.cancel_job(job.calc_id)
                return True
            status = self._workflow.get_job_status(job.calc_id)
            if status.state == "running" and not future.running():
                return not future.set_running_or_notify_cancel()
            if not status.ended:
                return False
            if not future.running() and not future.set_running_or_notify_cancel():
                return True
            if status.state != "done":
                raise WorkerDied(f"job {job.calc_id} {status.state}: {status.message.splitlines()[0]}")
            try:
                succeeded, value = read_result(job.folder)
            except ExecutionError as error:
                raise WorkerDied(f"job {job.calc_id} left a damaged result: {error}") from error
        except Exception as error:
            if future.done():
                return True
            if not future.running():
                future.set_running_or_notify_cancel()
            future.set_exception(error)
            return True
        if succeeded:
            future.set_result(value)
        else:
            future.set_exception(value)
        for folder in (job.folder, self._workflow.root / "jobs" / job.calc_id):
            shutil.rmtree(folder, ignore_errors=True)
        return True
