"""A call in a folder, for a job elsewhere: `python -m surefield.execution.pickled_call FOLDER`.

Function, arguments and result are pickled, as between the processes of a pool; the folder is one that only
its owner can enter, and it is removed when its result has been read. What is kept is never pickled.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import spawn
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Final

from surefield.errors import ExecutionError
from surefield.files import write_atomic

__all__ = ["RESULT", "read_result", "run_call", "write_call"]

_CALL: Final = "call.pickle"
RESULT: Final = "result.pickle"


def write_call(
    folder: Path, fn: Callable[..., Any], args: tuple[Any, ...], environment: Mapping[str, str]
) -> None:
    """Write a call into a folder.

    Args:
        folder: there already; it is closed to others.
        fn: importable function.
        args: its arguments.
        environment: variables of the process that is to run it.
    """
    folder.chmod(0o700)
    call = bytes(ForkingPickler.dumps((fn, args)))
    here = spawn.get_preparation_data("surefield job")
    del here["authkey"]
    if b"__main__" not in call:
        here = {key: value for key, value in here.items() if not key.startswith("init_main")}
    write_atomic(folder / _CALL, pickle.dumps((here, dict(environment), call)))


def read_result(folder: Path) -> tuple[bool, Any]:
    """Whether the call succeeded, and its result or exception.

    Raises:
        ExecutionError: there is none that can be read.
    """
    try:
        return pickle.loads((folder / RESULT).read_bytes())
    except Exception as error:  # a damaged pickle may raise anything
        raise ExecutionError(f"the result in {folder} cannot be read: {error}") from error


def run_call(folder: Path) -> None:
    """Do the call of a folder and leave its result or its exception there."""
    here, environment, call = pickle.loads((folder / _CALL).read_bytes())
    os.environ.update(environment)
    try:
        spawn.prepare(here)
        fn, args = pickle.loads(call)
        result = (True, fn(*args))
    except Exception as error:
        error.add_note(f"in the job:\n{traceback.format_exc()}")
        result = (False, error)
    try:
        data = pickle.dumps(result)
    except Exception as error:
        data = pickle.dumps((False, ExecutionError(f"a job cannot hand over its result: {error}")))
    write_atomic(folder / RESULT, data)


if __name__ == "__main__":
    run_call(Path(sys.argv[1]))
