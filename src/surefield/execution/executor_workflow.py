"""Jobs through any executor of `concurrent.futures`: pools of this machine, dask, parsl, executorlib."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, ClassVar, Final, final
from weakref import WeakKeyDictionary

from surefield.execution.job_details import JobDetails
from surefield.execution.job_records import JobRecord
from surefield.execution.local_workflow import AROUND_JOB, stop_process
from surefield.execution.workflow import State, Workflow, look_at_process, start_failed

__all__ = ["ExecutorWorkflow"]

#: Several workflows may be made around one executor; futures are known to all of them.
_FUTURES: Final[WeakKeyDictionary[Executor, dict[Path, Future[int]]]] = WeakKeyDictionary()


@final
class ExecutorWorkflow(Workflow):
    """Jobs that the workers of an executor start; nodes, queues and the like are the executor's business.

    Workers need this Python and the root on a disk they share; they import nothing. `submit_job` waits for
    dependencies. A job ends with the worker that runs it.

    Args:
        executor: anything with `submit`.
        root: folder of everything.
        defaults: `job_details` of every job that does not say otherwise.
    """

    kind: ClassVar[str] = "EXECUTOR"
    serves: ClassVar[tuple[str, ...]] = ("EXECUTOR",)

    def __init__(
        self,
        executor: Executor,
        root: str | os.PathLike[str] = "./trainer",
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(root, defaults)
        self.executor = executor

    def _check(self, details: JobDetails) -> None:
        details.check_one_process("an executor")

    def _launch(self, record: JobRecord, details: JobDetails, after: Sequence[JobRecord]) -> dict[str, Any]:
        command = [*AROUND_JOB, "--with-parent", str(record.folder)]
        try:
            future = self.executor.submit(subprocess.call, command)
        except Exception as error:
            raise start_failed("the executor does not take the job", error) from error
        _FUTURES.setdefault(self.executor, {})[record.folder] = future
        return {}

    def _look(self, record: JobRecord) -> tuple[State, str]:
        future = _FUTURES.get(self.executor, {}).get(record.folder)
        if future is None or record.process() != "none":
            return look_at_process(record)
        if future.cancelled():
            return "cancelled", "cancelled by its executor"
        if future.done():
            error = future.exception()
            return "failed", f"its worker ended before it began{f': {error!r}' if error else ''}"
        return "pending", ""

    def _stop(self, record: JobRecord) -> None:
        future = _FUTURES.get(self.executor, {}).get(record.folder)
        if future is None or not future.cancel():
            stop_process(record)
