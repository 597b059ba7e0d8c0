"""A call as data: a folder with what to call, arguments, arrays and files, and where the result goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from surefield.errors import ConfigError, ExecutionError, nearest
from surefield.files import json_text, read_arrays, read_json, write_arrays, write_atomic

__all__ = ["INPUTS", "Task", "is_task", "read_task", "run_task", "write_task"]

#: Folder of what a task needs, inside the folder that is also that of its result.
INPUTS: Final = "inputs"
_TASK, _ARRAYS = "task.json", "arrays.npz"
_FORMAT: Final = 1

#: What a name stands for: it is given the task and its folder, and what it returns is the result.
Call = Callable[["Task", Path], Mapping[str, Any] | None]


@final
@dataclass(frozen=True, eq=False)
class Task:
    """A call as data.

    Attributes:
        name: of what is called; looked up in the table of whoever runs the task, never imported.
        arguments: fit for JSON.
        arrays: numbers that JSON should not hold, by name.
        result: file of the result, relative to the folder of the task.
    """

    name: str
    arguments: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    result: str = "result.json"


def write_task(folder: Path, task: Task, files: Mapping[str, Callable[[Path], None]] | None = None) -> None:
    """Write a task into `folder/inputs`; a write that is cut short leaves no task there.

    Args:
        folder: of the task, there already.
        task: what to call.
        files: writers of further files by name, such as structures; each is given the path to write to.

    Raises:
        ConfigError: a file or a result with a name that leads elsewhere.
        DataError: arguments that JSON has no form for, or an array of objects.
        ExecutionError: the folder cannot be written.
    """
    for name in (task.result, *(files or {})):
        if name in ("", ".", "..", _TASK, _ARRAYS) or Path(name).name != name:
            expected = "one part of a path, other than the names of the task's own files"
            raise ConfigError("unusable file name of a task", got=repr(name), expected=expected)
    entries = {"format": _FORMAT, "call": task.name, "arguments": task.arguments, "result": task.result}
    text = json_text(entries, indent=1) + "\n"
    target = folder / INPUTS
    target.mkdir(exist_ok=True)
    for name, write in (files or {}).items():
        write(target / name)
    if task.arrays:
        write_arrays(target / _ARRAYS, task.arrays)
    # Last, so that a folder with this file is complete.
    write_atomic(target / _TASK, text)


def is_task(folder: Path) -> bool:
    """Whether a folder holds a task."""
    return (folder / INPUTS / _TASK).is_file()


def read_task(folder: Path) -> Task:
    """Read what `write_task` wrote; runs no code from the folder.

    Raises:
        ExecutionError: the folder holds no task, or one of another version.
        DataError: damaged.
    """
    source = folder / INPUTS
    if not is_task(folder):
        raise ExecutionError(f"{folder} holds no task: there is no {source / _TASK}")
    entries = read_json(source / _TASK)
    if not isinstance(entries, dict) or entries.get("format") != _FORMAT:
        raise ExecutionError(f"{source / _TASK} is not a task that this version knows")
    arrays = read_arrays(source / _ARRAYS) if (source / _ARRAYS).exists() else {}
    return Task(entries["call"], entries["arguments"], arrays, entries["result"])


def run_task(folder: Path, calls: Mapping[str, Call]) -> None:
    """Do what a folder says, and write what the call returns; None: the call has written its result itself.

    Args:
        folder: of the task.
        calls: everything that may be called, by name.

    Raises:
        ExecutionError: no task, or the name of a call that is not among `calls`.
    """
    task = read_task(folder)
    if task.name not in calls:
        raise ExecutionError(
            f"{folder} asks for {task.name!r}, which cannot be called; {nearest(task.name, calls)}"
        )
    result = calls[task.name](task, folder)
    if result is not None:
        write_atomic(folder / task.result, json_text(result, indent=1) + "\n")
