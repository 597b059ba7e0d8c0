from __future__ import annotations

import equinox as eqx
import numpy as np
import pytest
from ase.build import bulk

from surefield.errors import PotentialError
from surefield.potentials import ZBL, MessageNetwork, load_potential, save_potential
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.potentials.config import AtomicNetworkConfig
from surefield.training.growth import grafted, with_species


def _energies(potential, frames):
    return np.array([p.energy for p in potential.predict(frames)])


def _forces(potential, frames):
    return np.concatenate([p.forces for p in potential.predict(frames)])


@pytest.fixture(scope="module")
def message_network():
    start = MessageNetwork(
        ["Cu", "Au"], cutoff=3.5, n_channels=3, n_basis=2, n_vectors=1, hidden=(4,), dtype="float64"
    )
    readout = np.random.default_rng(0).normal(size=start.readout.shape)
    return eqx.tree_at(lambda p: p.readout, start, readout)


@pytest.mark.parametrize(
    ("kind", "further"),
    [("network", ["Ni"]), ("network", [13, 92]), ("message_network", ["Ni"])],
    ids=["between", "both_ends", "messages"],
)
def test_what_was_known_stays(kind, alloy, further, tmp_path, request):
    network = request.getfixturevalue(kind)
    grown = with_species(network, further)
    assert set(grown.species) == {*network.species, *([28] if further == ["Ni"] else further)}
    np.testing.assert_allclose(_energies(grown, alloy), _energies(network, alloy), rtol=1e-12)
    np.testing.assert_allclose(_forces(grown, alloy), _forces(network, alloy), atol=1e-12)
    save_potential(tmp_path / "grown.npz", grown)
    np.testing.assert_array_equal(
        _energies(load_potential(tmp_path / "grown.npz"), alloy), _energies(grown, alloy)
    )


def test_new_elements_are_told_apart_from_old_ones(copper_network):
    grown = with_species(copper_network, ["Au"])
    mixed = bulk("Cu", cubic=True)
    mixed.rattle(0.1, seed=1)
    other = mixed.copy()
    other.numbers[0] = 79
    assert np.isfinite(_forces(grown, [other])).all()
    assert not np.allclose(_forces(grown, [mixed])[1:], _forces(grown, [other])[1:], atol=1e-3)


def test_both_parts_of_a_sum_grow(copper_network, copper):
    whole = copper_network + ZBL(["Cu"], 1.0, 2.4)
    grown = with_species(whole, ["Au"])
    assert grown.species == grown.baseline.species == (29, 79)
    assert (grown.baseline.inner, grown.baseline.cutoff) == (1.0, 2.4)
    np.testing.assert_allclose(_energies(grown, copper), _energies(whole, copper), rtol=1e-12)


def test_nothing_is_copied_where_nothing_is_new(network):
    assert with_species(network, ["Au"]) is network


def test_settled_elements_are_refused(network, copper_network):
    with pytest.raises(PotentialError, match=r"AtomicNetwork cannot learn .* got Au; expected only Cu"):
        with_species(AtomicNetwork.from_settings(AtomicNetworkConfig(), ["Cu"]), ["Au"])
    with pytest.raises(PotentialError, match="cannot learn further elements: its"):
        grafted(AtomicNetwork.from_settings(AtomicNetworkConfig(), ["Cu"]), copper_network)
    wider = type(network)(["Cu", "Au", "Ni"], cutoff=3.5, n_basis=5, n_channels=3, n_triple=2, hidden=(8,))
    with pytest.raises(PotentialError, match=r"its radial would need \(3, 3, 3, 5\)"):
        grafted(network, wider)
