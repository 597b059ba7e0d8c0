"""Distances to training environments, and the constant sigma beside them."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from surefield.calibration.maps import LocalMap
from surefield.errors import ConfigError, PotentialError
from surefield.potentials import ZBL
from surefield.selection.distances import k_nearest
from surefield.sensitivity import site_features
from surefield.testing import check_uncertainty
from surefield.uncertainty import ConstantUncertainty, FeatureDistance, fit_calibration_map


@pytest.fixture(scope="module")
def distance(copper_network, copper):
    return FeatureDistance.fit(copper_network, copper[:4], copper[4:7], k=2)


def test_contracts(distance, copper_network, copper):
    check_uncertainty(distance, copper[6:])
    check_uncertainty(ConstantUncertainty.fit(copper_network, copper[4:7]), copper[6:])


def test_distance_is_that_of_the_features(distance, copper_network, copper):
    def features(frames):
        structures = [copper_network.neighborhood(atoms) for atoms in frames]
        return np.concatenate([x for _, x in sorted(site_features(copper_network, structures))])

    known, query = features(copper[:4]), features(copper[7:])
    spread = known.std(axis=0)
    unit = np.maximum(spread, 1e-3 * spread.max()) * np.sqrt(known.shape[1])
    each = np.linalg.norm((query[:, None] - known[None]) / unit, axis=2)
    expected = np.sqrt(np.mean(np.sort(each, axis=1)[:, :2] ** 2, axis=1))
    structure = copper_network.neighborhood(copper[7])
    ((_, spreads),) = distance.spreads([structure], ("energy", "forces", "energies"), batch_size=1)
    np.testing.assert_allclose(spreads["energies"].u, expected, rtol=1e-10)
    np.testing.assert_allclose(spreads["forces"].u, np.repeat(expected[:, None], 3, axis=1), rtol=1e-10)
    assert spreads["energy"].u == pytest.approx(np.sqrt(np.mean(expected**2)), rel=1e-10)


def test_memory_is_bounded(copper_network, copper):
    few = FeatureDistance.fit(copper_network, copper[:4], copper[4:7], k=8, max_environments=3, seed=1)
    again = FeatureDistance.fit(copper_network, copper[:4], copper[4:7], k=8, max_environments=3, seed=1)
    assert few.environments.counts == {"Cu": 3}
    np.testing.assert_array_equal(few.environments.places, again.environments.places)
    assert few.predict(copper[:1])[0].energy_uncertainty > 0


def test_copies_of_the_training_set_are_not_certain(copper_network, copper):
    sure = FeatureDistance.fit(copper_network, copper[:4], copper[4:7], k=1)
    (same, other) = sure.predict([copper[0], copper[7]], forces=True)
    assert 0 < same.energy_uncertainty <= other.energy_uncertainty
    assert np.all(same.forces_uncertainty > 0)


def test_forces_that_vanish_by_symmetry(copper_network, copper):
    perfect = bulk("Cu", "fcc", a=3.7)
    for sure in (
        ConstantUncertainty.fit(copper_network, copper[4:7]),
        FeatureDistance.fit(copper_network, copper[:4], copper[4:7]),
    ):
        (prediction,) = sure.predict([perfect], forces=True)
        np.testing.assert_array_equal(prediction.forces_uncertainty, 0.0)
        assert prediction.energy_uncertainty > 0


def test_rows_that_vanish_by_symmetry_are_not_calibrated_on(copper_network, copper):
    perfect = bulk("Cu", "fcc", a=3.7)
    perfect.calc = copper[0].calc.__class__(perfect, energy=-7.0, forces=np.zeros((1, 3)))
    plain = ConstantUncertainty.fit(copper_network, copper[4:7])
    with_more = ConstantUncertainty.fit(copper_network, [*copper[4:7], perfect])
    assert with_more.maps["forces"].sigma(1.0) == pytest.approx(plain.maps["forces"].sigma(1.0), rel=1e-12)


def test_refusals(distance, copper_network, copper):
    with pytest.raises(ConfigError, match="k, the number of neighbours"):
        FeatureDistance.fit(copper_network, copper[:4], copper[4:7], k=0)
    with pytest.raises(ConfigError, match="max_environments must be positive"):
        FeatureDistance.fit(copper_network, copper[:4], copper[4:7], max_environments=0)
    with pytest.raises(PotentialError, match="no training atom to compare Au with"):
        distance.environments.nearest(distance.environments.features, 79, 2, scaled=True)
    with pytest.raises(PotentialError, match="no such member"):
        ConstantUncertainty.fit(copper_network, copper[4:7]).member(1)
    with pytest.raises(PotentialError, match="ZBL has no linear last layer"):
        FeatureDistance.fit(ZBL(["Cu"], 1.0, 2.0), copper[:4], copper[4:7])


def test_local_map():
    """The RMS error of each tenth of the rows, and as much more as u is beyond the last."""
    rng = np.random.default_rng(3)
    u = rng.uniform(0.5, 2.0, 4000)
    residuals = rng.normal(0.0, 0.1 + (u > 1.0))
    fitted = fit_calibration_map(residuals, u, "local")
    assert isinstance(fitted, LocalMap)
    assert fitted.sigma(0.6) == pytest.approx(0.1, rel=0.15)
    assert fitted.sigma(1.8) == pytest.approx(1.1, rel=0.15)
    assert fitted.sigma(10 * fitted.knots[-1]) == pytest.approx(10 * fitted.sigmas[-1])
    assert type(fitted).from_dict(fitted.to_dict()) == fitted
    few = fit_calibration_map(residuals[:10], u[:10], "local")
    assert few.sigma(0.1) == pytest.approx(np.sqrt(np.mean(residuals[:10] ** 2)))


@pytest.mark.parametrize("copies", [0, 40])
def test_k_nearest_is_exact(copies):
    rng = np.random.default_rng(2)
    others = 1e3 + rng.normal(size=(60, 5))
    others = np.concatenate([others, np.repeat(others[:1], copies, axis=0)])
    rows = np.concatenate([1e3 + rng.normal(size=(30, 5)), others[:3]])
    squared, which = k_nearest(rows, others, 4)
    each = ((rows[:, None] - others[None]) ** 2).sum(axis=2)
    expected = np.lexsort((np.broadcast_to(np.arange(len(others)), each.shape), each), axis=1)[:, :4]
    np.testing.assert_array_equal(which, expected)
    np.testing.assert_allclose(squared, np.take_along_axis(each, expected, axis=1), rtol=1e-12)
    alone, _ = k_nearest(others, others, 1, without=np.arange(len(others)))
    np.fill_diagonal(full := ((others[:, None] - others[None]) ** 2).sum(axis=2), np.inf)
    np.testing.assert_allclose(alone[:, 0], full.min(axis=1), rtol=1e-12, atol=1e-12)
