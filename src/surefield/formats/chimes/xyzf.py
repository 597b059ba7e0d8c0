"""Training trajectories of chimes_lsq, `.xyzf`: structures with forces, stress and energy in its units."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols

from surefield.descriptors.chimes.settings import EV_PER_KCAL_MOL
from surefield.errors import DataError
from surefield.files import write_atomic
from surefield.formats.chimes.text_files import Lines, read_text
from surefield.structures.labels import DIAGONAL_STRESS, Mapped, resolve_labels
from surefield.structures.read import Source, read_frames

__all__ = ["GPA_PER_KCAL_MOL_A3", "read_xyzf", "write_xyzf"]

#: chimes_lsq's own conversions: hartree/bohr to kcal/mol/Å, and kcal/mol/Å^3 to GPa.
KCAL_MOL_A_PER_HARTREE_BOHR: Final = 627.50960803 * 1.889725989
GPA_PER_KCAL_MOL_A3: Final = 6.9476955
#: Stress components and energies in a comment line, by the number of words behind the cell.
_LABELS: Final = {0: (0, 0), 1: (0, 1), 3: (3, 0), 4: (3, 1), 6: (6, 0), 7: (6, 1)}


def read_xyzf(path: str | Path, n_frames: int | None = None) -> list[Atoms]:
    """Read structures with labels in eV, eV/Å, eV/Å^3 (ASE's sign), periodic in three directions.

    The comment line has `lx ly lz`, or `NON_ORTHO` (`NON-ORTHO`) and nine numbers; then the stress in GPa,
    positive in compression (xx yy zz or xx yy zz xy xz yz), and the energy in kcal/mol, each if it is
    there. Lines of atoms have symbol, x, y, z in Å and the force in hartree/bohr. Where only xx, yy and zz
    are given, `info['stress_is_diagonal']` is set, and the others are no labels.

    Args:
        path: the file, which may be packed with xz.
        n_frames: how many structures are read; all by default.

    Raises:
        DataError: no such file, or a malformed line; the message has its number.
    """
    lines = Lines(read_text(path), Path(path).name, comments=False)
    frames = []
    while lines.peek() and (n_frames is None or len(frames) < n_frames):
        n = lines.count(lines.next("number of atoms"))
        cell, stress, energy = _comment(lines)
        symbols, numbers = [], np.empty((n, 6))
        for row in numbers:
            words = lines.next("symbol, x, y, z and three components of the force").split()
            if len(words) != 7 or words[0] not in chemical_symbols[1:]:
                raise lines.error("unusable atom", "symbol, x, y, z and three components of the force")
            symbols.append(words[0])
            row[:] = lines.numbers(words[1:], "six numbers")
        atoms = Atoms(symbols, numbers[:, :3], cell=cell, pbc=True)
        labels: dict[str, Any] = {"forces": numbers[:, 3:] * (KCAL_MOL_A_PER_HARTREE_BOHR * EV_PER_KCAL_MOL)}
        if len(energy):
            labels["energy"] = energy[0] * EV_PER_KCAL_MOL
        if len(stress):
            xx, yy, zz, xy, xz, yz = [*stress, 0.0, 0.0, 0.0][:6]
            labels["stress"] = -np.array([xx, yy, zz, yz, xz, xy]) * (EV_PER_KCAL_MOL / GPA_PER_KCAL_MOL_A3)
        if len(stress) == 3:
            atoms.info[DIAGONAL_STRESS] = True
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames


def write_xyzf(path: str | Path, source: Source, labels: Mapped | None = None) -> None:
    """Write structures with their forces, and stress and energy where they have them; see `read_xyzf`.

    Args:
        path: the file.
        source: structures that are periodic in three directions.
        labels: keys of the labels, kind to key.

    Raises:
        DataError: a structure has no forces, or is not periodic; see also `resolve_labels`.
    """
    frames = read_frames(source)
    text = []
    for i, (atoms, label) in enumerate(
        zip(frames, resolve_labels(frames, labels, require=["forces"])[0], strict=True)
    ):
        cell = atoms.cell.array
        if not atoms.pbc.all() or abs(np.linalg.det(cell)) < 1e-6:
            raise DataError(
                "xyzf holds structures that are periodic in three directions", where=frames.origin(i)
            )
        skewed = np.any(cell != np.diag(np.diag(cell)))
        numbers = [*(cell.ravel() if skewed else np.diag(cell))]
        if label.stress is not None:
            stress = -label.stress[[0, 1, 2, 5, 4, 3]] * (GPA_PER_KCAL_MOL_A3 / EV_PER_KCAL_MOL)
            numbers += [*stress[: 3 if atoms.info.get(DIAGONAL_STRESS) else 6]]
        if label.energy is not None:
            numbers.append(label.energy / EV_PER_KCAL_MOL)
        head = ["NON_ORTHO"] if skewed else []
        text += [str(len(atoms)), " ".join([*head, *(repr(float(x)) for x in numbers)])]
        forces = label.forces / (KCAL_MOL_A_PER_HARTREE_BOHR * EV_PER_KCAL_MOL)
        for symbol, row in zip(atoms.symbols, np.hstack([atoms.positions, forces]).tolist(), strict=True):
            text.append(" ".join([symbol, *map(repr, row)]))
    write_atomic(path, "\n".join([*text, ""]))


def _comment(lines: Lines) -> tuple[np.ndarray, list[float], list[float]]:
    """Cell, stress and energy of a comment line."""
    expected = "lx ly lz or NON_ORTHO and nine numbers; then three or six stresses, and the energy, if any"
    words = lines.next(expected).split()
    skewed = words[0].upper() in ("NON_ORTHO", "NON-ORTHO")  # the program and its guide
    numbers = lines.numbers(words[skewed:], expected)
    n_cell = 9 if skewed else 3
    rest = numbers[n_cell:]
    if len(numbers) < n_cell or len(rest) not in _LABELS:
        raise lines.error("unusable comment line", expected)
    n_stress, _ = _LABELS[len(rest)]
    cell = np.array(numbers[:9]).reshape(3, 3) if skewed else np.diag(numbers[:3])
    if abs(np.linalg.det(cell)) < 1e-6:
        raise lines.error("the cell has no volume", expected)
    return cell, rest[:n_stress], rest[n_stress:]
