"""The demonstration runs, in small, with its live engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from surefield.report import load_run


@pytest.mark.slow
def test_demo_in_small(project: Path, tmp_path: Path) -> None:
    pytest.importorskip("tblite", reason="the demonstration needs pip install 'surefield[tblite]'")
    small = [
        "loop.pool.n_pool=20",
        "loop.pool.n_test=6",
        "loop.pool.steps_between=5",
        "loop.pool.equilibration_steps=20",
        "loop.seeds=[0]",
        "loop.n_initial=8",
        "loop.n_per_round=4",
        "loop.n_rounds=1",
        "training.epochs=2",
        f"root={tmp_path}",
    ]
    command = [sys.executable, str(project / "examples" / "demo.py"), *small]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert "report.html" in first.stdout
    run = load_run(tmp_path / "demo-loop")
    assert {curve.method for curve in run.curves} == {"lcmd", "random"}
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "continuing" in again.stdout
    assert "reused" in again.stdout
