from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.db import connect
from ase.io import read, write

import surefield as sf
from surefield import read_frames, write_frames
from surefield.errors import DataError
from surefield.structures.batching import Shape
from surefield.training.dataset import make_batch, prepare
from surefield.training.weights import frame_weights


def pair(**info):
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.8]])
    atoms.info.update(info)
    return atoms


def test_without_weights():
    found = frame_weights(pair(), "frame 0")
    assert found == (1.0, 1.0, None, False)


def test_weights_of_squared_residuals():
    atoms = pair(weight=2.0, energy_weight=0.5)
    atoms.arrays["force_weight"] = np.array([1.0, 0.0])
    found = frame_weights(atoms, "frame 0")
    assert found[:2] == (2.0, 0.5)
    assert found.atoms.tolist() == [1.0, 0.0]
    assert found.relative


def test_weights_of_residuals_are_squared():
    atoms = pair(structure_weight=3.0)
    atoms.arrays["atomic_weights"] = np.array([1.0, 2.0])
    found = frame_weights(atoms, "frame 0")
    assert found.structure == 9.0
    assert found.atoms.tolist() == [1.0, 4.0]
    assert not found.relative


@pytest.mark.parametrize(
    ("info", "arrays", "text"),
    [
        ({"weight": -1.0}, {}, "unusable weight in frame 3"),
        ({"energy_weight": np.nan}, {}, "energy_weight"),
        ({"structure_weight": "x"}, {}, "structure_weight"),
        ({}, {"force_weight": np.array([1.0, -1.0])}, "each of 2 atoms"),
        ({}, {"atomic_weights": np.ones((2, 3))}, "atomic_weights"),
        ({"weight": 1.0, "structure_weight": 1.0}, {}, "two kinds of weights"),
    ],
)
def test_unusable_weights(info, arrays, text):
    atoms = pair(**info)
    atoms.arrays.update(arrays)
    with pytest.raises(DataError, match=text):
        frame_weights(atoms, "frame 3")


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz.xz", "a.db", "a.traj"])
def test_weights_survive_files(tmp_path, name):
    atoms = pair(weight=2.0, energy_weight=0.5)
    atoms.arrays["force_weight"] = np.array([1.0, 0.25])
    write_frames(tmp_path / name, [atoms])
    (back,) = read_frames(tmp_path / name)
    assert frame_weights(back, 0)[:2] == (2.0, 0.5)
    assert frame_weights(back, 0).atoms.tolist() == [1.0, 0.25]


def test_a_trajectory_of_ase_keeps_weights_in_info(tmp_path):
    atoms = pair(weight=2.0, force_weight=[1.0, 0.25])
    write(tmp_path / "a.traj", atoms)
    assert frame_weights(read(tmp_path / "a.traj"), 0).atoms.tolist() == [1.0, 0.25]
    with connect(tmp_path / "b.db") as database:
        database.write(atoms, data=atoms.info)


def test_minibatches_have_the_roots(copper):
    """A weight of the squared residual is the square of that of the residual."""
    first, second = copper[0].copy(), copper[1].copy()
    first.calc, second.calc = copper[0].calc, copper[1].calc
    first.info.update(weight=4.0, energy_weight=0.25)
    first.arrays["force_weight"] = np.array([9.0, *np.zeros(len(first) - 1)])
    second.info["energy_weight"] = 0.0
    data = prepare([first, second], 3.5)
    batch = make_batch(data.samples, Shape(8, 60, 2), np.float64)
    np.testing.assert_allclose(batch.weights["energy"], [1.0, 0.0])
    forces = batch.weights["forces"][: len(first)]
    np.testing.assert_allclose(forces, np.outer([6.0, *np.zeros(len(first) - 1)], np.ones(3)))
    assert [s.trained_energy for s in data.samples] == [True, False]
    assert data.samples[0].trained_atoms.tolist() == [True] + [False] * (len(first) - 1)


def test_spoiled_labels_of_weight_zero_change_nothing(copper, copper_network):
    """Minibatch training and sigma look at the energies and atoms that count, and at nothing else."""

    def frames(spoil):
        found = []
        for atoms in copper:
            copy = atoms.copy()
            forces = atoms.get_forces().copy()
            forces[1:] += spoil
            copy.info.update(REF_energy=atoms.get_potential_energy() + spoil, energy_weight=0.0)
            copy.arrays["REF_forces"] = forces
            copy.arrays["force_weight"] = np.array([1.0] + [0.0] * (len(atoms) - 1))
            found.append(copy)
        return found

    fits = [
        sf.train(copper_network, frames(s), 0.25, isolated_atoms={"Cu": -1.0}, epochs=2, progress=False)
        for s in (0.0, 3.0)
    ]
    first, second = (fit.potential.predict(copper[:1])[0].forces for fit in fits)
    np.testing.assert_array_equal(first, second)
    assert np.isnan(fits[0].train_errors.energy_rmse)
    sigmas = [
        sf.LLPR.fit(fit.potential, fit.train_frames, fit.validation_frames, progress=False).predict(
            copper[:1], forces=True
        )[0]
        for fit in fits
    ]
    np.testing.assert_array_equal(sigmas[0].forces_uncertainty, sigmas[1].forces_uncertainty)
