from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.execution.test_worker_process import bad

from surefield.errors import DataError, ExecutionError
from surefield.execution.pickled_call import RESULT, read_result, write_call


def run(folder: Path) -> None:
    command = [sys.executable, "-m", "surefield.execution.pickled_call", str(folder)]
    subprocess.run(
        command, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    )


def test_a_call_leaves_its_result(tmp_path: Path) -> None:
    write_call(tmp_path, os.getenv, ("OF_THE_JOB",), {"OF_THE_JOB": "yes"})
    assert tmp_path.stat().st_mode & 0o077 == 0
    run(tmp_path)
    assert read_result(tmp_path) == (True, "yes")


def test_a_call_leaves_its_error(tmp_path: Path) -> None:
    write_call(tmp_path, bad, ("no good",), {})
    run(tmp_path)
    succeeded, error = read_result(tmp_path)
    assert not succeeded
    assert isinstance(error, DataError)
    assert "in the job" in error.__notes__[0]


def test_what_cannot_be_handed_over_or_read_is_said(tmp_path: Path) -> None:
    write_call(tmp_path, eval, ("lambda: 1",), {})
    run(tmp_path)
    succeeded, error = read_result(tmp_path)
    assert not succeeded
    assert "cannot hand over its result" in str(error)
    (tmp_path / RESULT).write_bytes((tmp_path / RESULT).read_bytes()[:20])
    with pytest.raises(ExecutionError, match="cannot be read"):
        read_result(tmp_path)
