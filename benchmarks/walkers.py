"""Walkers on one and on two workers: `python benchmarks/walkers.py [--walkers 40]`. Fails below the bar.

Dynamics of 32 copper atoms with a solved SNAP and its LLPR, as many steps as take about a second; workers
start and compile before the clock runs, as they do for all but the first round of a loop.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import wait

from ase.build import bulk
from ase.calculators.emt import EMT

from surefield.execution.config import LocalExecutorConfig, make_executor
from surefield.exploration.config import DynamicsConfig, SigmaWindowConfig
from surefield.exploration.explore import explore
from surefield.potentials.snap.snap import Snap, SnapConfig
from surefield.training import train
from surefield.uncertainty import LLPR

#: Times faster with two workers; s that a walker should take.
SPEED_UP, SECONDS = 1.7, 1.0


def model(n: int = 12) -> LLPR:
    """SNAP of copper that runs at 300 K."""
    frames = []
    for seed in range(n):
        atoms = bulk("Cu", cubic=True).repeat(2)
        atoms.rattle(0.04 + 0.02 * (seed % 4), seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    untrained = Snap.from_settings(SnapConfig(cutoff=3.6, twojmax=4), ["Cu"])
    fit = train(untrained, frames[:-3], validation=frames[-3:], progress=False)
    return LLPR.fit(fit.potential, frames[:-3], frames[-3:], progress=False)


def walks(n: int, steps: int) -> DynamicsConfig:
    window = SigmaWindowConfig(lower=0.0, limit=1e9)
    return DynamicsConfig(n_walkers=n, steps=steps, temperatures=(300.0,), window=window)


def seconds(uncertainty: LLPR, n: int, steps: int, workers: int, folder: str) -> float:
    """Of so many walkers, on workers that have compiled."""
    start = [bulk("Cu", cubic=True).repeat(2)]
    with make_executor(LocalExecutorConfig(n_workers=workers)) as executor:
        # Each has started before the first of them can take all that follows.
        wait([executor.submit(time.sleep, 10.0) for _ in range(workers)])
        options = {"executor": executor, "folder": folder}
        explore(uncertainty, start, [walks(4 * workers, 20)], seed=1, **options)
        begin = time.perf_counter()
        result = explore(uncertainty, start, [walks(n, steps)], seed=0, **options)
        took = time.perf_counter() - begin
    assert all(walker.ended == "finished" for walker in result.walkers), result.walkers
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--walkers", type=int, default=40)
    n = parser.parse_args().walkers
    uncertainty = model()
    with tempfile.TemporaryDirectory() as folder:
        steps = 100
        each = seconds(uncertainty, 4, steps, 1, folder) / 4
        steps = max(20, round(steps * SECONDS / each / 20) * 20)
        one, two = (seconds(uncertainty, n, steps, workers, folder) for workers in (1, 2))
    print(f"{n} walkers of {steps} steps, one worker: {one:.1f} s ({one / n:.2f} s each)")
    print(f"the same, two workers: {two:.1f} s, {one / two:.2f} times faster (bar {SPEED_UP})")
    return int(one / two < SPEED_UP)


if __name__ == "__main__":
    sys.exit(main())
