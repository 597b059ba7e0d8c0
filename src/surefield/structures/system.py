"""Coordinates of one system of fixed size, images of it brought near to each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from jaxtyping import Float

from surefield.errors import DataError

__all__ = ["check_system", "image_coordinates", "periodic_cell"]

#: Cells that differ by less are the same, Å.
_SAME_CELL = 1e-6


def image_coordinates(
    images: Sequence[Atoms], reference: Atoms, names: Sequence[str]
) -> Float[np.ndarray, "n_images n_coordinates"]:
    """The 3N coordinates of each image, in file order, Å.

    Args:
        images: images of one system.
        reference: each atom is brought to the periodic copy nearest to its place here.
        names: of the images, for messages.

    Raises:
        DataError: an image of another system: atoms, order of elements, cell or pbc.
    """
    pbc, cell = np.asarray(reference.pbc, bool), periodic_cell(reference)
    rows = []
    for atoms, name in zip(images, names, strict=True):
        check_system(atoms, reference, name)
        shift = np.linalg.solve(cell.T, (atoms.positions - reference.positions).T).T
        rows.append((atoms.positions - np.where(pbc, np.round(shift), 0.0) @ cell).ravel())
    return np.array(rows).reshape(len(rows), 3 * len(reference))


def periodic_cell(atoms: Atoms) -> Float[np.ndarray, "3 3"]:
    """Periodic vectors of a cell, Å; vectors of other directions are replaced by unit vectors across."""
    pbc = np.asarray(atoms.pbc, bool)
    return complete_cell(np.where(pbc[:, None], atoms.cell.array, 0.0)) if pbc.any() else np.eye(3)


def check_system(atoms: Atoms, reference: Atoms, name: object) -> None:
    """Raise `DataError` unless a structure is an image of the system: atoms, order of elements, cell, pbc."""
    if len(atoms) != len(reference):
        formula = reference.get_chemical_formula("reduce")
        raise DataError(f"{name} has {len(atoms)} atoms, the model was made for {len(reference)} ({formula})")
    fix = "an image-centred model is for one system; atom-centred ones take any"
    if not np.array_equal(atoms.numbers, reference.numbers):
        got, expected = (a.get_chemical_formula("reduce") for a in (atoms, reference))
        what = f"{name} has other elements, or another order of atoms"
        raise DataError(what, got=got, expected=expected, fix=fix)
    same_cell = np.abs(atoms.cell.array - reference.cell.array).max() <= _SAME_CELL
    if not (np.array_equal(atoms.pbc, reference.pbc) and (same_cell or not reference.pbc.any())):
        got, expected = (f"{a.cell.array.tolist()} with pbc {a.pbc.tolist()}" for a in (atoms, reference))
        raise DataError(f"{name} has another cell", got=got, expected=expected, fix=fix)
