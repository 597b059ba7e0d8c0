"""Small structures for physics models, and an embedded-atom potential from closed formulas."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from surefield.potentials.parametric import EAM


def shaken(name: str, structure: str, a: float, seed: int = 0) -> Atoms:
    """Cubic cell, strained and with its atoms off their sites."""
    rng = np.random.default_rng(seed)
    atoms = bulk(name, structure, a=a, cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.12, atoms.positions.shape)
    return atoms


@pytest.fixture(scope="session")
def silicon() -> Atoms:
    return shaken("Si", "diamond", 5.43)


@pytest.fixture(scope="session")
def carbide() -> Atoms:
    return shaken("SiC", "zincblende", 4.36)


@pytest.fixture(scope="session")
def alloy_eam() -> EAM:
    """Made-up copper and gold with smooth functions that end at 4.6 Å."""
    n_r, n_rho, cutoff = 401, 301, 4.6
    r, rho = np.linspace(0, cutoff, n_r), np.linspace(0, 6.0, n_rho)
    end = (1 - (r / cutoff) ** 2) ** 3
    pair = [(8 * np.exp(-1.9 * (r - 2 + d)) - 4 * np.exp(-0.9 * (r - 2))) * end for d in (0.0, 0.05, 0.1)]
    return EAM(
        {
            "embedding": [-np.sqrt(rho + 0.1), -1.2 * np.sqrt(rho + 0.2)],
            "density": [np.exp(-(r - 1.5)) * end, 1.3 * np.exp(-1.1 * (r - 1.5)) * end],
            "pair": pair,
        },
        ["Cu", "Au"],
        dr=cutoff / (n_r - 1),
        drho=6.0 / (n_rho - 1),
        reach=cutoff,
    )
