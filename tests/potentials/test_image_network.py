from __future__ import annotations

import json

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from surefield.errors import DataError
from surefield.potentials import predict
from surefield.potentials.image_network import ImageNetwork
from surefield.sensitivity import structure_rows
from surefield.testing import check_potential
from surefield.training import train
from surefield.uncertainty import LLPR


@pytest.fixture(scope="module")
def reference(shared):
    folder = shared / "reference" / "networks"
    images = read(folder / "small" / "images.extxyz", ":3")
    return images, json.loads((folder / "image_centred" / "expected.json").read_text())


@pytest.fixture(scope="module")
def moving():
    """One molecule of three atoms that vibrates, with harmonic energies and forces."""
    rng = np.random.default_rng(2)
    rest = np.array([[0, 0, 0], [1.1, 0, 0], [0, 1.2, 0.1]])
    frames = []
    for _ in range(40):
        shift = rng.normal(0, 0.1, (3, 3))
        atoms = Atoms("OH2", rest + shift)
        atoms.info["REF_energy"] = -14.0 + 1.5 * float(np.sum(shift**2))
        atoms.arrays["REF_forces"] = -3.0 * shift
        frames.append(atoms)
    return frames


def network(atoms, hidden=(5,), **settings):
    made = ImageNetwork(atoms, hidden, seed=1, **settings)
    slope = jnp.asarray(1.7, made.dtype)
    return eqx.tree_at(lambda p: (p.intercept, p.slope), made, (jnp.asarray(-3.0), slope))


@pytest.mark.parametrize("output_activation", ["linear", "activation"])
def test_contract(moving, output_activation):
    check_potential(network(moving[0], output_activation=output_activation), moving[:3])


def test_contract_with_periodic_boundaries(alloy):
    frames = [alloy[0], alloy[0].copy()]
    frames[1].positions += 0.1
    check_potential(network(alloy[0]), frames)


def test_a_wrapped_trajectory_is_unwrapped(alloy):
    moved = alloy[0].copy()
    moved.positions[1] += alloy[0].cell.array[0] - 2 * alloy[0].cell.array[2]
    first, second = predict(network(alloy[0]), [alloy[0], moved])
    np.testing.assert_allclose(first.energy, second.energy, rtol=1e-12)
    np.testing.assert_allclose(first.forces, second.forces, rtol=0, atol=1e-12)


def test_the_cell_directions_without_period_are_left_alone(alloy):
    moved = alloy[2].copy()
    moved.positions[0] += alloy[2].cell.array[2]
    first, second = predict(network(alloy[2]), [alloy[2], moved])
    assert abs(first.energy - second.energy) > 1e-3


@pytest.mark.parametrize("case", ["fprange_from_images", "fprange_minus1_plus1_is_raw_positions"])
def test_reference(reference, case):
    images, expected = reference
    found = expected["cases"][case]
    made = ImageNetwork(images[0], (4, 3), output_activation="activation")
    made = made.with_vector(jnp.asarray(expected["vector"]))
    if case == "fprange_from_images":
        flat = np.array([a.positions.ravel() for a in images])
        low, high = flat.min(axis=0), flat.max(axis=0)
        made = eqx.tree_at(lambda p: (p.low, p.high), made, (jnp.asarray(low), jnp.asarray(high)))
    np.testing.assert_array_equal(np.asarray(made.vector), expected["vector"])
    for got, energy, forces in zip(predict(made, images), found["energies"], found["forces"], strict=True):
        np.testing.assert_allclose(got.energy, energy, rtol=0, atol=1e-10)
        np.testing.assert_allclose(got.forces, forces, rtol=0, atol=1e-10)


def test_other_systems_are_refused(moving, alloy):
    made = network(moving[0])
    with pytest.raises(DataError, match=r"frame 1 has 2 atoms, the model was made for 3 \(OH2\)"):
        predict(made, [moving[0], moving[0][:2]])
    with pytest.raises(DataError, match="another order"):
        predict(made, [moving[0][[1, 0, 2]]])
    strained = alloy[0].copy()
    strained.cell[0, 0] += 1e-3
    with pytest.raises(DataError, match="another cell"):
        predict(network(alloy[0]), [strained])


def test_rows_are_derivatives_by_the_last_weights(moving):
    made = network(moving[0])
    (rows,) = structure_rows(made, [made.neighborhood(moving[0])], ("energy", "forces", "stress"))
    assert rows.stress is None
    step = 1e-5
    for index in range(5):
        up, down = (
            predict(eqx.tree_at(lambda p: p.readout, made, made.readout.at[0, index].add(s)), moving[:1])[0]
            for s in (step, -step)
        )
        np.testing.assert_allclose(rows.energy[index], (up.energy - down.energy) / (2 * step), atol=1e-8)
        slope = (up.forces - down.forces).ravel() / (2 * step)
        np.testing.assert_allclose(rows.forces[:, index], slope, atol=1e-8)


def test_training_and_sigma(moving):
    steps = {"epochs": 300, "learning_rate": 0.03, "patience": 300}
    fit = train(ImageNetwork(moving[0], (12, 12)), moving[:32], 0.25, progress=False, **steps)
    held = predict(fit.potential, moving[32:])
    error = np.sqrt(
        np.mean([(p.forces - a.arrays["REF_forces"]) ** 2 for p, a in zip(held, moving[32:], strict=True)])
    )
    assert error < 0.6 * np.std([a.arrays["REF_forces"] for a in moving])
    sure = LLPR.fit(fit.potential, fit.train_frames, fit.validation_frames, progress=False)
    (found,) = sure.predict(moving[32:33], forces=True)
    assert found.energy_uncertainty > 0
    assert np.all(found.forces_uncertainty > 0)
    assert found.stress is None
    assert found.energies is None
