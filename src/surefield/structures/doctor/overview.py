"""What a data set is, in a few lines: elements, sizes, cells, ranges of its labels, where these come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols

from surefield import units
from surefield.keys import CONFIG_TYPE
from surefield.structures.labels import Labels
from surefield.structures.read import Frames
from surefield.structures.tensors import volume

__all__ = ["overview"]

_CELLS = ("molecules", "periodic in one direction", "slabs (periodic in two directions)", "crystals")
_MOST = 6


def overview(frames: Frames, labels: Sequence[Labels], note: str = "") -> dict[str, str]:
    """Lines about a data set by their titles.

    Args:
        frames: structures.
        labels: theirs.
        note: which keys the labels were taken from.
    """
    if not len(frames):
        return {}
    atoms_of: Counter[int] = Counter()
    within: Counter[int] = Counter()
    for atoms in frames:
        counts = Counter(atoms.numbers.tolist())
        atoms_of.update(counts)
        within.update(counts.keys())
    elements = ", ".join(
        f"{chemical_symbols[z]} ({atoms_of[z]} atoms in {within[z]} structures)" for z in sorted(atoms_of)
    )
    sizes = np.array([len(atoms) for atoms in frames])
    formulas = Counter(atoms.get_chemical_formula() for atoms in frames)
    kinds = Counter(int(atoms.pbc.sum()) for atoms in frames)
    dense = [volume(a.cell.array) / len(a) for a in frames if len(a) and a.pbc.all()]
    cells = ", ".join(f"{kinds[k]} {_CELLS[k]}" for k in sorted(kinds))
    lines = {
        "elements": elements or "none",
        "atoms": f"{_range(sizes, '', 'd')} per structure; {len(formulas)} compositions: {_common(formulas)}",
        "cells": cells + (f", {_range(np.array(dense), ' Å^3/atom')}" if dense else ""),
    }
    groups = Counter(str(atoms.info[CONFIG_TYPE]) for atoms in frames if CONFIG_TYPE in atoms.info)
    if groups:
        lines["config_type"] = _common(groups)
    energies = [
        b.energy / len(a) for a, b in zip(frames, labels, strict=True) if b.energy is not None and len(a)
    ]
    if energies:
        lines["energy"] = _range(np.array(energies), " eV/atom")
    forces = [np.ravel(b.forces) for b in labels if b.forces is not None]
    if forces:
        sizes_of = np.concatenate(forces)
        rms = np.sqrt(np.nanmean(sizes_of**2)) if np.isfinite(sizes_of).any() else np.nan
        lines["forces"] = f"components up to {_largest(sizes_of):.4g} eV/Å, rms {rms:.3g}"
    stresses = [np.ravel(b.stress) for b in labels if b.stress is not None]
    if stresses:
        gpa = np.concatenate(stresses) / units.EV_A3_PER_GPA
        lines["stress"] = f"{_range(gpa, ' GPa')} (positive is tensile)"
    return lines | ({"labels": note} if note else {})


def _range(values: np.ndarray, unit: str, form: str = ".4g") -> str:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "not finite"
    low, high = finite.min(), finite.max()
    return f"{low:{form}}{unit}" if low == high else f"{low:{form}} to {high:{form}}{unit}"


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _common(counts: Counter[str]) -> str:
    text = ", ".join(f"{name} ({count})" for name, count in counts.most_common(_MOST))
    return text + (f", and {len(counts) - _MOST} more" if len(counts) > _MOST else "")
