"""Covariances of predictions, and sigmas of what is computed from them."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from ase import units

from surefield.errors import ConfigError, DataError
from surefield.structures.neighbors import neighborhood
from surefield.testing import check_uncertainty
from surefield.uncertainty import LLPR
from surefield.uncertainty.propagation import trajectory_average


@pytest.fixture(scope="module")
def llpr(copper_network, copper):
    return LLPR.fit(
        copper_network, copper[:4], copper[4:], progress=False, num_ensemble_members={"energy": 80}
    )


def test_members(llpr, copper, tmp_path):
    """More members than features: moments are matched, so that spread and sigma are the same."""
    assert llpr.n_members == 80 > llpr.posterior.n_features
    (found,) = llpr.predict(copper[5:6], per_atom=True, ensemble=True)
    np.testing.assert_allclose(found.energy_ensemble.std(ddof=1), found.energy_uncertainty, rtol=1e-9)
    np.testing.assert_allclose(
        found.energies_ensemble.std(axis=0, ddof=1), found.energies_uncertainty, rtol=1e-9
    )
    np.testing.assert_allclose(found.energy_ensemble.mean(), found.energy, rtol=1e-12)
    (one,) = llpr.predict(copper[5:6], member=3)
    np.testing.assert_allclose(found.energy_ensemble[2], one.energy, rtol=1e-9)
    llpr.save(tmp_path / "llpr.npz")
    again = LLPR.load(tmp_path / "llpr.npz")
    np.testing.assert_array_equal(again.displacements["energy"], llpr.displacements["energy"])


def test_forces_of_members_are_those_of_their_energies(llpr, copper):
    (found,) = llpr.predict(copper[5:6], forces=True, ensemble=True)
    step, ends = 1e-4, []
    for sign in (1, -1):
        moved = copper[5].copy()
        moved.positions[0, 1] += sign * step
        ends.append(llpr.predict([moved], ensemble=True)[0].energy_ensemble)
    np.testing.assert_allclose(found.forces_ensemble[:, 0, 1], (ends[1] - ends[0]) / (2 * step), atol=1e-5)


def test_contract_with_members(llpr, copper):
    check_uncertainty(llpr, copper[5:6])


def test_covariance(llpr, copper):
    frames = copper[4:6]
    atoms = llpr.covariance(frames, kinds=("energies",))
    energies = llpr.covariance(frames)
    predictions = llpr.predict(frames, per_atom=True, forces=True)
    np.testing.assert_allclose(np.sqrt(np.diag(energies)), [p.energy_uncertainty for p in predictions])
    np.testing.assert_allclose(atoms[:2, :2].sum(), energies[0, 0], rtol=1e-9)
    np.testing.assert_allclose(atoms[:2, 2:].sum(), energies[0, 1], rtol=1e-9)
    np.testing.assert_allclose(llpr.covariance(frames[:1], frames[1:]), energies[:1, 1:], rtol=1e-9)
    both = llpr.covariance(frames, kinds=("energy", "forces"))
    assert both.shape == (14, 14)
    np.testing.assert_allclose(both, both.T, atol=1e-12 * np.abs(both).max())
    forces = np.concatenate([p.forces_uncertainty.ravel() for p in predictions])
    np.testing.assert_allclose(np.sqrt(np.diag(both)[2:]), forces, rtol=1e-9)


def test_energy_covariance_by_hand(llpr, copper):
    from surefield.sensitivity import energy_features

    f = energy_features(llpr.potential, [neighborhood(a, llpr.cutoff) for a in copper[4:6]])
    expected = llpr.maps["energy"].alpha ** 2 * llpr.posterior.quadratic(f)
    np.testing.assert_allclose(llpr.covariance(copper[4:6]), expected, rtol=1e-9)
    d = f[0] - f[1]
    sigma = llpr.maps["energy"].alpha * np.sqrt(llpr.posterior.quadratic(d)[0, 0])
    np.testing.assert_allclose(llpr.difference(copper[4], copper[5]), sigma, rtol=1e-9)
    np.testing.assert_allclose(llpr.sigma_difference(copper[5], copper[4]), sigma, rtol=1e-9)
    # Errors that two structures share cancel: less than from separate sigmas.
    separate = np.sqrt(np.trace(expected))
    assert sigma < 0.95 * separate


def test_difference_of_a_structure_and_itself(llpr, copper):
    assert llpr.difference(copper[4], copper[4]) == 0.0
    with pytest.raises(DataError, match="one coefficient"):
        llpr.combination(copper[4:6], [1.0])


def test_linear_propagation(llpr, copper):
    """Of a linear function what the covariance says; JAX and differences agree; members tell the same."""
    frames = copper[4:6]

    def plain(energy, forces):
        return energy[0] - 2 * energy[1] + forces[1, 0, 2]

    def opaque(energy, forces):
        return float(energy[0]) - 2 * float(energy[1]) + float(forces[1, 0, 2])

    found, by_differences = llpr.propagate(plain, frames), llpr.propagate(opaque, frames)
    both = llpr.covariance(frames, kinds=("energy", "forces"))
    c = np.zeros(14)
    c[:2], c[2 + 6 + 2] = (1, -2), 1
    np.testing.assert_allclose(found.sigma, np.sqrt(c @ both @ c), rtol=1e-6)
    np.testing.assert_allclose(by_differences.sigma, found.sigma, rtol=1e-4)
    p = llpr.predict(frames)
    np.testing.assert_allclose(found.value, p[0].energy - 2 * p[1].energy + p[1].forces[0, 2], rtol=1e-9)
    curved = llpr.propagate(lambda energy: jnp.exp(0.01 * energy), frames)
    sigmas = [p.energy_uncertainty for p in llpr.predict(frames)]
    np.testing.assert_allclose(curved.sigma, 0.01 * curved.value * sigmas, rtol=1e-6)


def test_ensemble_propagation(llpr, copper):
    frames = copper[4:6]
    found = llpr.propagate(lambda energy: energy[0] - energy[1], frames, method="ensemble")
    assert found.members is not None
    assert found.members.shape == (80,)
    np.testing.assert_allclose(found.sigma, llpr.difference(*frames), rtol=1e-8)
    assert found.quantiles[0.16] < found.value < found.quantiles[0.84]


def test_trajectory_average(llpr, copper):
    """By the definition, for the members themselves; and the cumulant agrees where deviations are small."""
    frames, temperature = copper[:6], 3000.0
    found = llpr.propagate(lambda a: a.get_volume(), frames, method="cea", temperature=temperature)
    volumes = np.array([a.get_volume() for a in frames])
    predictions = llpr.predict(frames, ensemble=True)
    d = np.array([p.energy_ensemble - p.energy for p in predictions]).T
    beta = 1 / (units.kB * temperature)
    weights = np.exp(-beta * d)
    expected = (weights * volumes).sum(axis=1) / weights.sum(axis=1)
    full = trajectory_average(volumes, d, beta)
    assert full.members is not None
    assert found.members is not None
    assert full.effective_size is not None
    np.testing.assert_allclose(full.members, expected, rtol=1e-10)
    np.testing.assert_allclose(full.effective_size, weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1))
    cea = volumes.mean() - beta * ((d * volumes).mean(axis=1) - d.mean(axis=1) * volumes.mean())
    np.testing.assert_allclose(found.members, cea, rtol=1e-10)
    small, of_small = (
        np.asarray(trajectory_average(volumes, 1e-4 * d, beta, how).members) for how in ("reweight", "cea")
    )
    np.testing.assert_allclose(small, of_small, rtol=1e-7)
    with pytest.warns(UserWarning, match="effective of 200 frames; use method='cea'"):
        trajectory_average(np.arange(200.0), np.random.default_rng(0).normal(size=(2, 200)), 50.0)


def test_update(llpr, copper, copper_network):
    """The posterior of more rows is that of a fit with them; sigma falls where they are."""
    more = llpr.update(copper[4:6])
    again = LLPR.fit(
        copper_network,
        copper[:6],
        copper[4:],
        progress=False,
        row_weights=llpr.statistics["weights"],
        regularizer=float(np.sqrt(llpr.statistics["varsigma2"])),
    )
    expected = again.posterior.covariance
    np.testing.assert_allclose(more.posterior.covariance, expected, atol=1e-9 * np.abs(expected).max())
    assert more.statistics["rows"] == again.statistics["rows"]
    before, after = (sure.predict(copper[4:5])[0].energy_uncertainty for sure in (llpr, more))
    assert after < 0.95 * before
    with pytest.raises(DataError):
        llpr.update([copper[0].copy()])


def test_report(llpr, copper):
    frames = [atoms.copy() for atoms in copper[:4]]
    for atoms, source in zip(frames, copper, strict=False):
        atoms.calc = source.calc
        atoms.info["config_type"] = "squeezed" if atoms.get_volume() < np.pi * 7 else "wide"
    report = llpr.report(frames)
    (energy, forces) = report["energy"], report["forces"]
    z = [
        (p.energy - a.get_potential_energy()) / p.energy_uncertainty
        for p, a in zip(llpr.predict(frames), frames, strict=True)
    ]
    assert energy["mean_z2"] == pytest.approx(np.mean(np.square(z)))
    assert energy["n"] == 4
    assert forces["n"] == 24
    constant = next(r for r in report.rows if r["estimator"] == "constant" and r["quantity"] == "forces")
    assert constant["mean_z2"] == pytest.approx(1.0)
    assert "indicative only" in report.verdicts["energy"]
    better = forces["nll"] < constant["nll"] and forces["crps"] < constant["crps"]
    assert ("better than a constant" in report.verdicts["forces"]) == better
    assert (
        len(json.loads(report.to_json())["rows"]) == len(report.rows) == len(report.to_csv().splitlines()) - 1
    )
    assert "forces" in str(report)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "linar"}, "did you mean 'linear'"),
        ({"method": "cea"}, "temperature of the trajectory"),
    ],
)
def test_mistakes(llpr, copper, options, words):
    with pytest.raises(ConfigError, match=words):
        llpr.propagate(lambda energy: energy, copper[:1], **options)
    with pytest.raises(ConfigError, match="'force' of the function"):
        llpr.propagate(lambda force: force, copper[:1])
    with pytest.raises(ConfigError, match="has no uncertainty"):
        llpr.covariance(copper[:1], kinds=("charges",))
