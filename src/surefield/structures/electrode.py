"""Electrode potential, excess electrons and grand-canonical energy of a structure, wherever they stand.

Phi is the electrode potential (work function) in V on the absolute scale, N_e the number of excess electrons,
Omega = E + Phi N_e the grand-canonical energy; a charge is -N_e. Chen, El Khatib, Lindgren, Willard, Medford,
Peterson, npj Comput. Mater. 9, 73 (2023), doi 10.1038/s41524-023-01007-6.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from ase import Atoms

from surefield.errors import DataError
from surefield.structures.label_sources import keys_present, results_of
from surefield.structures.labels import Labels
from surefield.structures.read import Frames

__all__ = [
    "ABSOLUTE_SCALE",
    "INTERFACE",
    "PHI",
    "POTENTIAL_ALIASES",
    "SHE",
    "check_scale",
    "electrode_potential",
    "excess_electrons",
    "from_she",
    "grand_canonical_energy",
    "grand_canonical_labels",
    "stated_interface",
    "stated_potential",
]

#: Inputs of a structure: its electrode potential, V; the height of its metal surface, Å, NaN if not stated.
PHI: Final = "electrode_potential"
INTERFACE: Final = "interface"
#: Standard hydrogen electrode on the absolute scale, V.
SHE: Final = 4.4
#: Potentials outside are no work functions of electrodes, V.
ABSOLUTE_SCALE: Final = (1.0, 9.0)
#: Two sources may differ by this much, V or electrons.
_AGREE: Final = 1e-6
#: Names of the electrode potential in `info`.
POTENTIAL_ALIASES: Final = ("electrode_potential", "work_function", "workfunction")
_ELECTRON_ALIASES: Final = ("excess_electrons", "ne")


def from_she(u: float, reference: float = SHE) -> float:
    """Electrode potential on the absolute scale, V, from one against the standard hydrogen electrode.

    Args:
        u: potential against SHE, V.
        reference: SHE on the absolute scale, V.
    """
    return u + reference


def electrode_potential(atoms: Atoms, where: object, stated: float | None = None) -> float:
    """Electrode potential of a structure in V on the absolute scale; NaN where it has none.

    Read in this order: `stated`; `info` under electrode_potential, work_function or workfunction; the
    calculator's results and parameters under electrode_potential.

    Args:
        atoms: the structure; it is not changed.
        where: for messages, such as "frame 7 of train.xyz".
        stated: potential of the call, V.

    Raises:
        DataError: two sources differ by more than 1e-6 V, no number, or outside 1 to 9 V.
    """
    sources = itertools.chain([("electrode_potential=", stated, 1.0)], _potential_sources(atoms))
    phi = _agreed("electrode potential", "V", sources, where)
    if not np.isnan(phi):
        check_scale(phi, where)
    return phi


def _potential_sources(atoms: Atoms) -> Iterator[tuple[str, Any, float]]:
    for key in POTENTIAL_ALIASES:
        yield f"info[{key!r}]", atoms.info.get(key), 1.0
    yield _result(atoms, "electrode_potential")
    yield "calc.parameters['electrode_potential']", _parameters(atoms).get("electrode_potential"), 1.0


def stated_potential(atoms: Atoms) -> Any:
    """What a structure first states as its electrode potential, unchecked; None if nothing."""
    return next((value for _, value, _ in _potential_sources(atoms) if value is not None), None)


def check_scale(phi: float, where: object) -> None:
    """Raise `DataError` unless a potential (V) can be one on the absolute scale."""
    low, high = ABSOLUTE_SCALE
    if not low <= phi <= high:
        raise DataError(
            "electrode potential out of range",
            where=where,
            got=f"{phi:g} V",
            expected=f"{low:g} to {high:g} V on the absolute scale (SHE = {SHE} V)",
            fix="is it measured against SHE? surefield.structures.electrode.from_she converts it",
        )


def excess_electrons(atoms: Atoms, where: object) -> float:
    """Excess electrons of a structure (positive = electrons added); NaN where it states none.

    Read in this order: `info` under excess_electrons, ne, or charge = -N_e; `calc.parameters['sj']`; the
    calculator's results under excess_electrons or ne. The sign is the same everywhere.

    Args:
        atoms: the structure; it is not changed.
        where: for messages, such as "frame 7 of train.xyz".

    Raises:
        DataError: two sources differ by more than 1e-6 electrons, or no number.
    """

    def sources() -> Iterator[tuple[str, Any, float]]:
        for key in _ELECTRON_ALIASES:
            yield f"info[{key!r}]", atoms.info.get(key), 1.0
        yield "-info['charge']", atoms.info.get("charge"), -1.0
        solvated = _parameters(atoms).get("sj")
        if isinstance(solvated, Mapping):
            yield "calc.parameters['sj']['excess_electrons']", solvated.get("excess_electrons"), 1.0
        for key in _ELECTRON_ALIASES:
            yield _result(atoms, key)

    return _agreed("excess electrons", "e", sources(), where)


def grand_canonical_energy(atoms: Atoms, energy: float, where: object, default: float | None = None) -> float:
    """Grand-canonical energy Omega = E + Phi N_e in eV from the energy of a label.

    `info['grand_canonical']` True: the label is Omega; False: it is E and converted; absent: taken as Omega.

    Args:
        atoms: the structure.
        energy: of the label, eV.
        where: for messages.
        default: electrode potential of a structure that states none, V.

    Raises:
        DataError: E has to be converted, and Phi or N_e is missing; see also `electrode_potential`.
    """
    if _says_omega(atoms) is not False:
        return energy
    phi, electrons = electrode_potential(atoms, where), excess_electrons(atoms, where)
    phi = default if np.isnan(phi) and default is not None else phi
    for name, value in (("electrode potential", phi), ("number of excess electrons", electrons)):
        if np.isnan(value):
            raise DataError(
                f"no {name} to turn the energy E into Omega = E + Phi N_e",
                where=where,
                got=f"keys {keys_present(atoms)}",
                fix="info['grand_canonical'] is False; if the energy is Omega already, set it to True",
            )
    return energy + phi * electrons


def grand_canonical_labels(
    frames: Frames, labels: Sequence[Labels], default: float | None = None
) -> tuple[list[Labels], str]:
    """Labels with Omega as energy, and with the excess electrons that structures state.

    Args:
        frames: structures.
        labels: of the structures, with E or Omega as energy; see `grand_canonical_energy`.
        default: electrode potential of structures that state none, V.

    Returns:
        The labels, and a line that says how the energies and the excess electrons were understood.

    Raises:
        DataError: see `grand_canonical_energy` and `excess_electrons`.
    """
    grand = []
    for i, (atoms, label) in enumerate(zip(frames, labels, strict=True)):
        where = frames.origin(i)
        electrons = excess_electrons(atoms, where)
        omega = label.energy
        if omega is not None:
            omega = grand_canonical_energy(atoms, omega, where, default)
        electrons = None if np.isnan(electrons) else electrons
        grand.append(label.replace(energy=omega, excess_electrons=electrons))
    energies = Counter(
        _says_omega(atoms) for atoms, label in zip(frames, labels, strict=True) if label.energy is not None
    )
    meaning = {
        True: "{} are Omega",
        False: "{} were E and are now Omega = E + Phi N_e",
        None: "{} do not say (info['grand_canonical']) and are taken as Omega",
    }
    parts = [meaning[key].format(energies[key]) for key in meaning if energies[key]]
    known = sum(label.excess_electrons is not None for label in grand)
    return grand, f"energies: {', '.join(parts) or 'none'}; excess electrons of {known} structures"


def stated_interface(atoms: Atoms, where: object) -> float:
    """Height of the metal surface that a structure states in `info['interface']`, Å; NaN where it has none.

    Raises:
        DataError: no number.
    """
    return _agreed("interface", "Å", iter([("info['interface']", atoms.info.get("interface"), 1.0)]), where)


def _says_omega(atoms: Atoms) -> bool | None:
    """Whether the energy of a structure is Omega; None: it does not say."""
    said = atoms.info.get("grand_canonical")
    return None if said is None else bool(said)


def _parameters(atoms: Atoms) -> Mapping[str, Any]:
    parameters = getattr(atoms.calc, "parameters", None)
    return parameters if isinstance(parameters, Mapping) else {}


def _result(atoms: Atoms, key: str) -> tuple[str, Any, float]:
    # What a potential has predicted before must not become what it is asked for.
    potential = getattr(atoms.calc, "is_potential", False)
    return f"calc.results[{key!r}]", None if potential else results_of(atoms).get(key), 1.0


def _agreed(what: str, unit: str, sources: Iterator[tuple[str, Any, float]], where: object) -> float:
    """First of several sources (name, value, sign), all of which must agree; NaN where there is none."""
    values: list[tuple[str, float]] = []
    for name, value, sign in sources:
        if value is None:
            continue
        try:
            number = sign * float(value)
        except (TypeError, ValueError):
            number = np.inf
        if np.isinf(number):
            raise DataError(
                f"{what} is no finite number", where=where, got=f"{name} {value!r}", expected=unit
            )
        if not np.isnan(number):
            values.append((name, number))
    for name, number in values[1:]:
        if abs(number - values[0][1]) > _AGREE:
            raise DataError(
                f"two sources of the {what} disagree",
                where=where,
                got=f"{values[0][0]} {values[0][1]:.9g} {unit} and {name} {number:.9g} {unit}",
                fix="keep one of them",
            )
    return values[0][1] if values else np.nan
