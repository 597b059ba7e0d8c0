"""The message network: derivatives, range, start, files, and training on real molecules."""

from __future__ import annotations

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

import surefield as sf
from surefield.potentials import MessageNetwork, predict
from surefield.potentials.evaluate import composition_energy
from surefield.potentials.potential import TrainingData, trainable
from surefield.sensitivity import structure_rows
from surefield.structures.graph import collate, sum_atoms
from surefield.structures.neighbor_values import neighbor_values
from surefield.structures.read import read_frames
from surefield.testing import check_potential


def small(species=("Cu", "Au"), n_layers=2, dtype="float64", **settings):
    """Small network with a random last layer, so that nothing vanishes."""
    settings = {"n_senders": 3, "n_vectors": 2, "hidden": (5,)} | settings
    settings = {"cutoff": 3.5, "n_channels": 4, "n_basis": 3} | settings
    network = MessageNetwork(species, n_layers=n_layers, dtype=dtype, seed=1, **settings)
    rng = np.random.default_rng(7)
    values = [
        jnp.asarray(rng.normal(-3, 1, network.offsets.shape)),
        jnp.asarray(0.1 * rng.normal(size=network.readout.shape), dtype),
        jnp.asarray(rng.normal(size=network.bias.shape), dtype),
    ]
    return eqx.tree_at(lambda p: (p.offsets, p.readout, p.bias), network, values)


def prepared(network, frames):
    structures = [network.neighborhood(atoms) for atoms in frames]
    return network.prepared(
        TrainingData(structures, [-1.0 * len(a) for a in frames], {29: 0.5, 79: 0.2}, 0.7)
    )


@eqx.filter_jit
def energies(network, graph):
    """Of the atoms alone: derivatives, which `predict` has as well, take most of the compiling."""
    return network.site_energies(graph)


@pytest.fixture(scope="module")
def network(alloy):
    return prepared(small(), alloy)


@pytest.mark.slow
@pytest.mark.parametrize(("n_layers", "n_vectors"), [(1, 0), (2, 2)])
def test_it_keeps_the_contract_of_potentials(alloy, n_layers, n_vectors):
    check_potential(prepared(small(n_layers=n_layers, n_vectors=n_vectors), alloy), alloy)


def test_moments_and_invariants_start_at_one(network, alloy):
    graph = collate([network.neighborhood(a) for a in alloy])
    real = np.asarray(graph.atom_mask)
    for layer, tensors in zip(network.layers, network.layer_scalars(graph)[1], strict=True):
        tensors = np.asarray(tensors)[:, real]
        for rank in np.split(tensors, np.cumsum([1, 3, 6])):
            np.testing.assert_allclose(np.mean(rank**2), 1.0, rtol=1e-6)
        assert layer.scale.shape == layer.shift.shape == (24, 1, 4)


def test_energies_start_at_those_of_the_data(alloy):
    start = prepared(MessageNetwork(["Cu", "Au"], n_channels=4, cutoff=3.5), alloy)
    graph = collate([start.neighborhood(a) for a in alloy])
    sums = sum_atoms(energies(start, graph), graph) + composition_energy(start, graph)
    np.testing.assert_allclose(sums, [-1.0 * len(a) for a in alloy], rtol=1e-5)


@pytest.mark.parametrize(("n_layers", "reach"), [(1, 1), (2, 2), (3, 3)])
def test_an_atom_sees_as_many_neighborhoods_as_there_are_layers(n_layers, reach):
    """A chain with neighbours in range one by one: the energy of its first atom."""
    network = small(("Cu",), n_layers, cutoff=3.0)
    chain = Atoms("Cu6", positions=[[2.0 * i, 0.3 * (i % 2), 0.2 * (i % 3)] for i in range(6)])
    before = energies(network, collate([network.neighborhood(chain)]))[0]
    for atom in range(1, 6):
        moved = chain.copy()
        moved.positions[atom] += [0.0, 0.2, 0.1]
        change = abs(energies(network, collate([network.neighborhood(moved)]))[0] - before)
        assert (change > 1e-12) == (atom <= reach), (atom, change)


def test_values_of_neighbors_and_their_transpose(network, alloy):
    """The look-up of reversed edges is what a scatter gives."""
    graph = collate([network.neighborhood(a) for a in alloy])
    rng = np.random.default_rng(0)
    values, edges = rng.normal(size=(len(graph.numbers), 2)), rng.normal(size=(*graph.mask.shape, 2))
    looked_up, pull = jax.vjp(lambda v: neighbor_values(v, graph), jnp.asarray(values))
    np.testing.assert_array_equal(looked_up, values[graph.neighbors])
    scattered = np.zeros_like(values)
    np.add.at(scattered, graph.neighbors, edges)
    np.testing.assert_allclose(pull(jnp.asarray(edges))[0], scattered, atol=1e-12)


def test_rows_are_differences_by_the_weights(network, alloy):
    rows = next(structure_rows(network, [network.neighborhood(alloy[0])], ("energy", "forces", "stress")))
    direction = np.random.default_rng(4).normal(size=network.readout.shape)
    moved = [
        predict(eqx.tree_at(lambda p: p.readout, network, network.readout + s * direction), alloy[:1])[0]
        for s in (0.5, -0.5)
    ]
    for name in ("energy", "forces", "stress"):
        slope = np.ravel(getattr(moved[0], name) - getattr(moved[1], name))
        np.testing.assert_allclose(np.atleast_1d(rows[name]) @ direction.ravel(), slope, atol=1e-9)


def test_what_is_saved_is_what_is_loaded(network, alloy, tmp_path):
    sf.save_potential(tmp_path / "a.npz", network)
    loaded = sf.load_potential(tmp_path / "a.npz")
    assert loaded.config() == network.config()
    assert predict(loaded, alloy)[0].energy == predict(network, alloy)[0].energy


def test_data_set_scales_and_offsets_alone_stay(network):
    moving = trainable(network)
    assert not moving.offsets
    assert not moving.energy_scale
    assert all(not m for layer in moving.layers for m in (layer.shift, layer.scale))
    assert not moving.layers[0].vector_scale
    assert all(all(layer.mixing) and layer.products and layer.output for layer in moving.layers)
    assert moving.layers[0].vector_products
    shapes = {a.shape for a in network.matrices()}
    mixing = {(3, 2, 4), (3, 5, 4), (3, 7, 4)}  # of the elements; of three scalars and two vectors
    assert shapes == {(4, 3), (4, 4), (2, 4, 4), (4, 2), (4, 5), *mixing}


def test_many_elements_share_few_senders():
    network = MessageNetwork([*range(1, 31)], n_channels=4, n_senders=8)
    assert network.layers[0].sender_bias.shape == (30, 8)
    np.testing.assert_allclose(jnp.sum(network.layers[0].sender_bias ** 2), 30, rtol=1e-5)


@pytest.fixture(scope="module")
def molecules(shared):
    return read_frames(shared / "data/3bpa/train_300K.xyz.xz")[:40]


@pytest.mark.slow
def test_it_learns_a_molecule_and_goes_on_after_a_stop(molecules, tmp_path):
    """Forty frames of 3BPA: half of the forces after few steps; two runs end as one does."""
    settings = {"batch_size": 4, "progress": False, "validation": 0.2, "epochs": 12}
    network = MessageNetwork(["H", "C", "N", "O"], n_channels=16, n_senders=8, hidden=(16,), cutoff=4.0)
    whole = sf.train(network, molecules, **settings)
    size = np.sqrt(np.mean(np.concatenate([a.get_forces() for a in molecules]) ** 2))
    assert whole.validation_errors.forces_rmse < size / 2

    class Stopped(Exception):
        pass

    def stop_at_third(_, history):
        if len(history.rows) == 3:
            raise Stopped

    folder = tmp_path / "run"
    files = sys.modules["surefield.training.train"]._Files
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write_metrics", stop_at_third)
        with pytest.raises(Stopped):
            sf.train(network, molecules, folder=folder, **settings)
    resumed = sf.train(network, molecules, folder=folder, **settings)
    for a, b in zip(jax.tree.leaves(whole.potential), jax.tree.leaves(resumed.potential), strict=True):
        np.testing.assert_array_equal(a, b)
