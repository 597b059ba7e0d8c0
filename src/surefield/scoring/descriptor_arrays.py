"""Descriptors that structures bring with them in `atoms.arrays`, checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from jaxtyping import Float64

from surefield.errors import DataError
from surefield.scoring.results import check_finite_rows

__all__ = ["descriptors_of"]


def descriptors_of(
    frames: Sequence[Atoms], key: str, length: int | None = None
) -> list[Float64[np.ndarray, "n_atoms n_features"]]:
    """Descriptors of the atoms of each structure.

    Args:
        frames: not changed.
        key: of `atoms.arrays`; one number per atom is a descriptor of length 1.
        length: that of the descriptors with which they are compared; None: that of the first structure.

    Raises:
        DataError: no such array (the message lists those there are), one that is no numbers or not finite
            (with configuration and atom), or of another length (both are named).
    """
    rows = []
    for i, atoms in enumerate(frames):
        where = f"configuration {i}"
        if key not in atoms.arrays:
            there = ", ".join(sorted(atoms.arrays))
            raise DataError(f"no descriptors under arrays[{key!r}]", where=where, got=f"the keys {there}")
        array = atoms.arrays[key]
        if array.dtype.kind not in "biuf" or array.ndim > 2:
            got = f"{array.dtype} {array.shape}"
            raise DataError(f"arrays[{key!r}] must be (n_atoms, n_features) numbers", where=where, got=got)
        own = np.asarray(array, np.float64).reshape(len(atoms), -1)
        length = own.shape[1] if length is None else length
        if own.shape[1] != length:
            what = f"descriptors under arrays[{key!r}] have another length"
            raise DataError(what, where=where, got=own.shape[1], expected=length)
        check_finite_rows(own, f"arrays[{key!r}]", i)
        rows.append(own)
    return rows
