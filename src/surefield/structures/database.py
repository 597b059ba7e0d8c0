"""ASE databases (.db): info and extra arrays travel in each row's data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.structures.extxyz import results_of

__all__ = ["read_database", "write_database"]


def read_database(path: str | Path) -> list[Atoms]:
    """Read all rows; key-value pairs of a row become info, as do the entries that `write_database` stored."""
    found = []
    for row in ase.db.connect(path).select():
        atoms = row.toatoms()
        data = row.data
        stored = set(data) == {"info", "arrays"}
        atoms.info = dict(row.key_value_pairs) | dict(data["info"] if stored else data)
        for name, value in (data["arrays"] if stored else {}).items():
            atoms.set_array(name, np.asarray(value))
        found.append(atoms)
    return found


def write_database(path: str | Path, frames: Sequence[Atoms]) -> None:
    """Info and extra arrays go to each row's data, the only place where a database keeps them."""
    own = {"numbers", "positions", "tags", "momenta", "masses", "initial_magmoms", "initial_charges"}
    database: Any = ase.db.connect(path, append=False)
    with database:  # one transaction
        for atoms in frames:
            row = atoms.copy()
            results = results_of(atoms)
            known = {k: v for k, v in results.items() if k in all_properties}
            if known:
                row.calc = SinglePointCalculator(row, **known)
            info = {k: v for k, v in results.items() if k not in all_properties} | atoms.info
            info = {k: v.item() if isinstance(v, np.generic) else v for k, v in info.items()}
            arrays = {k: v for k, v in atoms.arrays.items() if k not in own}
            database.write(row, data={"info": info, "arrays": arrays})
