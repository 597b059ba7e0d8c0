"""Kill a job as the system would: at once, with all that it has started."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from surefield.execution.workflow import Workflow
from surefield.files import read_json


def kill_job(flow: Workflow, calc_id: str) -> None:
    """Wait until a job has a process, and kill it."""
    process = flow.root / "jobs" / calc_id / "process.json"
    while not process.exists():
        time.sleep(0.01)
    for kill in (os.killpg, os.kill):  # it has no group of its own in its first moment
        with suppress(ProcessLookupError):
            kill(read_json(process)["pid"], signal.SIGKILL)
