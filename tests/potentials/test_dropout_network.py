from __future__ import annotations

import numpy as np
import pytest

from surefield.descriptors.behler import behler_functions
from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.derivatives import atomic_features
from surefield.descriptors.symmetry_functions import SymmetryFunctions, make_symmetry_functions
from surefield.errors import ConfigError, PotentialError
from surefield.potentials import predict
from surefield.potentials.dropout_network import DropoutNetwork, draw_masks
from surefield.potentials.potential import TrainingData
from surefield.sensitivity import structure_rows
from surefield.structures.neighbors import neighborhood
from surefield.testing import check_potential

LISTS = {
    "g2": [{"eta": 0.1, "Rs": 0.0}, {"eta": 0.5, "Rs": 2.0}],
    "g4": [{"zeta": 2, "lambda": -1, "eta": 0.01}],
}
RADII = {"Cu-Cu": 3.5, "Au-Cu": 3.2, "Au-Au": 3.4}


@pytest.fixture(scope="module")
def network(alloy):
    """Two elements, radii of their own, five members, standardised on the frames."""
    descriptor = behler_functions(["Cu", "Au"], LISTS, RADII)
    plain = DropoutNetwork(descriptor, (6, 5), dropout=0.3, seed=3)
    structures = [neighborhood(atoms, descriptor.cutoff) for atoms in alloy]
    ready = plain.prepared(TrainingData(structures, [None] * 3, {29: -3.0, 79: -2.0}))
    return ready.with_masks(draw_masks((6, 5), 5, 0.3, seed=1), 0.3)


def test_contract(alloy, network):
    check_potential(network, alloy)


def test_members_and_their_mean(alloy, network):
    def of(member):
        return predict(network.of_member(member), alloy)

    members = [of(k) for k in range(1, 6)]
    full, mean = of(0), of(-1)
    for frame in range(3):
        for name in ("energy", "forces"):
            values = np.array([getattr(found[frame], name) for found in members])
            np.testing.assert_allclose(getattr(mean[frame], name), values.mean(axis=0), rtol=0, atol=1e-12)
            assert np.abs(values.std(axis=0)).max() > 1e-3
            assert np.abs(getattr(full[frame], name) - values.mean(axis=0)).max() > 1e-5


def test_a_member_is_the_network_without_its_dropped_units(alloy, network):
    """Against plain NumPy, for one frame and one member."""
    atoms, member, keep = alloy[1], 2, 0.7
    (features,) = atomic_features(network.descriptor, [neighborhood(atoms, network.cutoff)])
    x = (features - np.asarray(network.mean)) / np.asarray(network.scale)
    energies = []
    for row, z in zip(x, atoms.numbers, strict=True):
        place = network.species.index(z)
        for layer, mask in zip(network.layers, network.masks, strict=True):
            row = np.tanh(row @ np.asarray(layer.weights[place]) + np.asarray(layer.bias[place]))
            row = row * np.asarray(mask[member - 1]) / keep
        energies.append(row @ np.asarray(network.readout[place]) + float(network.bias[place]))
    expected = np.array(energies) + np.array([{29: -3.0, 79: -2.0}[z] for z in atoms.numbers])
    (found,) = predict(network.of_member(member), [atoms])
    np.testing.assert_allclose(found.energies, expected, rtol=0, atol=1e-12)


def test_last_layer_rows_give_the_energy(alloy, network):
    structures = [neighborhood(atoms, network.cutoff) for atoms in alloy]
    weights = np.asarray(network.readout).ravel()
    found = predict(network, alloy)
    for s, rows, p in zip(structures, structure_rows(network, structures), found, strict=True):
        bias = network.bias_row(s.numbers) @ np.asarray(network.bias)
        energy = rows.energy @ weights + bias + network.constant_energy(s.numbers)
        assert energy == pytest.approx(p.energy, abs=1e-10)
        np.testing.assert_allclose(rows.forces @ weights, p.forces.ravel(), rtol=0, atol=1e-10)


def test_standardisation_leaves_constant_columns(alloy):
    functions = make_symmetry_functions(["Cu", "Au", "H"], "G2", [0.5])
    descriptor = SymmetryFunctions.from_lists(["Cu", "Au"], Cosine(3.5), {"Cu": functions, "Au": functions})
    network = DropoutNetwork(descriptor, (4,))
    structures = [neighborhood(atoms, 3.5) for atoms in alloy]
    ready = network.prepared(TrainingData(structures, [None] * 3, {}))
    features = np.concatenate(atomic_features(descriptor, structures))
    assert np.ptp(features[:, 2]) == 0
    assert (float(ready.mean[2]), float(ready.scale[2])) == (0.0, 1.0)
    inputs = np.asarray(ready.inputs(features))
    np.testing.assert_allclose(inputs[:, :2].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(inputs[:, :2].std(axis=0), 1, rtol=1e-12)
    again = ready.prepared(TrainingData(structures[:1], [None], {29: 5.0}))
    assert again is ready
    raw = DropoutNetwork(descriptor, (4,), norm=False).prepared(
        TrainingData(structures, [None] * 3, {29: 5.0})
    )
    np.testing.assert_array_equal(raw.inputs(features), features)
    np.testing.assert_array_equal(raw.offsets, [5.0, 0.0])


def test_masks_of_a_member_depend_on_seed_and_member_alone():
    few, many = draw_masks((6, 50), 3, 0.2, seed=4), draw_masks((6, 50), 40, 0.2, seed=4)
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:3])
    other = draw_masks((6, 50), 40, 0.2, seed=5)
    assert not np.array_equal(other[1], many[1])
    assert abs(many[1].mean() - 0.8) < 0.03


def test_without_hidden_layers(alloy):
    descriptor = behler_functions(["Cu", "Au"], LISTS, RADII)
    linear = DropoutNetwork(descriptor, ())
    (found,) = predict(linear, alloy[1:2])
    (features,) = atomic_features(descriptor, [neighborhood(alloy[1], descriptor.cutoff)])
    places = [linear.species.index(z) for z in alloy[1].numbers]
    expected = np.sum(features * np.asarray(linear.readout)[places], axis=1) + np.asarray(linear.bias)[places]
    np.testing.assert_allclose(found.energies, expected, rtol=0, atol=1e-12)
    for make in (
        lambda: DropoutNetwork(descriptor, (), dropout=0.1),
        lambda: linear.with_masks([], 0.1),
    ):
        with pytest.raises(ConfigError, match="needs a network with hidden layers, and this one has none"):
            make()


@pytest.mark.parametrize("rate", [1.0, -0.1, 1.5, True, "x"])
def test_rate_outside(network, rate):
    with pytest.raises(ConfigError, match="dropout must lie between 0 and 1"):
        DropoutNetwork(network.descriptor, (4,), dropout=rate)


def test_bad_input(network):
    for neurons in ((4, 0), (4, -1), 4, (2.5,), "ab"):
        with pytest.raises(ConfigError, match="neurons must be positive widths"):
            DropoutNetwork(network.descriptor, neurons)
    for member in (6, -2, True, 1.0):
        with pytest.raises(PotentialError, match=r"no such member.*1 to 5"):
            network.of_member(member)
    with pytest.raises(PotentialError, match="masks do not fit"):
        network.with_masks([np.ones((2, 6))], 0.1)
    uneven = {
        "Cu": make_symmetry_functions(["Cu"], "G2", [1.0]),
        "Au": make_symmetry_functions(["Cu"], "G2", [1.0, 2.0]),
    }
    with pytest.raises(ConfigError, match="equally many features of each element"):
        DropoutNetwork(SymmetryFunctions.from_lists(["Cu", "Au"], Cosine(3.0), uneven))
