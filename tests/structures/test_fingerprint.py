from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

from surefield.errors import DataError
from surefield.structures.fingerprint import duplicate_groups, equal_pairs, fingerprints


def salt(amplitude: float = 0.1) -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.rattle(amplitude, seed=3)
    return atoms


def turned(atoms: Atoms) -> Atoms:
    matrix = Rotation.from_euler("xyz", [0.3, -1.1, 2.0]).as_matrix()
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array @ matrix.T)
    copy.positions = atoms.positions @ matrix.T
    return copy


def shifted(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.positions += [1.3, -0.4, 7.0]
    copy.wrap()
    return copy


def renumbered(atoms: Atoms) -> Atoms:
    return atoms[np.random.default_rng(0).permutation(len(atoms))]


@pytest.mark.parametrize("change", [turned, shifted, renumbered, lambda atoms: atoms.repeat((2, 1, 1))])
def test_same_geometry_has_equal_numbers(change):
    atoms = salt()
    values = fingerprints([atoms, change(atoms)]).values
    assert np.abs(values[1] - values[0]).max() < 1e-8


def test_molecule_turned_and_mirrored():
    atoms = molecule("CH3CH2OH")
    mirrored = turned(atoms)
    mirrored.positions[:, 0] *= -1
    values = fingerprints([atoms, mirrored]).values
    assert np.abs(values[1] - values[0]).max() < 1e-8


def test_moved_atom_moves_the_numbers_but_not_far():
    atoms, moved = salt(), salt()
    moved.positions[0, 0] += 1e-3
    difference = np.abs(np.diff(fingerprints([atoms, moved]).values, axis=0)).max()
    assert 1e-6 < difference < 2e-3


def test_frames_of_one_call_share_their_columns():
    atoms = [bulk("Cu", cubic=True), salt()]
    both = fingerprints(atoms).values
    alone = fingerprints(atoms[:1], elements=[11, 17]).values
    assert both.shape[1] == alone.shape[1]
    assert np.array_equal(both[:1], alone)


def test_copies_are_grouped_and_others_are_not():
    frames = [salt(), salt(0.2), turned(salt()), shifted(salt(0.2)), salt(0.05)]
    assert duplicate_groups(fingerprints(frames)).tolist() == [0, 1, 0, 1, 2]


def test_pairs_between_two_sets():
    first, second = fingerprints([salt(), salt(0.2)]), fingerprints([salt(0.3), turned(salt(0.2))])
    assert equal_pairs(first, second).tolist() == [[1, 1]]


def test_sets_of_other_elements_need_common_columns():
    with pytest.raises(DataError, match="elements="):
        equal_pairs(fingerprints([salt()]), fingerprints([bulk("Cu")]))
