from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefield.errors import PotentialError
from surefield.potentials import MomentNetwork, predict, trainable
from surefield.potentials.moment_network import _invariants
from surefield.potentials.potential import TrainingData
from surefield.structures.graph import collate
from surefield.structures.neighbors import neighborhood
from surefield.testing import check_potential


def test_contract(network, alloy):
    check_potential(network, alloy[:2])


def test_contract_in_single_precision(network, alloy):
    single = jax.tree.map(
        lambda x: x.astype("float32") if eqx.is_inexact_array(x) and x is not network.offsets else x, network
    )
    assert single.dtype == np.float32
    check_potential(single, alloy[:1])


def test_an_atom_alone_has_its_constant(network):
    from ase import Atoms

    (found,) = predict(network, [Atoms("Au")])
    expected = network.offsets[1] + network.bias[1] + _site(network)
    np.testing.assert_allclose(found.energy, float(expected), rtol=1e-12)
    assert found.stress is None
    np.testing.assert_array_equal(found.forces, 0)


def _site(network):
    """Energy of gold's readout on invariants that are all zero."""
    x = (0 - network.shift[1]) / network.scale[1]
    h = jax.nn.silu(x @ network.weights[0] + network.biases[0][1])
    return jnp.concatenate([x, h]) @ network.readout[1]


def test_energy_is_linear_in_the_last_layer(network, alloy):
    twice = eqx.tree_at(lambda p: (p.readout, p.bias), network, (2 * network.readout, 2 * network.bias))
    for one, two, atoms in zip(predict(network, alloy), predict(twice, alloy), alloy, strict=True):
        offset = sum(float(network.offsets[network.species.index(z)]) for z in atoms.numbers)
        np.testing.assert_allclose(two.energy - offset, 2 * (one.energy - offset), rtol=1e-12)
        np.testing.assert_allclose(two.forces, 2 * one.forces, rtol=1e-10, atol=1e-12)


def test_elements_are_told_apart(network, alloy):
    swapped = alloy[1].copy()
    swapped.numbers = swapped.numbers[::-1]
    first, second = predict(network, [alloy[1], swapped])
    assert abs(first.energy - second.energy) > 1e-3


def test_only_data_constants_are_fixed(network):
    flags = trainable(network)
    assert not any((flags.offsets, flags.shift, flags.scale))
    assert all((flags.radial, flags.readout, flags.bias, *flags.weights, *flags.biases))


def test_same_seed_same_weights_and_config_round_trip():
    first = MomentNetwork(["Au", "Cu"], n_basis=4, n_channels=3, hidden=(8,), seed=3)
    again = MomentNetwork.from_config(first.config() | {"seed": 3})
    other = MomentNetwork(["Au", "Cu"], n_basis=4, n_channels=3, hidden=(8,), seed=4)
    assert eqx.tree_equal(first, again)
    assert not eqx.tree_equal(first, other)


def test_unknown_symbol():
    with pytest.raises(PotentialError, match="Xx"):
        MomentNetwork(["Cu", "Xx"])


def test_prepared_takes_offsets_and_standardises(copper_network, copper):
    """Over the atoms of the training set every invariant has mean zero, and nearly all deviation one."""
    structures = [neighborhood(atoms, 3.5) for atoms in copper]
    ready = copper_network.prepared(TrainingData(structures, [None] * len(structures), {29: -1.5}))
    values = []
    for structure in structures:
        x, _ = _invariants(ready, collate([structure]))
        values.append(np.asarray(x)[: structure.n_atoms])
    x = (np.concatenate(values) - ready.shift[0]) / ready.scale[0]
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-9)
    spread = x.std(axis=0)
    assert np.all(spread <= 1 + 1e-9)
    np.testing.assert_allclose(np.median(spread), 1, rtol=1e-9)
    assert ready.offsets.tolist() == [-1.5]


def test_a_symbol_is_no_list_of_letters():
    assert MomentNetwork("Cu", cutoff=4.0).species == (29,)
    with pytest.raises(PotentialError, match=r"species \['Cux'\] are no chemical symbols"):
        MomentNetwork("Cux", cutoff=4.0)
