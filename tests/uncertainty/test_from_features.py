"""Sigmas of energies that come with a prediction, from the features of its atoms alone."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from tests.conftest import small_network

from surefield.calibration.maps import AlphaMap
from surefield.potentials import ZBL
from surefield.potentials.evaluate import evaluate, predict
from surefield.potentials.message_network import MessageNetwork
from surefield.sensitivity.posterior import LLPRPosterior
from surefield.sensitivity.rows import atom_features, site_features
from surefield.structures.graph import collate
from surefield.uncertainty import LLPR, uncertainty


def around(potential):
    """An LLPR whose posterior has seen forty random rows."""
    n = potential.last_layer().n_features
    rows = np.random.default_rng(5).normal(size=(40, n))
    posterior = LLPRPosterior.from_covariance(rows.T @ rows, 0.1)
    attributes = {field.name: field.default for field in fields(LLPR) if field.name in ("stale", "probes")}
    return LLPR._of(
        potential=potential,
        maps={"energy": AlphaMap(2.0)},
        thresholds={},
        statistics={},
        posterior=posterior,
        displacements={},
        sets=None,
        **attributes,
    )


POTENTIALS = {
    "elements, with a baseline": lambda: small_network(("Cu", "Au")) + ZBL(["Cu", "Au"]),
    "single precision": lambda: small_network(("Cu", "Au"), "float32"),
    "one block, two layers": lambda: MessageNetwork(
        ["Cu", "Au"], cutoff=3.5, n_basis=3, n_channels=4, n_layers=2, dtype="float64"
    ),
}


@pytest.mark.parametrize("name", POTENTIALS)
def test_as_from_the_rows(alloy, name):
    """Sigmas of energies and atoms are those of rows, also where the features are shared with the energy."""
    sure = around(POTENTIALS[name]())
    rtol = 2e-6 if name == "single precision" else 1e-9
    assert sure.features_suffice(["energy", "energies"])
    assert not sure.features_suffice(["energy", "forces"])
    for atoms, p in zip(alloy, sure.predict(alloy, per_atom=True), strict=True):
        rows = atom_features(sure.last_layer(), sure.last_layer().neighborhood(atoms))
        np.testing.assert_allclose(p.energies_uncertainty, 2 * sure.posterior.u(rows), rtol=rtol)
        np.testing.assert_allclose(p.energy_uncertainty, 2 * sure.posterior.u(rows.sum(axis=0)), rtol=rtol)
        alone = predict(sure.potential, [atoms])[0]
        np.testing.assert_allclose(p.energy, alone.energy, rtol=1e-7)
        np.testing.assert_allclose(p.forces, alone.forces, rtol=1e-4, atol=1e-5)


def test_no_rows_are_made(alloy, monkeypatch):
    """The spreads of energies come with the prediction; those of forces do not."""
    sure = around(small_network(("Cu", "Au")))

    def refused(*_, **__):
        raise AssertionError("rows were asked for")

    monkeypatch.setattr(LLPR, "spreads", refused)
    assert all(p.energy_uncertainty > 0 for p in sure.predict(alloy))
    monkeypatch.setattr(uncertainty.Uncertainty, "_names", lambda *_: ["energy", "forces"])
    with pytest.raises(AssertionError, match="rows"):
        sure.predict(alloy)


def test_features_of_an_evaluation(alloy, network):
    potential = network + ZBL(["Cu", "Au"])
    graph = collate([potential.neighborhood(alloy[0])], dtype=potential.dtype)
    ((_, expected),) = site_features(potential.last_layer(), [potential.neighborhood(alloy[0])])
    assert evaluate(potential, graph).features is None
    found = np.asarray(evaluate(potential, graph, features=True).features)
    np.testing.assert_allclose(found[: len(alloy[0])], expected, rtol=1e-12)
