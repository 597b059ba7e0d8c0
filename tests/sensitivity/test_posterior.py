from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.sensitivity.covariance import RowCovariance
from surefield.sensitivity.posterior import (
    LLPRPosterior,
    evidence_regularizer,
    resolve_regularizer,
    val_nll_regularizer,
)

CASES = ["ethanol", "si"]
D = 6


def reference(shared: Path, case: str) -> dict[str, np.ndarray]:
    with np.load(shared / "reference" / "uncertainty" / f"metatrain_{case}.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(40, D)) * np.logspace(0, 2, D)


@pytest.fixture
def posterior(rows: np.ndarray) -> LLPRPosterior:
    return LLPRPosterior.from_covariance(rows.T @ rows, 0.5)


@pytest.mark.parametrize("case", CASES)
def test_automatic_regularizer_and_factor_of_the_peer(shared: Path, case: str) -> None:
    data = reference(shared, case)
    covariance = RowCovariance(data["covariance"].shape[0]).add(data["F_train_mean"]).matrix
    if case == "ethanol":
        with pytest.warns(UserWarning, match=r"rank 60 of 96.*not reproducible"):
            posterior = LLPRPosterior.from_covariance(covariance, compat="metatrain")
    else:
        posterior = LLPRPosterior.from_covariance(covariance, compat="metatrain")
    assert abs(np.log10(posterior.varsigma2 / float(data["regularizer"]))) < 1 + 1e-9
    lower = posterior.cholesky
    assert lower is not None
    scale = np.abs(covariance).max()
    expected = data["covariance"] + posterior.varsigma2 * np.eye(len(covariance))
    np.testing.assert_allclose(lower @ lower.T, expected, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(
        data["cholesky"] @ data["cholesky"].T,
        covariance + float(data["regularizer"]) * np.eye(len(covariance)),
        rtol=0,
        atol=1e-12 * scale,
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_sigma_from_the_stored_factor(shared: Path, case: str, split: str) -> None:
    data = reference(shared, case)
    posterior = LLPRPosterior.from_cholesky(data["cholesky"])
    sigma = data["alpha"] * posterior.u(data[f"{split}_F_sum"])
    np.testing.assert_allclose(sigma, data[f"{split}_sigma"][:, 0], rtol=1e-9)
    if f"{split}_f_at" in data:
        atoms = data["alpha"] * posterior.u(data[f"{split}_f_at"])
        np.testing.assert_allclose(atoms, data[f"{split}_sig_at"][:, 0], rtol=1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "rtol"), [("r0", 1e-9), ("r1", 1e-6)])
def test_sigma_end_to_end_from_the_rows(shared: Path, case: str, name: str, rtol: float) -> None:
    data = reference(shared, case)
    rows = data["F_train_mean"]
    covariance = RowCovariance(rows.shape[1]).add(rows).matrix
    r = float(data[name])
    by_cholesky = LLPRPosterior.from_covariance(covariance, regularizer=r, compat="metatrain")
    assert by_cholesky.varsigma2 == r
    by_eigenvalues = LLPRPosterior.from_covariance(covariance, varsigma2=r)
    for posterior in (by_cholesky, by_eigenvalues):
        for split in ("val", "test"):
            expected = data[f"{name}_sigma0_{split}"][:, 0]
            np.testing.assert_allclose(posterior.u(data[f"{split}_F_sum"]), expected, rtol=rtol)
    factor = data[f"{name}_cholesky"]
    assert by_cholesky.cholesky is not None
    np.testing.assert_allclose(by_cholesky.cholesky, factor, rtol=0, atol=rtol * np.abs(factor).max())


@pytest.mark.parametrize("case", CASES)
def test_force_sigma_with_the_energy_covariance(shared: Path, case: str) -> None:
    data = reference(shared, case)
    with np.load(shared / "reference" / "uncertainty" / f"metatrain_{case}_forces.npz") as file:
        gradients, expected = file["test_G"], file["sigma_force_test_energycov"]
        peer_spread = file["ens_grad_std_frame0"]
        kept = np.linalg.norm(gradients[: len(peer_spread)], axis=1) > float(file["mask_threshold"])
    sigma = data["alpha"] * LLPRPosterior.from_cholesky(data["cholesky"]).u(gradients)
    np.testing.assert_allclose(sigma, expected, rtol=1e-8, atol=1e-12 * expected.max())
    ratio = peer_spread[kept] / sigma[: len(peer_spread)][kept]
    assert abs(np.median(ratio) - 1) < 0.1


def test_u_is_the_quadratic_form_of_the_inverse(rows: np.ndarray, posterior: LLPRPosterior) -> None:
    inverse = np.linalg.inv(rows.T @ rows + 0.5 * np.eye(D))
    g, h = rows[:5], rows[5:8]
    np.testing.assert_allclose(posterior.quadratic(g, h), g @ inverse @ h.T, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(posterior.u(g) ** 2, np.diag(posterior.quadratic(g)), rtol=1e-12)
    np.testing.assert_allclose(posterior.u(g[0]), posterior.u(g)[0], rtol=1e-12)
    np.testing.assert_allclose(posterior.u(g[:4].reshape(2, 2, D)).ravel(), posterior.u(g[:4]), rtol=1e-12)
    assert posterior.u(np.empty((0, D))).shape == (0,)
    cholesky = LLPRPosterior.from_cholesky(np.linalg.cholesky(np.linalg.inv(inverse)))
    np.testing.assert_allclose(cholesky.quadratic(g, h), posterior.quadratic(g, h), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(cholesky.u(g), np.linalg.norm(g @ cholesky.factor, axis=1), rtol=1e-9)
    assert cholesky.u(np.empty((0, D))).shape == (0,)


def test_coloured_noise_has_the_posterior_covariance(rows: np.ndarray, posterior: LLPRPosterior) -> None:
    inverse = np.linalg.inv(rows.T @ rows + 0.5 * np.eye(D))
    lower = np.linalg.cholesky(rows.T @ rows + 0.5 * np.eye(D))
    for p in (posterior, LLPRPosterior.from_cholesky(lower)):
        b = p.color(np.eye(D))
        np.testing.assert_allclose(b.T @ b, inverse, rtol=1e-10, atol=1e-15)


def test_one_more_row_is_a_rank_one_update(rows: np.ndarray) -> None:
    covariance = RowCovariance(D).add(rows)
    before = LLPRPosterior.from_covariance(covariance.matrix, 0.5).quadratic(np.eye(D))
    g, weight = np.linspace(-1, 2, D), 3.0
    covariance.add(g[None], weight=weight)
    after = LLPRPosterior.from_covariance(covariance.matrix, 0.5).quadratic(np.eye(D))
    expected = before - weight * np.outer(before @ g, g @ before) / (1 + weight * g @ before @ g)
    np.testing.assert_allclose(after, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())


def test_rank_condition_and_degrees_of_freedom(rows: np.ndarray) -> None:
    deficient = rows[:3].T @ rows[:3]
    posterior = LLPRPosterior.from_covariance(deficient, 0.25)
    eigenvalues = np.linalg.svd(rows[:3], compute_uv=False) ** 2
    assert posterior.rank == 3
    assert posterior.condition == pytest.approx((eigenvalues[0] + 0.25) / 0.25, rel=1e-6)
    assert posterior.effective_dof == pytest.approx(np.sum(eigenvalues / (eigenvalues + 0.25)), rel=1e-9)
    full = LLPRPosterior.from_covariance(rows.T @ rows, 0)
    assert (full.rank, full.effective_dof) == (D, D)


def test_covariance_is_symmetrised_and_not_changed(rows: np.ndarray) -> None:
    covariance = rows.T @ rows
    skewed = covariance + np.triu(np.ones((D, D)), 1) - np.tril(np.ones((D, D)), -1)
    copy = skewed.copy()
    g = rows[:4]
    expected = LLPRPosterior.from_covariance(covariance, 0.1).u(g)
    np.testing.assert_allclose(LLPRPosterior.from_covariance(skewed, 0.1).u(g), expected, rtol=1e-10)
    assert np.array_equal(skewed, copy)


def test_evidence_is_a_stationary_point_of_the_marginal_likelihood() -> None:
    """With the noise at its optimum, ln p(y) of Bayesian linear regression is flat in the prior variance."""
    random = np.random.default_rng(5)
    rows, truth = random.normal(size=(200, 4)), np.array([1.0, -2.0, 0.5, 3.0])
    y = rows @ truth + 0.3 * random.normal(size=200)
    covariance = rows.T @ rows
    varsigma2, w = 1.0, truth
    for _ in range(50):  # alternate with the weights, which the fixed point takes as given
        w = np.linalg.solve(covariance + varsigma2 * np.eye(4), rows.T @ y)
        varsigma2 = evidence_regularizer(covariance, 200, float(np.sum((y - rows @ w) ** 2)), float(w @ w))
    posterior = LLPRPosterior.from_covariance(covariance, varsigma2)
    noise = float(np.sum((y - rows @ w) ** 2)) / (200 - posterior.effective_dof)

    def log_evidence(log_prior: float) -> float:
        k = noise * np.eye(200) + np.exp(log_prior) * rows @ rows.T
        return -0.5 * float(y @ np.linalg.solve(k, y) + np.linalg.slogdet(k)[1])

    best = np.log(noise / varsigma2)
    step = 1e-3
    slope = (log_evidence(best + step) - log_evidence(best - step)) / (2 * step)
    assert abs(slope) < 1e-5


def test_evidence_of_fewer_rows_than_features_settles() -> None:
    """The plain fixed point iteration never settles on a fifth of these."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        rows = rng.normal(size=(6, 59)) * np.exp(rng.normal(0, 2, size=(6, 1)))
        squares, norm2 = 10 ** rng.uniform(-8, 1), 10 ** rng.uniform(-4, 2)
        regularizer = evidence_regularizer(rows.T @ rows, 6, squares, norm2)
        eigenvalues = np.linalg.eigvalsh(rows @ rows.T)
        gamma = np.sum(eigenvalues / (eigenvalues + regularizer))
        expected = gamma * squares / max(6 - gamma, 6e-3) / norm2
        # 6 - gamma is a small difference, and the zeros of the large matrix are rounding.
        assert regularizer == pytest.approx(max(expected, 1e-9 * np.sum(eigenvalues) / 59), rel=1e-4)


def test_evidence_stops_at_its_floor(rows: np.ndarray) -> None:
    covariance = rows.T @ rows
    mean = np.trace(covariance) / D
    assert evidence_regularizer(covariance, 40, 0.0, 1.0) == pytest.approx(1e-9 * mean, rel=1e-12)
    assert evidence_regularizer(covariance, 40, 0.0, 1.0, floor=1e-6) == pytest.approx(1e-6 * mean, rel=1e-12)


def test_evidence_that_does_not_settle_is_reported(rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surefield.sensitivity.posterior.EVIDENCE_STEPS", 2)
    with pytest.warns(UserWarning, match="did not converge in 2 steps"):
        evidence_regularizer(rows.T @ rows, 40, 10.0, 1.0)


def profiled_nll(
    covariance: np.ndarray, x: float, validation: dict[str, tuple[np.ndarray, np.ndarray]]
) -> float:
    total = 0.0
    inverse = np.linalg.inv(covariance + x * np.trace(covariance) / len(covariance) * np.eye(len(covariance)))
    for g, r in validation.values():
        u2 = np.einsum("nd,de,ne->n", g, inverse, g)
        alpha2 = np.mean(r**2 / u2)
        total += float(np.mean(0.5 * np.log(2 * np.pi * alpha2 * u2) + 0.5 * r**2 / (alpha2 * u2)))
    return total


def test_val_nll_takes_the_largest_value_near_the_best(rows: np.ndarray) -> None:
    random = np.random.default_rng(6)
    covariance = rows[:4].T @ rows[:4]
    validation = {
        "energy": (rows[10:20], random.normal(size=10)),
        "forces": (rows[20:], rows[20:] @ random.normal(size=D)),
    }
    grid = 10.0 ** np.arange(-9, -1.9, 0.5)
    nll = np.array([profiled_nll(covariance, x, validation) for x in grid])
    expected = grid[nll <= nll.min() + 0.01][-1] * np.trace(covariance) / D
    assert val_nll_regularizer(covariance, validation) == pytest.approx(expected, rel=1e-12)


def test_val_nll_masks_missing_labels_and_averages_properties(rows: np.ndarray) -> None:
    random = np.random.default_rng(7)
    covariance, r = rows[:8].T @ rows[:8], random.normal(size=30)
    expected = val_nll_regularizer(covariance, {"energy": (rows[10:], r)})
    more = np.vstack([rows[10:], np.zeros((1, D))])
    two = np.column_stack([np.append(r, np.nan)] * 2)
    assert val_nll_regularizer(covariance, {"energy": (more, two)}) == expected


def test_val_nll_refuses_unusable_validation_sets(rows: np.ndarray) -> None:
    covariance, r = rows.T @ rows, np.ones(40)
    with pytest.raises(DataError, match="no validation rows"):
        val_nll_regularizer(covariance, {})
    with pytest.raises(DataError, match="forces validation labels are all masked"):
        val_nll_regularizer(covariance, {"forces": (rows, r * np.nan)})
    with pytest.raises(DataError, match="all residuals are 0"):
        val_nll_regularizer(covariance, {"forces": (rows, 0 * r)})
    with pytest.raises(DataError, match="u = 0 in forces validation row 2"):
        val_nll_regularizer(covariance, {"forces": (rows * (np.arange(40) != 2)[:, None], r)})
    with pytest.raises(DataError, match="infinite energy residual in row 0"):
        val_nll_regularizer(covariance, {"energy": (rows, r * np.inf)})
    with pytest.raises(DataError, match="expected 40"):
        val_nll_regularizer(covariance, {"energy": (rows, r[:3])})
    with pytest.raises(DataError, match="no energy validation rows"):
        val_nll_regularizer(covariance, {"energy": (rows[:0], r[:0])})
    with pytest.raises(ConfigError, match=r"floor.*0\.1"):
        val_nll_regularizer(covariance, {"energy": (rows, r)}, floor=0.1)


def test_configured_regularizers(rows: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    covariance = rows.T @ rows
    mean = np.trace(covariance) / D
    validation = {"energy": (rows, np.random.default_rng(8).normal(size=40))}
    evidence = evidence_regularizer(covariance, 40, 10.0, 2.0)
    known = {"n_rows": 40, "sum_sq_residuals": 10.0, "weight_norm2": 2.0}
    assert resolve_regularizer(3.0, covariance) == 9.0
    assert resolve_regularizer({"relative": 0.5}, covariance) == pytest.approx(0.5 * mean, rel=1e-14)
    assert resolve_regularizer(None, covariance, validation=validation, **known) == evidence
    assert resolve_regularizer("evidence", covariance, **known) == evidence
    with caplog.at_level(logging.INFO):
        chosen = resolve_regularizer(None, covariance, validation=validation)
        assert chosen == val_nll_regularizer(covariance, validation)
        assert resolve_regularizer(None, covariance) == pytest.approx(1e-6 * mean, rel=1e-14)
    assert [r.levelname for r in caplog.records] == ["INFO", "WARNING"]
    assert resolve_regularizer("val_nll", covariance, validation=validation, **known) == chosen
    with pytest.raises(ConfigError, match="unknown regularizer; got 'ridge'"):
        resolve_regularizer("ridge", covariance)
    with pytest.raises(ConfigError, match="negative; got -1"):
        resolve_regularizer(-1.0, covariance)


def test_number_is_squared_once_but_not_for_compatibility(rows: np.ndarray) -> None:
    covariance = rows.T @ rows
    assert LLPRPosterior.from_covariance(covariance, regularizer=3.0).varsigma2 == 9.0
    assert LLPRPosterior.from_covariance(covariance, regularizer=3.0, compat="metatrain").varsigma2 == 3.0


@pytest.mark.parametrize("compat", [None, "metatrain"])
def test_regularizer_out_of_range(rows: np.ndarray, compat: str | None) -> None:
    with pytest.raises(ConfigError, match=r"negative; got -0\.5"):
        LLPRPosterior.from_covariance(rows.T @ rows, regularizer=-0.5, compat=compat)
    one = np.zeros((D, D))
    one[0, 0] = 1
    with pytest.raises(ConfigError, match=r"rank 1; expected .*rank 6; regularizer: null"):
        LLPRPosterior.from_covariance(one, regularizer=0, compat=compat)


def test_contradictory_arguments_are_refused(rows: np.ndarray) -> None:
    covariance = rows.T @ rows
    with pytest.raises(ConfigError, match="exactly one of varsigma2 and regularizer"):
        LLPRPosterior.from_covariance(covariance)
    with pytest.raises(ConfigError, match="exactly one"):
        LLPRPosterior.from_covariance(covariance, 1.0, regularizer=1.0)
    with pytest.raises(ConfigError, match="not varsigma2"):
        LLPRPosterior.from_covariance(covariance, 1.0, compat="metatrain")
    with pytest.raises(ConfigError, match="number or null"):
        LLPRPosterior.from_covariance(covariance, regularizer={"relative": 1.0}, compat="metatrain")
    with pytest.raises(ConfigError, match="'apax'"):
        LLPRPosterior.from_covariance(covariance, 1.0, compat="apax")


def test_malformed_matrices_are_refused(rows: np.ndarray, posterior: LLPRPosterior) -> None:
    with pytest.raises(DataError, match=r"\(40, 6\)"):
        LLPRPosterior.from_covariance(rows, 1.0)
    broken = rows.T @ rows
    broken[2, 3] = np.nan
    with pytest.raises(DataError, match=r"not finite in entry \[2 3\]"):
        LLPRPosterior.from_covariance(broken, 1.0)
    with pytest.raises(DataError, match="without positive trace"):
        evidence_regularizer(np.zeros((D, D)), 1, 1.0, 1.0)
    with pytest.raises(DataError, match="lower triangular"):
        LLPRPosterior.from_cholesky(np.ones((D, D)))
    with pytest.raises(ConfigError, match=r"weight_norm2.*0"):
        evidence_regularizer(rows.T @ rows, 40, 1.0, 0.0)
    with pytest.raises(PotentialError, match="5 features; expected 6"):
        posterior.u(rows[:, :5])
    with pytest.raises(PotentialError, match="row 1"):
        posterior.u(rows * np.where(np.arange(40) == 1, np.nan, 1)[:, None])


def test_rows_of_blocks_are_whitened_as_any_other() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(40, 6))
    posterior = LLPRPosterior.from_covariance(rows.T @ rows, 0.3)
    blocks = np.zeros((5, 3, 2))
    blocks[np.arange(5), [0, 2, 1, 2, 0]] = rng.normal(size=(5, 2))
    blocks[3] += 1.0  # fills several
    flat = blocks.reshape(5, 6)
    white = posterior.whiten_blocks(flat, 3)
    np.testing.assert_allclose(white, posterior.whiten(flat), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_blocks", [1, 3])
def test_energies_from_features_of_atoms(n_blocks: int, dtype: type) -> None:
    """As from the rows, for atoms in blocks and for their sum, and hardly worse in single precision."""
    rng = np.random.default_rng(4)
    width = 5
    training = rng.normal(size=(60, n_blocks * width)) * np.logspace(0, 3, n_blocks * width)
    posterior = LLPRPosterior.from_covariance(training.T @ training, 0.1)
    features = rng.normal(size=(7, width)).astype(dtype)
    blocks = np.array([0, 2, 0, 0, 2, 0, 2]) % n_blocks
    rows = np.zeros((7, n_blocks, width))
    rows[np.arange(7), blocks] = features
    rows = rows.reshape(7, -1)
    total, atoms = posterior.energy_spreads(features, blocks, n_blocks)
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(atoms, posterior.u(rows), rtol=rtol)
    np.testing.assert_allclose(total, posterior.u(rows.sum(axis=0)), rtol=rtol)


def test_energies_from_features_that_do_not_fit(posterior: LLPRPosterior) -> None:
    with pytest.raises(PotentialError, match=r"features"):
        posterior.energy_spreads(np.ones((2, D + 1)), np.zeros(2, int), 1)
    with pytest.raises(PotentialError, match=r"finite"):
        posterior.energy_spreads(np.full((2, D), np.nan), np.zeros(2, int), 1)
