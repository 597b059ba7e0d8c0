from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from surefield.calibration.metrics import gaussian_nll
from surefield.errors import ConfigError, DataError
from surefield.sensitivity.posterior import LLPRPosterior
from surefield.uncertainty.last_layer_ensemble import ensemble_loss, ensemble_predict, sample_ensemble

D = 6


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(40, D)) * np.logspace(0, 2, D)


@pytest.fixture
def posterior(rows: np.ndarray) -> LLPRPosterior:
    return LLPRPosterior.from_covariance(rows.T @ rows, 0.5)


@pytest.mark.parametrize("case", ["ethanol", "si"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_members_of_the_peer(shared: Path, case: str, split: str) -> None:
    data = np.load(shared / "reference" / "uncertainty" / f"metatrain_{case}.npz")
    if f"{split}_ens" not in data:
        assert (case, split) == ("si", "train")
        return
    weights = data["ensemble_weights"]
    displacements = weights - weights.mean(axis=0)
    members = ensemble_predict(data[f"{split}_E"][:, 0], data[f"{split}_F_sum"], displacements)
    np.testing.assert_allclose(members, data[f"{split}_ens"], rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("case", ["ethanol", "si"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("ensemble_nll", "gaussian_nll(eps=1e-6, no 0.5*log(2*pi))"),
        ("gaussian_nll_ensemble", "gaussian_nll(eps=1e-6, no 0.5*log(2*pi))"),
        ("gaussian_crps_ensemble", "gaussian_crps"),
        ("empirical_crps_ensemble", "empirical_crps"),
    ],
)
def test_losses_of_the_peer(shared: Path, case: str, ours: str, theirs: str) -> None:
    folder = shared / "reference" / "uncertainty"
    expected = json.loads((folder / "ensemble_losses.json").read_text())[case][theirs]
    data = np.load(folder / f"metatrain_{case}.npz")
    loss = ensemble_loss(ours, data["test_ens"], data["test_Eref"][:, 0], eps=1e-6)
    assert loss == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("case", ["ethanol", "si"])
def test_member_forces_spread_as_the_peers(shared: Path, case: str) -> None:
    folder = shared / "reference" / "uncertainty"
    weights = np.load(folder / f"metatrain_{case}.npz")["ensemble_weights"]
    data = np.load(folder / f"metatrain_{case}_forces.npz")
    expected = data["ens_grad_std_frame0"]
    rows = data["test_G"][: len(expected)]
    members = ensemble_predict(np.zeros(len(rows)), rows, weights - weights.mean(axis=0))
    np.testing.assert_allclose(members.std(axis=1, ddof=1), expected, rtol=1e-6, atol=1e-9 * expected.max())


@pytest.mark.parametrize("n_members", [D + 1, 3 * D, 200])
@pytest.mark.parametrize("route", ["eigenvalues", "cholesky"])
def test_moment_matched_spread_is_the_analytic_one(rows: np.ndarray, n_members: int, route: str) -> None:
    covariance = rows.T @ rows + 0.5 * np.eye(D)
    if route == "cholesky":
        posterior = LLPRPosterior.from_cholesky(np.linalg.cholesky(covariance))
    else:
        posterior = LLPRPosterior.from_covariance(covariance, 0)
    members = ensemble_predict(rows[:, 0], rows, sample_ensemble(posterior, 1.7, n_members, seed=3))
    np.testing.assert_allclose(members.std(axis=1, ddof=1), 1.7 * posterior.u(rows), rtol=1e-10)
    np.testing.assert_allclose(members.mean(axis=1), rows[:, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("n_members", "scheme"), [(D, "moment_matched"), (5000, "iid")])
def test_other_draws_are_centred_and_random(
    rows: np.ndarray, posterior: LLPRPosterior, n_members: int, scheme: str
) -> None:
    displacements = sample_ensemble(posterior, 0.3, n_members, scheme=scheme)
    np.testing.assert_allclose(displacements.sum(axis=0), 0, atol=1e-12)
    ratio = (rows @ displacements.T).std(axis=1, ddof=1) / (0.3 * posterior.u(rows))
    assert np.ptp(ratio) > 1e-3
    if scheme == "iid":
        np.testing.assert_allclose(ratio, 1, atol=5 / np.sqrt(2 * n_members))


def test_draws_depend_on_the_seed_only(posterior: LLPRPosterior) -> None:
    first = sample_ensemble(posterior, 1.0, 10, seed=4)
    assert np.array_equal(first, sample_ensemble(posterior, 1.0, 10, seed=4))
    assert not np.allclose(first, sample_ensemble(posterior, 1.0, 10, seed=5))
    expected = np.random.Generator(np.random.Philox(key=4)).standard_normal((10, D))
    expected = posterior.color(expected - expected.mean(axis=0))
    np.testing.assert_allclose(
        sample_ensemble(posterior, 1.0, 10, seed=4, scheme="iid"), expected, atol=1e-14
    )


def test_properties_have_their_own_factor(rows: np.ndarray, posterior: LLPRPosterior) -> None:
    displacements = sample_ensemble(posterior, [1.0, 4.0], 50)
    assert displacements.shape == (50, D, 2)
    prediction = rows[:, :2]
    members = ensemble_predict(prediction, rows, displacements)
    assert members.shape == (40, 50, 2)
    np.testing.assert_allclose(members.mean(axis=1), prediction, rtol=1e-12, atol=1e-12)
    expected = posterior.u(rows)[:, None] * [1.0, 4.0]
    np.testing.assert_allclose(members.std(axis=1, ddof=1), expected, rtol=1e-10)


def test_gaussian_losses_are_those_of_mean_and_unbiased_variance() -> None:
    random = np.random.default_rng(2)
    members, target = random.normal(size=(9, 4)), random.normal(size=9)
    residuals, sigma = target - members.mean(axis=1), members.std(axis=1, ddof=1)
    expected = gaussian_nll(residuals, sigma).mean() - 0.5 * np.log(2 * np.pi)
    assert ensemble_loss("ensemble_nll", members, target) == pytest.approx(expected, rel=1e-12)


def test_empirical_crps_is_its_double_sum() -> None:
    random = np.random.default_rng(3)
    members, target = random.normal(size=(7, 5)), random.normal(size=7)
    pairs = np.abs(members[:, :, None] - members[:, None, :]).sum(axis=(1, 2))
    expected = np.mean(np.abs(members - target[:, None]).mean(axis=1) - pairs / (2 * 5**2))
    assert ensemble_loss("empirical_crps_ensemble", members, target) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["ensemble_nll", "gaussian_crps_ensemble", "empirical_crps_ensemble"])
def test_masked_targets_do_not_matter(name: str) -> None:
    random = np.random.default_rng(4)
    members, target = random.normal(size=(6, 5)), random.normal(size=6)
    masked = np.where(np.arange(6) == 2, np.nan, target)
    keep = np.arange(6) != 2
    assert ensemble_loss(name, members, masked) == ensemble_loss(name, members[keep], target[keep])


def test_variance_floor_bounds_the_likelihood() -> None:
    loss = ensemble_loss("ensemble_nll", np.ones((3, 4)), np.full(3, 1.1), eps=0.01)
    assert loss == pytest.approx(0.5 * (np.log(0.01) + 1))


def test_bad_ensembles_are_refused(rows: np.ndarray, posterior: LLPRPosterior) -> None:
    with pytest.raises(ConfigError, match="num_ensemble_members must be at least 2; got 1"):
        sample_ensemble(posterior, 1.0, 1)
    with pytest.raises(ConfigError, match=r"'moments'.*did you mean 'moment_matched'"):
        sample_ensemble(posterior, 1.0, 4, scheme="moments")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"alpha must be positive.*-1"):
        sample_ensemble(posterior, -1.0, 4)
    with pytest.raises(ConfigError, match=r"seed.*-1"):
        sample_ensemble(posterior, 1.0, 4, seed=-1)
    with pytest.raises(DataError, match=r"\(40,\), \(40, 6\), \(4, 5\)"):
        ensemble_predict(rows[:, 0], rows, np.ones((4, 5)))
    with pytest.raises(DataError, match=r"\(3,\), \(40, 6\), \(4, 6\)"):
        ensemble_predict(np.ones(3), rows, np.ones((4, D)))


def test_bad_losses_are_refused() -> None:
    members, target = np.ones((3, 4)), np.ones(3)
    with pytest.raises(ConfigError, match="'nll'"):
        ensemble_loss("nll", members, target)
    with pytest.raises(ConfigError, match=r"eps must be positive; got 0\.0"):
        ensemble_loss("ensemble_nll", members, target, eps=0.0)
    with pytest.raises(DataError, match=r"\(3, 4\), \(2,\)"):
        ensemble_loss("ensemble_nll", members, target[:2])
    with pytest.raises(DataError, match=r"\(3, 1\)"):
        ensemble_loss("ensemble_nll", members[:, :1], target)
    with pytest.raises(DataError, match="3 entries, all NaN"):
        ensemble_loss("ensemble_nll", members, target * np.nan)
    with pytest.raises(DataError, match="not finite in entry 2"):
        ensemble_loss("ensemble_nll", members, [np.nan, 1, np.inf])
