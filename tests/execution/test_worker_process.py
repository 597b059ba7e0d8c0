from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest

from surefield.errors import DataError, ExecutionError
from surefield.execution.worker_process import WorkerDied, WorkerProcess


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    worker = WorkerProcess({"OF_THE_WORKER": "1"})
    yield worker
    worker.close()


def bad(text: str) -> None:
    raise DataError(text)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + 10
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(pid)


def test_calls_are_done_one_after_the_other_in_one_process(worker: WorkerProcess) -> None:
    pid = worker.call(os.getpid)
    assert pid != os.getpid()
    assert worker.call(os.getpid) == pid
    assert worker.call(os.getenv, "OF_THE_WORKER") == "1"
    assert worker.call(os.getenv, "PYTHONPATH") == os.getenv("PYTHONPATH")
    assert worker.call(eval, "__import__('sys').path") == sys.path
    with pytest.raises(DataError, match="no good") as caught:
        worker.call(bad, "no good")
    assert "in the worker" in caught.value.__notes__[0]
    with pytest.raises(ExecutionError, match="cannot send"):
        worker.call(eval, "lambda: 1")
    assert worker.call(os.getpid) == pid


def test_a_death_ends_one_call(worker: WorkerProcess) -> None:
    pid = worker.call(os.getpid)
    with pytest.raises(WorkerDied, match=r"killed by signal 9 \(SIGKILL\)") as caught:
        worker.call(os.kill, pid, signal.SIGKILL)
    assert isinstance(caught.value, BrokenExecutor)
    with pytest.raises(WorkerDied, match="exit code 3"):
        worker.call(os._exit, 3)
    assert worker.call(os.getpid) != pid


def test_a_call_over_its_time_is_killed_with_all_it_started(worker: WorkerProcess, tmp_path: Path) -> None:
    command = f"sleep 100 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(TimeoutError, match=r"time limit of 0\.5 s"):
        worker.call(os.system, command, time_limit=0.5)
    wait_until_gone(int((tmp_path / "pid").read_text()))
    assert worker.call(abs, -1, time_limit=5) == 1


def test_it_ends_with_its_starter_and_so_does_what_it_started(tmp_path: Path) -> None:
    code = (
        "import os\nfrom surefield.execution.worker_process import WorkerProcess\n"
        f"WorkerProcess().call(os.system, 'echo $PPID > {tmp_path}/worker; sleep 100 & echo $! > "
        f"{tmp_path}/sleep; wait')"
    )
    starter = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 30
    while not (tmp_path / "sleep").exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.1)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    for name in ("worker", "sleep"):
        wait_until_gone(int((tmp_path / name).read_text()))


@pytest.mark.parametrize("guarded", [True, False])
def test_a_script_lends_its_functions_if_it_has_a_guard(tmp_path: Path, guarded: bool) -> None:
    work = "print('it is', WorkerProcess().call(twice, 21))"
    body = f"if __name__ == '__main__':\n    {work}" if guarded else work
    script = tmp_path / "script.py"
    script.write_text(
        "from surefield.execution.worker_process import WorkerProcess\n"
        f"def twice(x):\n    return 2 * x\n{body}\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    if guarded:
        assert "it is 42" in done.stdout, done.stderr
    else:
        assert "if __name__ == '__main__'" in done.stderr
        assert done.returncode == 1


def test_a_script_without_a_guard_may_call_what_others_define(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    code = (
        "from surefield.execution.worker_process import WorkerProcess\nprint(WorkerProcess().call(abs, -42))"
    )
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "42\n", done.stderr
