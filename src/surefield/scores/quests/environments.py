"""Environments of structures: descriptors of their atoms, all or those of a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from ase import Atoms
from jaxtyping import Bool, Float

from surefield.errors import DataError
from surefield.scoring.array_files import is_path, load_array
from surefield.scoring.descriptor_arrays import descriptors_of
from surefield.scoring.results import check_finite_rows

__all__ = ["MASK_KEY", "environments_of", "reference_environments", "selected_atoms"]

#: Name of the array that says which atoms count.
MASK_KEY: Final = "selection_mask"


def environments_of(
    frames: Sequence[Atoms], descriptors_key: str, apply_mask: bool
) -> Float[np.ndarray, "n_environments n_features"]:
    """Descriptors of all atoms, or of those that are selected, structure by structure.

    Raises:
        DataError: descriptors or masks that are missing or unusable, or no atom selected.
    """
    rows = descriptors_of(frames, descriptors_key)
    if apply_mask:
        rows = [own[mask] for own, mask in zip(rows, selected_atoms(frames), strict=True)]
    joined = np.concatenate(rows)
    if not len(joined):
        raise DataError("no atom is selected", got=f"arrays[{MASK_KEY!r}] of zeros in every configuration")
    return joined


def selected_atoms(frames: Sequence[Atoms]) -> list[Bool[np.ndarray, " n_atoms"]]:
    """Masks of structures, from `arrays['selection_mask']`.

    Raises:
        DataError: no mask, another shape, or values other than 0 and 1; with the configuration.
    """
    masks = []
    for i, atoms in enumerate(frames):
        where = f"configuration {i}"
        if MASK_KEY not in atoms.arrays:
            there = f"the keys {', '.join(sorted(atoms.arrays))}"
            raise DataError(f"apply_mask needs arrays[{MASK_KEY!r}]", where=where, got=there)
        mask = atoms.arrays[MASK_KEY]
        if mask.shape != (len(atoms),):
            raise DataError(f"arrays[{MASK_KEY!r}] must be one per atom", where=where, got=mask.shape)
        usable = np.isin(mask, (0, 1)) if mask.dtype.kind in "biuf" else np.zeros(len(mask), bool)
        if not usable.all():
            atom = int(np.argmin(usable))
            where = f"{where}, atom {atom}"
            raise DataError(f"arrays[{MASK_KEY!r}] must be 0 or 1", where=where, got=repr(mask[atom]))
        masks.append(mask.astype(bool))
    return masks


def reference_environments(
    reference_set: Any, descriptors_key: str, apply_mask: bool
) -> Float[np.ndarray, "n_environments n_features"]:
    """Rows of a reference: an array, a file of one, or structures with descriptors.

    Raises:
        DataError: none of these, empty, or not finite.
    """
    if isinstance(reference_set, Atoms):
        reference_set = [reference_set]
    listed = isinstance(reference_set, Sequence) and not is_path(reference_set)
    if listed and not len(reference_set):
        raise DataError("the reference_set is empty")
    if listed and all(isinstance(atoms, Atoms) for atoms in reference_set):
        return environments_of(reference_set, descriptors_key, apply_mask)
    rows = load_array(reference_set, "reference_set", mmap=True)
    if rows.ndim != 2 or not rows.size:
        expected = "(n_environments, n_features), a file of it, or structures"
        raise DataError("unusable reference_set", got=rows.shape, expected=expected)
    rows = np.asarray(rows, np.float64)
    check_finite_rows(rows, "reference_set")
    return rows
