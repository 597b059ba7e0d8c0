"""Every network with every uncertainty and selection, without a special case."""

from __future__ import annotations

import equinox as eqx
import numpy as np
import pytest
from ase.io import read

from surefield.loop import select
from surefield.networks.charge_neural_network import ChargeNeuralNetwork
from surefield.networks.fingerprints import Gaussian, ImageCentred
from surefield.networks.neural_network import NeuralNetwork
from surefield.sensitivity import energy_features, structure_rows
from surefield.testing import check_uncertainty
from surefield.training import train
from surefield.uncertainty import LLPR, ensemble_predict, sample_ensemble

#: Four trainings and their sigmas: minutes of compilation.
pytestmark = pytest.mark.slow
CASES = ("network", "linear", "image-centred", "charges")


@pytest.fixture(scope="module")
def slabs(shared):
    return read(shared / "reference" / "networks" / "charge" / "made_up_train.extxyz", ":16")


def untrained(name):
    descriptor = Gaussian(4.0)
    return {
        "network": lambda: NeuralNetwork((4,), randomseed=1, descriptor=descriptor),
        "linear": lambda: NeuralNetwork((), randomseed=1, descriptor=descriptor),
        "image-centred": lambda: NeuralNetwork(
            (4,), randomseed=1, descriptor=ImageCentred(), mode="image-centred"
        ),
        "charges": lambda: ChargeNeuralNetwork(
            (4,), charge_hiddenlayers=(3,), slab_metal="Au", randomseed=1, descriptor=descriptor
        ),
    }[name]()


@pytest.fixture(scope="module")
def fits(slabs):
    """Each model after a few epochs, on slabs with energies and forces, and its sigma."""
    found = {}
    for name in CASES:
        fit = train(untrained(name), slabs[:12], 0.25, epochs=2, progress=False)
        found[name] = fit, LLPR.fit(fit.potential, fit.train_frames, fit.validation_frames, progress=False)
    return found


@pytest.mark.parametrize("name", CASES)
def test_llpr(fits, slabs, name):
    _, sure = fits[name]
    for prediction in sure.predict(slabs[12:14], forces=True):
        assert prediction.energy_uncertainty > 0
        assert prediction.forces_uncertainty.shape == (14, 3)
        assert np.all(prediction.forces_uncertainty > 0)
        assert (prediction.excess_electrons_uncertainty is not None) == (name == "charges")
    check_uncertainty(sure, slabs[12:14])


@pytest.mark.parametrize("name", CASES)
def test_ensemble(fits, slabs, name):
    """The spread of many members is the sigma of the last layer."""
    fit, sure = fits[name]
    layer = fit.potential.last_layer()
    structures = [fit.potential.neighborhood(atoms) for atoms in slabs[12:14]]
    rows = energy_features(layer, structures) / 14
    members = sample_ensemble(sure.posterior, sure.maps["energy"].alpha, layer.n_features + 50)
    energies = [p.energy / 14 for p in fit.potential.predict(slabs[12:14])]
    spread = ensemble_predict(energies, rows, members).std(axis=1, ddof=1)
    sigma = [p.energy_uncertainty / 14 for p in sure.predict(slabs[12:14])]
    np.testing.assert_allclose(spread, sigma, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("features", ["ll_grad", "full_grad_rp", "ll_posterior"])
def test_max_distance_selection(fits, slabs, name, features):
    _, sure = fits[name]
    picks = select(sure, slabs[:4], slabs[4:], method="max_dist", n=3, features=features)
    assert len(set(picks.indices.tolist())) == 3


@pytest.mark.parametrize("name", CASES)
def test_rows_are_derivatives_of_the_predictions(fits, slabs, name):
    """A small step of the last weights changes energy and forces by the rows."""

    fit, _ = fits[name]
    potential = fit.potential
    (rows,) = structure_rows(potential, [potential.neighborhood(slabs[12])])
    direction = np.random.default_rng(0).normal(size=potential.readout.shape) * (
        np.asarray(potential.readout) != 0
    )
    step = 1e-5

    def moved(sign):
        changed = eqx.tree_at(lambda p: p.readout, potential, potential.readout + sign * step * direction)
        return changed.predict(slabs[12:13])[0]

    up, down = moved(1), moved(-1)
    scale = np.abs(rows.energy).sum()
    np.testing.assert_allclose(
        rows.energy @ direction.ravel(), (up.energy - down.energy) / (2 * step), atol=1e-8 * scale
    )
    np.testing.assert_allclose(
        rows.forces @ direction.ravel(), (up.forces - down.forces).ravel() / (2 * step), atol=1e-7
    )
