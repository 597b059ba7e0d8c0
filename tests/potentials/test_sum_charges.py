"""A charge network with short-range repulsion keeps what it reads besides neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from ase.io import read

from surefield.descriptors.fingerprints import Gaussian
from surefield.errors import DataError
from surefield.potentials import ZBL, predict
from surefield.potentials.charge_network import ChargeNetwork


def test_the_electrode_potential_survives_a_sum(shared):
    images = read(shared / "reference" / "networks" / "charge" / "made_up_train.extxyz", ":2")
    descriptor = Gaussian(4.0).for_elements(["Au", "H", "O"])
    network = ChargeNetwork(descriptor, [(3,)] * 3, [(3,)] * 3, slab_metal="Au")
    alone, both = predict(network, images), predict(network + ZBL(["Au", "H", "O"]), images)
    for first, second in zip(alone, both, strict=True):
        np.testing.assert_allclose(second.excess_electrons, first.excess_electrons, rtol=1e-9)
        np.testing.assert_allclose(second.charges, first.charges, rtol=0, atol=1e-12)
        assert second.electrode_potential == first.electrode_potential
    bare = images[0].copy()
    del bare.info["electrode_potential"]
    with pytest.raises(DataError, match="electrode potential"):
        predict(network + ZBL(["Au", "H", "O"]), [bare])
