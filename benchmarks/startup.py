"""Time to start: `python benchmarks/startup.py`. Best of several new processes; fails over a target."""

from __future__ import annotations

import subprocess
import sys
import time

HELP = "import sys; sys.argv = ['surefield', '--help']; from surefield.cli import main; main()"
#: What is started, its code, runs, target in seconds.
CASES = [
    ("python", "pass", 5, None),
    ("surefield --help", HELP, 5, 0.5),
    ("import surefield", "import surefield", 3, 2.0),
]


def best_time(code: str, runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        times.append(time.perf_counter() - start)
        if done.returncode != 0:
            raise SystemExit(f"{code!r} failed:\n{done.stderr}")
    return min(times)


def main() -> int:
    print(f"{'start':<20}{'best of':>8}{'time / s':>10}{'target / s':>12}")
    missed = False
    for name, code, runs, target in CASES:
        seconds = best_time(code, runs)
        missed |= target is not None and seconds > target
        print(f"{name:<20}{runs:>8}{seconds:>10.2f}{'-' if target is None else target:>12}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
