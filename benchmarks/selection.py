"""Time and memory of the selection methods on made-up features: `python benchmarks/selection.py [--quick]`.

Each method runs in a process of its own, so that the peak memory is its own. Features follow a slow random
walk around a large offset, as the frames of a trajectory do: the hard case for distances by Gram products.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import numpy as np

#: Targets in seconds on two cores for N = 20,000, F = 512, n = 500, b = 100.
TARGETS = {"max_dist": 5.0, "lcmd": 5.0, "kmeanspp": 5.0, "max_diag": None, "random": None}


def trajectory_features(n_rows: int, n_features: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, n_features))
    np.cumsum(rows, axis=0, out=rows)
    rows *= 0.05
    rows += 10.0 * rng.normal(size=n_features)
    return rows


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(method: str, n_pool: int, n_features: int, n_train: int, batch_size: int) -> None:
    from surefield.selection import select_rows

    rows = trajectory_features(n_train + n_pool, n_features)
    train, pool = rows[:n_train], rows[n_train:]
    before = peak_mib()
    start = time.perf_counter()
    picks = select_rows(method, pool, train, batch_size)
    seconds = time.perf_counter() - start
    print(f"{seconds:.3f} {before:.0f} {peak_mib() - before:.0f} {len(picks)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the pool")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = (2_000 if arguments.quick else 20_000, 512, 500, 100)
    if arguments.method:
        measure(arguments.method, *size)
        return
    print("N = {:,}, F = {}, n = {}, b = {}, float64".format(*size))
    print(f"{'method':<10} {'seconds':>8} {'target':>7} {'data (MiB)':>11} {'added (MiB)':>12} {'picks':>6}")
    for method, target in TARGETS.items():
        command = [sys.executable, __file__, "--method", method, *(["--quick"] if arguments.quick else [])]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        seconds, before, added, picks = answer
        limit = f"< {target:g}" if target else "-"
        print(f"{method:<10} {seconds:>8} {limit:>7} {before:>11} {added:>12} {picks:>6}")


if __name__ == "__main__":
    main()
