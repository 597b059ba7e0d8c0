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
        "loop.exploration=[{kind: dynamics, n_walkers: 2, steps: 40}, {kind: rattle, n_structures: 10}]",
        "loop.n_initial=8",
        "loop.n_per_round=4",
        "loop.n_rounds=1",
        "loop.trial.picoseconds=0.1",
        "loop.trial.n_test=6",
        "training.epochs=40",
        f"root={tmp_path}",
    ]
    command = [sys.executable, str(project / "examples" / "demo.py"), *small]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert "report.html" in first.stdout
    run = load_run(tmp_path / "demo-loop")
    assert run.summary["n_labels"] == 8 + 2 + 4 + 2
    assert "labels drawn from plain dynamics" in run.summary["verdict"]
    assert "Beside the engine" in (tmp_path / "demo-loop" / "report.html").read_text("utf-8")
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "continuing" in again.stdout
    assert "nothing is done again" in again.stdout
