"""Descriptors of atoms by name, for scores of environments: learned features, QUESTS, or what is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from ase import Atoms

from surefield.descriptors.quests import QUESTSDescriptor
from surefield.errors import check_known
from surefield.potentials.evaluate import neighborhoods_of
from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.sensitivity.rows import site_features
from surefield.structures.read import Source, read_frames

__all__ = ["POTENTIAL", "QUESTS", "with_descriptors", "with_site_features"]

#: Names of descriptors that are computed; others are keys of `atoms.arrays`.
POTENTIAL: Final = "potential"
QUESTS: Final = "quests"
_KEY: Final = "descriptors"


def with_descriptors(
    frames: list[Atoms],
    name: str,
    potential: Callable[[], Potential | HasPotential],
    settings: Mapping[str, float],
) -> tuple[list[Atoms], str]:
    """Structures with descriptors, and the key of these in `atoms.arrays`.

    Args:
        frames: structures; not changed.
        name: 'potential' for last-layer features, 'quests', or a key of arrays that are there.
        potential: gives the potential, where it is needed.
        settings: of `QUESTSDescriptor`.

    Raises:
        ConfigError: an unknown setting, or one out of range.
        DataError: a structure that cannot be computed, see `check_geometry`.
    """
    if name == POTENTIAL:
        return with_site_features(potential(), frames, _KEY), _KEY
    if name == QUESTS:
        arguments: dict[str, Any] = dict(settings)
        if "num_nearest_neighbors" in arguments:
            arguments["num_nearest_neighbors"] = int(arguments["num_nearest_neighbors"])
        check_known(arguments, ("num_nearest_neighbors", "cutoff"), "unknown key {} in descriptor_args")
        return QUESTSDescriptor(**arguments).described(frames), QUESTSDescriptor.key
    return frames, name


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
