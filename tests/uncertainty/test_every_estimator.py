"""Every potential with the estimators that follow from predictions and last-layer features, on real data."""

from __future__ import annotations

import numpy as np
import pytest
from tests.test_every_potential import POTENTIALS, fitted

import surefield as sf
from surefield.loop import select
from surefield.testing import check_uncertainty
from surefield.uncertainty import ConstantUncertainty, FeatureDistance


@pytest.fixture(scope="module")
def tantalum(shared):
    frames = sf.read_frames(shared / "data" / "Ta" / "train.xyz.xz")
    return [atoms for atoms in frames if atoms.info["config_type"] == "Displaced_FCC"]


QUICK = ("snap", "lennard-jones")


@pytest.fixture(
    scope="module",
    params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in POTENTIALS],
)
def potential(request, tantalum):
    """Each potential, with weights."""
    bare = POTENTIALS[request.param]()
    linear = request.param.startswith(("snap", "quadratic", "chimes"))
    return fitted(bare, tantalum[:4]) if linear else bare


def test_constant_and_distance(potential, tantalum):
    """Errors of held-out structures; distances that are larger for structures that are shaken."""
    held, frames = tantalum[4:6], tantalum[6:8]
    errors = [p.energy - a.get_potential_energy() for p, a in zip(potential.predict(held), held, strict=True)]
    constant = ConstantUncertainty.fit(potential, held)
    sigmas = [p.energy_uncertainty for p in constant.predict(frames)]
    np.testing.assert_allclose(sigmas, np.sqrt(np.mean(np.square(errors))), rtol=1e-10)
    distance = FeatureDistance.fit(potential, tantalum[:4], held, k=3)
    shaken = [atoms.copy() for atoms in frames]
    for atoms in shaken:
        atoms.rattle(0.3, seed=1)
    near, far = (distance.predict(some, forces=True) for some in (tantalum[:2], shaken))
    assert max(p.energy_uncertainty for p in near) < min(p.energy_uncertainty for p in far)
    assert np.mean(near[0].forces_uncertainty) < np.mean(far[0].forces_uncertainty)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["constant", "distance"])
def test_contract(potential, tantalum, kind):
    if kind == "constant":
        sure = ConstantUncertainty.fit(potential, tantalum[4:6])
    else:
        sure = FeatureDistance.fit(potential, tantalum[:4], tantalum[4:6], k=3)
    check_uncertainty(sure, tantalum[6:8])
    assert len(select(sure, tantalum[:2], tantalum[2:6], method="lcmd", n=2).indices) == 2
