"""Training trajectories of chimes_lsq."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import DataError
from surefield.formats.chimes import read_xyzf, write_xyzf

ATOMS = "H 0 0 0 0.001 0 0\nO 0 0 1 0 -0.002 0\n"
FORCE = 627.50960803 * 1.889725989 / 23.060548
STRESS = 1 / 6.9476955 / 23.060548


def read(tmp_path, text, **options):
    (tmp_path / "data.xyzf").write_text(text)
    return read_xyzf(tmp_path / "data.xyzf", **options)


def test_labels_are_converted(tmp_path):
    text = f"2\n5 6 7 0.1 0.2 0.3 0.4 0.5 0.6 -100.0\n{ATOMS}2\nNON-ORTHO 5 0 0 1 6 0 0 0 7\n{ATOMS}"
    first, second = read(tmp_path, text)
    assert str(first.symbols) == "HO"
    np.testing.assert_array_equal(first.cell.array, np.diag([5, 6, 7]))
    assert first.get_potential_energy() == pytest.approx(-100 / 23.060548, rel=1e-15)
    np.testing.assert_allclose(
        first.get_forces(), np.array([[0.001, 0, 0], [0, -0.002, 0]]) * FORCE, rtol=1e-14
    )
    # xx yy zz xy xz yz, positive in compression -> xx yy zz yz xz xy, positive in tension
    np.testing.assert_allclose(
        first.get_stress(), -STRESS * np.array([0.1, 0.2, 0.3, 0.6, 0.5, 0.4]), rtol=1e-14
    )
    np.testing.assert_array_equal(second.cell.array, [[5, 0, 0], [1, 6, 0], [0, 0, 7]])
    assert set(second.calc.results) == {"forces"}
    assert second.pbc.all()


@pytest.mark.parametrize("word", ["NON-ORTHO", "NON_ORTHO", "Non_Ortho"])
def test_both_spellings_of_a_skewed_cell(tmp_path, word):
    (atoms,) = read(tmp_path, f"1\n{word} 8.85 0 0 -4.42 7.67 0 0 0 14.05\nTi 0 0 0 0.01 0 0\n")
    np.testing.assert_allclose(atoms.cell.cellpar(), [8.85, 8.85, 14.05, 90, 90, 119.96], atol=0.01)


@pytest.mark.parametrize("cell", [np.diag([5.0, 6, 7]), np.array([[5.0, 0, 0], [1, 6, 0], [0, 0, 7]])])
@pytest.mark.parametrize("labels", [{"energy": -3.0, "stress": np.arange(6.0)}, {"energy": -3.0}, {}])
def test_what_is_written_is_read(tmp_path, cell, labels):
    atoms = Atoms("HO", [[0, 0, 0], [0, 0, 1 / 3]], cell=cell, pbc=True)
    labels = {"forces": np.array([[0.1, 0, 0], [0, -0.2, 0]]), **labels}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    write_xyzf(tmp_path / "a.xyzf", [atoms, atoms])
    for after in read_xyzf(tmp_path / "a.xyzf"):
        assert str(after.symbols) == "HO"
        np.testing.assert_array_equal(after.positions, atoms.positions)
        np.testing.assert_array_equal(after.cell.array, cell)
        assert set(after.calc.results) == set(labels)
        for name, value in labels.items():
            np.testing.assert_allclose(after.calc.results[name], value, rtol=1e-14)


def test_a_diagonal_stress_is_written_as_three_numbers(tmp_path):
    frames = read(tmp_path, f"2\n5 6 7 0.1 0.2 0.3 -10\n{ATOMS}")
    write_xyzf(tmp_path / "a.xyzf", frames)
    (after,) = read_xyzf(tmp_path / "a.xyzf")
    assert after.info["stress_is_diagonal"]
    np.testing.assert_allclose(after.get_stress(), frames[0].get_stress(), rtol=1e-14)


def test_structures_that_xyzf_cannot_hold(tmp_path):
    atoms = Atoms("H", cell=[5, 5, 5], pbc=True)
    with pytest.raises(DataError, match="no forces in frame 0"):
        write_xyzf(tmp_path / "a.xyzf", [atoms])
    atoms.calc = SinglePointCalculator(atoms, forces=np.zeros((1, 3)))
    atoms.calc.atoms.pbc = atoms.pbc = [True, True, False]
    with pytest.raises(DataError, match="periodic in three directions in frame 0"):
        write_xyzf(tmp_path / "a.xyzf", [atoms])
    assert not list(tmp_path.iterdir())


def test_three_stresses_are_marked(tmp_path):
    (atoms,) = read(tmp_path, f"2\n5 6 7 0.1 0.2 0.3\n{ATOMS}")
    assert atoms.info["stress_is_diagonal"]
    np.testing.assert_allclose(atoms.get_stress(), -STRESS * np.array([0.1, 0.2, 0.3, 0, 0, 0]), rtol=1e-14)


def test_as_many_structures_as_asked_for(reference):
    path = reference / "inputs" / "chimes" / "fit" / "water.xyzf.xz"
    assert len(read_xyzf(path, 2)) == 2
    assert len(read_xyzf(path)) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("two\n", "data.xyzf:1.*not a whole number|data.xyzf:1"),
        (f"2\n5 6\n{ATOMS}", "data.xyzf:2"),
        (f"2\n5 6 7 1 2\n{ATOMS}", "unusable comment line in data.xyzf:2"),
        (f"2\nNON-ORTHO 5 6 7\n{ATOMS}", "data.xyzf:2"),
        (f"2\n5 6 0\n{ATOMS}", "no volume in data.xyzf:2"),
        ("1\n5 6 7\nH 0 0 0\n", "unusable atom in data.xyzf:3"),
        ("1\n5 6 7\nX1 0 0 0 0 0 0\n", "unusable atom in data.xyzf:3"),
        ("1\n5 6 7\nH 0 0 0 0 0 fast\n", "not a finite number in data.xyzf:3"),
        ("2\n5 6 7\nH 0 0 0 0 0 0\n", "ends too early"),
    ],
)
def test_damaged_files_name_the_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)
