"""Information matching beside solvers on their own: `python benchmarks/matching.py` (CASE: p20n100 p30n500).

Problems of ../shared/reference/scores, information_matching: P parameters, n candidates. The peers solve the
whole program as it stands, matrices scaled by their norms, through cvxpy; all in this process, each twice, of
which the faster counts. Fails over a bar: the reference's objective to 1e-6 relative and its support in every
case, 20 times faster than SDPA with P = 20 and n = 100, and no slower than Clarabel with P = 30 and n = 500.

Needs `pip install 'surefield[matching]'`; SDPA (`pip install sdpa-python`) is left out where it is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cvxpy
import numpy as np

import surefield as sf
from surefield.scores.fim.convex_program import solve_program

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "reference" / "scores"
CASES = ("p2n20", "p7n50", "p7n200", "p20n100", "p30n500")
#: Peers of a case, and how many times faster we must be; 0: no bar.
PEERS = {
    "p7n200": {"CLARABEL": 0.0, "CVXOPT": 0.0, "SDPA": 0.0},
    "p20n100": {"CLARABEL": 0.0, "CVXOPT": 0.0, "SDPA": 20.0},
    "p30n500": {"CLARABEL": 1.0, "CVXOPT": 0.0},
}
OBJECTIVE = 1e-6
#: Clarabel's own tolerances, in place of ours.
DEFAULTS = {"CLARABEL": {"tol_gap_abs": 1e-8, "tol_gap_rel": 1e-8, "tol_feas": 1e-8}}


def problem(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Target and candidates."""
    with np.load(FOLDER / "inputs" / "information_matching.npz") as arrays:
        target, upper = arrays[f"{case}_target"], arrays[f"{case}_candidates_upper"]
    rows, columns = np.triu_indices(len(target))
    candidates = np.zeros((len(upper), *target.shape))
    candidates[:, rows, columns] = candidates[:, columns, rows] = upper
    return target, candidates


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the faster of two calls, and its result."""
    seconds, result = [], None
    for _ in range(2):
        begin = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds), result


def alone(target: np.ndarray, candidates: np.ndarray, solver: str) -> float:
    """Objective of the whole program by one solver with its own defaults."""
    size, needed = np.linalg.norm(candidates, axis=(1, 2)).max(), np.linalg.norm(target)
    answer = solve_program(candidates / size, target / needed, None, solver, DEFAULTS.get(solver, {}))
    return float(np.sum(answer.weights)) * needed / size


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE")
    expected = json.loads((FOLDER / "expected" / "information_matching.json").read_text())
    missed = False
    for case in parser.parse_args().cases or CASES:
        target, candidates = problem(case)
        seconds, result = timed(lambda: sf.fim_match(target, candidates))  # noqa: B023
        off = result.objective / expected[case]["objective"] - 1
        support = result.kept.tolist() == expected[case]["support"]
        print(f"{case}: {1e3 * seconds:.0f} ms, objective {off:+.1e}, {result.n_columns} columns", flush=True)
        missed |= abs(off) > OBJECTIVE or not support
        for solver, factor in PEERS.get(case, {}).items():
            if solver not in cvxpy.installed_solvers():
                print(f"  {solver} is not installed: left out")
                continue
            peer, objective = timed(lambda: alone(target, candidates, solver))  # noqa: B023
            off = objective / expected[case]["objective"] - 1
            print(f"  {solver}: {peer:.2f} s, {peer / seconds:.1f} times, objective {off:+.1e}", flush=True)
            missed |= peer / seconds < factor
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
