"""Jobs on a cluster with Slurm, with or without accounting; the only module that imports submitit."""

from __future__ import annotations

import math
import os
import subprocess
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, final

from surefield.errors import ConfigError, ExecutionError
from surefield.execution.job_details import JobDetails
from surefield.execution.job_records import JobRecord
from surefield.execution.local_workflow import AROUND_JOB
from surefield.execution.workflow import State, Workflow, start_failed

__all__ = ["SlurmWorkflow"]

#: States of `squeue` and `scontrol`, man squeue, section JOB STATE CODES.
_STATES: Final[Mapping[str, State]] = {
    **dict.fromkeys(("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"), "pending"),
    **dict.fromkeys(("RESV_DEL_HOLD", "SPECIAL_EXIT"), "pending"),
    **dict.fromkeys(("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING"), "running"),
    **dict.fromkeys(("STAGE_OUT", "RESIZING"), "running"),
    **dict.fromkeys(("CANCELLED", "REVOKED"), "cancelled"),
    **dict.fromkeys(("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"), "failed"),
    **dict.fromkeys(("PREEMPTED", "LAUNCH_FAILED", "RECONFIG_FAIL"), "failed"),
    "COMPLETED": "done",
}
_RESERVED: Final = ("array", "chdir", "dependency", "error", "kill-on-invalid-dep", "output", "wait", "wrap")
#: Age up to which a list of all jobs is used again, s, and time the scheduler is given to answer, s.
_FRESH: Final = 1.0
_PATIENCE: Final = 60.0


@final
class SlurmWorkflow(Workflow):
    """Jobs that Slurm runs; the root must be on a disk that its nodes share.

    `squeue` is asked for all jobs at once, `scontrol` for one that has ended, never `sacct`, which many
    clusters do not have. A job that Slurm calls finished and that left no result is failed. While Slurm does
    not answer, jobs stay as they were. Dependencies are left to Slurm; a job whose dependency fails is
    cancelled by it. One node is asked for unless `job_details` says otherwise.
    """

    kind: ClassVar[str] = "SLURM"
    serves: ClassVar[tuple[str, ...]] = ("SLURM",)
    watches_walltime: ClassVar[bool] = False
    scheduler_waits: ClassVar[bool] = True
    intervals: ClassVar[tuple[float, float]] = (0.5, 15.0)

    def __init__(
        self, root: str | os.PathLike[str] = "./trainer", defaults: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(root, defaults)
        self._listed: tuple[float, Mapping[str, str]] = (-math.inf, {})
        self._last: dict[str, State] = {}
        self._warned: set[tuple[str, str]] = set()

    def _check(self, details: JobDetails) -> None:
        for name in details.extra_args:
            if name.replace("_", "-") in _RESERVED:
                raise ConfigError(f"extra_args may not set {name!r}: the workflow needs it for itself")

    def _launch(self, record: JobRecord, details: JobDetails, after: Sequence[JobRecord]) -> dict[str, Any]:
        submitit = _submitit()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of submitit's own options; ours are checked
            try:
                executor = submitit.SlurmExecutor(record.folder)
                executor.update_parameters(**_parameters(record, details, after))
                function = submitit.helpers.CommandFunction([*AROUND_JOB, str(record.folder)], verbose=False)
                job = executor.submit(function)
            except Exception as error:  # submitit raises what it meets
                fix = "check queue, account and limits of job_details with `sinfo` and `sbatch --test-only`"
                raise start_failed("Slurm does not take the job", error, fix) from error
        return {"scheduler_id": job.job_id}

    def _look(self, record: JobRecord) -> tuple[State, str]:
        number = _number(record)
        try:
            name = self._queue().get(number, "")
            reason = ""
            if _STATES.get(name) not in ("pending", "running"):
                name, reason = _shown(number)
        except _NoAnswer as error:
            return self._last.get(record.calc_id, "pending"), f"Slurm does not answer: {error}"
        if not name:
            return "failed", f"Slurm does not know job {number} any more"
        if name not in _STATES and (number, name) not in self._warned:
            self._warned.add((number, name))
            warnings.warn(f"unknown state {name!r} of Slurm job {number}, taken as pending", stacklevel=4)
        state = self._last[record.calc_id] = _STATES.get(name, "pending")
        if state in ("pending", "running"):
            return state, reason
        return state, f"Slurm job {number} is {name}{f' ({reason})' if reason else ''}"

    def _stop(self, record: JobRecord) -> None:
        try:
            _ask("scancel", _number(record))
        except _NoAnswer as error:
            raise ExecutionError(f"job {record.calc_id} cannot be cancelled: {error}") from error

    def _queue(self) -> Mapping[str, str]:
        """States of all jobs of this user that Slurm remembers, by their number."""
        when, states = self._listed
        if time.monotonic() - when > _FRESH:
            listing = _ask(
                "squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%A %T"
            ).split()
            states = dict(zip(listing[::2], listing[1::2], strict=True))
            self._listed = time.monotonic(), states
        return states


def _number(record: JobRecord) -> str:
    """Slurm's number of a job."""
    queued = record.event("queued")
    if queued is None:
        raise ExecutionError(f"job {record.calc_id} has no Slurm number yet: it is being submitted")
    return queued["scheduler_id"]


class _NoAnswer(Exception):
    """The scheduler did not answer; it may later."""


def _shown(number: str) -> tuple[str, str]:
    """State and reason of one job; empty if Slurm has forgotten it."""
    try:
        text = _ask("scontrol", "--oneliner", "show", "job", number)
    except _NoAnswer as error:
        if "invalid job id" in str(error).lower():
            return "", ""
        raise
    entries = dict(entry.split("=", 1) for entry in text.split() if "=" in entry)
    reason = entries.get("Reason", "")
    return entries.get("JobState", "").split("+")[0], "" if reason == "None" else reason


def _ask(*command: str) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
    except FileNotFoundError as error:
        fix = "run this where Slurm's commands are installed"
        raise ExecutionError(f"there is no command {command[0]!r}", fix=fix) from error
    except subprocess.TimeoutExpired as error:
        raise _NoAnswer(f"{command[0]} has not answered for {_PATIENCE:g} s") from error
    if answer.returncode:
        raise _NoAnswer(answer.stderr.strip() or f"{command[0]} ended with {answer.returncode}")
    return answer.stdout


def _parameters(record: JobRecord, details: JobDetails, after: Sequence[JobRecord]) -> dict[str, Any]:
    """Options of sbatch in submitit's form."""
    options = {name: value for name, value in details.extra_args.items() if value not in (None, False)}
    setup, teardown = _lines(options.pop("setup", ())), _lines(options.pop("teardown", ()))
    if details.tasks is not None:
        options["ntasks"] = details.tasks
    wishes = {
        "nodes": details.nodes,
        "ntasks_per_node": details.tasks_per_node,
        "partition": details.queue,
        "account": details.account,
    }
    parameters = {name: value for name, value in wishes.items() if value is not None} | {
        "job_name": f"surefield-{record.calc_id}",
        # None is the partition's own limit; submitit's default is five minutes
        "time": None if details.walltime is None else math.ceil(details.walltime),
        "setup": setup,
        # the job's exit code is that of the command, whatever runs after it
        "teardown": ["status=$?", *teardown, "exit $status"],
        "use_srun": False,
    }
    if after:
        parameters["dependency"] = ":".join(["afterok", *map(_number, after)])
        options["kill-on-invalid-dep"] = "yes"  # Slurm would let it wait for ever
    return parameters | {"additional_parameters": options}


def _lines(text: Any) -> list[str]:
    return text.splitlines() if isinstance(text, str) else [str(line) for line in text]


def _submitit() -> Any:
    try:
        import submitit
        import submitit.helpers
    except ImportError as error:
        raise ExecutionError("SLURM workflows need submitit; pip install 'surefield[slurm]'") from error
    return submitit
