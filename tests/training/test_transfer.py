"""A trained potential on another real set: the same number of epochs gives less error than anew."""

from __future__ import annotations

import pytest

from surefield.potentials import MomentNetwork
from surefield.structures.read import read_frames
from surefield.training import train

SETTINGS = {
    "epochs": 4,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "solved_factor": 0.3,
    "radial_factor": 1.0,
    "progress": False,
}


def _network(species, cutoff):
    return MomentNetwork(species, cutoff=cutoff, n_basis=5, n_channels=4, n_triple=2, hidden=(16,))


def _errors(start, species, cutoff, frames, held):
    """Validation errors of a new potential and of the continued one."""
    new = train(_network(species, cutoff), frames, held, **SETTINGS)
    more = train(None, frames, held, start_from=start, **SETTINGS)
    return new.validation_errors, more.validation_errors


@pytest.mark.slow
def test_acetylacetone_from_another_molecule(shared):
    """Five labels of a molecule, after sixty of a larger one of the same elements and nitrogen."""
    first, second = (read_frames(shared / "data" / name / "train_300K.xyz.xz") for name in ("3bpa", "acac"))
    atoms = read_frames(shared / "data" / "3bpa" / "iso_atoms.xyz.xz")
    free = read_frames(shared / "data" / "acac" / "isolated_atoms.xyz.xz")
    start = train(
        _network(["C", "H", "N", "O"], 4.0), [*first[:60], *atoms], 0.1, **SETTINGS | {"epochs": 30}
    ).potential
    new, more = _errors(start, ["C", "H", "O"], 4.0, [*second[:5], *free], second[400:420])
    assert more.forces_rmse < 0.9 * new.forces_rmse
