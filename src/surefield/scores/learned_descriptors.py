"""Features that a potential has learned, as descriptors of atoms for scores of environments."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from surefield.potentials.evaluate import neighborhoods_of
from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.sensitivity.rows import site_features
from surefield.structures.read import Source, read_frames

__all__ = ["with_site_features"]


def with_site_features(
    potential: Potential | HasPotential, frames: Source, key: str = "descriptors"
) -> list[Atoms]:
    """Copies of structures with what goes into the last layer of a potential for each atom.

    Scores of environments (`QUESTSEfficiencyScore` and others) then work on them as on any descriptor, with a
    bandwidth that fits (`suggest_bandwidth`). So do they for models of other packages, as `JaxPotential` or
    `TorchLastLayer`, or with arrays that were put into `atoms.arrays` by any other way. Elements are told
    apart as far as the features do.

    Args:
        potential: with a linear last layer; an uncertainty around one will do.
        frames: structures, or files of them; not changed.
        key: of `atoms.arrays`, (n_atoms, n_site_features) float64.

    Raises:
        DataError: a structure that cannot be computed, see `check_geometry`.
        PotentialError: unknown element, or no linear last layer.
    """
    plain = as_potential(potential)
    structures = read_frames(frames)
    copies = [atoms.copy() for atoms in structures]
    for atoms, copy in zip(structures, copies, strict=True):
        copy.calc = atoms.calc
    for index, rows in site_features(plain.last_layer(), neighborhoods_of(plain, structures)):
        copies[index].arrays[key] = np.asarray(rows, np.float64)
    return copies
