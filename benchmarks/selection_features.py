"""Features of a potential and 20 picks of real silicon: `python benchmarks/selection_features.py [--quick]`.

Silicon of Zuo et al., J. Phys. Chem. A 124, 731 (2020), repeated with small displacements; a moment network
with two hidden layers of 64. Each map runs in a process of its own, with an empty compilation cache, twice.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "mlearn" / "Si_train.xyz.xz"
#: Seconds for 1,000 structures, compiling included, on two cores: what apax 0.14.0 needs (wall, CPU).
PEER = {"ll_grad": (7.2, 4.9), "full_grad_rp": (36.8, 17.8)}
TARGET = {name: seconds / 3 for name, (seconds, _) in PEER.items()}


def measure(name: str, n_frames: int) -> None:
    import surefield as sf
    from surefield.selection import kernel_selection

    frames = sf.read_frames(DATA)
    chosen = []
    for number in range(n_frames):
        atoms = frames[number % len(frames)].copy()
        atoms.rattle(0.01, seed=number)
        chosen.append(atoms)
    n_atoms = sum(map(len, chosen)) / n_frames
    potential = sf.MomentNetwork(["Si"], cutoff=5.0, hidden=(64, 64))
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        wall, cpu = time.perf_counter(), time.process_time()
        kernel_selection(potential, chosen[:20], chosen[20:], {"name": name}, "max_dist", [], 20)
        added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
        print(time.perf_counter() - wall, time.process_time() - cpu, added, n_atoms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200 structures in place of 1,000")
    parser.add_argument("--map", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    n_frames = 200 if arguments.quick else 1000
    if arguments.map:
        measure(arguments.map, n_frames)
        return
    load = os.getloadavg()[0]
    print(f"{n_frames} structures of silicon, 20 picks by max_dist; load of the machine {load:.1f}")
    print(f"{'map':<13} {'first (s)':>9} {'CPU (s)':>8} {'again (s)':>9} {'CPU (s)':>8} {'added (MiB)':>12}")
    for name in TARGET:
        quick = ["--quick"] if arguments.quick else []
        with tempfile.TemporaryDirectory() as cache:
            answer = subprocess.run(
                [sys.executable, __file__, "--map", name, *quick],
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, "SUREFIELD_CACHE": cache},
            ).stdout.split()
        wall, cpu, added, n_atoms, again, again_cpu, *_ = map(float, answer)
        print(f"{name:<13} {wall:>9.1f} {cpu:>8.1f} {again:>9.1f} {again_cpu:>8.1f} {added:>12.0f}")
        if not arguments.quick:
            seconds, of_cpu = PEER[name]
            peer = f"apax {seconds} s, CPU {of_cpu} s"
            print(f"  {n_atoms:.0f} atoms on average; target {TARGET[name]:.1f} s; {peer}")


if __name__ == "__main__":
    main()
