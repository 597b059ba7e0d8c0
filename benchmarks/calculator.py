"""Time of a step of dynamics: `python benchmarks/calculator.py [--sizes 64 512 4096]`.

Energy, forces and stress of rattled silicon through the ASE calculators of the default potentials, with new
positions at every step, beside LAMMPS' `pair_style snap` with 2J = 8 and the same neighbours (5 Å). Weights
are random: they do not change the time. CPU time of this process on one thread, median of some steps, after
the first ones, which compile. Where mace-torch is installed, so is its smallest sensible model: 32
channels, L = 0, two layers. Fails where a step of 512 atoms with the default potential of one element takes
more than twice that of SNAP, or more than a tenth of MACE's.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}

import numpy as np
from ase import Atoms
from ase.build import bulk

from surefield.potentials import MessageNetwork, MomentNetwork

CUTOFF, TWOJMAX, N_COEFFICIENTS = 5.0, 8, 55
#: Edges of the cubes of 8 atoms.
EDGES = {64: 2, 512: 4, 4096: 8}
Step = Callable[[Atoms], object]


def ours(potential: MomentNetwork | MessageNetwork) -> Step:
    """A step of a potential of the package."""
    calculator = potential.calculator(extrapolation="ignore")

    def step(atoms: Atoms) -> object:
        calculator.calculate(atoms, ["energy", "forces", "stress"])
        return calculator.results

    return step


def snap(atoms: Atoms, folder: Path) -> Step:
    """A step of LAMMPS, with the pressure."""
    import mpi4py.MPI  # loads the library that LAMMPS needs
    from ase.calculators.lammpslib import LAMMPSlib

    assert mpi4py.MPI
    rng = np.random.default_rng(0)
    values = "\n".join(f"{x:.6f}" for x in 0.01 * rng.normal(size=N_COEFFICIENTS + 1))
    (folder / "a.snapcoeff").write_text(f"1 {N_COEFFICIENTS + 1}\nSi 0.5 1.0\n{values}\n")
    parameters = {"rcutfac": CUTOFF, "twojmax": TWOJMAX, "rfac0": 0.99363, "rmin0": 0, "bzeroflag": 0}
    (folder / "a.snapparam").write_text("".join(f"{name} {value}\n" for name, value in parameters.items()))
    commands = ["pair_style snap", f"pair_coeff * * {folder}/a.snapcoeff {folder}/a.snapparam Si"]
    calculator = LAMMPSlib(lmpcmds=commands, atom_types={"Si": 1}, keep_alive=True)
    calculator.calculate(atoms, ["energy", "forces", "stress"], [])

    def step(atoms: Atoms) -> object:
        calculator.calculate(atoms, ["energy", "forces", "stress"], ["positions"])
        return calculator.results

    return step


def mace() -> Step | None:
    """A step of mace-torch; None where it is not installed."""
    try:
        names = ("torch", "mace.modules", "mace.calculators", "e3nn.o3")  # e3nn loads after mace only
        torch, modules, calculators, o3 = map(importlib.import_module, names)
    except ImportError:
        return None
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=interaction,
        interaction_cls_first=interaction,
        num_interactions=2,
        num_elements=1,
        hidden_irreps=o3.Irreps("32x0e"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(1),
        avg_num_neighbors=28.0,
        atomic_numbers=[14],
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    calculator = calculators.MACECalculator(models=[model], device="cpu", default_dtype="float32")

    def step(atoms: Atoms) -> object:
        calculator.calculate(atoms, ["energy", "forces", "stress"])
        return calculator.results

    return step


def milliseconds(step: Step, atoms: Atoms, n_steps: int) -> float:
    """CPU time of a step."""
    times = []
    for seed in range(n_steps + 2):
        moved = atoms.copy()
        moved.rattle(0.02, seed=seed)
        begin = time.process_time()
        step(moved)
        times.append(time.process_time() - begin)
    return 1e3 * float(np.median(times[2:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", choices=EDGES, default=[*EDGES])
    parser.add_argument("--steps", type=int, default=9)
    arguments = parser.parse_args()
    print("| atoms | potential | ms a step | atoms a second | beside SNAP |\n|---|---|---|---|---|")
    missed = []
    for size in arguments.sizes:
        atoms = bulk("Si", cubic=True).repeat(EDGES[size])
        atoms.rattle(0.02, seed=1)
        with tempfile.TemporaryDirectory() as folder:
            steps: dict[str, Step | None] = {
                f"SNAP, 2J = {TWOJMAX}": snap(atoms, Path(folder)),
                "MomentNetwork": ours(MomentNetwork(["Si"])),
                "MessageNetwork, 1 layer": ours(MessageNetwork(["Si"], n_layers=1, n_channels=64)),
                "MessageNetwork, 2 layers": ours(MessageNetwork(["Si"], n_channels=64)),
                "MACE, 32 channels, L = 0": mace(),
            }
            found = {name: milliseconds(step, atoms, arguments.steps) for name, step in steps.items() if step}
        reference = next(iter(found.values()))
        for name, value in found.items():
            rate = 1e3 * size / value
            print(f"| {size} | {name} | {value:.1f} | {rate:,.0f} | {value / reference:.2f} |", flush=True)
        first = found["MomentNetwork"]
        peer = found.get("MACE, 32 channels, L = 0", np.inf)
        if size == 512 and (first > 2 * reference or first > peer / 10):
            missed.append(f"{first:.1f} ms")
    if missed:
        sys.exit(f"missed: {missed[0]}")


if __name__ == "__main__":
    main()
