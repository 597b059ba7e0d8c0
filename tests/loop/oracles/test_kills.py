"""Campaigns of labels whose drivers, workers and jobs are killed at random: nothing lost, nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest
from tests.loop.oracles.test_label_store import copper, counting

from surefield.loop.oracles import LabelStore

CODE = """
import sys
from pathlib import Path
from surefield.config import Config, parse
from surefield.execution.config import ExecutorConfig, make_executor
from tests.loop.oracles.test_label_store import LabelStore, copper, counting

class Section(Config):
    executor: ExecutorConfig

folder, n, seconds, executor = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), eval(sys.argv[4])
with make_executor(parse(Section, {"executor": executor}).executor, folder=folder) as executor:
    store = LabelStore(folder / "labels", counting(folder, seconds))
    outcomes = list(store.obtain([copper(seed) for seed in range(n)], executor=executor))
    assert all(outcome.atoms is not None for outcome in outcomes)
"""


class Campaign:
    """A driver in a process of its own, started anew when it was killed; every label is watched."""

    def __init__(self, folder: Path, n: int, seconds: float, executor: dict[str, object]) -> None:
        self.folder, self.n = folder, n
        self.command = [sys.executable, "-c", CODE, str(folder), str(n), str(seconds), repr(executor)]
        self.driver: subprocess.Popen[bytes] | None = None
        self.labels: dict[str, bytes] = {}

    def start(self) -> subprocess.Popen[bytes]:
        if self.driver is None or self.driver.poll() is not None:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self.driver = subprocess.Popen(self.command, env=environment)
        return self.driver

    def look(self) -> None:
        """A label that was there is there, to the last byte: its file says how long it took."""
        now = {path.name: path.read_bytes() for path in (self.folder / "labels").glob("[!.]*.xyz")}
        for name, label in self.labels.items():
            assert now[name] == label
        self.labels = now

    def finish(self) -> None:
        assert self.start().wait() == 0
        self.look()
        assert len(self.labels) == self.n
        assert not list((self.folder / "labels").glob("*.damaged*"))
        store = LabelStore(self.folder / "labels", counting(self.folder))
        before = self.n_begun()
        assert all(outcome.reused for outcome in store.obtain([copper(seed) for seed in range(self.n)]))
        assert self.n_begun() == before

    def n_begun(self) -> int:
        """Calculations that were begun."""
        log = self.folder / "log"
        return len(log.read_text().splitlines()) if log.exists() else 0


T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 60) -> T:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return value


def children(pid: int) -> list[int]:
    """Processes that any thread of a process has started."""
    with suppress(OSError):
        tasks = [Path(f"/proc/{pid}/task/{name}/children") for name in os.listdir(f"/proc/{pid}/task")]
        return [int(child) for task in tasks for child in task.read_text().split()]
    return []


@pytest.mark.slow
def test_fifty_kills_of_drivers_and_workers(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, 200, 0.25, {"kind": "local", "n_workers": 2})
    rng = random.Random(0)
    victims = ["worker"] * 35 + ["driver"] * 15
    rng.shuffle(victims)
    for victim in victims:
        driver, n_begun = campaign.start(), campaign.n_begun()
        until(lambda driver=driver: children(driver.pid))
        if victim == "worker":
            time.sleep(rng.uniform(0.0, 0.6))
            with suppress(ProcessLookupError):
                os.kill(rng.choice(until(lambda driver=driver: children(driver.pid))), signal.SIGKILL)
        else:
            until(lambda n_begun=n_begun: campaign.n_begun() > n_begun)
            time.sleep(rng.uniform(0.0, 0.6))
            driver.send_signal(signal.SIGKILL)
            driver.wait()
        campaign.look()
        assert len(campaign.labels) < campaign.n, "all done before the last kill: more labels are needed"
    campaign.finish()
    # What a kill interrupted was begun again (two workers of a driver, one otherwise); nothing else was.
    assert campaign.n_begun() <= campaign.n + 35 + 2 * 15


@pytest.mark.slow
def test_ten_kills_of_drivers_and_jobs(slurm_cluster: Path, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, 16, 1.0, {"kind": "slurm", "max_jobs": 4})
    rng = random.Random(1)
    kills = {"driver": 0, "job": 0}
    while sum(kills.values()) < 10:
        driver = campaign.start()
        time.sleep(rng.uniform(1.0, 4.0))
        listed = subprocess.run(
            ["squeue", "--noheader", "--states=R", "--format=%A"], capture_output=True, text=True
        )
        jobs = listed.stdout.split()
        if jobs and rng.random() < 0.6:
            subprocess.run(["scancel", "--signal=KILL", rng.choice(jobs)], check=False)
            kills["job"] += 1
        elif driver.poll() is None:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            kills["driver"] += 1
        campaign.look()
        assert len(campaign.labels) < campaign.n, f"all done after {kills}: more labels are needed"
    assert min(kills.values()) >= 2
    campaign.finish()
