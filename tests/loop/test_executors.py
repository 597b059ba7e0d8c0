"""The same loop on every executor, and on Slurm under kills of its driver and its jobs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from ase.build import bulk
from tests.copper import copper

from surefield.loop.journal import TIMES
from surefield.structures.label_sources import without_labels
from surefield.structures.read import write_frames

ENGINE = '''
import time
from ase.calculators.emt import EMT


class Slow(EMT):
    """Effective medium theory that takes its time."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds = seconds

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        time.sleep(self.seconds)
        super().calculate(atoms, properties, system_changes)
'''
SMALL = {"n_initial": 6, "n_per_round": 3, "n_rounds": 1, "n_audit": 1, "validation": 0.34}


def write(folder: Path, seconds: float, **loop: Any) -> None:
    """A loop in a folder: its configuration and its engine."""
    (folder / "engine.py").write_text(ENGINE)
    oracle = {"kind": "ase", "calculator": "engine.py:Slow", "arguments": {"seconds": seconds}}
    config = {
        "name": "x",
        "potential": {"kind": "snap", "cutoff": 3.6, "twojmax": 2},
        "loop": {"oracle": oracle, **SMALL, **loop},
    }
    (folder / "loop.yaml").write_text(yaml.safe_dump(config))


def start(folder: Path, root: str, executor: dict[str, Any], *more: str) -> subprocess.Popen[bytes]:
    code = "from surefield.cli import main\nif __name__ == '__main__':\n    main()\n"
    (folder / "main.py").write_text(code)
    with (folder / f"{root}.err").open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, str(folder / "main.py"), "loop", str(folder / "loop.yaml"),
             f"root={folder / root}", f"loop.executor={json.dumps(executor)}", *more],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )  # fmt: skip


def finish(process: subprocess.Popen[bytes], folder: Path, root: str) -> list[dict[str, Any]]:
    """What the journal of a loop says, but for times."""
    assert process.wait() == 0, (folder / f"{root}.err").read_text()[-3000:]
    journal = (folder / root / "x-loop" / "journal.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in journal]


@pytest.mark.slow
def test_the_same_picks_on_every_executor(tmp_path: Path, slurm_cluster: Path) -> None:
    start_structure = bulk("Cu", cubic=True)
    start_structure.rattle(0.05, seed=1)
    write_frames(tmp_path / "start.xyz", [start_structure])
    exploration = [
        {"kind": "dynamics", "temperatures": [300, 900], "n_walkers": 2, "steps": 60, "n_frames": 12},
        {"kind": "rattle", "displacements": [0.1, 0.2], "n_structures": 8},
    ]
    write(tmp_path, 0.0, starts=["start.xyz"], exploration=exploration)
    executors: dict[str, dict[str, Any]] = {
        "serial": {"kind": "serial"},
        "local": {"kind": "local", "n_workers": 2},
        "slurm": {"kind": "slurm", "root": str(tmp_path / "jobs")},
    }
    if find_spec("distributed") is not None:
        executors["dask"] = {"kind": "dask", "n_workers": 2}
    journals = {
        root: finish(start(tmp_path, root, executor), tmp_path, root) for root, executor in executors.items()
    }
    picks = [event["structure"] for event in journals["serial"] if event["event"] == "labelled"]
    assert len(picks) == len(set(picks)) >= 6 + 3
    for journal in journals.values():
        assert journal == journals["serial"]


@pytest.mark.slow
def test_killed_ten_times_on_slurm_it_ends_the_same(tmp_path: Path, slurm_cluster: Path) -> None:
    write_frames(tmp_path / "pool.xyz", [without_labels(a) for a in copper(24, 0, rattle=0.15)])
    write(tmp_path, 1.0, n_per_round=5, n_rounds=2)
    more = f"data.pool={tmp_path / 'pool.xyz'}"
    executor = {"kind": "slurm", "root": str(tmp_path / "jobs"), "max_jobs": 4}
    whole = finish(start(tmp_path, "whole", {"kind": "local", "n_workers": 2}, more), tmp_path, "whole")
    rng, kills = random.Random(0), {"driver": 0, "job": 0}
    process = start(tmp_path, "cut", executor, more)
    labels = tmp_path / "cut" / "x-loop" / "labels"
    kept: dict[str, bytes] = {}
    end = time.monotonic() + 500
    while sum(kills.values()) < 10:
        assert time.monotonic() < end
        assert process.poll() is None, f"the loop ended after {kills}"
        listed = subprocess.run(
            ["squeue", "--noheader", "--states=R", "--format=%A"], capture_output=True, text=True, check=True
        )
        jobs = listed.stdout.split()
        if not jobs:
            time.sleep(0.1)
            continue
        time.sleep(rng.uniform(0.0, 2.0))
        if kills["job"] < 2 * kills["driver"] + 1:
            subprocess.run(["scancel", "--signal=KILL", "--full", rng.choice(jobs)], check=False)
            kills["job"] += 1
        else:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills["driver"] += 1
            process = start(tmp_path, "cut", executor, more)
        # A label that was kept stays to the last byte, with the seconds that it took: it is computed once.
        now = {path.name: path.read_bytes() for path in labels.glob("[!.]*.xyz")}
        assert {name: now[name] for name in kept} == kept
        kept = now
    assert finish(process, tmp_path, "cut") == whole
    assert {name: (labels / name).read_bytes() for name in kept} == kept
