from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule

from surefield.exploration.config import RattleConfig
from surefield.exploration.springs import spring_matrix, thermal_displacements
from surefield.exploration.variations import rattled


def test_the_matrix_is_that_of_springs() -> None:
    atoms = molecule("CH3CH2OH")
    matrix = spring_matrix(atoms)
    np.testing.assert_allclose(matrix, matrix.T)
    shift = np.tile([1.0, -2.0, 0.5], len(atoms))
    np.testing.assert_allclose(matrix @ shift, 4.0 * shift, atol=1e-10)
    turn = np.cross([0.3, 0.1, -0.2], atoms.positions).ravel()  # costs nothing but for the places
    np.testing.assert_allclose(matrix @ turn, 4.0 * turn, atol=1e-10)
    hydrogen = molecule("H2")
    d, r = 2 * 0.31, hydrogen.get_distance(0, 1)
    stretch = np.array([0, 0, 1, 0, 0, -1]) / np.sqrt(2)
    expected = 2 * 40.0 * np.exp(-0.8 * ((r / d) ** 2 - 1)) + 4.0
    assert stretch @ spring_matrix(hydrogen) @ stretch == pytest.approx(expected)


def test_displacements_have_the_covariance_of_the_temperature() -> None:
    atoms, rng = molecule("H2O"), np.random.default_rng(0)
    before = atoms.positions.copy()
    draws = np.array([thermal_displacements(atoms, 400.0, rng).ravel() for _ in range(20_000)])
    expected = units.kB * 400.0 * np.linalg.inv(spring_matrix(atoms))
    np.testing.assert_allclose(draws.T @ draws / len(draws), expected, atol=0.05 * expected.max())
    np.testing.assert_array_equal(atoms.positions, before)


def test_molecules_follow_springs_and_crystals_do_not() -> None:
    config = RattleConfig(n_structures=4, displacements=(0.1,), temperatures=(300.0, 600.0))
    frames = rattled([molecule("C6H6"), bulk("Cu")], config, (0,))
    assert [a.info["config_type"] for a in frames] == [
        "springs_300K",
        "rattle_0.1A",
        "springs_600K",
        "rattle_0.1A",
    ]
    plain = rattled([molecule("C6H6")], RattleConfig(n_structures=1, displacements=(0.1,)), (0,))[0]
    assert plain.info["config_type"] == "rattle_0.1A"
    stretched = []
    for atoms in (frames[0], plain):
        start = molecule("C6H6")
        bonds = [(i, j) for i in range(12) for j in range(i) if start.get_distance(i, j) < 1.6]
        change = [atoms.get_distance(i, j) - start.get_distance(i, j) for i, j in bonds]
        stretched.append(np.std(change))
    assert stretched[0] < 0.5 * stretched[1]


@pytest.mark.skipif(find_spec("tblite") is None, reason="needs tblite: pip install 'surefield[tblite]'")
def test_energies_are_near_equipartition() -> None:
    from tblite.ase import TBLite

    start, rng, energies = molecule("CH3CH2OH"), np.random.default_rng(1), []
    for displaced in [False] + [True] * 12:
        atoms = start.copy()
        atoms.positions += thermal_displacements(start, 500.0, rng) * displaced
        atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
        energies.append(atoms.get_potential_energy())
    expected = 0.5 * (3 * len(start) - 6) * units.kB * 500.0
    assert 0.6 * expected < np.mean(energies[1:]) - energies[0] < 1.7 * expected
