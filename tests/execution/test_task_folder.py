"""Tasks as data: written, read back, and run by another process; what does not belong there is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.execution.task_folder import INPUTS, Task, is_task, read_task, run_task, write_task
from surefield.files import read_json

TASK = Task("mean", {"factor": 2.0, "label": "Å"}, {"values": np.arange(4.0)}, "mean.json")

RUNNER = """
import sys
from pathlib import Path
from surefield.execution.task_folder import INPUTS, run_task

def mean(task, folder):
    words = (folder / INPUTS / "words.txt").read_text()
    return {"mean": task.arguments["factor"] * task.arrays["values"].mean(), "words": words}

run_task(Path(sys.argv[1]), {"mean": mean})
"""


def test_reads_back(tmp_path):
    write_task(tmp_path, TASK)
    task = read_task(tmp_path)

    assert (task.name, task.arguments, task.result) == (TASK.name, TASK.arguments, TASK.result)
    assert task.arrays.keys() == {"values"}
    np.testing.assert_array_equal(task.arrays["values"], TASK.arrays["values"])


def test_another_process_runs_it(tmp_path):
    write_task(tmp_path, TASK, {"words.txt": lambda path: path.write_text("as written") and None})
    subprocess.run([sys.executable, "-c", RUNNER, str(tmp_path)], check=True)

    assert read_json(tmp_path / "mean.json") == {"mean": 3.0, "words": "as written"}


def test_a_call_may_write_its_result_itself(tmp_path):
    write_task(tmp_path, TASK)
    run_task(tmp_path, {"mean": lambda task, folder: (folder / task.result).write_text("own") and None})

    assert (tmp_path / "mean.json").read_text() == "own"


@pytest.mark.parametrize("name", ["meen", "os.system"])
def test_unknown_names_are_never_called(tmp_path, name):
    write_task(tmp_path, Task(name, {}))
    with pytest.raises(ExecutionError, match=f"asks for '{name}'.*mean"):
        run_task(tmp_path, {"mean": lambda task, folder: {}})

    assert not (tmp_path / "result.json").exists()


def test_what_fails_half_way_leaves_no_task(tmp_path):
    def full(path):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_task(tmp_path, TASK, {"frames": full})

    assert not is_task(tmp_path)
    with pytest.raises(ExecutionError, match="holds no task"):
        read_task(tmp_path)


@pytest.mark.parametrize("name", ["../frames", "task.json", "arrays.npz", ""])
def test_file_names_stay_inside(tmp_path, name):
    with pytest.raises(ConfigError, match="file name of a task"):
        write_task(tmp_path, TASK, {name: lambda path: None})


def test_objects_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        write_task(tmp_path, Task("mean", {}, {"values": np.array([object()])}))
    with pytest.raises(DataError, match="cannot be written as JSON"):
        write_task(tmp_path, Task("mean", {"values": object()}))


def test_a_task_of_another_version(tmp_path):
    write_task(tmp_path, TASK)
    path = tmp_path / INPUTS / "task.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(ExecutionError, match="not a task that this version knows"):
        read_task(tmp_path)
