"""The default mode from rows to scores: precision weights, evidence or val_nll, alpha, alpha_sigma0."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surefield.calibration.fit import calibrate_alpha, fit_calibration_map
from surefield.calibration.maps import AlphaSigma0Map
from surefield.calibration.metrics import gaussian_nll, spearman, uq_metrics
from surefield.sensitivity.covariance import RowCovariance
from surefield.sensitivity.posterior import LLPRPosterior, evidence_regularizer, val_nll_regularizer

ROWS = ["energy_rows", "energy+force_rows"]


@dataclass
class Case:
    covariance: RowCovariance
    force_gram: np.ndarray
    n_force_rows: int
    force_squares: float
    weight_norm2: float
    rows: dict[tuple[str, str], np.ndarray]
    residuals: dict[tuple[str, str], np.ndarray]


@cache
def load(folder: Path, name: str) -> Case:
    """Rows and residuals of all splits; force components that symmetry sets to zero have NaN residuals."""
    energy = np.load(folder / f"metatrain_{name}.npz")
    forces = np.load(folder / f"metatrain_{name}_forces.npz")
    scale = float(energy["scaler"][0])
    rows, residuals = {}, {}
    for split in ("train", "val", "test"):
        n = energy[f"{split}_natoms"]
        rows["energy", split] = scale * energy[f"{split}_F_sum"] / n[:, None]
        residuals["energy", split] = (energy[f"{split}_E"] - energy[f"{split}_Eref"])[:, 0] / n
        if f"{split}_Fref" in forces:
            zero = np.linalg.norm(forces[f"{split}_G"], axis=1) <= forces["mask_threshold"]
            rows["forces", split] = scale * forces[f"{split}_G"]
            r = forces[f"{split}_F"] - forces[f"{split}_Fref"]
            residuals["forces", split] = np.where(zero, np.nan, r)
    covariance = RowCovariance(len(energy["last_layer_weights"][0]))
    covariance.add(rows["energy", "train"], residuals=residuals["energy", "train"])
    # the sum over all train force rows comes with the file, because the silicon rows themselves do not
    squares = forces["train_res2_kept"] if name == "si" else np.sum(residuals["forces", "train"] ** 2)
    weights = energy["last_layer_weights"]
    return Case(
        covariance,
        scale**2 * forces["train_GtG"],
        int(forces["train_kept"]),
        float(squares),
        float(np.sum(weights**2)),
        rows,
        residuals,
    )


@pytest.mark.parametrize("name", ["ethanol", "si"])
@pytest.mark.parametrize("row_kinds", ROWS)
@pytest.mark.parametrize("regularizer", ["evidence", "val_nll"])
def test_default_mode_from_rows_to_scores(shared: Path, name: str, row_kinds: str, regularizer: str) -> None:
    folder = shared / "reference" / "uncertainty"
    expected = json.loads((folder / "default_mode.json").read_text())[name][row_kinds]
    case = load(folder, name)
    kinds = ["energy", "forces"] if "force" in row_kinds else ["energy"]
    scale = {k: float(np.sqrt(np.nanmean(case.residuals[k, "val"] ** 2))) for k in kinds}
    assert scale == pytest.approx(expected["scale"], rel=1e-10)
    weights = {k: 1 / s**2 for k, s in scale.items()}

    matrix = case.covariance.combined({"energy": weights["energy"]})
    n_rows = case.covariance.n_rows["energy"]
    squares = weights["energy"] * case.covariance.sum_squared_residuals["energy"]
    if "forces" in kinds:
        matrix = matrix + weights["forces"] * case.force_gram
        n_rows += case.n_force_rows
        squares += weights["forces"] * case.force_squares
    assert n_rows == expected["n_rows"]
    mean = np.trace(matrix) / len(matrix)
    assert mean == pytest.approx(expected["trace_over_d"], rel=1e-10)

    validation = {k: (case.rows[k, "val"], case.residuals[k, "val"]) for k in kinds}
    if regularizer == "evidence":
        varsigma2 = evidence_regularizer(matrix, n_rows, squares, case.weight_norm2)
        tolerance = 1e-6
    else:
        varsigma2 = val_nll_regularizer(matrix, validation)
        tolerance = 1e-10  # the same point of the grid
    target = expected[regularizer]
    assert varsigma2 == pytest.approx(target["varsigma2"], rel=tolerance)
    assert varsigma2 / mean == pytest.approx(target["relative"], rel=tolerance)
    posterior = LLPRPosterior.from_covariance(matrix, varsigma2)
    assert posterior.effective_dof == pytest.approx(target["gamma"], rel=1e-6)
    for kind in kinds:
        check_scores(case, posterior, kind, target[kind], scale[kind])


def check_scores(
    case: Case, posterior: LLPRPosterior, kind: str, target: dict[str, Any], constant: float
) -> None:
    u = {split: posterior.u(case.rows[kind, split]) for split in ("val", "test")}
    alpha = calibrate_alpha(case.residuals[kind, "val"], u["val"])
    assert alpha == pytest.approx(target["alpha"], rel=1e-6)
    residuals = case.residuals[kind, "test"]
    ours = uq_metrics(residuals, alpha * u["test"])
    baseline = uq_metrics(residuals, np.full(len(residuals), constant))
    low, high = spearman_range(residuals, u["test"])
    slack = 1e-5 * abs(target["test_spearman"])
    assert low - slack <= target["test_spearman"] <= high + slack
    assert low <= ours["spearman"] <= high
    for score in ("nll", "crps"):
        assert ours[score] == pytest.approx(target[f"test_{score}"], rel=1e-5), score
        assert baseline[score] == pytest.approx(target[f"const_{score}"], rel=1e-5), score
    if kind == "forces":
        assert ours["nll"] < baseline["nll"]
        assert ours["crps"] < baseline["crps"]
        check_floor(case, u, target["alpha_sigma0"], float(alpha))


def spearman_range(residuals: np.ndarray, u: np.ndarray) -> tuple[float, float]:
    """Lowest and highest rank correlation within rounding of |r| and u.

    Test frames 19 and 20, and 22 to 24, of silicon are symmetry equivalents: their u agree to the last bits,
    so which of them ranks first is not determined. Without such pairs both ends are one number.
    """
    random = np.random.default_rng(0)
    kept = ~np.isnan(residuals)
    size, u = np.abs(residuals[kept]), u[kept]
    values = [spearman(size, u)]
    for _ in range(200 if len(u) < 100 else 0):
        noise = 1 + 1e-12 * random.normal(size=(2, len(u)))
        values.append(spearman(size * noise[0], u * noise[1]))
    return min(values), max(values)


def check_floor(case: Case, u: dict[str, np.ndarray], target: dict[str, float], alpha: float) -> None:
    fitted = fit_calibration_map(case.residuals["forces", "val"], u["val"], "alpha_sigma0")
    assert isinstance(fitted, AlphaSigma0Map)
    val_nll = np.nanmean(gaussian_nll(case.residuals["forces", "val"], fitted.sigma(u["val"])))
    assert val_nll == pytest.approx(target["val_nll"], abs=1e-4)
    assert val_nll <= target["val_nll"] + 1e-9
    test = uq_metrics(case.residuals["forces", "test"], fitted.sigma(u["test"]))
    assert test["nll"] == pytest.approx(target["test_nll"], abs=1e-4)
    assert test["crps"] == pytest.approx(target["test_crps"], rel=1e-4)
    if target["sigma0"] < 1e-6:
        assert fitted.sigma0 == 0
        assert fitted.alpha == pytest.approx(alpha, rel=1e-12)


@pytest.mark.parametrize("regularizer", ["evidence", "val_nll"])
def test_energies_of_chgnet(shared: Path, regularizer: str) -> None:
    folder = shared / "reference" / "uncertainty"
    expected = json.loads((folder / "default_mode.json").read_text())["chgnet_si"]["energy_rows"]
    data = np.load(folder / "chgnet_si.npz")
    rows, residuals = {}, {}
    for split in ("train", "val", "test"):
        n = data[f"{split}_natoms"]
        rows[split] = data[f"{split}_F_sum"] / n[:, None]
        residuals[split] = (data[f"{split}_E"].astype(float) - data[f"{split}_Eref"]) / n
    offset = residuals["train"].mean()
    assert offset == pytest.approx(expected["offset_per_atom"], rel=1e-3)
    residuals = {split: r - offset for split, r in residuals.items()}
    scale = float(np.sqrt(np.mean(residuals["val"] ** 2)))
    covariance = RowCovariance(rows["train"].shape[1]).add(rows["train"], residuals=residuals["train"])
    matrix = covariance.combined({"energy": scale**-2})
    squares = covariance.sum_squared_residuals["energy"] / scale**2
    if regularizer == "evidence":
        varsigma2 = evidence_regularizer(
            matrix, len(rows["train"]), squares, float(data["weight_norm2"]), 1e-6
        )
    else:
        varsigma2 = val_nll_regularizer(matrix, {"energy": (rows["val"], residuals["val"])}, 1e-6)
    target = expected[regularizer]
    assert varsigma2 == pytest.approx(target["varsigma2"], rel=1e-3)
    posterior = LLPRPosterior.from_covariance(matrix, varsigma2)
    alpha = calibrate_alpha(residuals["val"], posterior.u(rows["val"]))
    assert alpha == pytest.approx(target["energy"]["alpha"], rel=1e-3)
    scores = uq_metrics(residuals["test"], alpha * posterior.u(rows["test"]))
    assert scores["spearman"] == pytest.approx(target["energy"]["test_spearman"], rel=1e-3)
    assert scores["nll"] == pytest.approx(target["energy"]["test_nll"], rel=1e-3)
    assert scores["crps"] == pytest.approx(target["energy"]["test_crps"], rel=1e-3)
