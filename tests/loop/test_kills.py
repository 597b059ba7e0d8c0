"""A loop whose driver and workers are killed again and again ends as one that nothing happened to."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.copper import copper

from surefield.loop.journal import TIMES
from surefield.structures.images import image_key
from surefield.structures.label_sources import without_labels
from surefield.structures.read import read_frames, write_frames

ENGINE = '''
import os, time
from ase.calculators.emt import EMT
from surefield.structures.images import image_key

class Slow(EMT):
    """Effective medium theory that takes its time, and says what it begins and ends."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        self.told("begins", atoms)
        time.sleep(0.15)
        super().calculate(atoms, properties, system_changes)
        self.told("ends", atoms)

    def told(self, word, atoms):
        handle = os.open(os.environ["ENGINE_LOG"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(handle, f"{word} {image_key(atoms)}\\n".encode())
        os.close(handle)
'''
CONFIG = {
    "name": "x",
    "data": {"pool": "pool.xyz"},
    "potential": {"kind": "snap", "cutoff": 3.6, "twojmax": 2},
    "loop": {
        "oracle": {"kind": "ase", "calculator": "slow_engine:Slow"},
        "executor": {"kind": "local", "n_workers": 2},
        **{"n_initial": 8, "n_per_round": 10, "n_rounds": 7, "n_audit": 1, "validation": 0.3},
    },
}
N_LABELS = 8 + 7 * 11 + 1
N_KILLS = 50


def start(folder: Path, root: str) -> subprocess.Popen[bytes]:
    code = "from surefield.cli import main; main()"
    with (folder / f"{root}.err").open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-c", code, "loop", str(folder / "loop.yaml"), f"root={folder / root}"],
            env={**os.environ, "ENGINE_LOG": str(folder / f"{root}.log"), "PYTHONPATH": python_path(folder)},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def python_path(folder: Path) -> str:
    """Workers look for the engine there, too."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))


def workers(process: subprocess.Popen[bytes]) -> list[int]:
    """Worker processes of a driver."""
    found = []
    for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
        try:
            for pid in path.read_text().split():
                if b"worker_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
        except OSError:  # it has ended by now
            continue
    return found


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def stored(folder: Path) -> set[str]:
    """Structures whose labels are in a store; a file that has no name yet is none."""
    paths = [path for path in folder.glob("*.xyz") if not path.name.startswith(".")]
    return {image_key(atoms) for path in paths for atoms in read_frames(path)}


def events(folder: Path) -> Iterator[dict[str, object]]:
    for line in (folder / "journal.jsonl").read_text().splitlines():
        yield {key: value for key, value in json.loads(line).items() if key not in TIMES}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="workers are found by /proc")
def test_killed_fifty_times_it_ends_the_same(tmp_path: Path) -> None:
    """Driver and workers, while labels are computed, kept and told: none lost, none computed twice."""
    write_frames(tmp_path / "pool.xyz", [without_labels(a) for a in copper(N_LABELS + 4, 0, rattle=0.15)])
    (tmp_path / "slow_engine.py").write_text(ENGINE)
    (tmp_path / "loop.yaml").write_text(yaml.safe_dump(CONFIG))
    whole = start(tmp_path, "whole")
    assert whole.wait() == 0, (tmp_path / "whole.err").read_text()[-3000:]
    rng, log, labels = random.Random(0), tmp_path / "cut.log", tmp_path / "cut" / "x-loop" / "labels"
    kept: dict[str, int] = {}  # structure to the length of the log when its label was in the store
    kills = {"driver": 0, "worker": 0}
    process, ended, begun = start(tmp_path, "cut"), 0, 0
    while sum(kills.values()) < N_KILLS:
        while process.poll() is None and len(lines(log)) <= begun:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 0.4))
        begun = len(lines(log))
        finished = sum(line.startswith("ends") for line in lines(log))
        running = workers(process)
        # A structure whose worker dies three times in a row counts as one that kills its workers.
        if running and finished > ended and rng.random() < 0.6:
            ended = finished
            os.kill(rng.choice(running), signal.SIGKILL)
            kills["worker"] += 1
        else:
            assert process.poll() is None, "the loop ended before it was killed often enough"
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills["driver"] += 1
            time.sleep(0.5)  # its workers end with it, what they write is written
            for key in stored(labels):
                kept.setdefault(key, len(lines(log)))
            process = start(tmp_path, "cut")
    assert process.wait() == 0, (tmp_path / "cut.err").read_text()[-3000:]
    told = lines(log)
    again = [key for key, length in kept.items() if f"begins {key}" in told[length:]]
    cut, undisturbed = (list(events(tmp_path / root / "x-loop")) for root in ("cut", "whole"))
    labelled = [event["structure"] for event in cut if event["event"] == "labelled"]
    print(kills, f"{len(labelled)} labels, {sum(line.startswith('begins') for line in told)} begun")
    assert min(kills.values()) >= 10
    assert not again
    assert len(labelled) == len(set(labelled)) == N_LABELS
    assert set(kept) <= set(labelled)
    assert cut == undisturbed
