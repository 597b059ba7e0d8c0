"""Units at the borders of the package; inside everything is eV, Å, eV/Å, eV/Å^3, e, K.

Values are those of `ase.units`, so that no two places disagree in the last digits.
"""

from __future__ import annotations

from typing import Final

from ase import units as _ase

EV_PER_HARTREE: Final[float] = _ase.Hartree
EV_PER_RYDBERG: Final[float] = _ase.Rydberg
EV_PER_KCAL_MOL: Final[float] = _ase.kcal / _ase.mol
EV_PER_KJ_MOL: Final[float] = _ase.kJ / _ase.mol
ANGSTROM_PER_BOHR: Final[float] = _ase.Bohr
EV_A3_PER_GPA: Final[float] = _ase.GPa
EV_A3_PER_KBAR: Final[float] = 0.1 * _ase.GPa
EV_A3_PER_BAR: Final[float] = 1e-4 * _ase.GPa
BOLTZMANN: Final[float] = _ase.kB

#: Energy units a data set may be declared in (`units: {energy: ...}`), in eV.
ENERGY: Final[dict[str, float]] = {
    "eV": 1.0,
    "meV": 1e-3,
    "Hartree": EV_PER_HARTREE,
    "Rydberg": EV_PER_RYDBERG,
    "kcal/mol": EV_PER_KCAL_MOL,
    "kJ/mol": EV_PER_KJ_MOL,
}
#: Length units, in Å.
LENGTH: Final[dict[str, float]] = {"Å": 1.0, "A": 1.0, "Angstrom": 1.0, "Bohr": ANGSTROM_PER_BOHR, "nm": 10.0}
#: Stress units, in eV/Å^3.
STRESS: Final[dict[str, float]] = {
    "eV/Å^3": 1.0,
    "eV/A^3": 1.0,
    "GPa": EV_A3_PER_GPA,
    "kbar": EV_A3_PER_KBAR,
    "bar": EV_A3_PER_BAR,
}
