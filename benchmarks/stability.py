"""Does a potential run where its data are thin: `python benchmarks/stability.py --kind message`.

Trains a `MomentNetwork` or `MessageNetwork` with its defaults, and fits linear SNAP, on the same frames of
NbMoTaW (pure and binary cells, Li et al., npj Comput. Mater. 6, 70 (2020), read in place). Then, on 54
atoms of random NbMo, TaW, NbMoTa and NbMoTaW on perfect bcc lattices, which neither has seen: the largest
force on the lattice, and 2 ps of Langevin dynamics at 1000 K. Fails where a run of ours breaks, or a force
exceeds 1.5 times that of SNAP.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from surefield.exploration.alloys import atomic_volumes, lowest_cells, random_alloy
from surefield.exploration.stability import Trial, limits_of, run_trial
from surefield.potentials import ZBL, MessageNetwork, MomentNetwork, Potential
from surefield.potentials.config import AutoPotentialConfig, MessageNetworkConfig
from surefield.potentials.snap.snap import Snap, SnapConfig
from surefield.structures.read import read_frames
from surefield.training import train
from surefield.training.dataset import LabelledSet, prepare
from surefield.training.loss import errors, residuals

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "NbMoTaW"
ALLOYS = (("Nb", "Mo"), ("Ta", "W"), ("Nb", "Mo", "Ta"), ("Nb", "Mo", "Ta", "W"))
KELVIN, TIMESTEP_FS, STEPS = 1000.0, 2.0, 1000
KINDS = {"moment": MomentNetwork, "message": MessageNetwork}
#: Times the force of SNAP.
BAR = 1.5


def chosen(part: str, n: int, seed: int) -> list:
    """Structures of the pure and the binary cells, drawn at random."""
    frames = [atoms for kind in ("unary", "binary") for atoms in read_frames(DATA / f"{part}_{kind}.xyz.xz")]
    return [frames[i] for i in np.random.default_rng(seed).permutation(len(frames))[:n]]


def trials(potential: Potential, data: LabelledSet, steps: int, seed: int) -> list[Trial]:
    """One run of each alloy."""
    cells = lowest_cells(data.frames, [sample.labels.energy for sample in data.samples])
    volumes, limits = atomic_volumes(cells), limits_of(data)
    calculator = potential.calculator(extrapolation="ignore", stress=False)
    found = []
    for number, symbols in enumerate(ALLOYS):
        alloy = random_alloy([atomic_numbers[s] for s in symbols], "bcc", volumes, seed=(seed, number))
        options = {"steps": steps, "timestep_fs": TIMESTEP_FS, "seed": (seed, number)}
        found.append(run_trial(alloy, calculator, KELVIN, limits, kind="alloy", **options))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--kind",
        choices=(*KINDS, "auto"),
        default="moment",
        help="auto: what a configuration takes, with --repulsion",
    )
    parser.add_argument("--layers", type=int, help="of a message network, instead of the default")
    parser.add_argument("--epochs", type=int, help="instead of the default")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the frames, the alloys and the velocities")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of {TIMESTEP_FS:g} fs")
    parser.add_argument("--snap-steps", type=int, default=STEPS, help="the same for SNAP")
    parser.add_argument("--repulsion", action="store_true", help="add `ZBL.below` the data to ours")
    arguments = parser.parse_args()
    frames = chosen("train", arguments.frames, arguments.seed)
    test = chosen("test", arguments.frames, arguments.seed)
    species = ["Nb", "Mo", "Ta", "W"]
    shape = {} if arguments.layers is None else {"n_layers": arguments.layers}
    kind = arguments.kind
    if kind == "auto":
        config = AutoPotentialConfig().chosen(len(species), periodic=True)
        assert isinstance(config, MessageNetworkConfig)
        kind, shape = "message", {"n_layers": config.n_layers, "n_channels": config.n_channels}
    ours: Potential = KINDS[kind](species, **shape)
    epochs = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    called = type(ours).__name__
    if arguments.repulsion or arguments.kind == "auto":
        ours = ours + ZBL.below(frames, species)
    models = {
        called: (ours, arguments.steps, epochs),
        "SNAP": (Snap.from_settings(SnapConfig(), species), arguments.snap_steps, {}),
    }
    found = {}
    print("potential, test MAE meV/atom and meV/Å, CPU minutes of the training")
    for name, (model, steps, settings) in models.items():
        begin = time.process_time()
        fit = train(model, frames, **settings)
        minutes = (time.process_time() - begin) / 60
        held = errors(residuals(fit.potential, prepare(test, fit.potential).samples))
        print(f"{name}: {1e3 * held.energy_mae:.1f}, {1e3 * held.forces_mae:.0f}, {minutes:.1f}", flush=True)
        found[name] = trials(fit.potential, fit.train_set, steps, arguments.seed)
    print("\n| alloy | force on the lattice, SNAP, eV/Å | ratio | steps | SNAP |\n|---|---|---|---|---|")
    missed = []
    for first, snap in zip(*found.values(), strict=True):
        ratio = first.first_force / snap.first_force
        ends = [f"{t.steps} of {t.planned}{', ' * bool(t.fault)}{t.fault}" for t in (first, snap)]
        print(
            f"| {first.structure} | {first.first_force:.2f}, {snap.first_force:.2f} | {ratio:.1f} | "
            f"{ends[0]} | {ends[1]} |"
        )
        if first.fault or ratio > BAR:
            missed.append(first.structure)
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
