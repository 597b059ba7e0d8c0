"""Units at the borders of the package; inside everything is eV, Å, eV/Å, eV/Å^3, e, K.

Values are those of `ase.units`, so that no two places disagree in the last digits.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from ase import units as _ase

from surefield.errors import DataError, nearest

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


#: Tables of the units that labels of a file may be declared in.
DECLARED: Final = {"energy": ENERGY, "length": LENGTH, "stress": STRESS}


def check_declared(declared: Mapping[str, str]) -> None:
    """Check what a user says of a file, such as `{"energy": "kcal/mol"}`.

    Raises:
        DataError: an unknown entry, or an unknown unit.
    """
    for name, unit in declared.items():
        if name not in DECLARED:
            raise DataError(f"unknown entry {name!r} of units; {nearest(name, DECLARED)}")
        if unit not in DECLARED[name]:
            raise DataError(f"unknown {name} unit {unit!r}; {nearest(unit, DECLARED[name])}")


class Unit(NamedTuple):
    """A unit of energies, lengths and their products.

    Attributes:
        factor: its value in eV and Å.
        energy: power of an energy in it.
        length: power of a length in it.
    """

    factor: float
    energy: int = 0
    length: int = 0


_NAMES: Final = {
    **{name: Unit(factor, energy=1) for name, factor in ENERGY.items() if "/" not in name},
    **{name: Unit(factor, length=1) for name, factor in LENGTH.items()},
    **{name: Unit(factor, 1, -3) for name, factor in STRESS.items() if "/" not in name},
    "kcal": Unit(_ase.kcal, energy=1),
    "cal": Unit(1e-3 * _ase.kcal, energy=1),
    "kJ": Unit(_ase.kJ, energy=1),
    "mol": Unit(_ase.mol),
    "Ha": Unit(EV_PER_HARTREE, energy=1),
    "Ry": Unit(EV_PER_RYDBERG, energy=1),
    "Ang": Unit(1.0, length=1),
    "a0": Unit(ANGSTROM_PER_BOHR, length=1),
    "Pascal": Unit(_ase.Pascal, 1, -3),
}
_BY_NAME: Final = {name.lower(): unit for name, unit in _NAMES.items()}


def parse_unit(text: str | float) -> Unit:
    """Read a unit such as `kcal/mol/Ang`, `Hartree/Bohr^3`, `kJ/(mol*nm)`, or a number of ASE's units.

    Raises:
        DataError: a name that is no unit of energy, length or pressure, or no product of units.
    """
    source = str(text).replace("^", "**").replace("·", "*").replace("³", "**3").strip()
    source = re.sub(r"(?<=[\w)])\s+(?=[\w(])", "*", source)
    try:
        return _unit(ast.parse(source, mode="eval").body)
    except (SyntaxError, ValueError, KeyError, OverflowError, RecursionError, MemoryError, ZeroDivisionError):
        known = ", ".join(_NAMES)
        raise DataError(f"unknown unit {text!r}", expected=f"products of {known}") from None


def _unit(node: ast.expr) -> Unit:
    match node:
        case ast.Name(name):
            return _BY_NAME[name.lower()]
        case ast.Constant(int() | float() as number):
            return Unit(float(number))
        case ast.BinOp(left, ast.Mult(), right):
            a, b = _unit(left), _unit(right)
            return Unit(a.factor * b.factor, a.energy + b.energy, a.length + b.length)
        case ast.BinOp(left, ast.Div(), right):
            a, b = _unit(left), _unit(right)
            return Unit(a.factor / b.factor, a.energy - b.energy, a.length - b.length)
        case ast.BinOp(base, ast.Pow(), exponent):
            a, power = _unit(base), ast.literal_eval(exponent)
            if not isinstance(power, int) or abs(power) > 9:
                raise ValueError("no power of a unit")
            return Unit(a.factor**power, a.energy * power, a.length * power)
    raise ValueError("no product of units")
