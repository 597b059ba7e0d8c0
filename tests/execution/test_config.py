from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from surefield.config import Config, parse
from surefield.errors import ConfigError
from surefield.execution.config import (
    DaskExecutorConfig,
    ExecutorConfig,
    LocalExecutorConfig,
    SerialExecutorConfig,
    SlurmExecutorConfig,
    make_executor,
)
from surefield.execution.executor import SerialExecutor
from surefield.execution.in_flight import capacity
from surefield.execution.local_executor import LocalExecutor


class Section(Config):
    executor: ExecutorConfig = SerialExecutorConfig()


def test_kinds() -> None:
    assert parse(Section, {"executor": "local"}).executor == LocalExecutorConfig()
    assert parse(Section, {"executor": "slurm"}).executor == SlurmExecutorConfig()
    assert parse(Section, {"executor": {"kind": "dask", "n_workers": 2}}).executor == DaskExecutorConfig(
        n_workers=2
    )
    with pytest.raises(ConfigError, match="did you mean 'local'"):
        parse(Section, {"executor": "locl"})
    with pytest.raises(ConfigError, match="did you mean 'n_workers'"):
        parse(Section, {"executor": {"kind": "local", "n_worker": 2}})
    with make_executor(SerialExecutorConfig()) as executor:
        assert isinstance(executor, SerialExecutor)
    with make_executor(LocalExecutorConfig(n_workers=3)) as executor:
        assert isinstance(executor, LocalExecutor)
        assert capacity(executor) == 6


def test_dask_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'surefield\[dask\]'"),
        make_executor(DaskExecutorConfig()),
    ):
        pass


def test_dask_computes_and_outlives_a_worker(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs Dask: pip install 'surefield[dask]'")
    script = tmp_path / "script.py"
    script.write_text(
        "import os, warnings\n"
        "from surefield.execution.config import DaskExecutorConfig, make_executor\n"
        "from surefield.execution.in_flight import TasksInFlight, capacity\n"
        "if __name__ == '__main__':\n"
        "    with make_executor(DaskExecutorConfig(n_workers=2)) as executor:\n"
        "        assert capacity(executor) == 4\n"
        "        with TasksInFlight(executor, abs) as tasks:\n"
        "            for i in range(3):\n"
        "                tasks.submit(i, -i)\n"
        "            print(sorted(tasks.next().value for _ in range(3)))\n"
        "        with TasksInFlight(executor, os._exit) as tasks:\n"
        "            tasks.submit(0, 1)\n"
        "            tasks.submit(1, 'no number')\n"
        "            ends = sorted((tasks.next() for _ in range(2)), key=lambda end: end.key)\n"
        "            print(len(ends[0].deaths), type(ends[1].error).__name__)\n"
        "        print(executor.submit(abs, -7).result())\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["[0, 1, 2]", "5 TypeError", "7"], done.stderr
