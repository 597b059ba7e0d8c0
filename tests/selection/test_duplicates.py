from types import SimpleNamespace

import ase
import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import ConfigError, DataError
from surefield.selection import Dropped, find_duplicates, sanity_filter, structure_key


def rattled(atoms, seed=0):
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=seed)
    return atoms


def crystal():
    return rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True))


def slab():
    return rattled(fcc111("Al", (2, 2, 2), vacuum=5.0))


def wire():
    return rattled(ase.Atoms("CuCu", [[0, 0, 0], [0.3, 0.1, 2.5]], cell=[0, 0, 5], pbc=[False, False, True]))


def water():
    return rattled(molecule("H2O"))


@pytest.mark.parametrize("make", [crystal, slab, wire, water])
def test_order_image_and_noise_do_not_matter(make):
    atoms = make()
    other = atoms[::-1]
    other.positions += 1e-9
    for direction in np.flatnonzero(atoms.pbc):
        other.positions[0] += 3 * atoms.cell[direction]
        other.positions[1] -= atoms.cell[direction]
    assert structure_key(other) == structure_key(atoms)


@pytest.mark.parametrize("make", [slab, wire, water])
def test_a_shift_along_a_direction_without_period_does_not_matter(make):
    atoms = make()
    other = atoms.copy()
    free = np.array([[1.3, 0.0, 0.0], [0.0, -0.7, 0.0], [0.0, 0.0, 2.1]])[~atoms.pbc]
    other.positions += free.sum(axis=0)
    assert structure_key(other) == structure_key(atoms)


def test_a_box_that_is_not_periodic_does_not_matter():
    boxed = water()
    boxed.center(vacuum=4.0)
    assert structure_key(boxed) == structure_key(water())


@pytest.mark.parametrize("make", [crystal, slab, wire, water])
def test_real_differences_are_seen(make):
    atoms = make()
    known = {structure_key(atoms)}
    moved, renamed = atoms.copy(), atoms.copy()
    moved.positions[0, 2] += 1e-3
    renamed.numbers[0] += 1
    variants = [moved, renamed, atoms[1:]]
    if atoms.pbc.any():
        strained = atoms.copy()
        strained.set_cell(atoms.cell * 1.001, scale_atoms=True)
        open_cell = atoms.copy()
        open_cell.pbc = False
        variants += [strained, open_cell]
    known |= {structure_key(variant) for variant in variants}
    assert len(known) == 1 + len(variants)


def test_an_atom_just_below_the_far_face_is_the_one_at_the_near_face():
    cell = np.diag([4.0, 4.0, 4.0])
    low = ase.Atoms("C", [[0.0, 1.0, 1.0]], cell=cell, pbc=True)
    high = ase.Atoms("C", [[4.0 - 1e-9, 1.0, 1.0]], cell=cell, pbc=True)
    assert structure_key(low) == structure_key(high)


def test_duplicates_keep_the_lowest_index():
    train = [crystal(), water()]
    pool = [slab(), rattled(crystal(), 1), water()[::-1], slab(), slab()]
    before = [atoms.positions.copy() for atoms in pool]
    assert find_duplicates(pool, train) == [
        Dropped(2, "copy of structure 1 of train", 1, "train"),
        Dropped(3, "copy of structure 0 of pool", 0, "pool"),
        Dropped(4, "copy of structure 0 of pool", 0, "pool"),
    ]
    assert find_duplicates([crystal(), water()]) == []
    for atoms, positions in zip(pool, before, strict=True):
        np.testing.assert_array_equal(atoms.positions, positions)


def test_broken_structures_have_no_key():
    with pytest.raises(DataError, match=r"pool frame 1.*sanity_filter"):
        find_duplicates([water(), ase.Atoms("H", pbc=True)])


def with_forces(atoms, force):
    atoms = atoms.copy()
    forces = np.zeros((len(atoms), 3))
    forces[0, 1] = force
    atoms.calc = SinglePointCalculator(atoms, forces=forces)
    return atoms


def test_sound_frames_are_kept():
    frames = [crystal(), slab(), wire(), water(), bulk("Si"), ase.Atoms("H")]
    assert sanity_filter(frames) == (list(range(6)), [])


def close_pair():
    return ase.Atoms("CH", [[0, 0, 0], [0, 0, 0.5]])


def close_image():
    return ase.Atoms("C2", [[0, 0, 0.1], [0, 0, 4.9]], cell=[5, 5, 5], pbc=True)


@pytest.mark.parametrize(
    ("atoms", "reason"),
    [
        (ase.Atoms("H", [[np.nan, 0, 0]]), "positions are not finite"),
        (ase.Atoms("H", cell=[1, 1, np.inf], pbc=True), "cell are not finite"),
        (ase.Atoms("H", pbc=True), "no volume"),
        (ase.Atoms("H", cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]], pbc=True), "no volume"),
        (ase.Atoms("H", cell=[0.2, 5, 5], pbc=True), "own images"),
        (ase.Atoms("X"), "unknown element with atomic number 0"),
        (ase.Atoms(), "no atoms"),
        (close_pair(), "atoms C0 and H1 are 0.5 Å apart, less than 0.535 Å"),
        (close_image(), "atoms C0 and C1 are 0.2 Å apart"),
        (ase.Atoms("C2", [[0, 0, 0], [0, 0, 0]]), "are 0 Å apart"),
        (SimpleNamespace(numbers=[1], positions=[[0, 0]], cell=None, pbc=False), "cannot be read"),
        ("no structure", "cannot be read"),
    ],
)
def test_bad_frames_are_refused_with_a_reason_and_do_not_stop_the_rest(atoms, reason):
    kept, [rejected] = sanity_filter([water(), atoms, crystal()])
    assert kept == [0, 2]
    assert rejected.index == 1
    assert reason in rejected.reason


def test_the_distance_factor_sets_the_limit():
    assert sanity_filter([close_pair()], min_distance_factor=0.46)[0] == [0]
    assert sanity_filter([ase.Atoms("C2")], min_distance_factor=0)[0] == [0]


def test_elements_and_forces():
    frames = [with_forces(water(), 3.0), with_forces(water(), 30.0), with_forces(crystal(), 1.0), water()]
    kept, rejected = sanity_filter(frames, elements=["H", 8], max_force=20.0)
    assert kept == [0]
    assert [entry.index for entry in rejected] == [1, 2, 3]
    for entry, words in zip(rejected, ["force of 30 eV/Å is above 20", "element", "no forces"], strict=True):
        assert words in entry.reason
    _, [rejected] = sanity_filter([with_forces(water(), np.nan)], max_force=20.0)
    assert "finite" in rejected.reason


def test_bad_options():
    with pytest.raises(ConfigError, match="max_force needs forces"):
        sanity_filter([water()], max_force=5.0)
    with pytest.raises(ConfigError, match="max_force must be positive"):
        sanity_filter([water()], max_force=0.0)
    with pytest.raises(ConfigError, match="min_distance_factor"):
        sanity_filter([water()], min_distance_factor=-1)
    with pytest.raises(ConfigError, match="unknown element 'Hx'"):
        sanity_filter([water()], elements=["Hx"])


def test_a_structure_with_more_than_16_bit_atoms():
    grid = np.stack(np.meshgrid(*[np.arange(33) * 3.0] * 3), axis=-1).reshape(-1, 3)
    atoms = ase.Atoms(numbers=np.full(len(grid), 13), positions=grid, cell=np.eye(3) * 99.0, pbc=True)
    assert len(atoms) > 32_767
    assert structure_key(atoms) == structure_key(atoms[::-1])
    assert sanity_filter([atoms])[0] == [0]
