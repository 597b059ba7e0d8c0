from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.potentials import ZBL, predict
from surefield.testing import check_uncertainty
from surefield.training import checkpoint, train
from surefield.training.checkpoint import PartialSums
from surefield.uncertainty import LLPR, row_sums


@pytest.fixture(scope="module")
def potential(copper, copper_network):
    return train(copper_network, copper[:4], 0, epochs=0, progress=False).potential


@pytest.fixture(scope="module")
def llpr(potential, copper):
    return LLPR.fit(potential, copper[:4], copper[4:], progress=False)


def test_contract(llpr, copper):
    check_uncertainty(llpr, copper[5:7])


def test_sigma_is_larger_away_from_the_data(llpr, copper):
    far = copper[0].copy()
    far.set_cell(0.85 * far.cell.array, scale_atoms=True)
    near, other = llpr.predict([copper[0], far], forces=True)
    assert other.energy_uncertainty > 3 * near.energy_uncertainty
    assert other.forces_uncertainty.max() > 2 * near.forces_uncertainty.max()


def test_calibrated_on_the_calibration_set(llpr, copper):
    """The second moment of z is one for the map alpha; forces are covered about as a normal law says."""
    found = llpr.predict(copper[4:], forces=True)
    z = np.array(
        [
            (p.energy - a.get_potential_energy()) / p.energy_uncertainty
            for p, a in zip(found, copper[4:], strict=True)
        ]
    )
    np.testing.assert_allclose(np.mean(z**2), 1.0, rtol=1e-6)
    z = np.concatenate(
        [
            ((p.forces - a.get_forces()) / p.forces_uncertainty).ravel()
            for p, a in zip(found, copper[4:], strict=True)
        ]
    )
    assert 0.4 < np.mean(np.abs(z) < 1) < 0.95
    assert np.mean(np.abs(z) < 3) > 0.9


def test_energy_sigma_by_hand(llpr, copper):
    """alpha n sqrt(g (C + s^2)^-1 g) from the definitions."""
    from surefield.sensitivity import energy_features
    from surefield.structures.neighbors import neighborhood

    f = energy_features(llpr.potential, [neighborhood(a, llpr.cutoff) for a in copper[4:]]) / 2
    u = llpr.posterior.u(f)
    found = np.array([p.energy_uncertainty for p in llpr.predict(copper[4:])])
    np.testing.assert_allclose(found / u, np.full(4, found[0] / u[0]), rtol=1e-9)
    residual = [
        (p.energy - a.get_potential_energy()) / 2
        for p, a in zip(predict(llpr.potential, copper[4:]), copper[4:], strict=True)
    ]
    alpha = np.sqrt(np.mean((np.array(residual) / u) ** 2))
    np.testing.assert_allclose(found, 2 * alpha * u, rtol=1e-6)


def test_forces_that_vanish_by_symmetry_are_certain(llpr):
    (found,) = llpr.predict([bulk("Cu", "fcc", a=3.6).repeat((2, 1, 1))], forces=True)
    np.testing.assert_allclose(found.forces, 0, atol=1e-9)
    np.testing.assert_array_equal(found.forces_uncertainty, 0)


def test_without_forces(potential, copper):
    plain = LLPR.fit(potential, copper[:4], copper[4:], row_kinds=["energy"], progress=False)
    assert set(plain.maps) == {"energy"}
    (found,) = plain.predict(copper[:1])
    assert found.forces_uncertainty is None
    with pytest.raises(ConfigError, match="shared_alpha"):
        LLPR.fit(potential, copper[:4], copper[4:], shared_alpha=-1.0)
    with pytest.raises(ConfigError, match="row_kinds"):
        plain.predict(copper[:1], forces=True)
    check_uncertainty(plain, copper[5:6])


def test_few_energies_share_the_alpha_of_the_forces(llpr, potential, copper):
    shared = LLPR.fit(potential, copper[:4], copper[4:], shared_alpha=10, progress=False)
    n = len(copper[4:])
    expected = (n * llpr.maps["energy"].alpha ** 2 + 10 * llpr.maps["forces"].alpha ** 2) / (n + 10)
    np.testing.assert_allclose(shared.maps["energy"].alpha ** 2, expected)
    assert shared.maps["forces"] == llpr.maps["forces"]


@pytest.mark.slow  # eigenvalues of a null space are the same in optimised programs only
@pytest.mark.parametrize("last", [2, 6])
def test_an_interrupted_fit_goes_on(llpr, potential, copper, tmp_path, monkeypatch, last):
    """The same posterior and maps as without the stop, and no structure is looked at twice."""
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SAVE_SHARE", 0.0)
    save, count = PartialSums.save, []

    def stopped(self, arrays):
        save(self, arrays)
        count.append(int(arrays()["done"]))
        if len(count) == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(PartialSums, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        LLPR.fit(potential, copper[:4], copper[4:], folder=tmp_path, progress=False)
    with pytest.raises(PotentialError, match="forces of the calibration set"):
        LLPR.fit(potential, copper[:4], [_reversed(a) for a in copper[4:]], folder=tmp_path)
    with monkeypatch.context() as context:
        context.setattr(row_sums, "SYMMETRY_ZERO", 1e-6)  # as it was: other rows would have been kept
        with pytest.raises(PotentialError, match="limit of rows that vanish"):
            LLPR.fit(potential, copper[:4], copper[4:], folder=tmp_path, progress=False)
    again = LLPR.fit(potential, copper[:4], copper[4:], folder=tmp_path, progress=False)
    assert len(count) == 8
    assert list(tmp_path.iterdir()) == []
    for name in ("rows", "calibration_rows", "rank"):
        assert again.statistics[name] == llpr.statistics[name]
    np.testing.assert_allclose(again.posterior.eigenvalues, llpr.posterior.eigenvalues, rtol=1e-7)
    assert again.maps.keys() == llpr.maps.keys()
    for name, calibration in llpr.maps.items():
        assert again.maps[name].alpha == pytest.approx(calibration.alpha, rel=1e-7)
    first, second = (sure.predict(copper[4:5], forces=True)[0] for sure in (llpr, again))
    np.testing.assert_allclose(second.forces_uncertainty, first.forces_uncertainty, rtol=1e-6)


def _reversed(atoms):
    copy = atoms.copy()
    results = atoms.calc.results
    copy.calc = SinglePointCalculator(copy, **{**results, "forces": -results["forces"]})
    return copy


def test_mistakes(potential, copper, alloy):
    with pytest.raises(ConfigError, match="forces"):
        LLPR.fit(potential, copper[:4], copper[4:], row_kinds=["force"])
    with pytest.raises(PotentialError, match="last layer"):
        LLPR.fit(ZBL(["Cu"]), copper[:4], copper[4:])
    with pytest.raises(DataError):
        LLPR.fit(potential, copper[:4], [])
    with pytest.raises(PotentialError, match="Au"):
        LLPR.fit(potential, copper[:4], copper[4:], progress=False).predict(alloy)
