"""Exact selection from a pool on disk that is never held in memory: `python benchmarks/large_pools.py`.

Features of clusters, float32, one npy file, read as a memory map. Every case is a process of its own, so that
its peak memory is its own; times are of the processor. Fails over a bar.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PICKS, TRAIN, FEATURES, CLUSTERS = 100, 500, 64, 400
#: Bars at the largest size: peak memory of the process, and the naive scan over the time per pick.
PEAK_MIB, SPEEDUP = 1536.0, 10.0


def write_pool(path: Path, n_rows: int, *, shuffled: bool) -> None:
    """Clusters of several widths, one after the other as runs of dynamics are, or in random order."""
    rng = np.random.default_rng(0)
    # As of descriptors: a few directions carry most of the differences.
    scales = np.geomspace(1.0, 0.03, FEATURES).astype(np.float32)
    centers = 3.0 * rng.normal(size=(CLUSTERS, FEATURES)).astype(np.float32)
    widths = rng.lognormal(-1.0, 0.5, size=CLUSTERS).astype(np.float32)
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n_rows, FEATURES))
    order = np.sort(rng.integers(0, CLUSTERS, n_rows))
    if shuffled:
        rng.shuffle(order)
    for start in range(0, n_rows, 2**16):
        which = order[start : start + 2**16]
        noise = rng.normal(size=(len(which), FEATURES)).astype(np.float32)
        rows[start : start + 2**16] = scales * (centers[which] + widths[which, None] * noise)
    rows.flush()


def split(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Training rows, drawn from a quarter of the pool, and the pool."""
    pool = np.load(path, mmap_mode="r")
    known = np.random.default_rng(1).choice(len(pool) // 4, TRAIN, replace=False)
    return np.asarray(pool[np.sort(known)], dtype=np.float64), pool


def naive_seconds(method: str, path: Path, n_scans: int = 3) -> float:
    """Seconds of a pick that looks at every row: all values are lowered, and the largest is taken."""
    from surefield.selection.distances import squared_distances, squared_norms

    train, pool = split(path)
    norms = np.concatenate([squared_norms(np.asarray(part, float)) for part in np.array_split(pool, 64)])
    values, point = np.full(len(pool), 1e30), train[0]
    begin = time.process_time()
    for _ in range(n_scans):
        norm = float(point @ point)
        for start in range(0, len(pool), 16_384):
            part = slice(start, start + 16_384)
            rows = np.ascontiguousarray(pool[part], dtype=np.float64)
            if method == "max_dist":
                new = squared_distances(rows, norms[part], point, norm, ceiling=values[part])
                np.minimum(values[part], new, out=values[part])
            else:  # one step of the posterior variance, whose covariance costs nothing beside this
                values[part] -= np.einsum("ij,j->i", rows, point) ** 2
        point = np.asarray(pool[int(np.argmax(values))], dtype=np.float64)
    return (time.process_time() - begin) / n_scans


def measure(method: str, path: Path, chunk_size: int) -> dict[str, float]:
    from surefield.selection import select_rows

    train, pool = split(path)
    sigma = 0.1 * float(np.sqrt(np.mean(np.sum(train**2, axis=1))))

    def run(picks: int) -> tuple[float, list[int]]:
        begin = time.process_time()
        chosen = select_rows(method, pool, train, picks, sigma=sigma, chunk_size=chunk_size)
        return time.process_time() - begin, list(chosen)

    first, _ = run(1)
    total, chosen = run(PICKS + 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    naive = naive_seconds(method, path)
    per_pick = max(total - first, 1e-9) / PICKS
    result = {"rows": len(pool), "first": first, "total": total, "per_pick": per_pick}
    return {**result, "naive": naive, "ratio": naive / per_pick, "peak": peak, "picks": len(set(chosen))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--chunk-size", type=int, default=16_384)
    parser.add_argument(
        "--folder", type=Path, help="where the pool is written; a temporary folder by default"
    )
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        method, path = arguments.case
        print(json.dumps(measure(method, Path(path), arguments.chunk_size)))
        return
    if arguments.write:  # in a process of its own, whose peak memory measured processes would inherit
        name, size, order = arguments.write
        write_pool(Path(name), int(size), shuffled=order == "shuffled")
        return
    chunks = f"chunks of {arguments.chunk_size}"
    print(f"{FEATURES} features, float32, {TRAIN} training rows, {PICKS} picks, {chunks}")
    print("| order | method | rows | first pick / s | a pick / ms | naive / ms | ratio | peak / MiB |")
    print("|---|---|---|---|---|---|---|---|")
    missed = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "pool.npy"
        for order in ("runs", "shuffled"):
            for size in arguments.sizes:
                subprocess.run([sys.executable, __file__, "--write", str(path), str(size), order], check=True)
                for method in ("max_dist", "max_det"):
                    command = [sys.executable, __file__, "--case", method, str(path)]
                    command += ["--chunk-size", str(arguments.chunk_size)]
                    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                    r = json.loads(answer)
                    print(
                        f"| {order} | {method} | {size:,} | {r['first']:.2f} | {1e3 * r['per_pick']:.2f} "
                        f"| {1e3 * r['naive']:.1f} | {r['ratio']:.0f} | {r['peak']:.0f} |",
                        flush=True,
                    )
                    if size == max(arguments.sizes) and (r["peak"] > PEAK_MIB or r["ratio"] < SPEEDUP):
                        missed.append(f"{method} ({order})")
    if missed and max(arguments.sizes) >= 10**6:
        sys.exit(f"missed a bar ({PEAK_MIB:.0f} MiB, {SPEEDUP:.0f} times): {', '.join(missed)}")


if __name__ == "__main__":
    main()
