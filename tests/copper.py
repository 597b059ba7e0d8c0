"""Cells of copper, labelled by the effective medium theory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator


def copper(
    n: int,
    seed: int = 0,
    *,
    rattle: float = 0.1,
    strain: float = 0.0,
    properties: Sequence[str] = ("energy", "forces"),
) -> list[Atoms]:
    """Cubic cells of four displaced atoms (normal, Å), with edges changed by up to `strain` of themselves."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True)
        if strain:
            atoms.set_cell(atoms.cell.array * (1 + strain * rng.uniform(-1, 1)), scale_atoms=True)
        atoms.positions += rattle * rng.standard_normal(atoms.positions.shape)
        frames.append(labelled(atoms, properties))
    return frames


def labelled(atoms: Atoms, properties: Sequence[str]) -> Atoms:
    """The structure itself, which holds its labels from here on."""
    atoms.calc = EMT()
    results = {name: atoms.calc.get_property(name, atoms) for name in properties}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
