from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from surefield.errors import ExecutionError
from surefield.execution.local_executor import LocalExecutor
from surefield.loop.oracles import CalculatorOracle, LabelStore, ReplayOracle, emt
from surefield.structures.read import read_frames, write_frames


def copper(seed: int) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


class Counting(Calculator):
    """EMT that writes down every calculation, and does what the structure's first coordinate tells it to."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, log: str, seconds: float = 0.0, energy: float = 0.0) -> None:
        super().__init__()
        self.log, self.seconds, self.energy = Path(log), seconds, energy

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        with self.log.open("a") as file:
            file.write(f"{self.atoms.positions[0, 0]!r}\n")
        time.sleep(self.seconds)
        if self.atoms.positions[0, 0] > 5:
            raise RuntimeError("SCF did not converge")
        self.results = {"energy": self.energy, "forces": np.zeros((len(self.atoms), 3))}


class Make:
    """Makes `Counting`; importable, for workers."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __call__(self) -> Counting:
        return Counting(*self.arguments)


def counting(tmp_path: Path, *arguments: Any, **settings: Any) -> CalculatorOracle:
    return CalculatorOracle(Make(str(tmp_path / "log"), *arguments), "counting", settings, retries=0)


def n_calculations(tmp_path: Path) -> int:
    log = tmp_path / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_labels_are_computed_once(tmp_path: Path) -> None:
    frames = [copper(0), copper(1), copper(0)]
    frames[2].info["walker"] = 3
    before = [atoms.copy() for atoms in frames]
    store = LabelStore(tmp_path / "labels", counting(tmp_path))
    assert store.find(frames[0]) is None
    assert store.record(frames[0]) == {}
    outcomes = {outcome.index: outcome for outcome in store.obtain(frames)}
    assert [outcomes[i].reused for i in range(3)] == [False, False, True]
    assert n_calculations(tmp_path) == 2
    again = {outcome.index: outcome for outcome in LabelStore(store.folder, store.oracle).obtain(frames)}
    assert all(outcome.reused and outcome.seconds == 0 for outcome in again.values())
    for i, atoms in enumerate(frames):
        assert atoms == before[i]
        for labelled in (outcomes[i].atoms, again[i].atoms, store.find(atoms)):
            assert labelled is not None
            assert labelled.info == atoms.info
            np.testing.assert_array_equal(labelled.positions, atoms.positions)
            assert labelled.get_potential_energy() == 0.0
    assert n_calculations(tmp_path) == 2
    record = store.record(frames[0])
    assert record["oracle"] == "counting"
    assert record["seconds"] == outcomes[0].seconds > 0


def test_what_a_label_depends_on(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels", counting(tmp_path))
    base = copper(0)
    list(store.obtain([base]))
    others = [base.copy() for _ in range(5)]
    others[0].info["charge"] = 1
    others[1].set_initial_magnetic_moments([1, 0, 0, 0])
    others[2].positions[0, 0] += 1e-5
    others[3].pbc = False
    others[4].numbers[0] = 28
    assert [store.find(atoms) for atoms in others] == [None] * 5
    same = base.copy()
    same.info |= {"config_type": "a", "energy": 3.0}
    write_frames(tmp_path / "eight.xyz", [same])
    assert store.find(same) is not None
    assert store.find(read_frames(tmp_path / "eight.xyz")[0]) is not None
    other = LabelStore(tmp_path / "labels", counting(tmp_path, cutoff=3))
    assert other.find(base) is None


def test_a_failure_is_told_and_blocks_nothing(tmp_path: Path) -> None:
    bad = copper(1)
    bad.positions[:, 0] += 6
    store = LabelStore(tmp_path / "labels", counting(tmp_path))
    outcomes = {outcome.index: outcome for outcome in store.obtain([copper(0), bad, bad, copper(2)])}
    assert [outcomes[i].atoms is None for i in range(4)] == [False, True, True, False]
    assert "did not converge" in outcomes[1].cause == outcomes[2].cause
    assert outcomes[1].attempts == ({"settings": {}, "cause": "RuntimeError: SCF did not converge"},)
    assert outcomes[1].seconds > 0 == outcomes[2].seconds
    assert n_calculations(tmp_path) == 3
    list(store.obtain([bad]))
    assert n_calculations(tmp_path) == 4


@pytest.mark.parametrize("damage", ["cut", "empty", "number", "bytes"])
def test_a_damaged_label_is_computed_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = LabelStore(tmp_path / "labels", emt())
    list(store.obtain([copper(0)]))
    (path,) = (tmp_path / "labels").glob("[!.]*.xyz")
    text = path.read_bytes()
    damaged = {
        "cut": text[: len(text) // 2],
        "empty": b"",
        "number": text.replace(b"energy=", b"energy=1", 1),
        "bytes": bytes(range(256)),
    }
    path.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING):
        (outcome,) = store.obtain([copper(0)])
    assert "damaged" in caplog.text
    assert not outcome.reused
    assert path.read_bytes().split(b"surefield_label_")[0] == text.split(b"surefield_label_")[0]
    assert [p.read_bytes() for p in path.parent.glob("*.damaged-*")] == [damaged[damage]]


def test_imported_labels_are_not_paid_for_again(tmp_path: Path) -> None:
    atoms = copper(0)
    atoms.info["REF_energy"], atoms.arrays["REF_forces"] = -3.5, np.ones((4, 3))
    store = LabelStore(tmp_path / "labels", counting(tmp_path))
    (added,) = store.add([atoms])
    assert added.get_potential_energy() == -3.5
    (outcome,) = store.obtain([copper(0)])
    assert outcome.reused
    assert outcome.atoms is not None
    np.testing.assert_array_equal(outcome.atoms.get_forces(), np.ones((4, 3)))
    assert store.record(atoms)["oracle"] == "imported"
    assert n_calculations(tmp_path) == 0


def test_a_replay_is_kept_too(tmp_path: Path) -> None:
    frames = [copper(seed) for seed in range(2)]
    for atoms in frames:
        atoms.calc = EMT()
        atoms.get_forces()
    oracle = ReplayOracle(frames)
    outcomes = list(LabelStore(tmp_path, oracle).obtain(oracle.pool))
    assert [o.atoms is not None and o.atoms.get_potential_energy() for o in outcomes] == [
        atoms.get_potential_energy() for atoms in frames
    ]


def test_two_at_once_share_the_work(tmp_path: Path) -> None:
    frames = [copper(seed) for seed in range(6)]

    def obtain(_: int) -> int:
        store = LabelStore(tmp_path / "labels", counting(tmp_path, 0.05))
        with ThreadPoolExecutor(2) as executor:
            return sum(o.atoms is not None for o in store.obtain(frames, executor=executor))

    with ThreadPoolExecutor(2) as both:
        assert list(both.map(obtain, range(2))) == [6, 6]
    assert n_calculations(tmp_path) == 6


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LabelStore(tmp_path / "labels", counting(tmp_path))
    list(store.obtain([copper(0)]))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ExecutionError, match="the disk is full"):
        list(store.obtain([copper(0), copper(1)]))
    monkeypatch.undo()
    assert sorted(o.reused for o in store.obtain([copper(0), copper(1)])) == [False, True]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of seven megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_full_disk_no_label_that_was_paid_for_is_lost(tmp_path: Path, small_disk: Path) -> None:
    frames = [copper(seed) for seed in range(12)]
    store = LabelStore(small_disk / "labels", counting(tmp_path, 0.05))
    list(store.obtain(frames[:1]))
    rest = small_disk / "rest"
    with suppress(OSError), rest.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with (
        ThreadPoolExecutor(2) as executor,
        pytest.raises(ExecutionError, match="nothing that was computed is"),
    ):
        list(store.obtain(frames, executor=executor))
    n_paid = n_calculations(tmp_path)
    assert 2 <= n_paid < 12
    assert len(list(store.folder.glob("[!.]*.xyz"))) == n_paid
    rest.unlink()
    outcomes = list(store.obtain(frames))
    assert all(outcome.atoms is not None for outcome in outcomes)
    assert n_calculations(tmp_path) == 12
    assert (store.folder / ".reserve").stat().st_size > 1e6


@pytest.fixture
def labelling(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that labels ten structures by two workers."""
    code = (
        "from pathlib import Path\nfrom surefield.execution.local_executor import LocalExecutor\n"
        "from tests.loop.oracles.test_label_store import LabelStore, copper, counting\n"
        f"path = Path({str(tmp_path)!r})\n"
        "with LocalExecutor(2) as executor:\n"
        "    store = LabelStore(path / 'labels', counting(path, 0.2))\n"
        "    list(store.obtain([copper(seed) for seed in range(10)], executor=executor))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    yield process
    process.kill()
    process.wait()


def test_a_kill_of_the_driver_costs_no_finished_label(
    tmp_path: Path, labelling: subprocess.Popen[bytes]
) -> None:
    end = time.monotonic() + 60
    while len(list((tmp_path / "labels").glob("[!.]*.xyz"))) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(labelling.pid, signal.SIGKILL)
    labelling.wait()
    n_done = len(list((tmp_path / "labels").glob("[!.]*.xyz")))
    assert 3 <= n_done < 10
    outcomes = list(
        LabelStore(tmp_path / "labels", counting(tmp_path)).obtain([copper(seed) for seed in range(10)])
    )
    assert all(outcome.atoms is not None for outcome in outcomes)
    assert n_done <= sum(outcome.reused for outcome in outcomes) <= n_done + 2
    assert n_calculations(tmp_path) <= 10 + 2  # what the two workers had begun


def test_a_kill_of_a_worker_costs_nothing(tmp_path: Path) -> None:
    frames = [copper(seed) for seed in range(4)]
    store = LabelStore(tmp_path / "labels", counting(tmp_path, 0.3))
    with LocalExecutor(2) as executor:
        pids = [executor.submit(os.getpid) for _ in range(8)]
        numbers = {pid.result() for pid in pids}

        def kill() -> None:
            until = time.monotonic() + 60
            while n_calculations(tmp_path) < len(numbers) and time.monotonic() < until:
                time.sleep(0.005)  # every worker is at a label
            for pid in numbers:
                os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        outcomes = list(store.obtain(frames, executor=executor))
        killer.join()
    assert sorted(o.index for o in outcomes if o.atoms is not None) == [0, 1, 2, 3]
    deaths = [attempt["cause"] for outcome in outcomes for attempt in outcome.attempts]
    assert deaths == ["its worker was killed by signal 9 (SIGKILL)"] * len(numbers)
    assert not list((tmp_path / "labels").glob("*.damaged*"))
