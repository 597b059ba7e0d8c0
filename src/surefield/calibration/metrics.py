"""Scores of predicted standard deviations against residuals; z = r/σ throughout.

Proper scores: Gneiting & Raftery, J. Am. Stat. Assoc. 102 (2007) 359. Calibration curve and interval scores
follow Chung et al., arXiv:2109.10254; the binned calibration error Levi et al., Sensors 22 (2022) 5540.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from surefield.errors import ConfigError, DataError

__all__ = [
    "auroc",
    "auroc_error",
    "binned_rmv_rmse",
    "calibration_curve",
    "coverage",
    "ence",
    "gaussian_crps",
    "gaussian_nll",
    "miscalibration_area",
    "relative_log_likelihood",
    "spearman",
    "uq_metrics",
]

COVERAGE_LEVELS: Final = (0.5, 0.68, 0.9, 0.95)
AUROC_QUANTILE: Final = 0.8
#: Below this many rows the binned error uses 5 bins, from there on 10.
FEW_ROWS: Final = 100
#: Residuals up to this times the RMSE carry no information for the oracle of the relative log likelihood.
NEGLIGIBLE_RESIDUAL: Final = 1e-12
SCORE_LEVELS: Final = 99

Vector = Float64[np.ndarray, " n"]


def uq_metrics(
    residuals: ArrayLike, sigma: ArrayLike, n_bins: int | None = None, n_levels: int = 100
) -> dict[str, Any]:
    """All scores of standard deviations `sigma` for `residuals`, arrays of one shape (any, taken flat).

    NaN residuals are masked (σ is not looked at there) and counted as `n_masked`. Scores that do not exist
    (ranks of a constant σ, a reference of equal residuals) are NaN.

    Args:
        residuals: prediction minus reference.
        sigma: predicted standard deviations, same unit, positive.
        n_bins: bins of equal count for `ence`; None is 5 below 100 rows, else 10.
        n_levels: points of the calibration curve, from p = 0 to 1.

    Returns:
        n, n_masked, nll, crps, miscalibration_area, ma_cal, rms_cal, check_score, interval_score, sharpness,
        ence, rll, spearman, auroc_error_q80, mean_z2, and coverage per level "0.5", "0.68", "0.9", "0.95".

    Raises:
        DataError: shapes differ, σ ≤ 0 or not finite, an infinite residual, nothing unmasked, too many bins.
        ConfigError: fewer than one bin or two levels.
    """
    r, s = _scored(residuals, sigma)
    levels, observed = calibration_curve(r, s, n_levels)
    gaps = observed - levels
    return {
        "n": len(r),
        "n_masked": int(np.size(residuals)) - len(r),
        "nll": float(gaussian_nll(r, s).mean()),
        "crps": float(gaussian_crps(r, s).mean()),
        "miscalibration_area": miscalibration_area(levels, observed),
        "ma_cal": float(np.abs(gaps).mean()),
        "rms_cal": float(np.sqrt(np.mean(gaps**2))),
        "check_score": _check_score(r, s),
        "interval_score": _interval_score(r, s),
        "sharpness": float(np.sqrt(np.mean(s**2))),
        "ence": ence(r, s, n_bins),
        "rll": relative_log_likelihood(r, s),
        "spearman": spearman(np.abs(r), s),
        "auroc_error_q80": auroc_error(r, s, AUROC_QUANTILE),
        "mean_z2": float(np.mean((r / s) ** 2)),
        "coverage": {str(p): coverage(r, s, p) for p in COVERAGE_LEVELS},
    }


def gaussian_nll(residuals: ArrayLike, sigma: ArrayLike) -> Float64[np.ndarray, "*shape"]:
    """½[ln 2πσ² + z²] per entry."""
    r, s = np.asarray(residuals, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    return 0.5 * np.log(2 * np.pi) + np.log(s) + 0.5 * (r / s) ** 2


def gaussian_crps(residuals: ArrayLike, sigma: ArrayLike) -> Float64[np.ndarray, "*shape"]:
    """σ[z(2Φ(z) - 1) + 2φ(z) - 1/√π] per entry, in the unit of the residual."""
    r, s = np.asarray(residuals, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    z = r / s
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return s * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))


def calibration_curve(
    residuals: ArrayLike, sigma: ArrayLike, n_levels: int = 100
) -> tuple[Float64[np.ndarray, " n_levels"], Float64[np.ndarray, " n_levels"]]:
    """Levels p = 0 … 1 and the share of rows inside the central Gaussian interval of probability p.

    Raises:
        DataError: as `uq_metrics`.
        ConfigError: fewer than two levels.
    """
    if n_levels < 2:
        raise ConfigError("n_levels of a calibration curve", got=n_levels, expected="at least 2")
    r, s = _scored(residuals, sigma)
    levels = np.linspace(0.0, 1.0, n_levels)
    # 1 - p/2 through its own tail: exact at p = 1, where the interval is the whole axis
    half_widths = -ndtri((1.0 - levels) / 2)
    inside = np.searchsorted(np.sort(np.abs(r / s)), half_widths, side="right")
    return levels, inside / len(r)


def binned_rmv_rmse(
    residuals: ArrayLike, sigma: ArrayLike, n_bins: int | None = None
) -> tuple[Float64[np.ndarray, " n_bins"], Float64[np.ndarray, " n_bins"]]:
    """Root mean variance and RMSE in bins of equal count, ordered by σ.

    Raises:
        DataError: as `uq_metrics`, or more bins than rows.
        ConfigError: fewer than one bin.
    """
    r, s = _scored(residuals, sigma)
    if n_bins is None:
        n_bins = min(5 if len(r) < FEW_ROWS else 10, len(r))
    elif n_bins < 1:
        raise ConfigError("n_bins must be positive", got=n_bins)
    elif n_bins > len(r):
        raise DataError("more bins than rows", got=n_bins, expected=f"at most {len(r)}")
    bins = np.array_split(np.argsort(s, kind="stable"), n_bins)
    rmv = np.array([np.sqrt(np.mean(s[b] ** 2)) for b in bins])
    rmse = np.array([np.sqrt(np.mean(r[b] ** 2)) for b in bins])
    return rmv, rmse


def ence(residuals: ArrayLike, sigma: ArrayLike, n_bins: int | None = None) -> float:
    """Expected normalised calibration error: mean over bins of |RMV - RMSE|/RMV."""
    rmv, rmse = binned_rmv_rmse(residuals, sigma, n_bins)
    return float(np.mean(np.abs(rmv - rmse) / rmv))


def relative_log_likelihood(residuals: ArrayLike, sigma: ArrayLike) -> float:
    """100 (NLL - NLL_const)/(NLL_oracle - NLL_const): 0 is σ = RMSE everywhere, 100 is σ = |r|.

    NaN if all residuals have the same size, since constant and oracle are then one.
    """
    r, s = _scored(residuals, sigma)
    rmse = float(np.sqrt(np.mean(r**2)))
    keep = np.abs(r) > NEGLIGIBLE_RESIDUAL * rmse
    if not keep.any():
        return float("nan")
    r, s = r[keep], s[keep]
    constant = float(gaussian_nll(r, np.full_like(r, rmse)).mean())
    oracle = float(gaussian_nll(r, np.abs(r)).mean())
    if abs(oracle - constant) < 1e-12:
        return float("nan")
    return 100 * (float(gaussian_nll(r, s).mean()) - constant) / (oracle - constant)


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Rank correlation with mid-ranks for ties; NaN if one side is constant."""
    x, y = _midranks(np.asarray(a, dtype=np.float64)), _midranks(np.asarray(b, dtype=np.float64))
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm > 0 else float("nan")


def auroc(positive: ArrayLike, sigma: ArrayLike) -> float:
    """Probability that σ ranks a positive row above a negative one, ties counted half.

    NaN if there are no positives or no negatives. Out-of-domain rows as positives give `auroc_ood`.
    """
    flags: Bool[np.ndarray, " n"] = np.asarray(positive, dtype=bool)
    n_positive = int(flags.sum())
    n_negative = len(flags) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    rank_sum = float(_midranks(np.asarray(sigma, dtype=np.float64))[flags].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def auroc_error(residuals: ArrayLike, sigma: ArrayLike, quantile: float = AUROC_QUANTILE) -> float:
    """How well σ ranks the rows whose |r| is above its `quantile`."""
    r, s = _scored(residuals, sigma)
    if not 0 < quantile < 1:
        raise ConfigError("quantile of auroc_error", got=quantile, expected="between 0 and 1")
    size = np.abs(r)
    return auroc(size > np.quantile(size, quantile), s)


def coverage(residuals: ArrayLike, sigma: ArrayLike, level: float) -> float:
    """Share of rows with |z| ≤ Φ⁻¹((1 + level)/2)."""
    r, s = _scored(residuals, sigma)
    return float(np.mean(np.abs(r / s) <= ndtri((1 + level) / 2)))


def _scored(residuals: ArrayLike, sigma: ArrayLike) -> tuple[Vector, Vector]:
    """Unmasked residuals and their σ, checked."""
    r, s = np.asarray(residuals, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    if r.shape != s.shape:
        raise DataError("residuals and sigma differ in shape", got=f"{r.shape} and {s.shape}")
    r, s = r.ravel(), s.ravel()
    kept = np.flatnonzero(~np.isnan(r))
    if not len(kept):
        raise DataError("no rows to score", got=f"{len(r)} residuals, all masked (NaN)")
    for what, bad in (
        ("infinite residuals", np.isinf(r[kept])),
        ("sigma not positive and finite", ~((s[kept] > 0) & np.isfinite(s[kept]))),
    ):
        if bad.any():
            first = int(kept[np.argmax(bad)])
            raise DataError(
                what,
                got=f"{int(bad.sum())} of {len(kept)}, the first at index {first} "
                f"(residual {r[first]:g}, sigma {s[first]:g})",
                fix="mask symmetry-zero or unlabelled rows with a NaN residual",
            )
    return r[kept], s[kept]


def miscalibration_area(levels: Vector, observed: Vector) -> float:
    """Area between a piecewise linear calibration curve at evenly spaced levels and the diagonal."""
    gaps, spacing = observed - levels, 1.0 / (len(levels) - 1)
    left, right = np.abs(gaps[:-1]), np.abs(gaps[1:])
    both = left + right
    crossing = gaps[:-1] * gaps[1:] < 0
    # a segment through zero is two triangles
    triangles = (left**2 + right**2) / np.where(crossing, 2 * both, 1.0)
    return float(spacing * np.sum(np.where(crossing, triangles, both / 2)))


def _check_score(r: Vector, s: Vector) -> float:
    """Pinball loss, mean over the quantiles 0.01 … 0.99."""
    total = 0.0
    for q in np.linspace(0.01, 0.99, SCORE_LEVELS):
        ahead = r + s * ndtri(q)  # predicted quantile minus reference
        total += float(np.mean(np.where(ahead >= 0, (1 - q) * ahead, -q * ahead)))
    return total / SCORE_LEVELS


def _interval_score(r: Vector, s: Vector) -> float:
    """Interval score, mean over the central intervals p = 0.01 … 0.99."""
    total, size = 0.0, np.abs(r)
    for p in np.linspace(0.01, 0.99, SCORE_LEVELS):
        half = s * ndtri((1 + p) / 2)
        total += float(np.mean(2 * half + 2 / (1 - p) * np.maximum(size - half, 0.0)))
    return total / SCORE_LEVELS


def _midranks(values: Vector) -> Vector:
    """Ranks from 1, ties sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - 0.5 * (counts - 1))[inverse]
