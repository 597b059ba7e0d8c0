from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from surefield.descriptors.behler import behler_functions
from surefield.potentials import ZBL, predict
from surefield.potentials.dropout_network import DropoutNetwork
from surefield.structures.labels import Labels
from surefield.training.dataset import Sample
from surefield.training.network_data import make_stacks, predicted, residuals
from surefield.training.problem import Weights

LISTS = {
    "g2": [{"eta": 0.1, "Rs": 0.0}, {"eta": 0.5, "Rs": 2.0}],
    "g4": [{"zeta": 2, "lambda": -1, "eta": 0.01}],
}


@pytest.fixture(scope="module")
def network():
    descriptor = behler_functions(["Cu", "Au"], LISTS, {"Cu-Cu": 3.5, "Au-Cu": 3.2, "Au-Au": 3.4})
    network = DropoutNetwork(descriptor, (6, 5), dropout=0.3, seed=3)
    return eqx.tree_at(lambda p: p.offsets, network, jnp.array([-1.0, 2.0]))


@pytest.fixture(scope="module")
def configurations(network, alloy):
    """Three atoms (crystal, molecule, slab), one atom that is its own neighbour, a free atom, ten atoms."""
    rng = np.random.default_rng(1)
    single = Atoms("Cu", cell=[[0, 1.9, 1.7], [1.8, 0, 1.8], [1.8, 1.9, 0]], pbc=True)
    ten = Atoms("Cu4Au6", positions=rng.uniform(0, 6, (10, 3)), cell=[6, 6.2, 6.1], pbc=True)
    frames = [*alloy, single, Atoms("Au", positions=[[0, 0, 0]]), ten]
    found = []
    for i, atoms in enumerate(frames):
        n = len(atoms)
        found.append(
            Sample(
                id=str(i),
                atoms=atoms,
                structure=network.neighborhood(atoms),
                labels=Labels(
                    energy=rng.normal() if i != 2 else None,
                    forces=rng.normal(size=(n, 3)) if i != 1 else None,
                    stress=rng.normal(size=6) if atoms.pbc.all() else None,
                ),
                weight=1.0 + i,
                atom_weights=rng.uniform(0.5, 2, n),
            )
        )
    return found


@pytest.mark.parametrize("stored", [True, False])
def test_results_are_those_of_the_potential(network, configurations, stored, monkeypatch):
    """Derivatives stored, or made at every use, against automatic differentiation of the whole energy."""
    if not stored:
        monkeypatch.setattr("surefield.training.network_data.STORED_BYTES", 0)
    ((*stacks,),) = make_stacks(network, [configurations], Weights())
    assert all((stack.derivatives is not None) == stored for stack in stacks)
    seen = compare(network, stacks, configurations, 0.0)
    assert sorted(seen) == list(range(len(configurations)))


def compare(network, stacks, configurations, shift):
    expected = predict(network, [c.atoms for c in configurations])
    seen = []
    for stack in stacks:
        found = eqx.filter_jit(predicted)(network, stack)
        for place, i in enumerate(np.asarray(stack.ids).tolist()):
            c = configurations[i]
            seen.append(i)
            energy = float(found.energy[place]) + network.constant_energy(c.structure.numbers)
            assert energy == pytest.approx(expected[i].energy, abs=1e-12)
            near = dict(rtol=0, atol=1e-12)
            np.testing.assert_allclose(found.forces[place, : c.n_atoms], expected[i].forces, **near)
            if c.structure.periodic:
                np.testing.assert_allclose(found.stress[place], expected[i].stress, **near)
            np.testing.assert_array_equal(found.forces[place, c.n_atoms :], 0.0)
    return seen


def test_brackets_are_the_documented_ones(network, configurations):
    weights = Weights(0.7, 0.3, 2.0)
    (stacks,) = make_stacks(network, [configurations], weights)
    expected = predict(network, [c.atoms for c in configurations])
    for stack in stacks:
        found = residuals(predicted(network, stack), stack.targets)
        for method, size in (("mse", np.square), ("mae", np.abs)):
            brackets = np.asarray(found.brackets(stack.targets.n_atoms, method))
            for place, i in enumerate(np.asarray(stack.ids).tolist()):
                c, p = configurations[i], expected[i]
                total = 0.0
                if c.labels.energy is not None:
                    total += size(0.7 * c.weight * (p.energy - c.labels.energy) / c.n_atoms)
                if c.labels.forces is not None:
                    rows = 0.3 * c.weight * c.atom_weights[:, None] * (p.forces - c.labels.forces)
                    total += size(rows).sum() / (3 * c.n_atoms)
                if c.labels.stress is not None:
                    total += size(2.0 * c.weight * (p.stress - c.labels.stress)).sum() / 6
                assert brackets[place] == pytest.approx(total, rel=1e-12)


def test_a_baseline_is_taken_off_the_labels(network, configurations):
    baseline = ZBL(("Cu", "Au"), 1.0, 3.0)
    weights = Weights()
    (plain,) = make_stacks(network, [configurations], weights)
    (less,) = make_stacks(network, [configurations], weights, baseline)
    own = predict(baseline, [c.atoms for c in configurations])
    for a, b in zip(plain, less, strict=True):
        for place, i in enumerate(np.asarray(a.ids).tolist()):
            c = configurations[i]
            if c.labels.energy is not None:
                difference = float(a.targets.energy[place] - b.targets.energy[place])
                assert difference == pytest.approx(own[i].energy, abs=1e-10)
            if c.labels.forces is not None:
                difference = np.asarray(a.targets.forces - b.targets.forces)[place, : c.n_atoms]
                np.testing.assert_allclose(difference, own[i].forces, rtol=0, atol=1e-10)
            if c.labels.stress is not None:
                difference = np.asarray(a.targets.stress - b.targets.stress)[place]
                np.testing.assert_allclose(difference, own[i].stress, rtol=0, atol=1e-10)


def test_masks_hold_for_all_atoms_of_a_configuration(network, configurations):
    """Factors of a row of the stack are those of a member of the potential."""
    (stacks,) = make_stacks(network, [configurations], Weights())
    rng = np.random.default_rng(4)
    stack = max(stacks, key=lambda s: len(s.ids))
    size = len(stack.ids)
    masks = [rng.random((size, width)) > 0.3 for width in network.neurons]
    found = predicted(network, stack, [jnp.asarray(mask) / 0.7 for mask in masks])
    members = network.with_masks(masks, 0.3)
    for place, i in enumerate(np.asarray(stack.ids).tolist()):
        c = configurations[i]
        (expected,) = predict(members.of_member(place + 1), [c.atoms])
        energy = float(found.energy[place]) + network.constant_energy(c.structure.numbers)
        assert energy == pytest.approx(expected.energy, abs=1e-12)
        np.testing.assert_allclose(found.forces[place, : c.n_atoms], expected.forces, rtol=0, atol=1e-12)
