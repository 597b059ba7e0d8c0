"""Streamed least squares against published coefficients, exact optimality conditions and scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import ARDRegression, Lasso, lars_path

from surefield.errors import ConfigError, DataError
from surefield.training.least_squares import RIDGE_ALPHAS, Reduced, StreamedRows, solve
from surefield.training.sparse_solvers import ArdSettings, lasso


def streamed(a: np.ndarray, b: np.ndarray, piece: int = 100, n_folds: int = 1) -> StreamedRows:
    rows = StreamedRows(a.shape[1], n_folds)
    for number, start in enumerate(range(0, len(a), piece)):
        rows.add(a[start : start + piece], b[start : start + piece], number % n_folds)
    return rows


def distance(x: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest coefficient."""
    return float(np.abs(x - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def water(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "reference/trainers/expected/chimes/fit_water.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def noisy() -> tuple[np.ndarray, np.ndarray]:
    """600 rows of 20 columns of which 5 matter; the right side has no mean, as scikit-learn's start needs."""
    rng = np.random.default_rng(3)
    a = rng.normal(size=(600, 20)) * rng.uniform(0.5, 2.0, 20)
    x = np.where(np.arange(20) < 5, rng.normal(size=20) + 1, 0.0)
    b = a @ x + 0.3 * rng.normal(size=600)
    return a, b - b.mean()


def test_published_coefficients_of_a_matrix_of_condition_6e7(shared: Path) -> None:
    folder = shared / "reference/trainers"
    published = [
        float(line.split()[0])
        for line in (folder / "expected/fitsnap_03.snapcoeff").read_text().splitlines()[4:35]
    ]
    with np.load(folder / "inputs/design_matrix.npz") as file:
        found = solve(streamed(file["A"], file["b"], 151).reduced(), "svd", eps=1e-13)
    assert np.abs(found.x / published - 1).max() < 2e-5
    assert found.rank == found.n_parameters == 31
    assert found.condition == pytest.approx(6.249e7, rel=1e-3)
    assert found.message == ""


def test_group_weighted_fit_of_306_structures(shared: Path) -> None:
    with np.load(shared / "reference/trainers/expected/fitsnap_ta306.npz") as file:
        a, b, w = file["A"], file["b"], file["w"]
        found = solve(streamed(a * w[:, None], b * w, 997).reduced(), eps=1e-13)
        assert distance(found.x, file["coefficients"]) < 1e-10
    assert found.rss == pytest.approx(np.sum((w * (a @ found.x - b)) ** 2), rel=1e-9)
    assert found.n_rows == 13212


@pytest.mark.parametrize(
    ("key", "algorithm", "alpha", "tolerance"),
    [
        ("x_svd", "svd", 0.0, 1e-10),
        ("x_svd_w", "svd", 0.0, 1e-10),
        # the published numbers come from a normal matrix: rounding over eps^2, about 1e-6, is all they hold
        ("x_fast_svd", "fast_svd", 0.0, 5e-7),
        ("x_ridge", "ridge", 1e-4, 1e-8),
        ("x_ridge_w", "ridge", 1e-4, 1e-8),
        ("x_lasso_w", "lasso", 1.0, 1e-8),
        ("x_lasso_w", "dlasso", 1.0, 1e-8),
    ],
)
def test_water(
    water: dict[str, np.ndarray], key: str, algorithm: str, alpha: float, tolerance: float
) -> None:
    w = water["w"] if key.endswith("_w") else np.ones(len(water["b"]))
    rows = streamed(water["A"] * w[:, None], water["b"] * w).reduced()
    found = solve(rows, algorithm, eps=1e-5, alpha=alpha)
    assert distance(found.x, water[key]) < tolerance
    assert found.converged
    if algorithm == "lasso":
        assert found.n_parameters == 56


@pytest.mark.parametrize(("key", "weighted"), [("x_svd", False), ("x_svd_w", True)])
def test_energies_stresses_and_forces_together(shared: Path, key: str, weighted: bool) -> None:
    with np.load(shared / "reference/trainers/expected/chimes/fit_cho.npz") as file:
        w = file["w"] if weighted else np.ones(len(file["b"]))
        found = solve(streamed(file["A"] * w[:, None], file["b"] * w).reduced(), eps=1e-5)
        assert distance(found.x, file[key]) < 1e-10


def test_normal_matrix_agrees_with_singular_values_away_from_the_cut(noisy: tuple) -> None:
    rows = streamed(*noisy).reduced()
    assert distance(solve(rows, "fast_svd").x, solve(rows, "svd").x) < 1e-12


def test_reduction_depends_on_the_order_of_rows_only_and_loses_nothing() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9000, 7)), rng.normal(size=9000)
    pieces, whole = streamed(a, b, 37).reduced(), streamed(a, b, 9000).reduced()
    assert np.array_equal(pieces.R, whole.R)
    assert np.array_equal(pieces.q, whole.q)
    x = rng.normal(size=7)
    assert pieces.R.shape == (7, 7)
    assert pieces.rss(x) == pytest.approx(np.sum((a @ x - b) ** 2), rel=1e-12)


def test_what_is_kept_goes_on_bit_by_bit() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(5000, 6)), rng.normal(size=5000)
    whole, first, second = (StreamedRows(6, 2) for _ in range(3))
    for start in range(0, 5000, 100):
        part = a[start : start + 100], b[start : start + 100], start // 100 % 2
        if start == 4700:  # fold 0 was reduced, neither is at the end of its buffer
            second.go_on_from({name: array.copy() for name, array in first.arrays().items()})
        whole.add(*part)
        (first if start < 4700 else second).add(*part)
    for fold in (None, 0, 1):
        expected, found = whole.reduced(fold), second.reduced(fold)
        assert np.array_equal(found.R, expected.R)
        assert np.array_equal(found.q, expected.q)
        assert (found.rest, found.n_rows) == (expected.rest, expected.n_rows)


def test_memory_is_bounded() -> None:
    rows = StreamedRows(600)
    block = np.random.default_rng(0).normal(size=(1000, 601))
    for _ in range(4):
        rows.add(block[:, :-1], block[:, -1])
    assert sum(fold.rows.nbytes for fold in rows._folds) <= 5.01 * 600 * 601 * 8
    assert rows.reduced().n_rows == 4000


@pytest.mark.parametrize("n_rows", [4, 12, 13])
def test_few_rows_are_kept(n_rows: int) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(n_rows, 12)), rng.normal(size=n_rows)
    found = solve(streamed(a, b, 3).reduced(), eps=1e-12)
    np.testing.assert_allclose(found.x, np.linalg.pinv(a) @ b, atol=1e-11)
    assert ("rank" in found.message) == (n_rows < 12)
    assert np.isinf(found.condition) == (n_rows < 12)


def test_what_is_given_is_not_changed(noisy: tuple) -> None:
    a, b = noisy[0].copy(), noisy[1].copy()
    rows = streamed(a, b)
    reduced = rows.reduced()
    before = reduced.R.copy()
    solve(reduced, "svd")
    again = rows.reduced()
    assert np.array_equal(a, noisy[0])
    assert np.array_equal(before, reduced.R)
    assert np.array_equal(again.R, before)


def test_leaving_out_a_fold(noisy: tuple) -> None:
    a, b = noisy
    rows = streamed(a, b, 100, n_folds=3)
    others = np.arange(600) // 100 % 3 != 1
    found = solve(rows.reduced(leave_out=1), eps=1e-12)
    np.testing.assert_allclose(found.x, np.linalg.lstsq(a[others], b[others])[0], atol=1e-12)
    without, alone = rows.cross_validation()[1]
    assert np.array_equal(without.R, rows.reduced(leave_out=1).R)
    assert alone.rss(found.x) == pytest.approx(np.sum((a @ found.x - b)[~others] ** 2), rel=1e-12)


def test_ridge_meets_its_equations_and_cross_validation_takes_the_best(noisy: tuple) -> None:
    a, b = noisy[0] * 0.002, noisy[1]  # columns so small that the penalty matters
    rows = streamed(a, b, 50, n_folds=4)
    held = np.zeros(len(RIDGE_ALPHAS))
    for fold in range(4):
        out = np.arange(600) // 50 % 4 == fold
        for k, alpha in enumerate(RIDGE_ALPHAS):
            x = np.linalg.solve(a[~out].T @ a[~out] + alpha * np.eye(20), a[~out].T @ b[~out])
            held[k] += np.sum((a[out] @ x - b[out]) ** 2)
    found = solve(rows.reduced(), "ridgecv", folds=rows.cross_validation())
    assert found.alpha == RIDGE_ALPHAS[np.argmin(held)]
    assert (
        f"{found.alpha:g} of 4 folds, rmse of the left-out rows {np.sqrt(held.min() / 600):.6g}"
        in found.message
    )
    expected = np.linalg.solve(a.T @ a + found.alpha * np.eye(20), a.T @ b)
    assert distance(found.x, expected) < 1e-10


@pytest.mark.parametrize("alpha", [0.5, 0.05, 1e-4])
def test_lasso_and_least_angle_regression_against_scikit_learn(noisy: tuple, alpha: float) -> None:
    a, b = noisy
    rows = streamed(a, b).reduced()
    reference = Lasso(alpha, fit_intercept=False, tol=1e-14, max_iter=100000).fit(a, b).coef_
    for algorithm in ("lasso", "lassolars"):
        found = solve(rows, algorithm, alpha=alpha)
        assert distance(found.x, reference) < 1e-8
        assert found.converged
    path = lars_path(a, b, method="lar", alpha_min=alpha)[2][:, -1]
    assert distance(solve(rows, "lars", alpha=alpha).x, path) < 1e-10


def test_a_strong_penalty_leaves_nothing(noisy: tuple) -> None:
    found = solve(streamed(*noisy).reduced(), "lasso", alpha=1e3)
    assert not found.x.any()
    assert found.n_parameters == 0


def test_lasso_with_columns_that_depend_on_others_and_a_column_of_zeros() -> None:
    rng = np.random.default_rng(8)
    a = rng.normal(size=(40, 6))
    # the sum of all is cheaper than its parts, but is looked at after they have entered
    a = np.column_stack([a, 0.4 * a.sum(axis=1), a[:, 0], np.zeros(40)])
    b = a[:, :6] @ rng.uniform(1, 2, 6)
    for penalty in (20.0, 1.0, 1e-3):
        found = lasso(a, b, penalty)
        pull = a.T @ (b - a @ found.x)
        assert found.problem == ""
        assert np.abs(pull).max() <= penalty * (1 + 1e-6)
        used = found.x != 0
        np.testing.assert_allclose(pull[used], penalty * np.sign(found.x[used]), rtol=1e-6)


def test_conditions_that_rounding_does_not_let_be_met_are_said(water: dict[str, np.ndarray]) -> None:
    rows = streamed(water["A"], water["b"]).reduced()
    with pytest.warns(UserWarning, match="optimality conditions are missed by .* of the penalty"):
        found = solve(rows, "lasso", alpha=1e-9)
    assert not found.converged
    assert "raise alpha" in found.message


def test_relevance_determination_against_scikit_learn(noisy: tuple) -> None:
    a, b = noisy
    reference = ARDRegression(fit_intercept=False, threshold_lambda=300.0).fit(a, b).coef_
    found = solve(streamed(a, b).reduced(), "ard", ard_settings=ArdSettings(threshold_lambda=300.0))
    assert distance(found.x, reference) < 1e-9
    assert np.array_equal(found.x != 0, reference != 0)
    assert 5 <= found.n_parameters < 20
    with pytest.warns(UserWarning, match="raise max_iter"):
        solve(streamed(a, b).reduced(), "ard", ard_settings=ArdSettings(max_iter=1))
    with pytest.raises(ConfigError, match="'ard' out of range"):
        ArdSettings(tol=0.0)


def test_bic_and_rmse(noisy: tuple) -> None:
    found = solve(streamed(*noisy).reduced(), eps=1e-12)
    error = np.sum((noisy[0] @ found.x - noisy[1]) ** 2)
    assert found.rmse == pytest.approx(np.sqrt(error / 600), rel=1e-12)
    assert found.bic == pytest.approx(600 * np.log(error / 600) + 20 * np.log(600), rel=1e-12)


def test_a_zero_matrix_gives_zeros() -> None:
    found = solve(streamed(np.zeros((5, 3)), np.ones(5)).reduced())
    assert found.rank == 0
    assert not found.x.any()
    assert found.rss == 5


def test_wrong_calls() -> None:
    rows = StreamedRows(3)
    with pytest.raises(DataError, match="no rows"):
        rows.reduced()
    with pytest.raises(DataError, match=r"wrong shape.*\(2, 4\)"):
        rows.add(np.ones((2, 4)), np.ones(2))
    rows.add(np.ones((2, 3)), np.ones(2))
    with pytest.raises(DataError, match="1 rows are not finite; got the first is row 3"):
        rows.add(np.ones((2, 3)), np.array([1.0, np.nan]))
    with pytest.raises(ConfigError, match="no such fold"):
        rows.add(np.ones((2, 3)), np.ones(2), fold=1)
    with pytest.raises(ConfigError, match="no such fold"):
        rows.reduced(leave_out=-1)
    with pytest.raises(DataError, match="nothing to cross-validate"):
        rows.cross_validation()
    with pytest.raises(ConfigError, match="too few columns or folds"):
        StreamedRows(0)


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        ("laso", {}, "did you mean 'lasso'"),
        ("svd", {"eps": 1.0}, "eps out of range"),
        ("lasso", {"alpha": 0.0}, "alpha of 'lasso' out of range"),
        ("ridge", {"alpha": float("nan")}, "alpha of 'ridge' out of range"),
        ("ridgecv", {}, "needs folds"),
    ],
)
def test_wrong_settings(algorithm: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        solve(Reduced(np.eye(2), np.ones(2), 0.0, 2), algorithm, **options)
