"""Small silicon cells with labels of a known Stillinger-Weber potential, for all trainers."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.potentials.parametric import StillingerWeber

#: Stillinger and Weber, Phys. Rev. B 31, 5262 (1985); eV and Å.
SW = {
    "A": 15.2848479197914, "B": 0.6022245584, "p": 4.0, "q": 0.0, "sigma": 2.0951, "gamma": 2.51412,
    "cutoff": 3.77118, "lambda": 45.5322, "costheta0": -1 / 3,
}  # fmt: skip


@pytest.fixture(scope="session")
def silicon():
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
