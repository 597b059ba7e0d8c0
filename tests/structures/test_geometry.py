from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from surefield.errors import DataError
from surefield.structures.geometry import check_geometry, closest_pair
from surefield.structures.read import read_frames


def test_sound_structures_pass():
    slab = Atoms("Cu2", [[0, 0, 0], [1.3, 1.3, 1.8]], cell=[2.6, 2.6, 0], pbc=[True, True, False])
    check_geometry(
        [bulk("Si"), bulk("Cu", cubic=True) * 3, Atoms("H"), slab, Atoms("N2", [[0, 0, 0], [0, 0, 1.1]])]
    )


def test_atoms_too_close_are_named_with_their_distance():
    atoms = Atoms("CHO", [[0, 0, 0], [0, 0, 1.1], [0, 0, 1.25]])
    with pytest.raises(
        DataError, match=r"atoms 1 \(H\) and 2 \(O\) are 0.150 Å apart in frame 1; expected at least 0.3"
    ):
        check_geometry([Atoms("H"), atoms])
    check_geometry([atoms], min_distance=0.14)


def test_atoms_too_close_through_the_boundary():
    atoms = Atoms("Cu2", [[0.05, 1, 1], [3.95, 1, 1]], cell=[4, 4, 4], pbc=[True, False, False])
    with pytest.raises(DataError, match=r"atoms 0 \(Cu\) and 1 \(Cu\) are 0.100 Å apart"):
        check_geometry([atoms])
    atoms.pbc = False
    check_geometry([atoms])


def test_an_atom_too_close_to_its_own_image():
    with pytest.raises(DataError, match=r"atoms 0 \(Cu\) and 0 \(Cu\) are 0.200 Å apart"):
        check_geometry([Atoms("Cu", cell=[0.2, 4, 4], pbc=True)])


@pytest.mark.parametrize(
    ("cell", "directions"),
    [
        ([0, 0, 0], "xyz"),
        ([[3, 0, 0], [0, 3, 0], [3, 3, 0]], "xyz"),
        ([4, 4, 0], "xyz"),
    ],
)
def test_periodic_cell_without_volume(cell: list, directions: str):
    atoms = Atoms("Cu", cell=cell, pbc=True)
    with pytest.raises(
        DataError, match=f"cell has no volume although periodic along {directions} in frame 0"
    ):
        check_geometry([atoms])


def test_cell_without_volume_of_a_slab():
    atoms = Atoms("Cu", cell=[[3, 0, 0], [3, 0, 0], [0, 0, 0]], pbc=[True, True, False])
    with pytest.raises(DataError, match="cell has no volume although periodic along xy"):
        check_geometry([atoms])
    atoms.cell[1:] = [[0, 3, 0], [3, 3, 0]]  # the third vector is not periodic, so it does not matter
    check_geometry([atoms])


def test_numbers_that_are_not_finite():
    atoms = bulk("Cu", cubic=True)
    atoms.positions[2, 1] = np.nan
    with pytest.raises(DataError, match="position of atom 2 is not finite in frame 0"):
        check_geometry([atoms])
    atoms = bulk("Cu")
    atoms.cell[0, 0] = np.inf
    with pytest.raises(DataError, match="cell is not finite in frame 0"):
        check_geometry([atoms])
    with pytest.raises(DataError, match="no atoms in frame 0"):
        check_geometry([Atoms()])


def test_atoms_of_no_element():
    with pytest.raises(DataError, match=r"atom 1 is of no element \('X'\) in frame 0; give its element"):
        check_geometry([Atoms("HX", [[0, 0, 0], [0, 0, 2]])])


def test_cells_too_small_for_their_atoms_are_refused_before_a_search():
    sheared = Atoms("Cu2", [[0, 0, 0], [1, 1, 1]], cell=[[4, 0, 0], [4, 1e-4, 0], [0, 0, 4]], pbc=True)
    for atoms in (sheared, Atoms("Cu", cell=[1e-3, 4, 4], pbc=[True, False, False])):
        with pytest.raises(DataError, match=r"cell is too small for \d atoms in frame 0; got cell vectors"):
            check_geometry([atoms])


def test_positions_without_digits_are_refused():
    with pytest.raises(DataError, match=r"atom 1 is 1e\+12 Å from the origin in frame 0"):
        check_geometry([Atoms("Cu2", [[0, 0, 0], [0, 1e12, 0]])])


@pytest.mark.parametrize("pbc", [True, [True, False, True], False])
def test_closest_pair_is_that_of_all_images(pbc: bool | list[bool]):
    rng = np.random.default_rng(3)
    atoms = Atoms("H12", rng.uniform(-2, 6, (12, 3)), cell=rng.normal(size=(3, 3)) + 4 * np.eye(3), pbc=pbc)
    shifts = np.array([s for s in np.ndindex(5, 5, 5)]) - 2
    shifts = np.unique(shifts * atoms.pbc, axis=0)
    images = atoms.positions[None] + (shifts @ atoms.cell.array)[:, None]
    distances = np.linalg.norm(images[:, None] - atoms.positions[None, :, None], axis=-1)
    expected = distances[distances > 1e-9].min()
    found = closest_pair(atoms, 5.0)
    assert found is not None
    assert found[2] == pytest.approx(expected, rel=1e-12)


def test_real_sets(shared: Path):
    frames = read_frames(shared / "data/NbMoTaW/test_binary.xyz.xz")
    start = time.process_time()
    check_geometry(frames)
    assert time.process_time() - start < 0.5  # about 0.1 s
    # The spec of the sets: dimers down to 0.35 Å.
    dimers = read_frames(shared / "data/ethanol/test_dimers.xyz.xz")
    check_geometry(dimers)
    with pytest.raises(DataError, match=r"are 0.35"):
        check_geometry(dimers, min_distance=0.3501)
