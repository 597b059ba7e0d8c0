"""Does sigma rise with the error where a bond or a crystal is stretched: `python benchmarks/bond_scan.py`.

The scan that critics of last-layer uncertainties use. Everything is labelled on the spot by tblite. Ethanol
(GFN2-xTB): a default `MomentNetwork` learns dynamics at 300 and 500 K, then one bond of the relaxed molecule
is compressed to 0.75 and stretched to 1.8 of its length. Silicon (GFN1-xTB, eight atoms): it learns cells
that are rattled and strained by up to 2 %, then the crystal is strained from -15 to 20 %. Prints errors and
sigmas along each scan and their rank correlation, which an error that passes through zero on its way lowers;
fails where one is below 0.8.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.optimize import BFGS
from scipy.stats import spearmanr

import surefield as sf
from surefield.exploration.sampling import molecular_dynamics_pool
from surefield.loop.oracles.calculator import CalculatorOracle
from surefield.loop.oracles.tight_binding import tblite

BAR = 0.8
BONDS = {"C-C": (0, 1), "C-O": (1, 2), "O-H": (2, 3)}


def labelled(oracle: CalculatorOracle, frames: Sequence[Atoms]) -> list[Atoms]:
    """Structures with their labels, without those that the engine gives up."""
    return [atoms for atoms in oracle.label(frames) if atoms is not None]


def ethanol(n_frames: int, seed: int) -> tuple[list[Atoms], dict[str, list[Atoms]]]:
    """Labelled dynamics, and labelled scans of three bonds."""
    oracle, start = tblite("GFN2-xTB"), molecule("CH3CH2OH")
    frames = molecular_dynamics_pool(
        start, oracle.make_calculator, (300.0, 500.0), n_frames, steps_between=40, seed=seed
    )
    start.calc = oracle.make_calculator()
    BFGS(start, logfile=None).run(fmax=0.01, steps=200)
    scans = {}
    for name, (i, j) in BONDS.items():
        length, along = start.get_distance(i, j), []
        for factor in np.linspace(0.75, 1.8, 22):
            atoms = start.copy()
            atoms.set_distance(i, j, factor * length, fix=0)
            atoms.info["factor"] = factor
            along.append(atoms)
        scans[f"ethanol, {name}"] = labelled(oracle, along)
    return labelled(oracle, frames), scans


def silicon(n_frames: int, seed: int) -> tuple[list[Atoms], dict[str, list[Atoms]]]:
    """Labelled cells near equilibrium, and a labelled scan of the volume."""
    oracle, rng = tblite("GFN1-xTB"), np.random.default_rng(seed)
    cell = bulk("Si", "diamond", a=5.43, cubic=True)
    frames = []
    for _ in range(n_frames):
        atoms = cell.copy()
        strain = rng.uniform(-0.02, 0.02, (3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
        frames.append(atoms)
    along = []
    for factor in np.linspace(0.85, 1.2, 15):
        atoms = cell.copy()
        atoms.set_cell(factor * atoms.cell, scale_atoms=True)
        # By symmetry the perfect crystal has no forces, and its features no derivatives.
        atoms.positions += 0.03 * np.random.default_rng(1).normal(size=atoms.positions.shape)
        atoms.info["factor"] = factor
        along.append(atoms)
    return labelled(oracle, frames), {"silicon, strain": labelled(oracle, along)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--systems", nargs="+", choices=("ethanol", "silicon"), default=["ethanol", "silicon"]
    )
    parser.add_argument("--frames", type=int, default=240, help="of ethanol; half as many of silicon")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    missed = []
    for system in arguments.systems:
        n_frames = arguments.frames if system == "ethanol" else arguments.frames // 2
        frames, scans = systems[system](n_frames, arguments.seed)
        order = np.random.default_rng(arguments.seed).permutation(len(frames))
        n_train = int(0.8 * len(frames))
        train, held = [frames[i] for i in order[:n_train]], [frames[i] for i in order[n_train:]]
        species = sorted({*frames[0].get_chemical_symbols()})
        fit = sf.train(
            sf.MomentNetwork(species), train, validation=held, config=sf.TrainConfig(epochs=arguments.epochs)
        )
        llpr = sf.LLPR.fit(fit.potential, train, calibration=held)
        for name, along in scans.items():
            print(f"\n{name}: {len(train)} training structures")
            print("| length | error of E / eV | sigma | largest error of F / eV/Å | largest sigma |")
            print("|---|---|---|---|---|")
            found = []
            for atoms, p in zip(along, llpr.predict(along, forces=True), strict=True):
                assert p.forces is not None
                assert p.forces_uncertainty is not None
                off = (
                    abs(p.energy - atoms.get_potential_energy()),
                    p.energy_uncertainty,
                    np.abs(p.forces - atoms.get_forces()).max(),
                    p.forces_uncertainty.max(),
                )
                found.append(off)
                print(f"| {atoms.info['factor']:.2f} | " + " | ".join(f"{x:.3f}" for x in off) + " |")
            values = np.array(found)
            ranks = [float(spearmanr(values[:, i], values[:, i + 1]).statistic) for i in (0, 2)]
            print(f"rank correlation of error and sigma: energy {ranks[0]:.2f}, forces {ranks[1]:.2f}")
            ends = values[[0, -1]]
            ratios = ends[:, [0, 2]] / ends[:, [1, 3]]
            print(f"error over sigma at the ends: energy {ratios[:, 0]}, forces {ratios[:, 1]}")
            if min(ranks) < BAR:
                missed.append(name)
    if missed:
        sys.exit(f"rank correlation below {BAR}: {', '.join(missed)}")


if __name__ == "__main__":
    main()
