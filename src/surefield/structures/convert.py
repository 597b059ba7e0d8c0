"""Labels of other programs' units and signs, as copies of the structures in eV, Å and ASE's sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import DataError, nearest
from surefield.structures.label_sources import without_labels
from surefield.structures.labels import DIAGONAL_STRESS, Mapped, resolve_labels
from surefield.structures.read import Frames, Source, read_frames

__all__ = ["convert_labels"]

_SIGNS: Mapping[str, Literal[1, -1]] = {"tension": 1, "compression": -1}


def convert_labels(
    source: Source,
    *,
    energy_unit: str = "eV",
    length_unit: str = "Å",
    stress_unit: str | None = None,
    stress_sign: str = "tension",
    voigt_order: str = "xx yy zz yz xz xy",
    mapping: Mapped | None = None,
) -> Frames:
    """Copies of structures whose labels are ASE results: eV, eV/Å, eV/Å^3, stress positive in tension.

    Args:
        source: files or structures; positions are in Å.
        energy_unit: of energies, such as 'eV', 'Hartree', 'kcal/mol'.
        length_unit: forces are in energy_unit/length_unit.
        stress_unit: such as 'bar', 'kbar', 'GPa', 'eV/Å^3'; energy_unit/length_unit^3 by default.
        stress_sign: 'tension' where positive means tension (ASE), 'compression' where it means compression
            (FitSNAP, VASP).
        voigt_order: of stresses with six numbers.
        mapping: kind of label to key, see `resolve_labels`.

    Raises:
        DataError: an unknown unit or sign, or labels that `resolve_labels` refuses.
    """
    if stress_sign not in _SIGNS:
        raise DataError(f"unknown stress_sign {stress_sign!r}; {nearest(stress_sign, _SIGNS)}")
    frames = read_frames(source)
    units = {"energy": energy_unit, "length": length_unit}
    if stress_unit is not None:
        units["stress"] = stress_unit
    labels, _ = resolve_labels(
        frames, mapping, units, (), stress_sign=_SIGNS[stress_sign], voigt_order=voigt_order
    )
    copies = []
    for atoms, label in zip(frames, labels, strict=True):
        copy, results = without_labels(atoms), label.results()
        if atoms.info.get(DIAGONAL_STRESS) and "stress" in results:
            results["stress"] = np.nan_to_num(results["stress"])  # the entry says which count
        copy.calc = SinglePointCalculator(copy, **results)
        copies.append(copy)
    return Frames(tuple(copies), frames.origins)
