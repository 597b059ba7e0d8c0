"""One worker process: it computes what it is sent, one call after the other, and ends with its starter.

Unlike a worker of `ProcessPoolExecutor` it can be stopped in the middle of a call, with all it has started,
and its death takes one call with it. Calls and results travel pickled through a pipe of two processes of one
user; nothing pickled is kept.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from functools import cache
from multiprocessing import Pipe, spawn
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final, TypeVar, final

from surefield.errors import ExecutionError

__all__ = ["MOST_DEATHS", "WorkerDied", "WorkerProcess", "is_worker_death", "serve"]

R = TypeVar("R")
#: How often a task is begun again whose worker died; the task itself may be what kills it.
MOST_DEATHS: Final = 4

#: The paths of modules are an argument: as a variable they would reach programs that the worker starts.
_START: Final = """
import sys
sys.path[:] = sys.argv[3:]
from surefield.execution.worker_process import serve
serve(int(sys.argv[1]), int(sys.argv[2]))
"""
#: Set while a worker runs the script of its starter, to have the functions that are defined there.
_PREPARING = threading.Event()


@final
class WorkerDied(BrokenExecutor):
    """A worker ended in the middle of a call: killed, out of memory, or crashed by what it called."""


def is_worker_death(error: BaseException | None) -> bool:
    """Whether a worker ended, rather than a task; dask, which may be missing, has an error of its own."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"


@final
class WorkerProcess:
    """A Python process for calls; it starts with the first one, and anew after it was stopped or killed.

    Args:
        environment: variables in addition to those of this process.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._life = -1
        self._starting = threading.Lock()
        self._stopped = False
        self._script: Mapping[str, Any] = {}

    def call(self, fn: Callable[..., R], /, *args: Any, time_limit: float | None = None) -> R:
        """Result of a call; what it raises is raised here.

        Args:
            fn: importable function.
            args: its arguments.
            time_limit: s, after which the process is killed with all that it has started.

        Raises:
            TimeoutError: the time limit was reached.
            WorkerDied: the process ended before the call did.
            ExecutionError: no process can be started.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        connection = self._connection
        assert connection is not None
        try:
            data = bytes(ForkingPickler.dumps((fn, args)))
            connection.send((self._script if b"__main__" in data else None, data))
            connection.recv()  # importing what is called is no part of its time
            if not connection.poll(time_limit):
                self.close()
                raise TimeoutError(f"stopped after its time limit of {time_limit:g} s")
            succeeded, value = connection.recv()
        except (EOFError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise WorkerDied(self._death()) from error
        if not succeeded:
            raise value
        return value

    def stop(self) -> None:
        """End the process and take no more calls; the one thing that another thread may ask for."""
        with self._starting:
            self._stopped = True
            if self._process is not None:
                _kill(self._process)

    def close(self) -> None:
        """End the process with everything it has started; a further call starts it anew."""
        process, self._process = self._process, None
        if process is not None:
            _kill(process)
            process.wait()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._life >= 0:
            os.close(self._life)
            self._life = -1

    def _start(self) -> None:
        if _PREPARING.is_set():
            raise ExecutionError(
                "a script starts workers while it is imported by one",
                fix="put what it does under `if __name__ == '__main__':`",
            )
        self.close()
        here, there = Pipe()
        alive, self._life = os.pipe()
        try:
            with self._starting:
                if self._stopped:
                    raise WorkerDied("was stopped")
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _START, str(there.fileno()), str(alive), *sys.path],
                    env=os.environ | self._environment,
                    stdin=subprocess.DEVNULL,
                    pass_fds=(there.fileno(), alive),
                    start_new_session=True,
                )
        except OSError as error:
            here.close()
            raise ExecutionError(f"a worker process cannot be started: {error}") from error
        finally:
            there.close()
            os.close(alive)
        self._connection = here
        data = spawn.get_preparation_data("surefield worker")
        # The script runs in the worker only if it is its functions that are called: it may lack a guard.
        self._script = {key: value for key, value in data.items() if key.startswith("init_main")}
        # A key is not pickled but for `multiprocessing` itself; plain bytes are.
        rest = {key: value for key, value in data.items() if key not in self._script}
        try:
            here.send(rest | {"authkey": bytes(data["authkey"])})
            here.recv()
        except (EOFError, OSError):
            death = self._death()
            if "signal" in death:
                raise WorkerDied(death) from None
            raise ExecutionError(f"a worker process {death} while it started") from None

    def _death(self) -> str:
        """How the process ended, in words."""
        process = self._process
        with suppress(subprocess.TimeoutExpired):
            if process is not None:
                process.wait(5.0)
        code = None if process is None else process.returncode
        self.close()
        if code is not None and code < 0:
            return f"was killed by signal {-code} ({signal.Signals(-code).name})"
        return "ended" if code is None else f"ended with exit code {code}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that has not been waited for, and its group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def serve(connection: int, life: int) -> None:
    """Answer calls until the starter ends; runs in the worker.

    Args:
        connection: file descriptor of the pipe of calls.
        life: file descriptor that is closed when the starter ends, however it ends.
    """
    threading.Thread(target=_end_with_starter, args=(life,), daemon=True).start()
    calls = Connection(connection)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the starter has ended
        spawn.prepare(calls.recv())
        calls.send(None)
        while True:
            _answer(calls)


def _answer(calls: Connection) -> None:
    """Do one call."""
    script, data = calls.recv()
    try:
        if script:
            _run_script(tuple(script.items()))
        fn, args = pickle.loads(data)
    except BaseException as error:
        calls.send(None)
        calls.send((False, error))
        return
    calls.send(None)
    try:
        reply = (True, fn(*args))
    except BaseException as error:
        error.add_note(f"in the worker:\n{traceback.format_exc()}")
        reply = (False, error)
    try:
        data = ForkingPickler.dumps(reply)
    except Exception as error:  # what came out, or the exception, has no form that can be sent
        what = type(reply[1]).__name__ if reply[0] else f"{type(reply[1]).__name__}: {reply[1]}"
        data = ForkingPickler.dumps((False, ExecutionError(f"a worker cannot send {what:.500}: {error}")))
    calls.send_bytes(data)


@cache
def _run_script(script: tuple[tuple[str, Any], ...]) -> None:
    """Run the script of the starter under another name, so that its functions are there."""
    _PREPARING.set()
    try:
        spawn.prepare(dict(script))
    finally:
        _PREPARING.clear()


def _end_with_starter(life: int) -> None:
    """Wait until the other end is closed, then end with everything that was started here."""
    with suppress(OSError):
        os.read(life, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)
