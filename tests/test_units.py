from __future__ import annotations

import pytest
from ase import units as ase_units

from surefield.errors import DataError
from surefield.units import parse_unit

KCAL_MOL = ase_units.kcal / ase_units.mol


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("eV", (1.0, 1, 0)),
        ("kcal/mol", (KCAL_MOL, 1, 0)),
        ("kcal/mol/Ang", (KCAL_MOL, 1, -1)),
        ("kcal / (mol * Angstrom)", (KCAL_MOL, 1, -1)),
        ("kJ/mol/nm", (0.1 * ase_units.kJ / ase_units.mol, 1, -1)),
        ("Hartree/Bohr", (ase_units.Hartree / ase_units.Bohr, 1, -1)),
        ("ha bohr**-1", (ase_units.Hartree / ase_units.Bohr, 1, -1)),
        ("eV/Ang/Ang/Ang", (1.0, 1, -3)),
        ("meV/Å^3", (1e-3, 1, -3)),
        ("GPa", (ase_units.GPa, 1, -3)),
        (27.2, (27.2, 0, 0)),
        ("1", (1.0, 0, 0)),
    ],
)
def test_units_as_files_state_them(text: str, expected: tuple[float, int, int]):
    unit = parse_unit(text)
    assert unit.factor == pytest.approx(expected[0], rel=1e-12)
    assert unit[1:] == expected[1:]


@pytest.mark.parametrize(
    "text", ["a.u.", "eV/atom", "", "__import__('os')", "eV/0", "eV**eV", "eV**1000", "(" * 300]
)
def test_what_is_no_unit_is_named(text: str):
    with pytest.raises(DataError, match="unknown unit"):
        parse_unit(text)
