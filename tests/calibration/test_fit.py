from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

from surefield.calibration.fit import calibrate_alpha, fit_calibration_map, structure_power
from surefield.calibration.maps import (
    AlphaMap,
    AlphaPowerMap,
    AlphaSigma0Map,
    CalibrationMap,
    CommitteeMap,
    ConformalMap,
    IsotonicMap,
    PowerMap,
)
from surefield.calibration.metrics import gaussian_crps, gaussian_nll
from surefield.errors import ConfigError, DataError

METHODS = ["squared_residuals", "absolute_residuals", "crps"]
MAPS = ["alpha", "alpha_power", "alpha_sigma0", "power", "isotonic", "conformal", "committee"]


def draw(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Residuals of true spread √((2u)² + 0.3²)."""
    random = np.random.default_rng(seed)
    u = random.lognormal(mean=-1, sigma=1.0, size=n)
    return np.hypot(2 * u, 0.3) * random.normal(size=n), u


@pytest.mark.parametrize("case", ["ethanol", "si"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", ["automatic", "r0", "r1"])
def test_alpha_of_the_peer(shared: Path, case: str, method: str, factor: str) -> None:
    folder = shared / "reference" / "uncertainty"
    expected = json.loads((folder / "alphas.json").read_text())[case]
    expected = (expected if factor == "automatic" else expected[factor])[method]
    data = np.load(folder / f"metatrain_{case}.npz")
    u = data["val_sigma"] / data["alpha"] if factor == "automatic" else data[f"{factor}_sigma0_val"]
    alpha = calibrate_alpha(data["val_E"] - data["val_Eref"], u, method)
    tolerance = {"rtol": 1e-8, "atol": 4e-12} if method == "crps" else {"rtol": 1e-10}
    np.testing.assert_allclose(alpha, [expected], **tolerance)


def test_alpha_squared_and_crps_are_optima_of_their_scores() -> None:
    r, u = draw(300)
    for method, score in (("squared_residuals", gaussian_nll), ("crps", gaussian_crps)):
        alpha = calibrate_alpha(r, u, method)
        best = optimize.minimize_scalar(
            lambda x, score=score: score(r, np.exp(x) * u).mean(), bracket=(-1, 1), tol=1e-12
        )
        assert alpha == pytest.approx(np.exp(best.x), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_alpha_is_exact_scale_of_gaussian_data_and_scales_with_units(method: str) -> None:
    random = np.random.default_rng(2)
    u = random.lognormal(size=40000)
    r = 3 * u * random.normal(size=40000)
    alpha = calibrate_alpha(r, u, method)
    assert alpha == pytest.approx(3, rel=0.02)
    assert calibrate_alpha(1e-9 * r, 1e6 * u, method) == pytest.approx(1e-15 * alpha, rel=1e-10)


def test_alpha_per_property_with_masked_entries() -> None:
    r, u = draw(50)
    two = np.column_stack([r, 2 * r])
    two[3, 1] = np.nan
    alphas = calibrate_alpha(two, u)
    keep = np.arange(50) != 3
    np.testing.assert_allclose(alphas, [calibrate_alpha(r, u), 2 * calibrate_alpha(r[keep], u[keep])])
    np.testing.assert_allclose(calibrate_alpha(two, np.column_stack([u, u])), alphas)


def test_unusable_residuals_are_refused() -> None:
    r, u = draw(5)
    with pytest.raises(DataError, match="all validation residuals are 0; got 5 rows"):
        calibrate_alpha(0 * r, u)
    with pytest.raises(DataError, match=r"masked \(NaN\); got 5 rows"):
        calibrate_alpha(np.nan * r, u)
    with pytest.raises(DataError, match="u = 0 in an unmasked row in validation row 2"):
        calibrate_alpha(r, u * [1, 1, 0, 1, 1])
    assert calibrate_alpha(np.where(np.arange(5) == 2, np.nan, r), u * [1, 1, 0, 1, 1]) > 0
    with pytest.raises(DataError, match="positive and finite in validation row 1"):
        calibrate_alpha(r, u * [1, -1, 1, 1, 1])
    with pytest.raises(DataError, match="infinite residual in validation row 0"):
        calibrate_alpha([np.inf, *r[1:]], u)
    with pytest.raises(DataError, match=r"\(5,\) and \(4,\)"):
        calibrate_alpha(r, u[:4])
    with pytest.raises(DataError, match="no validation residuals"):
        calibrate_alpha([], [])
    with pytest.raises(DataError, match=r"too many residuals of exactly 0.*9 of 10"):
        calibrate_alpha([1.0] + [0.0] * 9, np.ones(10), "crps")
    with pytest.raises(ConfigError, match=r"'squared'.*did you mean 'squared_residuals'"):
        calibrate_alpha(r, u, "squared")  # pyright: ignore[reportArgumentType]


def test_alpha_map_uses_the_method() -> None:
    r, u = draw(100)
    fitted = fit_calibration_map(r, u, method="crps")
    assert fitted == AlphaMap(calibrate_alpha(r, u, "crps"))
    np.testing.assert_allclose(fitted.sigma(u), calibrate_alpha(r, u, "crps") * u)


def test_alpha_sigma0_is_the_best_of_its_family() -> None:
    r, u = draw(400)
    fitted = fit_calibration_map(r, u, "alpha_sigma0")
    assert isinstance(fitted, AlphaSigma0Map)

    def nll(x: np.ndarray) -> float:
        return float(gaussian_nll(r, np.sqrt(np.exp(x[0]) * u**2 + np.exp(x[1]))).mean())

    starts = [(a, b) for a in (-2, 0, 2) for b in (-6, -2, 1)]
    best = min(optimize.minimize(nll, x, method="Nelder-Mead", tol=1e-10).fun for x in starts)
    assert gaussian_nll(r, fitted.sigma(u)).mean() <= best + 1e-10
    assert (fitted.alpha, fitted.sigma0) == pytest.approx((2, 0.3), rel=0.2)


def test_alpha_sigma0_drops_what_it_does_not_need() -> None:
    random = np.random.default_rng(3)
    u = random.lognormal(size=2000)
    # z of unit size everywhere: any floor would make the small u overcautious
    proportional = fit_calibration_map(2 * u * random.choice([-1, 1], 2000), u, "alpha_sigma0")
    assert isinstance(proportional, AlphaSigma0Map)
    assert proportional.sigma0 == 0
    assert proportional.alpha == pytest.approx(2, rel=1e-12)
    flat = fit_calibration_map(random.choice([-0.5, 0.5], 2000), u, "alpha_sigma0")
    assert isinstance(flat, AlphaSigma0Map)
    assert flat.alpha == 0
    assert flat.sigma0 == pytest.approx(0.5, rel=1e-12)


def test_power_is_the_best_of_its_family() -> None:
    random = np.random.default_rng(4)
    u = random.lognormal(size=500)
    r = 0.7 * u**1.6 * random.normal(size=500)
    fitted = fit_calibration_map(r, u, "power")
    assert isinstance(fitted, PowerMap)
    best = optimize.minimize(
        lambda x: gaussian_nll(r, np.exp(x[0] + x[1] * np.log(u))).mean(), [0.0, 1.0], tol=1e-10
    )
    assert (fitted.a, fitted.gamma) == pytest.approx(tuple(best.x), rel=1e-4)
    assert fitted.gamma == pytest.approx(1.6, rel=0.05)


def test_power_finds_falling_spreads_and_constant_ones() -> None:
    random = np.random.default_rng(5)
    u = random.lognormal(size=500)
    falling = fit_calibration_map(random.normal(size=500) / u, u, "power")
    assert isinstance(falling, PowerMap)
    assert falling.gamma == pytest.approx(-1, abs=0.1)
    constant = fit_calibration_map([1.0, -2.0, 2.0], [4.0, 4.0, 4.0], "power")
    assert isinstance(constant, PowerMap)
    assert constant.gamma == 1
    np.testing.assert_allclose(constant.sigma(4.0), np.sqrt(3.0))


def test_power_without_a_best_exponent_is_refused() -> None:
    with pytest.raises(DataError, match=r"no best exponent.*1 non-zero residuals of 3"):
        fit_calibration_map([0.0, 0.0, 1.0], [1.0, 2.0, 3.0], "power")


@pytest.mark.parametrize("ties", [False, True])
def test_isotonic_agrees_with_scikit_learn(ties: bool) -> None:
    sklearn_isotonic = pytest.importorskip("sklearn.isotonic")
    r, u = draw(200)
    if ties:
        u = np.round(u, 1) + 0.05
    fitted = fit_calibration_map(r, u, "isotonic")
    peer = sklearn_isotonic.IsotonicRegression(out_of_bounds="clip").fit(u, r**2)
    x = np.concatenate([[1e-4, 1e3], u, np.linspace(u.min(), u.max(), 300)])
    np.testing.assert_allclose(fitted.sigma(x) ** 2, peer.predict(x), rtol=1e-8)
    assert isinstance(fitted, IsotonicMap)
    assert len(fitted.knots) < len(np.unique(u))


def test_isotonic_never_claims_certainty() -> None:
    fitted = fit_calibration_map([0.0, 0.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0], "isotonic")
    np.testing.assert_allclose(fitted.sigma([0.5, 1.5, 3.0, 9.0]), [1.0, 1.0, 1.0, 2.0])


def test_conformal_quantile_is_the_order_statistic() -> None:
    r = np.arange(1.0, 20.0) * np.where(np.arange(19) % 2, 1, -1)
    fitted = fit_calibration_map(r, np.ones(19), "conformal", delta=0.1)
    assert isinstance(fitted, ConformalMap)
    assert fitted.half_width(2.0) == 36.0  # the 18th of 19, since 20·0.9 = 18
    np.testing.assert_allclose(fitted.sigma(2.0) * 1.6448536269514722, 36.0, rtol=1e-12)


def test_conformal_intervals_cover_exchangeable_data() -> None:
    random = np.random.default_rng(6)
    covered = []
    for _ in range(400):
        u = random.lognormal(size=60)
        r = u**2 * random.standard_t(3, size=60)
        fitted = fit_calibration_map(r[:30], u[:30], "conformal", delta=0.2)
        assert isinstance(fitted, ConformalMap)
        covered.append(np.mean(np.abs(r[30:]) <= fitted.half_width(u[30:])))
    assert 0.8 <= np.mean(covered) < 0.8 + 1 / 31 + 0.02


def test_conformal_groups_have_their_own_quantiles() -> None:
    r, groups = np.array([1.0, 2.0, 3.0, 10.0, 20.0, 30.0]), ["bulk"] * 3 + ["slab"] * 3
    fitted = fit_calibration_map(r, np.ones(6), "conformal", delta=0.25, groups=groups)
    assert isinstance(fitted, ConformalMap)
    np.testing.assert_allclose(fitted.half_width([1.0, 2.0], ["slab", "bulk"]), [30.0, 6.0])
    np.testing.assert_allclose(fitted.half_width(np.ones((2, 3)), ["slab", "bulk"])[:, 0], [30.0, 3.0])
    with pytest.raises(DataError, match=r"'slabs' was not calibrated.*did you mean 'slab'"):
        fitted.sigma([1.0], ["slabs"])
    with pytest.raises(DataError, match=r"give one of \['bulk', 'slab'\]"):
        fitted.sigma([1.0])
    with pytest.raises(DataError, match=r"one group per entry is needed; got \(1,\)"):
        fitted.sigma([1.0, 2.0], ["bulk"])
    with pytest.raises(DataError, match="leave groups out"):
        fit_calibration_map(r, np.ones(6), "conformal", delta=0.25).sigma([1.0], ["bulk"])
    with pytest.raises(DataError, match="one group per row"):
        fit_calibration_map(r, np.ones(6), "conformal", groups=["bulk"])


@pytest.mark.parametrize("delta", [0.05, 0.1, 0.3, 1 / 7])
def test_conformal_names_the_smallest_sufficient_number_of_rows(delta: float) -> None:
    smallest = next(n for n in range(1, 100) if (n + 1) * (1 - delta) <= n + 1e-9)
    fit_calibration_map(np.ones(smallest), np.ones(smallest), "conformal", delta=delta)
    few = np.ones(smallest - 1)
    with pytest.raises(DataError, match=f"got {smallest - 1} rows; expected at least {smallest}"):
        fit_calibration_map(few, few, "conformal", delta=delta)


def test_committee_removes_the_bias_of_few_members() -> None:
    random = np.random.default_rng(7)
    truth, members = random.normal(size=40000), random.normal(size=(40000, 5))
    s = members.std(axis=1, ddof=1)
    # errors of the mean of 5 members around a truth of spread 2 in units of theirs
    r = members.mean(axis=1) - 2 * truth
    fitted = fit_calibration_map(r, s, "committee", n_members=5)
    assert isinstance(fitted, CommitteeMap)
    assert fitted.alpha**2 == pytest.approx(2 / 4 * np.mean((r / s) ** 2) - 1 / 5, rel=1e-12)
    assert fitted.alpha == pytest.approx(2, rel=0.05)


def test_committee_wider_than_its_errors_is_reported() -> None:
    r, u = draw(20)
    with pytest.warns(UserWarning, match="committee of 5 members is already wider"):
        fitted = fit_calibration_map(1e-3 * r, u, "committee", n_members=5)
    assert isinstance(fitted, CommitteeMap)
    assert fitted.alpha == pytest.approx(1e-6)


def test_one_map_per_property() -> None:
    r, u = draw(60)
    fitted = fit_calibration_map(np.column_stack([r, 3 * r]), u, "power")
    shared_spread, own_spread = fitted.sigma(u[:, None]), fitted.sigma(np.column_stack([u, u]))
    single = fit_calibration_map(r, u, "power").sigma(u)
    np.testing.assert_allclose(shared_spread, np.column_stack([single, 3 * single]), rtol=1e-9)
    np.testing.assert_allclose(own_spread, shared_spread)
    with pytest.raises(DataError, match=r"\(60, 3\).*\(\.\.\., 2\)"):
        fitted.sigma(np.ones((60, 3)))


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("properties", [False, True])
def test_maps_survive_json_and_are_frozen(name: str, properties: bool) -> None:
    r, u = draw(80)
    target = np.column_stack([r, 2 * r]) if properties else r
    spread = np.column_stack([u, u]) if properties else u
    fitted = fit_calibration_map(target, spread, name, n_members=8)
    loaded = CalibrationMap.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert loaded == fitted
    assert np.array_equal(loaded.sigma(spread), fitted.sigma(spread))
    with pytest.raises(AttributeError):
        fitted.calibrated = False  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", MAPS)
def test_what_symmetry_fixes_has_no_uncertainty(name: str) -> None:
    r, u = draw(80)
    sigma = fit_calibration_map(r, u, name, n_members=8).sigma([0.0, 0.5, 0.0])
    assert sigma[0] == sigma[2] == 0
    assert sigma[1] > 0


@pytest.mark.parametrize("name", MAPS)
def test_masked_rows_do_not_matter(name: str) -> None:
    r, u = draw(80)
    groups = ["a"] * 80
    options = {"n_members": 8} | ({"groups": [*groups, "b"]} if name == "conformal" else {})
    padded = fit_calibration_map([*r, np.nan], [*u, 0.0], name, **options)
    options = {"n_members": 8} | ({"groups": groups} if name == "conformal" else {})
    assert padded == fit_calibration_map(r, u, name, **options)


def test_no_validation_labels_leave_the_spread_uncalibrated() -> None:
    with pytest.warns(UserWarning, match="not calibrated"):
        fitted = fit_calibration_map([], [], "alpha_sigma0")
    assert fitted == AlphaMap(1.0, calibrated=False)
    assert not CalibrationMap.from_dict(fitted.to_dict()).calibrated


def test_bad_maps_are_refused() -> None:
    r, u = draw(30)
    with pytest.raises(ConfigError, match=r"'alpha_sigma'.*did you mean 'alpha_sigma0'"):
        fit_calibration_map(r, u, "alpha_sigma")
    with pytest.raises(ConfigError, match=r"delta.*1\.5"):
        fit_calibration_map(r, u, "conformal", delta=1.5)
    with pytest.raises(ConfigError, match="n_members; got 3; expected at least 4"):
        fit_calibration_map(r, u, "committee", n_members=3)
    with pytest.raises(ConfigError, match="'pickle'"):
        CalibrationMap.from_dict({"map": "pickle"})
    with pytest.raises(ConfigError, match=r"'power'.*slope"):
        CalibrationMap.from_dict({"map": "power", "a": 1.0, "slope": 1.0})


def structures_of_two_levels() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residuals of 40 structures of 30 values whose error is that of the structure, in part."""
    random = np.random.default_rng(5)
    level = np.repeat(random.uniform(0.5, 2.0, 40), 30)
    u = level * random.uniform(0.2, 1.5, 1200)
    mean = np.repeat(np.sqrt(np.mean(u.reshape(40, 30) ** 2, axis=1)), 30)
    return random.normal(size=1200) * np.hypot(2 * u, 3 * mean), u, np.repeat(np.arange(40), 30)


def test_the_floor_of_a_structure_grows_with_its_spread() -> None:
    r, u, structures = structures_of_two_levels()
    fitted = fit_calibration_map(r, u, "structure_floor", structures=structures)
    assert fitted.alpha == pytest.approx(2, rel=0.2)
    assert fitted.beta == pytest.approx(3, rel=0.1)
    assert fitted.sigma0 == 0
    np.testing.assert_allclose(fitted.sigma(3 * u[:30]), 3 * fitted.sigma(u[:30]), rtol=1e-12)
    again = CalibrationMap.from_dict(json.loads(json.dumps(fitted.to_dict())))
    np.testing.assert_array_equal(again.sigma(u[:30]), fitted.sigma(u[:30]))
    zeros = np.array([0.0, 1.0, 1.0])
    np.testing.assert_allclose(fitted.sigma(zeros), [0, *[np.hypot(fitted.alpha, fitted.beta)] * 2])


def test_a_constant_floor_stays_where_the_data_has_one() -> None:
    r, u, structures = structures_of_two_levels()
    noise = np.random.default_rng(1).normal(0, 1, len(u))
    fitted = fit_calibration_map(
        2 * u * r / np.abs(r).max() + noise, u, "structure_floor", structures=structures
    )
    assert fitted.sigma0 == pytest.approx(1, rel=0.1)
    with pytest.raises(DataError, match="one structure per row"):
        fit_calibration_map(r, u, "structure_floor", structures=structures[:-1])


def growing(power: float, n: int = 60, per: int = 30, seed: int = 3) -> tuple[np.ndarray, ...]:
    """Residuals, spreads and structures of errors that grow faster than the spreads of structures."""
    random = np.random.default_rng(seed)
    level = random.lognormal(sigma=0.4, size=n)
    u = level[:, None] * random.uniform(0.5, 1.5, (n, per))
    mean = np.sqrt(np.mean(u**2, axis=1, keepdims=True))
    # Errors of one structure are alike: a part of each is common to it.
    r = 2 * u * mean**power * random.normal(size=u.shape) * np.exp(0.2 * random.normal(size=(n, 1)))
    return r.ravel(), u.ravel(), np.repeat(np.arange(n), per)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_errors_that_grow_faster_than_spreads_have_their_power(power: float) -> None:
    r, u, structures = growing(power)
    assert structure_power(r, u, structures) == pytest.approx(power, abs=0.2)
    fitted = fit_calibration_map(r, u, "structure_floor", structures=structures)
    plain = fit_calibration_map(r, u, "structure_floor", structures=structures, power=0.0)
    far, spread, numbers = growing(power, seed=4)
    sigmas, constant = (
        np.concatenate([one.sigma(3 * spread[numbers == k]) for k in range(60)]) for one in (fitted, plain)
    )
    grown = far * 3 ** (1 + power)  # of structures with three times the spread
    assert np.mean(np.abs(grown) < sigmas) == pytest.approx(0.683, abs=0.07)
    assert np.mean(gaussian_nll(grown, sigmas)) < np.mean(gaussian_nll(grown, constant)) - 0.1


def test_no_power_where_errors_follow_spreads_or_little_is_known() -> None:
    r, u, structures = growing(0.0)
    assert structure_power(r, u, structures) == 0.0
    r, u, structures = growing(1.0)
    assert structure_power(r[:210], u[:210], structures[:210]) == 0.0  # seven structures
    assert structure_power(r, u, np.arange(len(u))) == 0.0  # one value of each
    assert structure_power(r, np.zeros_like(u), structures) == 0.0
    assert structure_power(r, np.ones_like(u), structures) == 0.0  # all have one spread
    narrow = np.repeat(1 + 0.02 * np.random.default_rng(6).normal(size=60), 30)
    assert structure_power(narrow * r / np.abs(r).max(), narrow, structures) < 0.3  # or nearly


def test_a_given_power_leaves_alpha_at_the_usual_spread() -> None:
    random = np.random.default_rng(5)
    u = random.lognormal(sigma=0.5, size=4000)
    fitted = fit_calibration_map(3 * u**2 * random.normal(size=4000), u, "alpha_power", power=1.0)
    assert isinstance(fitted, AlphaPowerMap)
    assert fitted.level == pytest.approx(1, rel=0.05)
    assert fitted.alpha == pytest.approx(3, rel=0.05)
    np.testing.assert_allclose(fitted.sigma([1.0, 2.0]), 3 * np.array([1.0, 4.0]), rtol=0.1)
    assert fit_calibration_map(u, u, "alpha_power").power == 0.0  # one structure
