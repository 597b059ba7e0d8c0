from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from surefield.calibration.metrics import (
    auroc,
    auroc_error,
    binned_rmv_rmse,
    calibration_curve,
    coverage,
    ence,
    gaussian_crps,
    gaussian_nll,
    relative_log_likelihood,
    spearman,
    uq_metrics,
)
from surefield.errors import ConfigError, DataError

REFERENCE_CASES = [
    "ethanol/val/energy",
    "ethanol/test/energy",
    "ethanol/test/forces",
    "si/val/energy",
    "si/test/energy",
    "si/test/forces",
]


def draw(n: int, seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    sigma = random.lognormal(sigma=0.7, size=n)
    if ties:
        sigma = np.round(sigma, 1) + 0.1
    return 1.4 * sigma * random.normal(size=n) + 0.1, sigma


def scored(shared: Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    case, split, kind = key.split("/")
    folder = shared / "reference" / "uncertainty"
    if kind == "energy":
        data = np.load(folder / f"metatrain_{case}.npz")
        return data[f"{split}_E"] - data[f"{split}_Eref"], data[f"{split}_sigma"]
    data = np.load(folder / f"metatrain_{case}_forces.npz")
    masked = np.linalg.norm(data["test_G"], axis=1) <= data["mask_threshold"]
    residuals = data["test_F"] - data["test_Fref"]
    return np.where(masked, np.nan, residuals), data["sigma_force_test_energycov"]


@pytest.mark.parametrize("key", REFERENCE_CASES)
def test_reference_numbers(shared: Path, key: str) -> None:
    expected = json.loads((shared / "reference" / "uncertainty" / "metrics.json").read_text())[key]
    bins, levels = expected.pop("ence_bins"), expected.pop("coverage")
    total = expected.pop("n_total", expected["n"])
    residuals, sigma = scored(shared, key)
    assert residuals.size == total
    ours = uq_metrics(residuals, sigma)
    assert ours["n_masked"] == expected.pop("n_masked", 0)
    assert len(binned_rmv_rmse(residuals, sigma)[0]) == bins
    assert ours["coverage"] == pytest.approx(levels, rel=1e-8)
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, rel=1e-8), name
    assert set(ours) == {*expected, "coverage", "n_masked"}


@pytest.mark.parametrize(("n", "ties"), [(37, False), (400, False), (200, True)])
def test_agrees_with_uncertainty_toolbox(n: int, ties: bool) -> None:
    toolbox = pytest.importorskip("uncertainty_toolbox")
    residuals, sigma = draw(n, n, ties)
    reference = np.random.default_rng(0).normal(size=n)
    args = (reference + residuals, sigma, reference)
    ours = uq_metrics(residuals, sigma)
    area = toolbox.miscalibration_area(*args)
    assert ours["nll"] == pytest.approx(toolbox.nll_gaussian(*args), rel=1e-8)
    assert ours["crps"] == pytest.approx(toolbox.crps_gaussian(*args), rel=1e-8)
    assert ours["miscalibration_area"] == pytest.approx(area, rel=1e-8)
    assert ours["ma_cal"] == pytest.approx(toolbox.mean_absolute_calibration_error(*args), rel=1e-8)
    assert ours["rms_cal"] == pytest.approx(toolbox.root_mean_squared_calibration_error(*args), rel=1e-8)
    assert ours["check_score"] == pytest.approx(toolbox.check_score(*args), rel=1e-8)
    assert ours["interval_score"] == pytest.approx(toolbox.interval_score(*args), rel=1e-8)
    assert ours["sharpness"] == pytest.approx(toolbox.sharpness(sigma), rel=1e-8)


@pytest.mark.parametrize("ties", [False, True])
def test_rankings_agree_with_scipy_and_scikit_learn(ties: bool) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    residuals, sigma = draw(150, 4, ties)
    size = np.abs(residuals)
    assert spearman(size, sigma) == pytest.approx(stats.spearmanr(size, sigma).statistic, rel=1e-12)
    for q in (0.5, 0.8, 0.95):
        expected = sklearn_metrics.roc_auc_score(size > np.quantile(size, q), sigma)
        assert auroc_error(residuals, sigma, q) == pytest.approx(expected, rel=1e-12)


def test_densities_agree_with_scipy() -> None:
    residuals, sigma = draw(50, 5)
    np.testing.assert_allclose(gaussian_nll(residuals, sigma), -stats.norm.logpdf(residuals, scale=sigma))
    grid = np.linspace(-60, 60, 240001)
    for r, s in zip(residuals[:3], sigma[:3], strict=True):
        # CRPS = ∫ (F(x) - 1[x ≥ y])² dx with prediction r and reference 0
        gap = stats.norm.cdf(grid, loc=r, scale=s) - (grid >= 0)
        assert float(gaussian_crps(r, s)) == pytest.approx(np.trapezoid(gap**2, grid), rel=2e-3)


def test_calibration_curve_counts_rows_inside_the_central_interval() -> None:
    residuals, sigma = draw(80, 6)
    levels, observed = calibration_curve(residuals, sigma, 11)
    expected = [np.mean(np.abs(residuals) <= stats.norm.ppf((1 + p) / 2) * sigma) for p in levels]
    np.testing.assert_allclose(observed, expected)
    assert (levels[0], levels[-1], observed[-1]) == (0.0, 1.0, 1.0)
    assert [coverage(residuals, sigma, p) for p in levels[:-1]] == pytest.approx(expected[:-1])


def test_bins_are_of_equal_count_and_stable_on_ties() -> None:
    residuals, sigma = np.arange(1.0, 8.0), np.ones(7)
    rmv, rmse = binned_rmv_rmse(residuals, sigma, 3)
    np.testing.assert_allclose(rmv, 1.0)
    np.testing.assert_allclose(rmse**2, [(1 + 4 + 9) / 3, (16 + 25) / 2, (36 + 49) / 2])
    assert ence(residuals, sigma, 3) == pytest.approx(np.mean(rmse - 1))
    assert len(binned_rmv_rmse(*draw(99, 1))[0]) == 5
    assert len(binned_rmv_rmse(*draw(100, 1))[0]) == 10
    assert len(binned_rmv_rmse(*draw(3, 1))[0]) == 3


def test_relative_log_likelihood_has_its_two_anchors() -> None:
    residuals, sigma = draw(60, 7)
    assert relative_log_likelihood(residuals, np.abs(residuals)) == pytest.approx(100)
    rmse = np.sqrt(np.mean(residuals**2))
    assert relative_log_likelihood(residuals, np.full(60, rmse)) == pytest.approx(0, abs=1e-10)
    assert relative_log_likelihood(residuals, 10 * sigma) < 0
    assert math.isnan(relative_log_likelihood([1.0, -1.0, 1.0], [1.0, 2.0, 3.0]))
    assert math.isfinite(relative_log_likelihood([0.0, *residuals], [1.0, *sigma]))


def test_well_calibrated_sigma_is_seen_as_such() -> None:
    random = np.random.default_rng(8)
    sigma = random.lognormal(size=20000)
    good = uq_metrics(sigma * random.normal(size=20000), sigma)
    assert good["miscalibration_area"] < 0.01
    assert good["mean_z2"] == pytest.approx(1, abs=0.05)
    assert good["coverage"]["0.9"] == pytest.approx(0.9, abs=0.01)


def test_unmasked_rows_alone_count() -> None:
    residuals, sigma = draw(120, 9)
    expected = uq_metrics(residuals, sigma)
    padded = np.append(residuals, [np.nan, np.nan]), np.append(sigma, [0.0, np.nan])
    ours = uq_metrics(*padded)
    assert ours.pop("n_masked") == 2
    expected.pop("n_masked")
    assert ours == expected


def test_shape_does_not_matter_and_arguments_stay_as_they_are() -> None:
    residuals, sigma = draw(120, 10)
    copies = residuals.copy(), sigma.copy()
    assert uq_metrics(residuals.reshape(40, 3), sigma.reshape(40, 3)) == uq_metrics(residuals, sigma)
    assert np.array_equal(residuals, copies[0])
    assert np.array_equal(sigma, copies[1])


def test_scores_that_do_not_exist_are_nan() -> None:
    constant = uq_metrics([1.0, -2.0, 3.0], [1.0, 1.0, 1.0])
    assert math.isnan(constant["spearman"])
    assert constant["auroc_error_q80"] == 0.5
    assert math.isnan(auroc([True, True], [1.0, 2.0]))
    single = uq_metrics([0.0], [2.0])
    assert math.isnan(single["rll"])
    assert single["coverage"]["0.5"] == 1.0


def test_bad_input_names_count_and_first_index() -> None:
    residuals, sigma = draw(10, 11)
    sigma[[4, 7]] = 0
    with pytest.raises(DataError, match=r"sigma not positive.*2 of 10.*index 4"):
        uq_metrics(residuals, sigma)
    masked = np.where(np.arange(10) == 4, np.nan, residuals)
    with pytest.raises(DataError, match=r"1 of 9.*index 7"):
        uq_metrics(masked, sigma)
    with pytest.raises(DataError, match=r"\(10,\) and \(9,\)"):
        uq_metrics(residuals, sigma[:9])
    with pytest.raises(DataError, match="1 of 10, the first at index 0"):
        uq_metrics([np.inf, *residuals[1:]], np.ones(10))
    with pytest.raises(DataError, match=r"sigma not positive and finite.*index 3"):
        uq_metrics(np.ones(4), [1, 1, 1, np.nan])
    with pytest.raises(DataError, match="10 residuals, all masked"):
        uq_metrics(residuals * np.nan, np.ones(10))
    with pytest.raises(DataError, match="more bins than rows; got 11; expected at most 10"):
        uq_metrics(residuals, np.ones(10), n_bins=11)
    with pytest.raises(ConfigError, match=r"n_bins.*0"):
        uq_metrics(residuals, np.ones(10), n_bins=0)
    with pytest.raises(ConfigError, match=r"n_levels.*1"):
        calibration_curve(residuals, np.ones(10), 1)
    with pytest.raises(ConfigError, match=r"quantile.*1\.0"):
        auroc_error(residuals, np.ones(10), 1.0)
