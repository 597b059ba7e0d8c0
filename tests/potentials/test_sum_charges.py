"""What a charge network reads besides neighbours survives sums and loops."""

from __future__ import annotations

import numpy as np
import pytest
from ase.io import read

from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.symmetry_functions import SymmetryFunctions, make_symmetry_functions
from surefield.errors import DataError, PotentialError
from surefield.loop import LoopConfig, MethodComparison
from surefield.loop.oracles import ReplayOracle
from surefield.potentials import ZBL, predict
from surefield.potentials.electrode.charge_network import ChargeNetwork
from surefield.training import TrainConfig


def charge_network():
    elements = ["Au", "H", "O"]
    functions = {symbol: make_symmetry_functions(elements, "G2", [0.5, 4.0]) for symbol in elements}
    descriptor = SymmetryFunctions.from_lists(elements, Cosine(4.0), functions)
    return ChargeNetwork(descriptor, [(3,)] * 3, [(3,)] * 3, slab_metal="Au")


def test_the_electrode_potential_survives_a_sum(shared):
    images = read(shared / "reference" / "networks" / "charge" / "made_up_train.extxyz", ":2")
    network = charge_network()
    alone, both = predict(network, images), predict(network + ZBL(["Au", "H", "O"]), images)
    for first, second in zip(alone, both, strict=True):
        np.testing.assert_allclose(second.excess_electrons, first.excess_electrons, rtol=1e-9)
        np.testing.assert_allclose(second.charges, first.charges, rtol=0, atol=1e-12)
        assert second.electrode_potential == first.electrode_potential
    bare = images[0].copy()
    del bare.info["electrode_potential"]
    both = network + ZBL(["Au", "H", "O"])
    with pytest.raises(DataError, match=r"no electrode potential in frame 1.*refused as well: frame 2"):
        predict(both, [images[0], bare, bare])
    phi = images[0].info["electrode_potential"]
    assert predict(both.at_potential(phi), [bare])[0].electrode_potential == pytest.approx(phi)
    with pytest.raises(PotentialError, match="knows no electrode potential"):
        ZBL(["Au"]).calculator().set(electrode_potential=4.4)


def test_a_loop_reads_the_electrode_potential(shared, tmp_path):
    images = read(shared / "reference" / "networks" / "charge" / "made_up_train.extxyz", ":6")
    network = charge_network()
    oracle = ReplayOracle(images[:4])
    config = LoopConfig(n_initial=2, n_per_round=1, n_rounds=1)
    loop = MethodComparison(tmp_path, config, network, TrainConfig(epochs=0), oracle, oracle.pool, images[4:])
    found = [sample.structure.inputs["electrode_potential"] for sample in loop.test.samples]
    assert found == [atoms.info["electrode_potential"] for atoms in images[4:]]
