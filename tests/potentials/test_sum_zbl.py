from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from ase import Atoms

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.potentials import ZBL, SumPotential, predict, trainable
from surefield.testing import check_potential
from surefield.training.dataset import prepare


@pytest.fixture(scope="module")
def zbl():
    return ZBL(["Cu", "Au"], inner=1.5, outer=3.0)


def test_contract(zbl, alloy):
    check_potential(zbl, alloy[:2])


def test_contract_of_a_sum(network, zbl, alloy):
    check_potential(network + zbl, alloy[:1])


def _by_hand(z1, z2, r):
    """14.399645 eV Å is e^2/(4 pi eps0)."""
    x = r * (z1**0.23 + z2**0.23) / 0.46850
    screening = (
        0.18175 * math.exp(-3.19980 * x)
        + 0.50986 * math.exp(-0.94229 * x)
        + 0.28022 * math.exp(-0.40290 * x)
        + 0.02817 * math.exp(-0.20162 * x)
    )
    return 14.399645 * z1 * z2 / r * screening


@pytest.mark.parametrize("r", [0.02, 0.3, 0.9, 1.49])
def test_energy_of_a_pair(zbl, r):
    (found,) = predict(zbl, [Atoms("CuAu", positions=[[0, 0, 0], [0, 0, r]])])
    expected = _by_hand(29, 79, r)
    np.testing.assert_allclose(found.energy, expected, rtol=1e-6)
    np.testing.assert_allclose(found.energies, expected / 2, rtol=1e-6)
    slope = (_by_hand(29, 79, r + 1e-5) - _by_hand(29, 79, r - 1e-5)) / 2e-5
    np.testing.assert_allclose(found.forces[1], [0, 0, -slope], rtol=1e-5, atol=1e-9)


def test_collisions_are_computed_where_the_repulsion_of_nuclei_is_there(network, zbl):
    """As in cascades; without it nobody knows the energy, and what is learned is no guess."""
    near, touching = (Atoms("CuAu", positions=[[0, 0, 0], [0, 0, r]]) for r in (0.05, 0.005))
    (both,) = predict(network + zbl, [near])
    assert both.energy == pytest.approx(_by_hand(29, 79, 0.05), rel=1e-3)
    assert both.forces[1, 2] > 1e6
    with pytest.raises(DataError, match=r"0.050 Å apart .* expected at least 0.3 Å"):
        predict(network, [near])
    for potential in (zbl, network + zbl):
        with pytest.raises(DataError, match=r"0.005 Å apart .* expected at least 0.01 Å"):
            predict(potential, [touching])
    with pytest.raises(DataError, match=r"expected at least 0.3 Å"):
        prepare([near], zbl)


def test_switch(zbl):
    half, off = predict(zbl, [Atoms("Cu2", positions=[[0, 0, 0], [r, 0, 0]]) for r in (2.25, 3.0)])
    np.testing.assert_allclose(half.energy, 0.5 * _by_hand(29, 29, 2.25), rtol=1e-6)
    assert off.energy == 0
    np.testing.assert_array_equal(off.forces, 0)


def test_sum_of_energies_and_forces(network, zbl, alloy):
    frames = alloy[:1]
    found = predict(network + zbl, frames)
    for total, *parts in zip(found, predict(network, frames), predict(zbl, frames), strict=True):
        np.testing.assert_allclose(total.energy, sum(p.energy for p in parts), rtol=1e-12)
        np.testing.assert_allclose(total.forces, sum(p.forces for p in parts), rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(total.energies, sum(p.energies for p in parts), rtol=1e-10)


def test_training_a_sum_leaves_the_baseline_and_the_constants(network, copper_network):
    flags = trainable(SumPotential(copper_network, network))
    assert not any(jax.tree.leaves(flags.baseline))
    assert not any((flags.learned.shift, flags.learned.scale, flags.learned.offsets))
    assert flags.learned.readout
    assert SumPotential(copper_network, network).last_layer() is copper_network


def test_wrong_arguments(copper_network, network):
    with pytest.raises(ConfigError, match="inner < outer"):
        ZBL(["Cu"], inner=2.0, outer=1.0)
    with pytest.raises(PotentialError, match="79"):
        SumPotential(network, ZBL(["Cu"]))
    with pytest.raises(PotentialError, match="last layer"):
        ZBL(["Cu"]).last_layer()


def test_each_pair_may_have_its_range(alloy):
    """As the potential of one range where that of its pair is; nothing where its pair has ended."""
    ranges = {"Cu-Au": (1.0, 2.6), "Au-Au": (1.5, 3.0)}
    zbl = ZBL(["Cu", "Au"], 0.9, 1.8, pairs=ranges)
    assert zbl.cutoff == 3.0
    check_potential(zbl, alloy[:2])
    for symbols, (inner, outer) in {"CuCu": (0.9, 1.8), "CuAu": (1.0, 2.6), "Au2": (1.5, 3.0)}.items():
        for r in (0.5, 0.5 * (inner + outer), outer + 0.01):
            pair = Atoms(symbols, positions=[[0, 0, 0], [0, 0, r]])
            (found,), (expected,) = (p.predict([pair]) for p in (zbl, ZBL(["Cu", "Au"], inner, outer)))
            assert found.energy == pytest.approx(expected.energy, rel=1e-12)
            assert (found.energy == 0) == (r > outer)
    again = ZBL.from_config(zbl.config())
    assert again.pairs == zbl.pairs
    assert zbl.config()["pairs"] == {"Cu-Au": [1.0, 2.6], "Au-Au": [1.5, 3.0]}


def test_repulsion_below_data_touches_none_of_them():
    molecules = [Atoms("OH2", positions=[[0, 0, 0], [0.98 + 0.01 * i, 0, 0], [0, 0.95, 0]]) for i in range(3)]
    zbl = ZBL.below(molecules, ["H", "O", "C"])
    assert (zbl.outer, zbl.inner) == pytest.approx((0.95, 0.7 * 0.95))  # O-H is the shortest
    ranges = {(a, b): high for a, b, _, high in zbl.pairs}
    assert ranges[1, 1] == pytest.approx(np.hypot(0.98, 0.95))
    scale = 0.95 / (0.31 + 0.66)  # covalent radii; O-H is the shortest in these units, too
    assert ranges[6, 6] == pytest.approx(scale * 2 * 0.76)
    assert ranges[6, 8] == pytest.approx(scale * (0.76 + 0.66))
    assert all(p.energy == 0 for p in zbl.predict(molecules))
    nearer = molecules[0].copy()
    nearer.positions[2, 1] = 0.9
    assert zbl.predict([nearer])[0].energy > 0
    assert ZBL.below([Atoms("H")], ["H"]).config() == ZBL(["H"]).config()
    shorter = ZBL.below(molecules, ["H", "O", "C"], 0.75)
    assert shorter.outer == pytest.approx(0.75 * zbl.outer)
    for name, ends in zbl.config()["pairs"].items():
        assert shorter.config()["pairs"][name] == pytest.approx([0.75 * end for end in ends])


def test_ranges_of_pairs_are_checked():
    with pytest.raises(ConfigError, match=r"0 <= inner < outer, got inner=2\.0, outer=1\.0"):
        ZBL(["Cu"], pairs={"Cu-Cu": (2.0, 1.0)})
    with pytest.raises(ConfigError, match=r"two chemical symbols, such as 'C-H'; got 'CuCu'"):
        ZBL(["Cu"], pairs={"CuCu": (1.0, 2.0)})
    with pytest.raises(ConfigError, match="switch='smooth' only"):
        ZBL(["Cu"], switch="lammps", pairs={"Cu-Cu": (1.0, 2.0)})
