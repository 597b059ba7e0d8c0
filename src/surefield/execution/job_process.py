"""The process around a job: runs its command, keeps its exit code. A script of the standard library alone.

`python -I -S job_process.py [--detach | --with-parent] FOLDER` reads FOLDER/job.json (command, cwd, log,
walltime in seconds or null, environment), writes FOLDER/process.json when it starts and FOLDER/exit_code, a
number, when the command has ended. A job that has no exit_code and whose process is gone was killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

__all__ = ["EXIT_CODE", "JOB", "PROCESS", "WALLTIME_REACHED", "description", "identity"]

JOB: Final = "job.json"
PROCESS: Final = "process.json"
EXIT_CODE: Final = "exit_code"
#: Exit code of a job that was stopped because its walltime was over, as that of `timeout`.
WALLTIME_REACHED: Final = 124

_NOT_FOUND: Final = 127
_GRACE: Final = 10.0


def identity(pid: int) -> str | None:
    """What tells a living process from any other that has or had its number; None if it has ended."""
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():  # not Linux
        shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True)
        state, _, begin = shown.stdout.strip().partition(" ")
        return None if shown.returncode or state.startswith("Z") else begin.strip()
    try:
        fields = stat.read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    if fields[0] in "ZX":  # ended, its parent has not asked for it yet
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {fields[19]}"


def main(arguments: list[str]) -> int:
    """Run the job of a folder; the exit code is that of its command."""
    *options, folder = arguments
    path = Path(folder)
    if "--detach" in options:
        child = os.fork()
        if child:
            _write(path / PROCESS, json.dumps(description(child)))
            return 0
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        return run(path)
    if "--with-parent" in options:
        _die_with_parent()
        with suppress(OSError):  # a group of its own, so that it can be stopped with all it started
            os.setsid()
    _write(path / PROCESS, json.dumps(description(os.getpid())))
    return run(path)


def run(folder: Path) -> int:
    """Run the command, write its exit code and return it."""
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    with Path(job["log"]).open("ab", buffering=0) as log:
        code = _run_command(job, log)
        _write(folder / EXIT_CODE, f"{code}\n")
        if code == WALLTIME_REACHED and job["walltime"] is not None:
            os.killpg(os.getpgrp(), signal.SIGKILL)  # whatever did not stop when asked to
    return code


def _run_command(job: dict[str, Any], log: IO[bytes]) -> int:
    try:
        child = subprocess.Popen(
            job["command"],
            cwd=job["cwd"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | job["environment"],
            preexec_fn=_die_with_parent,
        )
    except OSError as error:
        log.write(f"cannot start {job['command'][0]}: {error}\n".encode())
        return _NOT_FOUND
    try:
        code = child.wait(job["walltime"])
    except subprocess.TimeoutExpired:
        log.write(f"stopped: the walltime of {job['walltime'] / 60:g} minutes is over\n".encode())
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(os.getpgrp(), signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE)
        return WALLTIME_REACHED
    return code if code >= 0 else 128 - code


def _die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends; Linux only."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def description(pid: int) -> dict[str, Any]:
    """What `identity` has to be asked for, and on which machine, to see whether a process still runs."""
    return {"pid": pid, "identity": identity(pid), "host": socket.gethostname()}


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all; `surefield.files` would have to be installed where this runs."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
