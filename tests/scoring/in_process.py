"""A workflow whose jobs run where they are submitted, so that tests need not start Python for each."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any, ClassVar, final

from surefield.execution.job_details import JobDetails
from surefield.execution.job_process import EXIT_CODE
from surefield.execution.job_records import JobRecord
from surefield.execution.workflow import State, Workflow
from surefield.scores import job


@final
class InProcess(Workflow):
    kind: ClassVar[str] = "IN_PROCESS"
    serves: ClassVar[tuple[str, ...]] = ("IN_PROCESS",)

    def _check(self, details: JobDetails) -> None:
        details.check_one_process("this process")

    def _launch(self, record: JobRecord, details: JobDetails, after: Sequence[JobRecord]) -> dict[str, Any]:
        try:
            job.main(record.submitted["command"][-1])
            code = 0
        except Exception:
            record.log.write_text(traceback.format_exc())
            code = 1
        (record.folder / EXIT_CODE).write_text(str(code))
        return {}

    def _look(self, record: JobRecord) -> tuple[State, str]:
        return "done", ""

    def _stop(self, record: JobRecord) -> None:
        raise AssertionError
