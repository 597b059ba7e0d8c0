"""Descriptors and entropies of environments beside the quests package: `python benchmarks/quests.py`.

With `--peer PYTHON`, or `QUESTS_PYTHON` in the environment, the interpreter of an environment with quests
(`python -m venv peer; peer/bin/pip install quests`), both are timed in one run on the same machine: the
descriptor of 470 cells of 64 silicon atoms, strained and displaced, and all three scores of its 30,080 x 63
descriptors at the bandwidth 0.015, the delta entropy of all against all. Each after a small first call, which
compiles (quests) or loads libraries. Without it the columns of quests are left out. Both use all cores; bars
are on CPU seconds, which other work on the machine changes less: scores 10 times and the descriptor 5 times
fewer than quests, scores equal to 1e-6. The growth from 3,000 to 100,000 environments is CPU time of one
core, on the same silicon and on the DFT set InP of ../shared, where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk

import surefield as sf
from surefield.scores import delta_entropy, diversity, entropy

SHARED = Path(__file__).resolve().parents[2] / "shared"
SIZES = (3_000, 10_000, 30_000, 100_000)
BARS = {"descriptor": 5.0, "entropy": 10.0, "diversity": 10.0, "delta entropy": 10.0}

#: Runs in the other environment: reads the structures and rows, prints seconds and results.
PEER = """
import json, sys, time
import numpy as np
import ase.io
from quests.descriptor import get_descriptors
from quests.entropy import delta_entropy, diversity, entropy

frames = ase.io.read("frames.extxyz", ":")
rows = np.load("rows.npy")
get_descriptors(frames[:2], k=32, cutoff=5.0)
for call in (entropy, diversity):
    call(rows[:200], h=0.015, batch_size=2000)
delta_entropy(rows[:200], rows[:200], h=0.015, batch_size=2000)

seconds, results = {}, {}

def timed(name, call):
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    seconds[name] = time.perf_counter() - wall, time.process_time() - cpu
    return result

np.save("described.npy", timed("descriptor", lambda: get_descriptors(frames, k=32, cutoff=5.0)))
results["entropy"] = float(timed("entropy", lambda: entropy(rows, h=0.015, batch_size=2000)))
results["diversity"] = float(timed("diversity", lambda: diversity(rows, h=0.015, batch_size=2000)))
np.save("new.npy", timed("delta entropy", lambda: delta_entropy(rows, rows, h=0.015, batch_size=2000)))
print(json.dumps([seconds, results]))
"""


def silicon(n_frames: int, seed: int = 0) -> list[Atoms]:
    """Cells of 64 atoms, strained by up to 5 % and displaced by up to 0.3 Å (root mean square)."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n_frames):
        atoms = bulk("Si", cubic=True).repeat(2)
        strain = rng.uniform(-0.05, 0.05, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += rng.uniform(0.02, 0.3) * rng.normal(size=atoms.positions.shape) / np.sqrt(3)
        frames.append(atoms)
    return frames


#: Wall and CPU seconds of each call, by name.
Seconds = dict[str, tuple[float, float]]


def timed(seconds: Seconds, name: str, call: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    seconds[name] = time.perf_counter() - wall, time.process_time() - cpu
    return result


def peer_says(python: str, folder: Path) -> tuple[Seconds, dict[str, float]]:
    command = [python, "-c", PEER]
    answer = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    return json.loads(answer.splitlines()[-1])


def beside_quests(python: str | None) -> bool:
    """Times of both; whether a bar is missed."""
    frames, descriptor = silicon(470), sf.QUESTSDescriptor()
    descriptor.compute_batch(frames[:8])
    seconds: Seconds = {}
    rows = np.concatenate(timed(seconds, "descriptor", lambda: descriptor.compute_batch(frames)))
    entropy(rows[:200])
    results = {
        "entropy": timed(seconds, "entropy", lambda: entropy(rows)),
        "diversity": timed(seconds, "diversity", lambda: diversity(rows)),
    }
    new = timed(seconds, "delta entropy", lambda: delta_entropy(rows, rows))
    print(f"{'':<16s}{'wall, s':>9s}{'CPU, s':>9s}")
    for name, (wall, cpu) in seconds.items():
        print(f"{name:<16s}{wall:9.2f}{cpu:9.2f}", flush=True)
    if python is None:
        print("quests is left out: give --peer or QUESTS_PYTHON, the interpreter of an environment with it")
        return False
    with TemporaryDirectory() as place:
        folder = Path(place)
        sf.write_frames(folder / "frames.extxyz", frames)
        np.save(folder / "rows.npy", rows)
        theirs, values = peer_says(python, folder)
        errors = {name: abs(results[name] - values[name]) for name in results}
        errors["descriptor"] = float(np.abs(np.load(folder / "described.npy") - rows).max())
        errors["delta entropy"] = float(np.abs(np.load(folder / "new.npy") - new).max())
    missed = False
    print(f"\n{'quests':<16s}{'wall, s':>9s}{'CPU, s':>9s}{'CPU ratio':>11s}{'bar':>5s}{'difference':>12s}")
    for name, bar in BARS.items():
        wall, cpu = theirs[name]
        ratio = cpu / seconds[name][1]
        print(f"{name:<16s}{wall:9.2f}{cpu:9.2f}{ratio:10.1f}x{bar:5.0f}{errors[name]:12.1e}", flush=True)
        missed |= ratio < bar or errors[name] > 1e-6
    return missed


def growth(name: str, rows: np.ndarray) -> None:
    """CPU seconds of one core for the entropy of random parts of a set."""
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    spent = []
    for size in SIZES:
        calls: Seconds = {}
        for repeat in range(3 if size < 30_000 else 1):  # the first call loads libraries
            value = timed(calls, str(repeat), lambda size=size: entropy(rows[:size], executor="serial"))
        spent.append(min(cpu for _, cpu in calls.values()))
        distinct = len(np.unique(np.round(rows[:size], 9), axis=0))
        print(f"{name:<8s} {size:>8,d} rows, {distinct:>7,d} distinct: {spent[-1]:8.2f} s, H = {value:.4f}")
    exponent = np.log(spent[-1] / spent[0]) / np.log(SIZES[-1] / SIZES[0])
    print(f"{name:<8s} growth exponent {exponent:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", default=os.environ.get("QUESTS_PYTHON"), help="interpreter with quests")
    parser.add_argument("--skip-growth", action="store_true")
    arguments = parser.parse_args()
    print(f"surefield {sf.__version__}, {os.cpu_count()} cores")
    missed = beside_quests(arguments.peer)
    if not arguments.skip_growth:
        descriptor = sf.QUESTSDescriptor()
        growth("silicon", np.concatenate(descriptor.compute_batch(silicon(1563))))
        path = SHARED / "data" / "InP" / "train.xyz.xz"
        if path.exists():
            growth("InP", np.concatenate(descriptor.compute_batch(sf.read_frames(path))))
        else:
            print("InP is left out: its DFT set is not on this machine")
    if missed:
        sys.exit("a bar is missed")


if __name__ == "__main__":
    main()
