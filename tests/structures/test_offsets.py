from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import DataError
from surefield.structures.labels import resolve_labels
from surefield.structures.offsets import energy_offsets, is_isolated_atom, isolated_atom_energies
from surefield.structures.read import read_frames

WATER, HYDROGEN, OXYGEN = {1: 2, 8: 1}, {1: 2}, [8, 8]


def test_exact_energies_give_their_offsets():
    energies = [2 * -13.6 - 2040.0, 2 * -13.6, 2 * -2040.0]
    found = energy_offsets([WATER, HYDROGEN, OXYGEN], energies)
    assert found == pytest.approx({1: -13.6, 8: -2040.0}, rel=1e-12)


def test_fit_minimizes_the_error_per_atom():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, (20, 3))
    energies = counts @ [-1.0, -20.0, -300.0] + rng.normal(size=20)
    found = energy_offsets([dict(zip((1, 6, 8), row, strict=True)) for row in counts], energies)
    weights = 1 / counts.sum(axis=1)
    expected = np.linalg.lstsq(counts * weights[:, None], energies * weights, rcond=None)[0]
    assert list(found.values()) == pytest.approx(expected, rel=1e-9)


def test_isolated_atoms_fix_their_elements():
    found = energy_offsets([WATER, WATER], [-2070.0, -2072.0], {"O": -2040.0, "Fe": -5.0})
    assert found == pytest.approx({1: -15.5, 8: -2040.0, 26: -5.0})
    assert energy_offsets([WATER], [-2070.0], {1: -13.0, 8: -2040.0}) == {1: -13.0, 8: -2040.0}
    assert energy_offsets([], [], {"H": -13.0}) == {1: -13.0}


def test_one_composition_gives_equal_offsets():
    assert energy_offsets([WATER, WATER], [-3.0, -6.0]) == pytest.approx({1: -1.5, 8: -1.5})


def test_undetermined_differences_are_the_smallest_that_fit():
    # C always comes with two O, H alone: H is determined, C and O only in the sum.
    found = energy_offsets([{6: 1, 8: 2}, {1: 1}], [-9.0, -1.0])
    assert found[1] == pytest.approx(-1.0)
    assert found[6] + 2 * found[8] == pytest.approx(-9.0)
    common = (-9 / 3 - 1.0) / 2
    change = np.array([found[6], found[8]]) - common
    assert change[1] == pytest.approx(2 * change[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([WATER], [1.0, 2.0]), r"energies must be \(1,\).*got \(2,\)"),
        (([WATER, WATER], [1.0, np.nan]), "energy of structure 1 is not finite"),
        (([WATER, []], [1.0, 2.0]), "structure 1 has no atoms"),
        (([WATER], [1.0], {"Hh": 1.0}), "unknown element 'Hh'; did you mean"),
    ],
)
def test_malformed_arguments(arguments: tuple, message: str):
    with pytest.raises(DataError, match=message):
        energy_offsets(*arguments)


def test_isolated_atoms_are_recognized():
    assert is_isolated_atom(Atoms("H"))
    assert not is_isolated_atom(Atoms("H2", [[0, 0, 0], [0, 0, 1]]))
    boxed = Atoms("H", cell=[20, 20, 20], pbc=True)
    assert not is_isolated_atom(boxed)
    boxed.info["config_type"] = "Isolated_Atom"
    assert is_isolated_atom(boxed)


def test_isolated_atoms_that_disagree():
    frames = [Atoms("H"), Atoms("O"), Atoms("H"), Atoms("H")]
    assert isolated_atom_energies(frames, [-1.0, -2.0, -1.0005, None]) == {1: -1.0, 8: -2.0}
    with pytest.raises(
        DataError, match=r"free atoms of H disagree: -1.000000 eV in frame 0, -1.100000 eV in frame 2"
    ):
        isolated_atom_energies(frames, [-1.0, -2.0, -1.1, None])


def test_isolated_atoms_bring_their_own_energies():
    atoms = Atoms("H")
    atoms.calc = SinglePointCalculator(atoms, energy=-13.5)
    assert isolated_atom_energies([atoms, Atoms("O")]) == {1: -13.5}


def test_real_isolated_atoms_leave_the_binding_energy(shared: Path):
    atoms = isolated_atom_energies(read_frames(shared / "data/ethanol/isolated_atoms.xyz.xz"))
    frames = read_frames(shared / "data/ethanol/train.xyz.xz", ":20")
    energies = np.array([x.energy for x in resolve_labels(frames)[0]])
    offsets = energy_offsets([a.numbers for a in frames], energies, atoms)
    assert offsets == atoms
    assert set(offsets) == {1, 6, 7, 8}
    rest = energies - [sum(offsets[int(z)] for z in a.numbers) for a in frames]
    # Of thousands of eV there remains the binding, some eV per atom.
    assert np.all((rest / 9 < -3) & (rest / 9 > -6))
    assert np.ptp(rest) == pytest.approx(np.ptp(energies), rel=1e-9)


def test_real_molecules_of_two_compositions_are_both_centered(shared: Path):
    frames = read_frames(shared / "data/ethanol/train_eth_meth.xyz.xz", "::10")
    energies = np.array([x.energy for x in resolve_labels(frames)[0]])
    offsets = energy_offsets([a.numbers for a in frames], energies)
    rest = energies - [sum(offsets[int(z)] for z in a.numbers) for a in frames]
    sizes = np.array([len(a) for a in frames])
    assert sorted(set(sizes)) == [6, 9]
    assert [rest[sizes == n].mean() for n in (6, 9)] == pytest.approx([0, 0], abs=1e-6)
