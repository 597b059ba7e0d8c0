"""Other programs: whether they are there, runs of them, and what they printed last."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Final

from surefield.errors import ConfigError, ExecutionError

__all__ = ["check_program", "last_lines", "run_program"]

_TAIL: Final = 3


def check_program(command: str, install: str, what: str = "the oracle") -> None:
    """Refuse a command whose program is not there.

    Args:
        command: words as in a shell.
        install: how to get it.
        what: needs it, for messages.

    Raises:
        ConfigError: nothing to run, or no such program.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"the command {command!r} cannot be read: {error}") from error
    if not words:
        raise ConfigError(f"the command of {what} is empty")
    if shutil.which(words[0]) is None:
        raise ConfigError(f"{what} needs the program {words[0]!r}, which is not there: {install}")


def run_program(command: str, folder: Path, log: Path) -> str:
    """Run a program in a folder; returns what it printed.

    Raises:
        ExecutionError: it cannot be started or ended with another exit code than 0; the last lines are told.
    """
    try:
        with log.open("wb") as file:
            done = subprocess.run(
                shlex.split(command),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            )
    except OSError as error:
        raise ExecutionError(f"cannot start {command!r}: {error}") from error
    text = log.read_text(encoding="utf-8", errors="replace")
    if done.returncode:
        how = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise ExecutionError(f"{shlex.split(command)[0]} ended with {how}: {last_lines(text)}")
    return text


def last_lines(text: str) -> str:
    """The last lines of an output, as one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" %=-")]
    return " | ".join(lines[-_TAIL:])[-400:] or "it printed nothing"
