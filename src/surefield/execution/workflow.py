"""Workflows: where the folders of runs are, and where a command runs as a job of its own."""

from __future__ import annotations

import abc
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, final

from surefield.errors import ConfigError, ExecutionError
from surefield.execution.job_details import JobDetails
from surefield.execution.job_process import JOB, WALLTIME_REACHED, description
from surefield.execution.job_records import JobRecord, numbered_folder
from surefield.files import json_text, write_atomic

__all__ = ["JobStatus", "State", "Workflow", "look_at_process", "start_failed"]

State = Literal["pending", "running", "done", "failed", "cancelled"]
_JOBS: Final = "jobs"
_CANCELLED: Final = "cancelled by cancel_job"


@dataclass(frozen=True)
class JobStatus:
    """How a job is.

    Attributes:
        path: folder in which it runs.
        state: 'pending', 'running', 'done', 'failed' or 'cancelled'.
        exit_code: of its command; 128 + n if signal n ended it; None if it has not ended or is not known.
        message: for a failed job the reason and the last lines of its log.
    """

    path: Path
    state: State
    exit_code: int | None = None
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether it is over, one way or the other."""
        return self.state in ("done", "failed", "cancelled")


class Workflow(abc.ABC):
    """Folders of runs and jobs under one root; jobs are known by id to any process that has the root.

    A job is done only if its command ended with exit code 0 and left its result; a job that was killed is
    failed, whatever the scheduler knows of it. Nothing is written before a folder or a job is asked for.

    Args:
        root: folder of everything.
        defaults: `job_details` of every job that does not say otherwise.

    Raises:
        ConfigError: unusable defaults.
    """

    #: name in records and in `get_workflow`
    kind: ClassVar[str]
    #: workflows whose jobs this one can look after
    serves: ClassVar[tuple[str, ...]]
    #: whether the process around a job has to stop it when its walltime is over
    watches_walltime: ClassVar[bool] = True
    #: whether a job is submitted together with what it has to wait for, instead of after that
    scheduler_waits: ClassVar[bool] = False
    #: shortest and longest time between two looks at a job, s
    intervals: ClassVar[tuple[float, float]] = (0.05, 1.0)

    def __init__(
        self, root: str | os.PathLike[str] = "./trainer", defaults: Mapping[str, Any] | None = None
    ) -> None:
        self.root = Path(root).absolute()
        self.defaults = dict(defaults or {})
        self._check(JobDetails.read(self.defaults))

    @final
    def make_path(self, module: str, path_type: str) -> Path:
        """Make a new numbered folder `root/module/path_type/00000`, also while other processes do.

        Raises:
            ConfigError: a name that is empty, absolute or leads elsewhere.
            ExecutionError: it cannot be made.
        """
        for name in (module, path_type):
            parts = Path(name).parts if isinstance(name, str) else ()
            if not parts or Path(name).is_absolute() or ".." in parts:
                expected = "a relative name without '..'"
                raise ConfigError("unusable name of a folder", got=repr(name), expected=expected)
        if Path(module).parts[0] == _JOBS:
            raise ConfigError(
                f"the folder {_JOBS!r} holds the records of jobs; take another name than {module!r}"
            )
        return numbered_folder(self.root / module / path_type)

    @final
    def submit_job(
        self,
        command: Sequence[str],
        run_path: str | os.PathLike[str],
        job_details: Mapping[str, Any] | None = None,
        *,
        expects: str | None = "result.json",
    ) -> str:
        """Run a command as a job; what it prints goes to `log.txt` in its folder.

        Args:
            command: program and arguments; no shell is involved.
            run_path: folder in which it runs, there already.
            job_details: nodes, tasks, tasks_per_node, walltime (minutes), queue, account, synchronous,
                dependencies, extra_args (`JobDetails`). If a job it depends on fails, it is cancelled.
            expects: file the command leaves in `run_path` if and only if it succeeds; None: no such file.

        Returns:
            Id of the job.

        Raises:
            ConfigError: an unusable argument, or the result is there before the job.
            ExecutionError: the job cannot be submitted.
        """
        path = Path(run_path).absolute()
        details = JobDetails.read(job_details, self.defaults)
        self._check(details)
        _check_job(command, path, expects)
        needed = [self._record(calc_id) for calc_id in details.dependencies]
        record = self._new_record(list(command), path, details, expects)
        try:
            waiting = self._wait_for(needed)
            failed = next((s for s in map(self._status, needed) if s.ended and s.state != "done"), None)
            if failed is not None:
                reason = f"it depends on the job in {failed.path}, which is {failed.state}"
                record.add("ended", state="cancelled", exit_code=None, message=reason)
            elif not self._record(record.calc_id).event("ended"):  # nobody has cancelled it meanwhile
                record.add("queued", **self._launch(record, details, waiting))
        except BaseException as error:
            record.add("ended", state="failed", exit_code=None, message=f"not submitted: {error}")
            raise
        if details.synchronous:
            self.block_until_completed([record.calc_id])
        return record.calc_id

    @final
    def get_job_status(self, calc_id: str) -> JobStatus:
        """State of a job, whichever process submitted it.

        Raises:
            ConfigError: no such job, or one of another kind of workflow.
        """
        return self._status(self._record(calc_id))

    @final
    def get_job_path(self, calc_id: str) -> Path:
        """Folder in which a job runs."""
        return self._record(calc_id).path

    @final
    def block_until_completed(self, calc_ids: str | Sequence[str]) -> None:
        """Wait until jobs are done, failed or cancelled, also while the scheduler does not answer."""
        left = [calc_ids] if isinstance(calc_ids, str) else list(calc_ids)
        pause, longest = self.intervals
        while left := [calc_id for calc_id in left if not self.get_job_status(calc_id).ended]:
            time.sleep(pause)
            pause = min(1.3 * pause, longest)

    @final
    def cancel_job(self, calc_id: str) -> None:
        """Stop a job; one that has ended stays as it is."""
        record = self._record(calc_id)
        if self._status(record).ended:
            return
        record.add("cancelling")
        self._stop(record)
        record.add("ended", state="cancelled", exit_code=None, message=_CANCELLED)

    @abc.abstractmethod
    def _check(self, details: JobDetails) -> None:
        """Refuse what cannot be honoured (ConfigError)."""

    @abc.abstractmethod
    def _launch(self, record: JobRecord, details: JobDetails, after: Sequence[JobRecord]) -> dict[str, Any]:
        """Start the process of `record.folder`, or queue it; returns what is needed to find it again."""

    @abc.abstractmethod
    def _look(self, record: JobRecord) -> tuple[State, str]:
        """State of a queued job without an exit code, and a reason; 'done': the scheduler says so."""

    @abc.abstractmethod
    def _stop(self, record: JobRecord) -> None:
        """Stop a job that has not ended."""

    def _wait_for(self, needed: Sequence[JobRecord]) -> Sequence[JobRecord]:
        """Wait for jobs; returns those that the launched job itself has to wait for."""
        if self.scheduler_waits:
            return [record for record in needed if not self._status(record).ended]
        self.block_until_completed([record.calc_id for record in needed])
        return ()

    def _new_record(
        self, command: list[str], path: Path, details: JobDetails, expects: str | None
    ) -> JobRecord:
        """Write down a new job, for whoever asks and for the process around it."""
        entries = {"workflow": self.kind, "path": str(path), "command": command, "expects": expects}
        entries |= {"details": vars(details), "submitter": description(os.getpid()), "time": time.time()}
        record = JobRecord.create(self.root / _JOBS, entries)
        job = {
            "command": command,
            "cwd": str(path),
            "log": str(record.log),
            "walltime": 60 * details.walltime if details.walltime and self.watches_walltime else None,
            "environment": _environment(),
        }
        write_atomic(record.folder / JOB, json_text(job, indent=1) + "\n")
        return record

    def _record(self, calc_id: str) -> JobRecord:
        record = JobRecord.read(self.root / _JOBS, calc_id)
        kind = record.submitted["workflow"]
        if kind not in self.serves:
            raise ConfigError(
                f"job {calc_id} in {self.root} is not of this workflow", got=self.kind, expected=kind
            )
        return record

    def _status(self, record: JobRecord) -> JobStatus:
        ended = record.event("ended")
        if ended is not None:
            return JobStatus(record.path, ended["state"], ended["exit_code"], ended["message"])
        seen: State = "done"
        reason = ""
        if record.exit_code() is None:
            seen, reason = self._look(record) if record.event("queued") else look_at_process(record)
            if seen in ("pending", "running"):
                return JobStatus(record.path, seen, None, reason)
        # What others have written, and what the job has left, while the look was taken.
        latest = self._record(record.calc_id)
        if latest.event("ended") or (latest.event("queued") and not record.event("queued")):
            return self._status(latest)
        status = _concluded(latest, latest.exit_code(), seen, reason)
        latest.add("ended", state=status.state, exit_code=status.exit_code, message=status.message)
        return status


def _check_job(command: Sequence[str], path: Path, expects: str | None) -> None:
    words = not isinstance(command, str) and all(isinstance(word, str) for word in command)
    if not words or not len(command):
        expected = "a list of strings, program first"
        raise ConfigError("unusable command", got=f"{command!r:.80}", expected=expected)
    if not path.is_dir():
        raise ConfigError(f"the folder of the job does not exist: {path}; `make_path` makes one")
    if expects is not None and (path / expects).exists():
        raise ConfigError(
            f"{path} holds a {expects} already, of another job; take a new folder (`make_path`)"
        )


def _environment() -> dict[str, str]:
    """What the job needs besides the environment it inherits: module paths that hold in its folder too."""
    module_path = os.environ.get("PYTHONPATH")
    if not module_path:
        return {}
    return {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(part) for part in module_path.split(os.pathsep) if part)
    }


def look_at_process(record: JobRecord) -> tuple[State, str]:
    """State of a job without an exit code by the process around it, or else by that which submitted it."""
    state = record.process()
    if state == "alive":
        return "running", ""
    if state == "elsewhere":
        return "running", "started on another machine, whose processes cannot be seen from here"
    if state == "gone":
        return "failed", "its process was killed"
    if record.submitter() == "gone":
        return "failed", "the process that submitted it ended before the job was started"
    return "pending", ""


def _concluded(record: JobRecord, code: int | None, seen: State, reason: str) -> JobStatus:
    """Final state of a job that runs no more."""
    if code is None and (seen == "cancelled" or record.event("cancelling")):
        return JobStatus(record.path, "cancelled", None, reason if seen == "cancelled" else _CANCELLED)
    expects = record.submitted["expects"]
    complete = record.left_result()
    if complete and (code == 0 or (code is None and seen == "done" and expects is not None)):
        return JobStatus(record.path, "done", code)
    walltime = record.submitted["details"]["walltime"]
    if code == WALLTIME_REACHED and walltime is not None:
        reason = f"stopped after its walltime of {walltime:g} minutes"
    elif code is not None and code > 128:
        reason = f"killed by signal {code - 128} (exit code {code})"
    elif code:
        reason = f"exit code {code}"
    elif code == 0 or seen == "done":
        reason = f"it ended without an error, but left no complete {expects}"
    return JobStatus(record.path, "failed", code, f"{reason}; {record.last_lines()}")


def start_failed(what: str, error: BaseException | str, fix: str = "") -> ExecutionError:
    """Error for a job that could not be submitted."""
    return ExecutionError(what, got=str(error).strip() or type(error).__name__, fix=fix)
