from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import DataError
from surefield.structures.electrode import (
    electrode_potential,
    excess_electrons,
    from_she,
    grand_canonical_energy,
    grand_canonical_labels,
    stated_interface,
)
from surefield.structures.labels import Labels
from surefield.structures.read import Frames


def _atoms(results=None, parameters=None, **info):
    atoms = Atoms("AuH", positions=[[0, 0, 0], [0, 0, 1.7]], info=info)
    if results or parameters:
        atoms.calc = Calculator()
        atoms.calc.atoms = atoms.copy()
        atoms.calc.results = results or {}
        atoms.calc.parameters.update(parameters or {})
    return atoms


@pytest.mark.parametrize(
    "atoms",
    [
        _atoms(electrode_potential=4.5),
        _atoms(work_function=4.5),
        _atoms(workfunction=np.float64(4.5)),
        _atoms(results={"electrode_potential": 4.5}),
        _atoms(parameters={"electrode_potential": 4.5}),
        _atoms(results={"electrode_potential": 4.5}, electrode_potential=4.5 + 5e-7),
    ],
)
def test_potential_from_every_source(atoms):
    assert electrode_potential(atoms, "frame 0") == pytest.approx(4.5, abs=1e-6)


def test_first_source_wins_and_none_is_nan():
    atoms = _atoms(results={"electrode_potential": 4.5}, electrode_potential=4.5 + 5e-7)
    assert electrode_potential(atoms, "frame 0") == 4.5 + 5e-7
    assert electrode_potential(atoms, "frame 0", 4.5) == 4.5
    assert np.isnan(electrode_potential(_atoms(electrode_potential=np.nan), "frame 0"))
    assert np.isnan(electrode_potential(_atoms(parameters={"electrode_potential": None}), "frame 0"))


def test_sources_that_disagree():
    atoms = _atoms(results={"electrode_potential": 4.5}, work_function=4.51)
    with pytest.raises(DataError, match=r"frame 7.*work_function.*4\.51 V.*calc\.results.*4\.5 V"):
        electrode_potential(atoms, "frame 7")
    with pytest.raises(DataError, match="disagree"):
        electrode_potential(_atoms(electrode_potential=4.5), "frame 7", 4.4)
    with pytest.raises(DataError, match=r"0\.2 e and -info\['charge'\] 0\.3 e"):
        excess_electrons(_atoms(ne=0.2, charge=-0.3), "frame 7")


@pytest.mark.parametrize("phi", [0.1, -0.4, 9.5])
def test_a_potential_against_she_is_refused(phi):
    with pytest.raises(DataError, match=r"1 to 9 V.*SHE"):
        electrode_potential(_atoms(electrode_potential=phi), "frame 0")
    assert from_she(-0.4) == 4.0
    assert from_she(0.1, 4.44) == pytest.approx(4.54)


@pytest.mark.parametrize("value", ["much", [1.0, 2.0], np.inf])
def test_no_number(value):
    with pytest.raises(DataError, match="no finite number in frame 2"):
        electrode_potential(_atoms(electrode_potential=value), "frame 2")


@pytest.mark.parametrize(
    "atoms",
    [
        _atoms(excess_electrons=0.3),
        _atoms(ne=0.3),
        _atoms(charge=-0.3),
        _atoms(parameters={"sj": {"excess_electrons": 0.3, "target_potential": 4.4}}),
        _atoms(results={"excess_electrons": 0.3}),
        _atoms(results={"ne": 0.3}),
    ],
)
def test_electrons_have_one_sign(atoms):
    assert excess_electrons(atoms, "frame 0") == 0.3


def test_results_of_another_geometry_are_not_read():
    atoms = _atoms(results={"ne": 0.3, "electrode_potential": 4.5})
    atoms.positions[1, 2] += 0.1
    assert np.isnan(excess_electrons(atoms, "frame 0"))
    assert np.isnan(electrode_potential(atoms, "frame 0"))


def test_single_point_results_of_a_stock_ase():
    atoms = _atoms(electrode_potential=4.5, excess_electrons=0.3)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    assert (electrode_potential(atoms, "x"), excess_electrons(atoms, "x")) == (4.5, 0.3)


def test_grand_canonical_energy():
    known = {"electrode_potential": 4.0, "excess_electrons": 0.5}
    assert grand_canonical_energy(_atoms(**known), -3.0, "x") == -3.0
    assert grand_canonical_energy(_atoms(grand_canonical=True, **known), -3.0, "x") == -3.0
    assert grand_canonical_energy(_atoms(grand_canonical=False, **known), -3.0, "x") == -1.0
    charged = _atoms(grand_canonical=np.False_, electrode_potential=4.0, charge=-0.5)
    assert grand_canonical_energy(charged, -3.0, "x") == -1.0
    without = _atoms(grand_canonical=False, ne=0.5)
    assert grand_canonical_energy(without, -3.0, "x", default=4.2) == pytest.approx(-0.9)
    with pytest.raises(DataError, match="no electrode potential to turn"):
        grand_canonical_energy(without, -3.0, "frame 1")
    with pytest.raises(DataError, match=r"excess electrons.*frame 1"):
        grand_canonical_energy(_atoms(grand_canonical=False, electrode_potential=4.0), -3.0, "frame 1")


def test_labels_and_their_note():
    known = {"electrode_potential": 4.0, "excess_electrons": 0.5}
    atoms = (_atoms(grand_canonical=False, **known), _atoms(**known), _atoms(grand_canonical=True))
    frames = Frames(atoms, ("a", "b", "c"))
    forces = np.ones((2, 3))
    found, note = grand_canonical_labels(
        frames, [Labels(energy=-3.0, forces=forces), Labels(energy=-3.0), Labels()]
    )
    assert [label.energy for label in found] == [-1.0, -3.0, None]
    assert [label.excess_electrons for label in found] == [0.5, 0.5, None]
    assert found[0].forces is forces
    assert "1 were E" in note
    assert "1 do not say (info['grand_canonical'])" in note
    assert "excess electrons of 2" in note


def test_stated_interface():
    assert stated_interface(_atoms(interface=12.5), "x") == 12.5
    assert np.isnan(stated_interface(_atoms(), "x"))
    with pytest.raises(DataError, match="interface is no finite number"):
        stated_interface(_atoms(interface="top"), "x")
