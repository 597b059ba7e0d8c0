"""Labels through worker processes: `python benchmarks/labels.py [--n 10000]`. Fails over a bar.

Overhead of a label that costs nothing (an engine that does nothing) through the local executor into
a store on disk, memory of the driver on the way, time to take all of them from the store again; and how much
faster two workers are than one on labels of one second, with the time in which they start.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ase import Atoms

from surefield.execution.config import LocalExecutorConfig, make_executor
from surefield.loop.oracles import LabelStore, ase_calculator

ENGINE = '''
import time
import numpy as np
from ase.calculators.calculator import Calculator, all_changes


class Engine(Calculator):
    """Takes its time and computes nothing."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds = seconds

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        time.sleep(self.seconds)
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3))}
'''
#: s a label, times faster, MB that the driver may grow by after the first tenth.
OVERHEAD, SPEED_UP, GROWTH = 0.020, 1.7, 20.0


def dimer(i: int) -> Atoms:
    return Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + 1e-4 * i]])


def resident() -> float:
    """Memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def tiny(folder: Path, n: int, workers: int) -> tuple[float, float, float]:
    """Seconds a label, MB by which the driver grows after the first tenth, seconds a label on rereading."""
    frames = [dimer(i) for i in range(n)]
    oracle = ase_calculator("engine.py:Engine", folder=folder)
    store, memory = LabelStore(folder / "labels", oracle), []
    with make_executor(LocalExecutorConfig(n_workers=workers)) as executor:
        list(
            store.obtain([dimer(-1 - i) for i in range(2 * workers)], executor=executor)
        )  # workers have started
        begin = time.perf_counter()
        for done, outcome in enumerate(store.obtain(frames, executor=executor)):
            assert outcome.atoms is not None
            if done % (n // 10) == 0:
                memory.append(resident())
        seconds = (time.perf_counter() - begin) / n
    begin = time.perf_counter()
    assert all(outcome.reused for outcome in store.obtain(frames))
    return seconds, max(memory[1:]) - memory[1], (time.perf_counter() - begin) / n


def second_long(folder: Path, n: int, workers: int) -> float:
    """Seconds for labels of one second each."""
    oracle = ase_calculator("engine.py:Engine", {"seconds": 1.0}, folder=folder)
    store = LabelStore(folder / f"long-{workers}", oracle)
    with make_executor(LocalExecutorConfig(n_workers=workers)) as executor:
        begin = time.perf_counter()
        assert (
            sum(
                outcome.atoms is not None
                for outcome in store.obtain([dimer(i) for i in range(n)], executor=executor)
            )
            == n
        )
        return time.perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000)
    n = parser.parse_args().n
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "engine.py").write_text(ENGINE)
        seconds, growth, again = tiny(folder, n, 2)
        one, two = (second_long(folder, 40, workers) for workers in (1, 2))
    rows = [
        (
            f"{n} labels that cost nothing, ms each",
            1e3 * seconds,
            f"< {1e3 * OVERHEAD:.0f}",
            seconds < OVERHEAD,
        ),
        ("the driver's growth meanwhile, MB", growth, f"< {GROWTH:.0f}", growth < GROWTH),
        ("taken from the store again, ms each", 1e3 * again, "", True),
        ("40 labels of 1 s, one worker, s", one, "", True),
        ("the same, two workers, s", two, "", True),
        ("times faster", one / two, f">= {SPEED_UP}", one / two >= SPEED_UP),
    ]
    for what, value, bar, _ in rows:
        print(f"{what:<45}{value:>10.2f}  {bar}")
    return int(not all(np.array([row[3] for row in rows])))


if __name__ == "__main__":
    sys.exit(main())
