"""Loss and gradient of full-batch training: CPU time, growth, a BFGS run, peak memory; fails over a target.

    python benchmarks/full_batch.py [--quick]

One thread on one core, CPU time, compilation apart. The peer's figures are those of
../shared/reference/networks/README.md (Amp, compiled modules, one process, another machine).
A: 100 images of 10 atoms, Pt8Cu2, 20 functions, Rc 6.5. B: 20 (energies: 60) of 31 atoms, 4 elements,
56 functions, Rc 5. Hidden layers (5, 5).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import surefield  # noqa: I001  (64-bit types before the first array)
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read

from surefield.potentials.potential import TrainingData
from surefield.networks.fingerprints import Gaussian
from surefield.execution.cache import enable_compilation_cache
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.networks.raveler import Raveler
from surefield.potentials.network_parameters import get_initial_scalings, get_random_weights
from surefield.networks.full_batch import LossFunction, Regressor

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "reference" / "networks" / "speed"
FILES = {"A": ("emt_ptcu_100.extxyz", 6.5), "B": ("emt_cuptco_60.extxyz", 5.0)}
FORCES = {"energy_rmse": 1e-9, "force_rmse": 1e-9}
ENERGIES = {"energy_rmse": 1e-9}
#: Set, images, criteria, gradient, target and the peer's CPU ms.
EVALUATIONS = (
    ("A", 100, FORCES, True, 2.0, 103.0),
    ("B", 20, FORCES, True, 6.0, 317.0),
    ("A", 100, ENERGIES, True, 0.4, 2.1),
    ("B", 60, ENERGIES, True, None, 10.6),
    ("A", 100, FORCES, False, None, 25.0),
    ("B", 20, FORCES, False, None, 68.0),
)
#: Set, images, the peer's peak memory in MB; ours counts beyond that of Python with JAX.
MEMORY = (("A", 100, 117.0), ("B", 20, 220.0))


class Model:
    """A potential with a loss function."""

    log = None

    def __init__(self, potential: AtomicNetwork, images: list[Atoms], **options: Any) -> None:
        self.potential = potential
        self.lossfunction = LossFunction(log_losses=False, **options)
        self.lossfunction.attach_model(self, images=images)

    @property
    def vector(self) -> np.ndarray:
        return np.asarray(self.potential.vector)

    @vector.setter
    def vector(self, values: np.ndarray) -> None:
        self.potential = self.potential.with_vector(jnp.asarray(values))

    def get_loss(self, vector: np.ndarray, lossprime: bool) -> tuple[float, np.ndarray]:
        found = self.lossfunction.get_loss(vector, lossprime)
        return found["loss"], found["dloss_dparameters"]


def load(which: str, count: int) -> list[Atoms]:
    return read(FOLDER / FILES[which][0], f":{count}")


def network(which: str, images: list[Atoms], hidden: tuple[int, ...] = (5, 5)) -> AtomicNetwork:
    """In the mode of the peer, with its start values."""
    symbols = sorted({s for atoms in images for s in atoms.get_chemical_symbols()})
    descriptor = Gaussian(FILES[which][1]).for_elements(symbols)
    sizes = dict(zip(descriptor.symbols, descriptor.n_features, strict=True))
    made = AtomicNetwork(descriptor, [hidden] * len(symbols), "tanh", "activation")
    made = made.prepared(TrainingData([made.neighborhood(a) for a in images], [None] * len(images), {}))
    weights = get_random_weights(hidden, "tanh", len_of_fps=sizes, seed=3)
    scalings = get_initial_scalings(images, "tanh", elements=symbols)
    return made.with_vector(jnp.asarray(Raveler(weights, scalings).to_vector(weights, scalings)))


def cpu_milliseconds(function: Callable[[], object], seconds: float = 1.0) -> float:
    """Mean of the faster half of several rounds."""
    function()
    start = time.process_time()
    function()
    once = max(time.process_time() - start, 1e-5)
    calls = max(1, int(seconds / 10 / once))
    rounds = []
    for _ in range(10 if calls > 1 else 3):
        start = time.process_time()
        for _ in range(calls):
            function()
        rounds.append((time.process_time() - start) / calls)
    return 1e3 * float(np.mean(sorted(rounds)[: len(rounds) // 2 + 1]))


def evaluation(model: Model, gradient: bool = True) -> float:
    vector = model.vector
    model.lossfunction.maxiter = 10**9
    return cpu_milliseconds(lambda: model.lossfunction.get_loss(vector, gradient))


def show_evaluations() -> bool:
    print(f"{'loss':<36}{'CPU ms':>9}{'target':>8}{'peer':>8}{'faster':>8}")
    missed = False
    for which, count, criteria, gradient, target, peer in EVALUATIONS:
        images = load(which, count)
        spent = evaluation(Model(network(which, images), images, convergence=criteria), gradient)
        what = f"{which}, {count} images, {'E+F' if 'force_rmse' in criteria else 'E'}"
        what += ", with gradient" if gradient else ", value only"
        limit = "-" if target is None else f"{target:g}"
        print(f"{what:<36}{spent:>9.3f}{limit:>8}{peer:>8.1f}{peer / spent:>7.0f}x")
        missed |= target is not None and (spent > target or ("E+F" in what and spent > peer / 20))
    return missed


def labelled(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Moved a little, with made-up labels: the time does not depend on them."""
    atoms = atoms.copy()
    atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
    forces = rng.normal(0, 1, atoms.positions.shape)
    atoms.calc = SinglePointCalculator(atoms, energy=float(len(atoms)), forces=forces)
    return atoms


def show_growth(quick: bool) -> None:
    rng = np.random.default_rng(1)
    base = load("A", 100)
    potential = network("A", base)
    print(f"\n{'growth':<36}{'CPU ms':>9}{'us/atom':>9}{'set-up s':>10}")
    sets = [(f"{n} images of 10 atoms", [base[i % 100] for i in range(n)]) for n in (100, 1000, 10000)]
    sets += [(f"1 image of {10 * k * k} atoms", [base[0] * (k, k, 1)]) for k in (1, 2, 3, 6, 10)]
    for what, images in [s for s in sets if not (quick and s[0].startswith("10000"))]:
        images = [labelled(atoms, rng) for atoms in images]
        for criteria, name in ((FORCES, "E+F"), (ENERGIES, "E")):
            model = Model(potential, images, convergence=criteria)
            start = time.process_time()
            model.lossfunction.get_loss(model.vector, True)
            set_up = time.process_time() - start
            spent = evaluation(model)
            atoms = sum(map(len, images))
            print(f"{f'{what}, {name}':<36}{spent:>9.3f}{1e3 * spent / atoms:>9.2f}{set_up:>10.1f}")


def show_training() -> bool:
    images = load("A", 100)
    model = Model(network("A", images, (10, 10)), images, convergence=FORCES, maxiter=300)
    model.lossfunction.get_loss(model.vector, True)
    start = time.process_time()
    Regressor("BFGS").regress(model)  # type: ignore[arg-type]
    spent, loss = time.process_time() - start, model.lossfunction.progress.best_loss
    print("\n300 evaluations of BFGS on A, E+F, (10, 10), 666 parameters, seed 3")
    print(f"CPU s {spent:.2f} (target 2.6, peer 51.7), loss {loss:.3f} (target 0.25, peer 0.196)")
    return spent > 2.6 or loss > 0.25


def peak_mb() -> float:
    """Peak of this process; `ru_maxrss` would be at least that of the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def measure_memory(which: str, count: int) -> None:
    """Peak before and after training on energies and forces; for a process of its own."""
    np.asarray(jnp.linalg.inv(jnp.eye(3) + 1.0))
    before = peak_mb()
    images = load(which, count)
    model = Model(network(which, images), images, convergence=FORCES)
    for _ in range(3):
        model.lossfunction.get_loss(model.vector, True)
    print(f"{before:.0f} {peak_mb() - before:.0f}")


def show_memory() -> bool:
    print(f"\n{'peak memory, E+F':<36}{'Python, JAX':>12}{'beyond':>8}{'peer':>8}  MB")
    missed = False
    for which, count, peer in MEMORY:
        command = [sys.executable, __file__, "--memory", which, str(count)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        runtime, beyond = map(float, answer)
        print(f"{f'{which}, {count} images':<36}{runtime:>12.0f}{beyond:>8.0f}{peer:>8.0f}")
        missed |= beyond > peer
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the set of 10,000 images")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    enable_compilation_cache()
    if arguments.memory:
        measure_memory(arguments.memory[0], int(arguments.memory[1]))
        return 0
    print(f"surefield {surefield.__version__}, one thread")
    missed = show_evaluations()
    missed |= show_training()
    show_growth(arguments.quick)
    missed |= show_memory()
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
