from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import ConfigError, DataError
from surefield.exploration.breaking import nearest_contact
from surefield.exploration.config import PoolFilesConfig, RattleConfig, StrainConfig, SurfacesConfig
from surefield.exploration.variations import alternate, from_files, rattled, slabs, strained, turns
from surefield.structures.read import write_frames


def test_turns_go_through_all_pairs():
    assert turns(2, 5, (0,)).tolist() == [0, 1, 0, 1, 0]
    few = turns(50, 5, (0,))
    assert len(set(few.tolist())) == 5
    assert not np.array_equal(few, turns(50, 5, (1,)))
    for n, m in ((1, 2), (2, 2), (2, 3), (3, 3), (4, 2), (6, 4)):
        pairs = {(i % n, alternate(i, n, m)) for i in range(n * m)}
        assert len(pairs) == n * m, (n, m)


def test_rattled_structures_keep_their_distance():
    start = molecule("CH4")
    config = RattleConfig(displacements=(0.02, 0.15), n_structures=200)
    frames = rattled([start], config, (7,))
    assert len(frames) == 200
    assert all(nearest_contact(frame, 0.7) == "" for frame in frames)
    centred = start.positions - start.get_center_of_mass()
    moves = np.array([frame.positions - centred for frame in frames])
    assert moves[::2].std() == pytest.approx(0.02, rel=0.1)
    # Those nearer than is allowed are drawn again, so that the larger displacements come out smaller.
    assert 0.1 < moves[1::2].std() < 0.16
    assert [frame.info["config_type"] for frame in frames[:2]] == ["rattle_0.02A", "rattle_0.15A"]
    again = rattled([start], RattleConfig(displacements=(0.02, 0.15), n_structures=3), (7,))
    np.testing.assert_array_equal(again[2].positions, frames[2].positions)


def test_impossible_displacements():
    with pytest.raises(DataError, match="in all of 3 structures atoms are too close"):
        rattled([bulk("Cu") * 3], RattleConfig(displacements=(5.0,), n_structures=3), (0,))


def test_strains_are_symmetric_and_bounded():
    starts = [molecule("H2O"), bulk("Cu", cubic=True)]
    frames = strained(starts, StrainConfig(max_strain=0.05, n_structures=40), (1,))
    inverse = np.linalg.inv(bulk("Cu", cubic=True).cell.array)
    strains = np.array([inverse @ frame.cell.array - np.eye(3) for frame in frames])
    np.testing.assert_allclose(strains, strains.transpose(0, 2, 1), atol=1e-12)
    assert 0.045 < np.abs(strains).max() <= 0.05 + 1e-12
    assert {frame.info["start"] for frame in frames} == {1}
    scaled = frames[3].get_scaled_positions()
    np.testing.assert_allclose(scaled, bulk("Cu", cubic=True).get_scaled_positions(), atol=1e-12)
    with pytest.raises(ConfigError, match="strains need a start that is periodic"):
        strained([molecule("H2O")], StrainConfig(), (1,))


def test_slabs_of_low_index_come_once():
    frames = slabs([bulk("Cu", cubic=True)], SurfacesConfig(layers=3, n_structures=5), (2,))
    # (100), (110) and (111): all others of a cubic crystal are the same.
    names = [frame.info["config_type"] for frame in frames]
    assert names == ["surface_100", "surface_110", "surface_111", "surface_100", "surface_110"]
    first, fourth = frames[0], frames[3]
    assert first.pbc.all()
    for frame in frames[:3]:  # whole layers
        assert len(set(np.unique(frame.positions[:, 2].round(3), return_counts=True)[1])) == 1
    height = first.cell.array[2, 2]
    assert height - np.ptp(first.positions[:, 2]) == pytest.approx(12.0)
    assert np.abs(fourth.positions - first.positions).max() > 0.01
    plain = slabs([bulk("Cu", cubic=True)], SurfacesConfig(layers=3, rattle=0.0), (2,))
    assert len(plain) == 3
    with pytest.raises(ConfigError, match="more than 4 atoms"):
        slabs([bulk("Cu", cubic=True)], SurfacesConfig(max_atoms=4), (2,))


def test_files_are_read_one_by_one(tmp_path):
    frames = []
    for number in range(30):
        atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2 + 0.1 * number]])
        atoms.calc = SinglePointCalculator(atoms, energy=1.0)
        atoms.info["config_type"] = "dimer"
        frames.append(atoms)
    write_frames(tmp_path / "a.xyz", frames[:10])
    write_frames(tmp_path / "b.xyz", frames[10:])
    files = (str(tmp_path / "a.xyz"), str(tmp_path / "b.xyz"))
    every = from_files(PoolFilesConfig(files=files), (0,))
    assert len(every) == 30
    assert every[12].info["origin"].endswith("b.xyz:2")
    assert every[12].info["config_type"] == "dimer"
    assert all(frame.calc is None and "energy" not in frame.info for frame in every)
    some = [from_files(PoolFilesConfig(files=files, n_structures=6), (seed,)) for seed in range(200)]
    assert {len(part) for part in some} == {6}
    drawn = np.bincount(
        [round((f.get_distance(0, 1) - 2) / 0.1) for part in some for f in part], minlength=30
    )
    # 40 of 200 each, within four standard deviations.
    assert drawn.min() > 17
    assert drawn.max() < 63
    with pytest.raises(DataError, match=r"nowhere\.xyz cannot be read"):
        from_files(PoolFilesConfig(files=("nowhere.xyz",)), (0,))
