"""Jobs of a workflow on disk: one numbered folder each, with what was submitted and how it ended."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from surefield.errors import ConfigError, DataError, ExecutionError, nearest
from surefield.execution.job_process import EXIT_CODE, PROCESS, identity
from surefield.files import append_jsonl, read_json, read_jsonl

__all__ = ["JobRecord", "numbered_folder"]

RECORD: Final = "record.jsonl"
_NUMBER: Final = re.compile(r"\d{5,}")
_LOG_LINES: Final = 20
_LOG_BYTES: Final = 4000


def numbered_folder(parent: Path) -> Path:
    """Make a new folder `parent/00000`, counting up; two processes never get the same one.

    Raises:
        ExecutionError: it cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        taken = [int(name) for name in os.listdir(parent) if _NUMBER.fullmatch(name)]
        number = max(taken, default=-1) + 1
        while True:
            folder = parent / f"{number:05d}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:  # another process was faster
                number += 1
    except OSError as error:
        raise ExecutionError(f"cannot make a folder in {parent}: {error.strerror}") from error


@dataclass(frozen=True)
class JobRecord:
    """Folder of one job; its record is a file of JSON lines that only grows.

    Attributes:
        folder: of the record, in the root of the workflow.
        events: lines of the record, the first says what was submitted.
    """

    folder: Path
    events: tuple[Mapping[str, Any], ...]

    @classmethod
    def create(cls, jobs: Path, submitted: Mapping[str, Any]) -> JobRecord:
        """Make the folder of a new job and write what is submitted."""
        folder = numbered_folder(jobs)
        append_jsonl(folder / RECORD, {"event": "submitted", **submitted})
        return cls.read(jobs, folder.name)

    @classmethod
    def read(cls, jobs: Path, calc_id: str) -> JobRecord:
        """Read a job that any process submitted.

        Raises:
            ConfigError: there is no such job.
        """
        known = [name for name in os.listdir(jobs) if _NUMBER.fullmatch(name)] if jobs.is_dir() else []
        if calc_id not in known:
            hint = nearest(str(calc_id), known) if known else "it has no jobs at all"
            raise ConfigError(f"there is no job {calc_id!r} in {jobs.parent}; {hint}")
        events = read_jsonl(jobs / calc_id / RECORD)
        if not events:
            raise ConfigError(
                f"job {calc_id!r} in {jobs.parent} was never submitted: its submission was killed"
            )
        return cls(jobs / calc_id, tuple(events))

    @property
    def calc_id(self) -> str:
        """Id of the job."""
        return self.folder.name

    @property
    def submitted(self) -> Mapping[str, Any]:
        """What was submitted: workflow, path, command, expects, details, and by which process."""
        return self.events[0]

    @property
    def path(self) -> Path:
        """Folder in which the job runs."""
        return Path(self.submitted["path"])

    @property
    def log(self) -> Path:
        """What the command has printed."""
        return self.path / "log.txt"

    def event(self, name: str) -> Mapping[str, Any] | None:
        """First line of a kind: 'queued' (with the scheduler's id) or 'ended'."""
        return next((event for event in self.events if event["event"] == name), None)

    def add(self, event: str, **entries: Any) -> None:
        """Append a line."""
        append_jsonl(self.folder / RECORD, {"event": event, **entries})

    def exit_code(self) -> int | None:
        """Exit code of the command; None if it has not ended, or was killed together with its parent."""
        # Listing asks the server of a network disk; a look for one name may be answered from memory.
        if EXIT_CODE not in os.listdir(self.folder):
            return None
        return int((self.folder / EXIT_CODE).read_text())

    def process(self) -> Literal["none", "alive", "gone", "elsewhere"]:
        """State of the process around the command; on another machine it cannot be seen."""
        if PROCESS not in os.listdir(self.folder):
            return "none"
        return process_state(read_json(self.folder / PROCESS))

    def submitter(self) -> Literal["alive", "gone", "elsewhere"]:
        """State of the process that submitted the job."""
        return process_state(self.submitted["submitter"])

    def left_result(self) -> bool:
        """Whether the expected result is there and, if it is JSON, whole."""
        name = self.submitted["expects"]
        if name is None:
            return True
        if not self.path.is_dir() or name not in os.listdir(self.path):
            return False
        if name.endswith(".json"):
            try:
                read_json(self.path / name)
            except DataError:
                return False
        return True

    def last_lines(self) -> str:
        """Where the log is, and its last lines."""
        for file in (self.log, *sorted(self.folder.glob("*.err")), *sorted(self.folder.glob("*.out"))):
            if file.is_file() and file.stat().st_size:
                with file.open("rb") as log:
                    log.seek(max(0, file.stat().st_size - _LOG_BYTES))
                    lines = log.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
                return "\n".join([f"last lines of {file}:", *lines])
        return f"{self.log} is empty"


def process_state(process: Mapping[str, Any]) -> Literal["alive", "gone", "elsewhere"]:
    """Whether a process of the form {pid, identity, host} still runs."""
    if process["host"] != socket.gethostname():
        return "elsewhere"
    alive = process["identity"] is not None and identity(process["pid"]) == process["identity"]
    return "alive" if alive else "gone"
