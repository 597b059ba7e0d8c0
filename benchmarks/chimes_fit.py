"""Time and memory of ChIMES fits: `python benchmarks/chimes_fit.py` (cases: carbon4 water cho; growth).

Each case is a fit of the reference set with `compat='chimes_lsq'`: reading of files is not counted, design
matrix and solution are. Cold is the first fit of a fresh process, warm the second one. chimes_lsq (C++) and
chimes_lsq.py took 0.66 s and 17.7 s for carbon4 (3000 x 298). `growth` repeats the frames of water: time per
frame and memory must not grow with their number. `energy` evaluates energy, forces and stress of a structure
with the compiled potential. The data are read in place. Fails over a bar.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import ase.io
import numpy as np
from ase import Atoms

from surefield.formats.chimes import read_params, read_setup, read_xyzf, settings_of
from surefield.potentials.chimes import Chimes
from surefield.trainers.chimes import ChIMESTrainer
from surefield.trainers.inputs import gather, make_configurations
from surefield.training.problem import Problem, TrainingRun, Weights

SHARED = Path(__file__).resolve().parents[2] / "shared" / "reference" / "trainers"
INPUTS = SHARED / "inputs" / "chimes"
#: Structures used, and seconds of the peer's design matrix and solution together, where they are known.
CASES: dict[str, tuple[int, float | None]] = {
    "carbon4": (250, 0.66 + 17.7),
    "water": (6, None),
    "cho": (4, None),
}
GROWTH = (6, 24, 96)
EVALUATED = (("liqCO_2b3b", "CO_128"), ("CO2400K_2b3b4b", "CO_24"))


def case(name: str, n_frames: int) -> tuple[Chimes, list[Atoms]]:
    """Potential without coefficients, and its training structures."""
    model = Chimes(settings_of(read_setup(INPUTS / "fit" / f"{name}.in")))
    return model, read_xyzf(INPUTS / "fit" / f"{name}.xyzf.xz", n_frames)


def fitted(model: Chimes, frames: Sequence[Atoms]) -> tuple[float, float, np.ndarray]:
    """Seconds for neighbours, rows and solution together, and the coefficients; and those for rows alone."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        configurations = make_configurations(model, gather(frames, None, False), Weights())
        problem = Problem(tuple(configurations), (), Weights(), 0, TrainingRun(Path(folder)))
        result = ChIMESTrainer(compat="chimes_lsq").fit(model, problem)
        whole = time.perf_counter() - start
        start = time.perf_counter()
        for _ in model.closed_rows([c.structure for c in configurations], forces=True, strain=True):
            pass
        rows = time.perf_counter() - start
    assert isinstance(result.model, Chimes)
    return whole, rows, result.model.coefficients


def run_case(name: str) -> bool:
    """Print one row of the table; whether it keeps its bar."""
    n_frames, peer = CASES[name]
    model, frames = case(name, n_frames)
    cold, _, _ = fitted(model, frames)
    warm, rows, found = fitted(model, frames)
    expected = np.load(SHARED / "expected" / "chimes" / f"fit_{name}.npz")["x_svd"]
    x = found[: len(expected)] * 23.060548
    error = float(np.abs(x - expected).max() / np.abs(expected).max())
    theirs = "" if peer is None else f"{peer:.2f}"
    print(
        f"| {name} | {3 * sum(map(len, frames))} x {len(expected)} | {cold:.2f} | {warm:.2f} | {rows:.2f} | "
        f"{theirs} | {error:.1e} |"
    )
    return error <= 1e-7 and (peer is None or warm < peer)


def run_growth(n_frames: int) -> bool:
    """Print time per frame and largest memory of a fit of so many frames, in this process."""
    model, frames = case("water", 6)
    many = [frames[i % len(frames)].copy() for i in range(n_frames)]
    for atoms, original in zip(many, frames * n_frames, strict=False):
        atoms.calc = original.calc
    seconds, _, _ = fitted(model, many)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"| {n_frames} | {288 * n_frames} x 178 | {seconds:.2f} | {seconds / n_frames:.3f} | {memory:.0f} |"
    )
    return True


def run_energy() -> bool:
    """Print times of energy, forces and stress from the compiled potential."""
    print("\n| energy, forces, stress | atoms | first call, s | warm, s |\n|---|---:|---:|---:|")
    for params, structure in EVALUATED:
        potential = read_params(INPUTS / "params" / f"{params}.txt.xz")
        atoms = ase.io.read(INPUTS / "structures" / f"{structure}.extxyz")
        assert isinstance(atoms, Atoms)
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            potential.predict([atoms])
            seconds.append(time.perf_counter() - start)
        print(f"| {structure} | {len(atoms)} | {seconds[0]:.2f} | {min(seconds):.3f} |")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is named; every case in a process of its own, so that cold is cold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[*CASES, "growth", "energy"])
    parser.add_argument("--one", help="run one case in this process")
    options = parser.parse_args(arguments)
    if options.one:
        own = run_growth(int(options.one)) if options.one.isdigit() else run_case(options.one)
        return 0 if own else 1
    fine = True
    if any(name in CASES for name in options.names):
        print("| fit | matrix | cold, s | warm, s | rows alone, s | peer, s | error of x |")
        print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    for name in (n for n in options.names if n in CASES):
        fine &= _apart(name)
    if "growth" in options.names:
        print(
            "\n| frames | matrix | cold, s | s per frame | memory, MiB |\n|---:|---|---:|---:|---:|",
            flush=True,
        )
        for n in GROWTH:
            fine &= _apart(str(n))
    if "energy" in options.names:
        fine &= run_energy()
    return 0 if fine else 1


def _apart(name: str) -> bool:
    return subprocess.run([sys.executable, __file__, "--one", name], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
