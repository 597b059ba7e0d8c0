"""Jobs as processes of this machine, which go on when the process that submitted them ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final, final

from surefield.errors import ConfigError
from surefield.execution import job_process
from surefield.execution.job_details import JobDetails
from surefield.execution.job_records import JobRecord
from surefield.execution.workflow import State, Workflow, look_at_process, start_failed
from surefield.files import read_json

__all__ = ["LocalWorkflow"]

#: Python runs the process around a job alone, without site packages: it starts in 20 ms.
AROUND_JOB: Final = (sys.executable, "-I", "-S", job_process.__file__)


@final
class LocalWorkflow(Workflow):
    """Jobs on this machine; each starts at once, or as soon as those it depends on are done.

    `submit_job` waits for dependencies. Walltime is honoured; what only a scheduler can give is refused.
    """

    kind: ClassVar[str] = "LOCAL"
    serves: ClassVar[tuple[str, ...]] = ("LOCAL", "EXECUTOR")

    def _check(self, details: JobDetails) -> None:
        details.check_one_process("this machine")

    def _launch(self, record: JobRecord, details: JobDetails, after: Sequence[JobRecord]) -> dict[str, Any]:
        command = [*AROUND_JOB, "--detach", str(record.folder)]
        try:
            started = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        except OSError as error:
            raise start_failed("the job cannot be started", error) from error
        if started.returncode:
            raise start_failed("the job cannot be started", started.stderr)
        return {}

    def _look(self, record: JobRecord) -> tuple[State, str]:
        return look_at_process(record)

    def _stop(self, record: JobRecord) -> None:
        stop_process(record)


def stop_process(record: JobRecord) -> None:
    """End a job with everything it has started.

    Raises:
        ConfigError: it runs on another machine.
    """
    if record.process() == "elsewhere":
        host = read_json(record.folder / job_process.PROCESS)["host"]
        raise ConfigError(f"job {record.calc_id} runs on {host} and can only be cancelled there")
    if record.process() == "alive":
        pid = read_json(record.folder / job_process.PROCESS)["pid"]
        for kill in (os.killpg, os.kill):  # it has no group of its own in its first moment
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGTERM)
