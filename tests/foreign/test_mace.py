"""A MACE model with random weights: energies and forces are those of its own calculator."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

INSTALL = "pip install torch==2.13.0, then mace-torch"
torch = pytest.importorskip("torch", reason=f"needs torch: {INSTALL}")
modules = pytest.importorskip("mace.modules", reason=f"needs mace-torch: {INSTALL}")
o3 = pytest.importorskip("e3nn.o3", reason=f"needs mace-torch: {INSTALL}")

pytestmark = pytest.mark.filterwarnings("ignore")  # of TorchScript


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    try:
        yield modules.ScaleShiftMACE(
            r_max=4.0,
            num_bessel=4,
            num_polynomial_cutoff=5,
            max_ell=2,
            interaction_cls=interaction,
            interaction_cls_first=interaction,
            num_interactions=2,
            num_elements=1,
            hidden_irreps=o3.Irreps("8x0e"),
            MLP_irreps=o3.Irreps("6x0e"),
            atomic_energies=np.array([-3.0]),
            avg_num_neighbors=16.0,
            atomic_numbers=[14],
            correlation=2,
            gate=torch.nn.functional.silu,
            atomic_inter_scale=0.7,
            atomic_inter_shift=0.1,
        )
    finally:
        torch.set_default_dtype(torch.float32)


def test_it_is_what_its_calculator_gives(model):
    from mace.calculators import MACECalculator

    from surefield.foreign import mace
    from surefield.potentials.evaluate import predict

    silicon = bulk("Si", cubic=True)
    silicon.rattle(0.1, seed=2)
    (found,) = predict(mace(model), [silicon])
    silicon.calc = MACECalculator(models=[model], device="cpu", default_dtype="float64")
    assert found.energy == pytest.approx(silicon.get_potential_energy(), abs=1e-8)
    np.testing.assert_allclose(found.forces, silicon.get_forces(), atol=1e-8)
    np.testing.assert_allclose(found.stress, silicon.get_stress(), atol=1e-10)
