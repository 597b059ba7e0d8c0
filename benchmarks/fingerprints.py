"""Symmetry functions: CPU time an image for features, for derivatives, and of a calculator's force call.

    python benchmarks/fingerprints.py

The peer's figures are those of ../shared/reference/networks/README.md (compiled modules, one process, another
machine): compare CPU seconds, and ratios rather than times.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import surefield  # noqa: I001  (64-bit types before the first array)
import numpy as np
from ase import Atoms
from ase.io import read

from surefield.descriptors.derivatives import atomic_features, dense_derivatives
from surefield.networks.fingerprints import Gaussian
from surefield.execution.cache import enable_compilation_cache
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.structures.neighbors import Neighborhood, neighborhood

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "reference" / "networks" / "speed"
#: File, cutoff, and the peer's CPU milliseconds: features, with derivatives, force call.
SETS = {
    "A (10 atoms, 2 elements)": ("emt_ptcu_100.extxyz", 6.5, (3.4, 86.0, 91.0)),
    "B (31 atoms, 4 elements)": ("emt_cuptco_60.extxyz", 5.0, (14.0, 1040.0, 1200.0)),
}


def cpu_milliseconds(function: Callable[[], object], repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1e3 * float(np.median(times))


def measure(frames: list[Atoms], cutoff: float) -> tuple[float, float, float]:
    """Milliseconds of features, features with derivatives, and a force call; neighbour lists included."""
    symbols = sorted({s for atoms in frames for s in atoms.get_chemical_symbols()})
    descriptor = Gaussian(cutoff).for_elements(symbols)

    def lists() -> list[Neighborhood]:
        return [neighborhood(atoms, cutoff) for atoms in frames]

    features = cpu_milliseconds(lambda: atomic_features(descriptor, lists()), 5) / len(frames)
    derivatives = cpu_milliseconds(lambda: dense_derivatives(descriptor, lists()), 5) / len(frames)
    calculator = AtomicNetwork(descriptor, [(5, 5)] * len(symbols)).calculator(extrapolation="ignore")
    rng = np.random.default_rng(0)

    def forces() -> None:
        moved = frames[0].copy()
        moved.positions += rng.normal(0, 1e-3, moved.positions.shape)
        moved.calc = calculator
        moved.get_forces()

    return features, derivatives, cpu_milliseconds(forces, 20)


def main() -> None:
    enable_compilation_cache()
    print(f"surefield {surefield.__version__}, one thread, median CPU ms per image (peer: ms, times faster)")
    labels = ("features", "features + derivatives", "force call of a calculator")
    for name, (file, cutoff, peer) in SETS.items():
        measured = measure(read(FOLDER / file, ":20"), cutoff)
        for label, value, theirs in zip(labels, measured, peer, strict=True):
            print(f"{name:<26s} {label:<28s} {value:8.2f}   peer {theirs:7.1f}   {theirs / value:6.1f}x")


if __name__ == "__main__":
    main()
