from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list

from surefield.errors import ConfigError
from surefield.structures.neighbors import neighborhood

CUTOFF = 5.0


@pytest.mark.parametrize("place", [0, 1, 2])
def test_same_edges_as_ase(alloy, place):
    atoms = alloy[place]
    found = neighborhood(atoms, CUTOFF)
    first, second, vectors = neighbor_list("ijD", atoms, CUTOFF)
    np.testing.assert_array_equal(found.counts, np.bincount(first, minlength=len(atoms)))
    for i in range(len(atoms)):
        n = found.counts[i]
        mine = np.column_stack([found.neighbors[i, :n], found.vectors[i, :n]])
        ase = np.column_stack([second[first == i], vectors[first == i]])
        assert n == len(ase)
        distances = np.abs(mine[:, None] - ase[None]).max(axis=2)
        np.testing.assert_allclose(distances.min(axis=1), 0, atol=1e-12)
        np.testing.assert_allclose(distances.min(axis=0), 0, atol=1e-12)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_reverse_is_the_same_edge_from_the_other_side(alloy, place):
    found = neighborhood(alloy[place], CUTOFF)
    assert found.counts.sum() > 0
    for i in range(found.n_atoms):
        for k in range(found.counts[i]):
            j, back = found.neighbors[i, k], found.reverse[i, k]
            assert back < found.counts[j]
            assert found.neighbors[j, back] == i
            assert found.reverse[j, back] == k
            np.testing.assert_allclose(found.vectors[j, back], -found.vectors[i, k], atol=1e-12)


def test_atoms_outside_the_cell_keep_their_neighbors(alloy):
    moved = alloy[0].copy()
    moved.positions[1] += 3 * moved.cell[0] - 2 * moved.cell[2]
    first, second = neighborhood(alloy[0], CUTOFF), neighborhood(moved, CUTOFF)
    np.testing.assert_array_equal(first.counts, second.counts)
    lengths = [np.sort(np.linalg.norm(x.vectors, axis=2).ravel()) for x in (first, second)]
    np.testing.assert_allclose(*lengths, atol=1e-10)


def test_one_atom_in_a_small_cell_sees_its_images():
    found = neighborhood(Atoms("Cu", cell=[3.0, 3.0, 3.0], pbc=True), 3.1)
    assert found.counts.tolist() == [6]
    assert set(found.neighbors[0]) == {0}
    np.testing.assert_allclose(found.vectors[0][found.reverse[0]], -found.vectors[0])


def test_no_neighbors():
    found = neighborhood(Atoms("Cu2", positions=[[0, 0, 0], [9, 0, 0]]), 3.0)
    assert found.n_neighbors == 0
    assert not found.periodic


def test_input_is_not_shared(alloy):
    atoms = alloy[0].copy()
    found = neighborhood(atoms, CUTOFF)
    atoms.positions += 1.0
    atoms.numbers[:] = 1
    np.testing.assert_array_equal(found.positions, alloy[0].positions)
    np.testing.assert_array_equal(found.numbers, alloy[0].numbers)


def test_a_cutoff_that_would_fill_the_memory_is_refused(alloy):
    with pytest.raises(ConfigError, match=r"a cutoff of 400 Å has about .* neighbours of each atom"):
        neighborhood(alloy[0], 400.0)
