"""ASE's own stores (.db, .traj): what they would drop (extra arrays, uncertainties) travels as data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.structures.extxyz import is_per_atom
from surefield.structures.label_sources import results_of

__all__ = ["read_database", "restore_arrays", "write_database", "write_trajectory"]

#: Arrays that every format of ASE stores itself.
_OWN: Final = {"numbers", "positions", "tags", "momenta", "masses", "initial_magmoms", "initial_charges"}
#: Entry of info under which a trajectory holds the other arrays.
_ARRAYS: Final = "surefield_arrays"


def read_database(path: str | Path) -> list[Atoms]:
    """Read all rows; key-value pairs of a row become info, as do the entries that `write_database` stored."""
    frames = []
    for row in ase.db.connect(path).select():
        atoms = row.toatoms()
        data = row.data
        stored = set(data) == {"info", "arrays"}
        atoms.info = dict(row.key_value_pairs) | dict(data["info"] if stored else data)
        if stored:
            atoms.info[_ARRAYS] = data["arrays"]
        restore_arrays(atoms)
        frames.append(atoms)
    return frames


def write_database(path: str | Path, frames: Sequence[Atoms]) -> None:
    """Write rows; info and extra arrays go to each row's data, the only place where a database keeps them."""
    database: Any = ase.db.connect(path, append=False)
    with database:  # one transaction
        for atoms in frames:
            row, arrays = _packed(atoms)
            database.write(row, data={"info": row.info, "arrays": arrays})


def write_trajectory(path: str | Path, frames: Sequence[Atoms]) -> None:
    """Write a trajectory; extra arrays travel in info."""
    images = []
    for atoms in frames:
        image, arrays = _packed(atoms)
        if arrays:
            image.info[_ARRAYS] = arrays
        images.append(image)
    ase.io.write(path, images, format="traj")


def restore_arrays(atoms: Atoms) -> None:
    """Put the extra arrays of a freshly read structure back in their place."""
    for name, value in atoms.info.pop(_ARRAYS, {}).items():
        atoms.set_array(name, np.asarray(value))


def _packed(atoms: Atoms) -> tuple[Atoms, dict[str, np.ndarray]]:
    """Copy with the results that ASE knows, the other results in info; and the arrays that ASE would drop."""
    packed = atoms.copy()
    results = results_of(atoms)
    known = {k: v for k, v in results.items() if k in all_properties}
    if known:
        packed.calc = SinglePointCalculator(packed, **known)
    arrays = {k: v for k, v in atoms.arrays.items() if k not in _OWN}
    info = dict(atoms.info)
    for name, value in results.items():
        if name not in all_properties:
            (arrays if is_per_atom(name, np.asarray(value), len(atoms)) else info)[name] = value
    packed.info = {k: v.item() if isinstance(v, np.generic) else v for k, v in info.items()}
    return packed, arrays
