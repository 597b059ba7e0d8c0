from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.exploration.sampling import molecular_dynamics_pool, pool_and_test, start_structure

SHORT: dict[str, Any] = {"steps_between": 5, "timestep_fs": 2.0, "equilibration_steps": 10, "seed": 3}


def start() -> Atoms:
    return bulk("Cu", cubic=True) * (2, 1, 1)


def test_frames_are_labelled_by_trajectory_and_carry_no_results() -> None:
    atoms = start()
    atoms.info["tag"] = 1
    frames = molecular_dynamics_pool(atoms, EMT, [300, 600.5], 5, **SHORT)
    assert [frame.info["trajectory"] for frame in frames] == [0, 0, 0, 1, 1]
    assert [frame.info["temperature_K"] for frame in frames] == [300.0] * 3 + [600.5] * 2
    assert frames[4].info["config_type"] == "md_600.5K"
    assert frames[0].info["tag"] == 1
    assert all(frame.calc is None and set(frame.arrays) == {"numbers", "positions"} for frame in frames)
    assert atoms == start()
    assert atoms.calc is None
    assert atoms.info == {"tag": 1}
    assert all(np.abs(a.positions - b.positions).max() > 1e-3 for a, b in itertools.pairwise(frames))


def test_the_seed_decides_and_trajectories_are_independent() -> None:
    both = molecular_dynamics_pool(start(), EMT, [300, 300], 4, **SHORT)
    again = molecular_dynamics_pool(start(), EMT, [300, 300], 4, **SHORT)
    one = molecular_dynamics_pool(start(), EMT, [300], 2, **SHORT)
    other = molecular_dynamics_pool(start(), EMT, [300], 2, **{**SHORT, "seed": 4})
    for a, b in zip(both, again, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
    for a, b in zip(both, one, strict=False):
        np.testing.assert_array_equal(a.positions, b.positions)
    assert np.abs(both[0].positions - both[2].positions).max() > 1e-3
    assert np.abs(one[0].positions - other[0].positions).max() > 1e-3


def test_global_randomness_is_not_touched() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    molecular_dynamics_pool(start(), EMT(), [300], 1, **SHORT)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_hotter_means_more_disorder() -> None:
    """In a harmonic solid the mean potential energy above the minimum is 3/2 kT per atom."""
    frames = molecular_dynamics_pool(
        start(), EMT, [200, 800], 20, steps_between=15, timestep_fs=5.0, equilibration_steps=60, seed=0
    )
    calculator = EMT()
    zero = calculator.get_potential_energy(start())
    rise = (
        np.array([calculator.get_potential_energy(frame) - zero for frame in frames]).reshape(2, 10).mean(1)
    )
    expected = 1.5 * 8.617333e-5 * np.array([200, 800]) * 7  # 8 atoms, less the free centre of mass
    np.testing.assert_allclose(rise, expected, rtol=0.3)


def test_molecules_are_centred() -> None:
    frames = molecular_dynamics_pool(molecule("H2O"), EMT, [300], 2, **{**SHORT, "timestep_fs": 0.5})
    for frame in frames:
        np.testing.assert_allclose(frame.get_center_of_mass(), 0.0, atol=1e-12)


def test_a_trajectory_that_blows_up_is_stopped() -> None:
    crowded = Atoms("Ar4", [(0, 0, 0), (0.6, 0, 0), (0, 0.6, 0), (0, 0, 0.6)])
    with pytest.raises(ExecutionError, match=r"blew up.*smaller timestep"):
        molecular_dynamics_pool(crowded, LennardJones, [300], 1, **SHORT)


def test_a_calculator_that_fails_is_named() -> None:
    with pytest.raises(ExecutionError, match="300 K, steps 0 to 10: the calculator failed"):
        molecular_dynamics_pool(bulk("Si"), EMT, [300], 1, **SHORT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperatures": []}, "temperatures"),
        ({"temperatures": [0]}, "temperatures"),
        ({"n_frames": 0}, "n_frames"),
        ({"steps_between": 0}, "steps_between"),
        ({"equilibration_steps": -1}, "equilibration_steps"),
        ({"timestep_fs": 0}, "timestep_fs"),
        ({"friction": -1}, "friction"),
    ],
)
def test_numbers_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        molecular_dynamics_pool(start(), EMT, **{"temperatures": [300], "n_frames": 1, **SHORT, **arguments})


def test_no_atoms() -> None:
    with pytest.raises(DataError, match="no atoms in the start of molecular dynamics"):
        molecular_dynamics_pool(Atoms(), EMT, [300], 1, **SHORT)


def test_pool_and_test_come_from_other_trajectories_and_are_made_once(tmp_path) -> None:
    options = {k: v for k, v in SHORT.items() if k != "seed"}
    path = tmp_path / "structures.xyz"
    pool, test = pool_and_test(path, start(), EMT, [300.0], 2, 1, seed=1, **options)
    expected = molecular_dynamics_pool(start(), EMT, [300.0], 2, **{**SHORT, "seed": 2})
    np.testing.assert_allclose(pool[0].positions, expected[0].positions, atol=1e-7)
    assert (len(pool), len(test)) == (2, 1)
    assert np.abs(test[0].positions - pool[0].positions).max() > 1e-3
    again, _ = pool_and_test(path, start(), lambda: None, [300.0], 2, 1, seed=1, **options)
    np.testing.assert_array_equal(again[1].positions, pool[1].positions)


def test_start_structures() -> None:
    assert start_structure("CH4").get_chemical_formula() == "CH4"
