"""Fits of calibration maps on validation residuals: from the raw spread u to a standard deviation σ(u)."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression, minimize_scalar, root_scalar
from scipy.special import expit

from surefield.calibration.maps import (
    AlphaMap,
    AlphaPowerMap,
    AlphaSigma0Map,
    CalibrationMap,
    CommitteeMap,
    ConformalMap,
    IsotonicMap,
    LocalMap,
    PowerMap,
    PropertyMaps,
    StructureFloorMap,
)
from surefield.errors import ConfigError, DataError, nearest

__all__ = ["calibrate_alpha", "fit_calibration_map", "structure_power"]

Method = Literal["squared_residuals", "absolute_residuals", "crps"]
Vector = Float64[np.ndarray, " n"]

#: α² of a committee whose finite-size correction leaves nothing.
COMMITTEE_MINIMUM: Final = 1e-12
#: Exponents of a power map beyond this mean that the likelihood has no interior maximum.
LARGEST_POWER: Final = 1e4
#: Logarithms of u this close are one value to the power map.
SAME_SPREAD: Final = 1e-6
#: Rows of a bin of a local map, at least, and its bins, at most.
BIN_ROWS, MOST_BINS = 50, 20
#: Points of the coarse search for the floor of an alpha_sigma0 map.
FLOOR_GRID: Final = 61
#: Of floors that are as good to this NLL, that of the structure alone is taken.
NLL_SLACK: Final = 0.002
#: Structures, and values of each in the mean, below which no power is fitted; its largest value.
POWER_STRUCTURES, POWER_VALUES, MOST_POWER = 8, 3, 2.0
#: Standard errors within which a power is none.
POWER_ERRORS: Final = 2.0


def calibrate_alpha(
    residuals: ArrayLike, u: ArrayLike, method: Method = "squared_residuals"
) -> float | Float64[np.ndarray, " n_properties"]:
    """Factor α of σ = αu.

    Args:
        residuals: prediction minus reference, (n,) or (n, n_properties); NaN entries are masked.
        u: uncalibrated spread, (n,) or the shape of residuals.
        method: `squared_residuals` (best Gaussian NLL), `absolute_residuals` or `crps` (best Gaussian CRPS).

    Returns:
        float, or (n_properties,) float64 for residuals of two axes.

    Raises:
        DataError: nothing unmasked, shapes differ, all residuals 0, u not positive or values not finite.
        ConfigError: unknown method.
    """
    if method not in _METHODS:
        raise ConfigError(f"unknown calibration_method {method!r}", fix=nearest(method, _METHODS))
    columns = _columns(residuals, u)
    alphas = [_METHODS[method](r, s) for r, s in columns]
    return np.array(alphas) if np.ndim(residuals) == 2 else alphas[0]


def fit_calibration_map(
    residuals: ArrayLike,
    u: ArrayLike,
    map: str = "alpha",
    *,
    method: Method = "squared_residuals",
    delta: float = 0.1,
    groups: ArrayLike | None = None,
    n_members: int | None = None,
    structures: ArrayLike | None = None,
    power: float | None = None,
) -> CalibrationMap:
    """Fit a map u → σ on validation residuals.

    Args:
        residuals: prediction minus reference, (n,) or (n, n_properties) for one map per property; NaN entries
            are masked. No rows at all give α = 1, `calibrated` False and a warning.
        u: uncalibrated spread, (n,) or the shape of residuals.
        map: `alpha`, `alpha_power`, `alpha_sigma0`, `structure_floor`, `power`, `isotonic`, `local`,
            `conformal` or `committee`.
        method: of the maps `alpha` and `alpha_power`, see `calibrate_alpha`.
        delta: of the map `conformal`: intervals miss at most this share.
        groups: of the map `conformal`: label of each row, for one quantile per group.
        n_members: of the map `committee`: M > 3 members whose sample standard deviation u is.
        structures: of the maps `structure_floor` and `alpha_power`: number of the structure of each row;
            None: all are of one.
        power: of the maps `structure_floor` and `alpha_power`; None: what `structure_power` finds.

    Raises:
        DataError: as `calibrate_alpha`, or too few rows for the conformal quantile.
        ConfigError: unknown map or method, delta outside (0, 1), n_members missing or below 4.
    """
    if map not in _FITS:
        raise ConfigError(f"unknown calibration_map {map!r}", fix=nearest(map, _FITS))
    if np.size(residuals) == 0:
        warnings.warn("no validation labels: alpha = 1, the uncertainty is not calibrated", stacklevel=2)
        return AlphaMap(1.0, calibrated=False)
    labels = None if groups is None else np.asarray(groups).astype(str)
    if labels is not None and labels.shape != np.shape(residuals)[:1]:
        raise DataError("one group per row is needed", got=labels.shape, expected=np.shape(residuals)[:1])
    values = np.asarray(residuals, dtype=np.float64)
    of_rows = np.zeros(len(values), int) if structures is None else np.asarray(structures)
    if of_rows.shape != values.shape[:1]:
        raise DataError("one structure per row is needed", got=of_rows.shape, expected=values.shape[:1])
    kept = [~np.isnan(c) for c in values.reshape(len(values), -1).T]
    options = _Options(method=method, delta=delta, n_members=n_members, power=power)
    maps = tuple(
        _FITS[map](
            r,
            s,
            dataclasses.replace(
                options, groups=None if labels is None else labels[keep], structures=of_rows[keep]
            ),
        )
        for (r, s), keep in zip(_columns(residuals, u), kept, strict=True)
    )
    return PropertyMaps(maps) if values.ndim == 2 else maps[0]


@dataclass(frozen=True)
class _Options:
    method: Method
    delta: float
    n_members: int | None
    groups: np.ndarray | None = None
    structures: np.ndarray | None = None
    power: float | None = None

    def power_of(self, r: Vector, u: Vector) -> float:
        """The power that is given, else what the residuals tell."""
        if self.power is not None:
            return self.power
        assert self.structures is not None
        return structure_power(r, u, self.structures)


def structure_power(residuals: ArrayLike, u: ArrayLike, structures: ArrayLike) -> float:
    """Power by which the errors of structures grow faster than their spreads, from 0 to 2.

    The posterior of the last layer has spreads in proportion to errors if all else is right; where the body
    errs, too, structures with twice the spread have more than twice the error. That is the slope of
    ln rms(r/u) against ln rms(u) over structures, with a standard normal prior; it is left out where it is
    within two standard errors.

    Args:
        residuals: prediction minus reference, (n,); NaN entries are masked.
        u: uncalibrated spread, (n,).
        structures: number of the structure of each row.

    Returns:
        0 also for fewer than 8 structures, or fewer than 3 values of each.
    """
    r, s, numbers = np.asarray(residuals, np.float64), np.asarray(u, np.float64), np.asarray(structures)
    usable = np.isfinite(r) & (s > 0)
    if not usable.any():
        return 0.0
    _, place, counts = np.unique(numbers[usable], return_inverse=True, return_counts=True)
    errors = np.bincount(place, (r[usable] / s[usable]) ** 2) / counts
    spreads = np.bincount(place, s[usable] ** 2) / counts
    known = errors > 0
    if known.sum() < POWER_STRUCTURES or counts.mean() < POWER_VALUES:
        return 0.0
    x, y = 0.5 * np.log(spreads[known]), 0.5 * np.log(errors[known])
    x, y = x - x.mean(), y - y.mean()
    width = float(x @ x)
    slope = float(x @ y) / width if width > 0 else 0.0
    scatter = float(np.sum((y - slope * x) ** 2)) / (len(x) - 2)
    if slope**2 * width <= POWER_ERRORS**2 * scatter:
        return 0.0
    return float(np.clip(slope * width / (width + scatter), 0.0, MOST_POWER))


def _columns(residuals: ArrayLike, u: ArrayLike) -> list[tuple[Vector, Vector]]:
    """Unmasked residuals and spreads of every property, checked."""
    r, s = np.asarray(residuals, dtype=np.float64), np.asarray(u, dtype=np.float64)
    if r.ndim == 2 and s.shape in {r.shape[:1], (len(r), 1)}:
        s = np.broadcast_to(s.reshape(-1, 1), r.shape)
    if r.ndim not in (1, 2) or r.shape != s.shape:
        raise DataError(
            "residuals and u do not fit",
            got=f"{r.shape} and {s.shape}",
            expected="(n,) or (n, n_properties)",
        )
    if not r.size:
        raise DataError("no validation residuals to calibrate on")
    return [
        _unmasked(rc, sc) for rc, sc in zip(r.reshape(len(r), -1).T, s.reshape(len(r), -1).T, strict=True)
    ]


def _unmasked(r: Vector, s: Vector) -> tuple[Vector, Vector]:
    kept = np.flatnonzero(~np.isnan(r))
    if not len(kept):
        raise DataError("all validation labels are masked (NaN)", got=f"{len(r)} rows")
    for what, bad in (
        ("infinite residual", np.isinf(r[kept])),
        ("u = 0 in an unmasked row", s[kept] == 0),
        ("u must be positive and finite", ~((s[kept] > 0) & np.isfinite(s[kept]))),
    ):
        if bad.any():
            first = int(kept[np.argmax(bad)])
            raise DataError(
                what,
                where=f"validation row {first}",
                got=f"residual {r[first]:g}, u {s[first]:g}; {int(bad.sum())} such rows",
                fix="mask symmetry-zero rows with a NaN residual",
            )
    if not r[kept].any():
        raise DataError("all validation residuals are 0", got=f"{len(kept)} rows", fix="check the labels")
    return r[kept], s[kept]


def _alpha_squared(r: Vector, u: Vector) -> float:
    return float(np.sqrt(np.mean((r / u) ** 2)))


def _alpha_absolute(r: Vector, u: Vector) -> float:
    return float(np.sqrt(np.pi / 2) * np.mean(np.abs(r) / u))


def _alpha_crps(r: Vector, u: Vector) -> float:
    """Root of the derivative of the mean Gaussian CRPS, which falls with α."""
    z = np.abs(r) / u

    def slope(alpha: float) -> float:
        return float(np.mean(u * (1 / np.sqrt(np.pi) - np.sqrt(2 / np.pi) * np.exp(-0.5 * (z / alpha) ** 2))))

    # at α → 0 only rows of zero residual keep their density
    if np.mean(u * (1 / np.sqrt(np.pi) - np.sqrt(2 / np.pi) * (z == 0))) <= 0:
        raise DataError(
            "too many residuals of exactly 0 for calibration_method crps",
            got=f"{int(np.sum(z == 0))} of {len(z)}",
            fix="use squared_residuals",
        )
    low = high = _alpha_squared(r, u)
    while slope(low) < 0:
        low /= 2
    while slope(high) > 0:
        high *= 2
    return (
        low if low == high else float(root_scalar(slope, bracket=(low, high), xtol=1e-300, rtol=1e-12).root)
    )


_METHODS: Final[Mapping[str, Callable[[Vector, Vector], float]]] = {
    "squared_residuals": _alpha_squared,
    "absolute_residuals": _alpha_absolute,
    "crps": _alpha_crps,
}


def _fit_alpha(r: Vector, u: Vector, options: _Options) -> AlphaMap:
    return AlphaMap(float(calibrate_alpha(r, u, options.method)))


def _fit_alpha_power(r: Vector, u: Vector, options: _Options) -> AlphaPowerMap:
    power, level = options.power_of(r, u), float(np.exp(np.mean(np.log(u))))
    return AlphaPowerMap(float(calibrate_alpha(r, u * (u / level) ** power, options.method)), power, level)


def _fit_alpha_sigma0(r: Vector, u: Vector, options: _Options) -> AlphaSigma0Map:
    del options
    (slope, floor), _ = _best_mixture(r, u, np.ones(len(u)))
    return AlphaSigma0Map(math.sqrt(slope), math.sqrt(floor))


def _fit_structure_floor(r: Vector, u: Vector, options: _Options) -> StructureFloorMap:
    """Best NLL with a floor of the structure; with a constant beside it where that is clearly better."""
    assert options.structures is not None
    power = options.power_of(r, u)
    _, place = np.unique(options.structures, return_inverse=True)
    means = np.sqrt(np.bincount(place, u**2) / np.bincount(place))
    level = float(np.exp(np.mean(np.log(means))))
    growth = (means / level)[place] ** power
    u, level2 = u * growth, (means[place] * growth) ** 2
    (slope, floor), nll = _best_mixture(r, u, level2)
    constant = 0.0
    three, three_nll = _best_three(r, u, level2)
    if three_nll < nll - NLL_SLACK:
        slope, floor, constant = three
    return StructureFloorMap(math.sqrt(slope), math.sqrt(floor), math.sqrt(constant), power, level)


def _best_three(r: Vector, u: Vector, level2: Vector) -> tuple[tuple[float, float, float], float]:
    """Non-negative (a, b, c) of the best NLL of σ² = a u² + b level² + c; and that NLL without constants.

    For each ratio of both floors the mixture with u² is found; the ratio is searched on a grid, then between.
    """
    constant = float(np.mean(level2))

    def floor(share: float) -> Vector:
        return share * level2 + (1 - share) * constant

    def nll(share: float) -> float:
        return _best_mixture(r, u, floor(share))[1]

    grid = np.linspace(0.0, 1.0, 11)
    best = int(np.argmin([nll(x) for x in grid]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    minimum: Any = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    share = min((float(minimum.x), float(grid[best])), key=nll)
    (slope, of_floor), loss = _best_mixture(r, u, floor(share))
    return (slope, of_floor * share, of_floor * (1 - share) * constant), loss


def _best_mixture(r: Vector, u: Vector, floor2: Vector) -> tuple[tuple[float, float], float]:
    """Factors a, b of the best NLL of σ² = a u² + b floor², and this NLL but for its constants.

    With v = u²/mean u², f = floor²/mean floor² it is s[t·v + (1 - t)·f]: s is explicit, so t in [0, 1] is
    searched alone.
    """
    means = float(np.mean(u**2)), float(np.mean(floor2))
    v, f, r2 = u**2 / means[0], floor2 / means[1], r**2

    def nll(share: float, rest: float) -> float:
        shape = share * v + rest * f
        return 0.5 * float(np.mean(np.log(shape)) + np.log(np.mean(r2 / shape)))

    def at(logit: float) -> tuple[float, float]:
        return float(expit(logit)), float(expit(-logit))

    reach = float(np.ptp(np.log(v)) + np.ptp(np.log(f))) + 20.0
    grid = np.linspace(-reach, reach, FLOOR_GRID)
    best = int(np.argmin([nll(*at(x)) for x in grid]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, FLOOR_GRID - 1)])
    minimum: Any = minimize_scalar(
        lambda x: nll(*at(x)), bounds=bounds, method="bounded", options={"xatol": 1e-7}
    )
    # the ends, no floor and floor alone, win ties: they are exact where the search only comes near
    candidates = [(1.0, 0.0), (0.0, 1.0), at(float(minimum.x))]
    losses = [nll(*c) for c in candidates]
    share, rest = candidates[next(i for i, loss in enumerate(losses) if loss <= min(losses) + 1e-12)]
    scale = float(np.mean(r2 / (share * v + rest * f)))
    return (scale * share / means[0], scale * rest / means[1]), min(losses)


def _fit_power(r: Vector, u: Vector, options: _Options) -> PowerMap:
    """Root in γ of the slope of the NLL, which is convex with a in closed form."""
    del options
    log_u = np.log(u)
    centre = float(log_u.mean())
    x = log_u - centre
    with np.errstate(divide="ignore"):
        log_r2 = np.log(r**2)

    def weights(gamma: float) -> tuple[Vector, float]:
        exponents = log_r2 - 2 * gamma * x
        top = float(exponents.max())
        return np.exp(exponents - top), top

    def slope(gamma: float) -> float:
        w, _ = weights(gamma)
        return -float(w @ x / w.sum())

    gamma = 1.0
    if np.ptp(x) > SAME_SPREAD:  # else every exponent is as good
        low, high, step = 1.0, 1.0, 1.0
        while slope(low) > 0 and low > -LARGEST_POWER:
            low, step = low - step, 2 * step
        step = 1.0
        while slope(high) < 0 and high < LARGEST_POWER:
            high, step = high + step, 2 * step
        if slope(low) > 0 or slope(high) < 0:
            raise DataError(
                "no best exponent for the power map",
                got=f"{int(np.count_nonzero(r))} non-zero residuals of {len(r)}, all at one end of u",
                fix="use calibration_map alpha",
            )
        gamma = (
            low
            if low == high
            else float(root_scalar(slope, bracket=(low, high), xtol=1e-12, rtol=1e-12).root)
        )
    w, top = weights(gamma)
    return PowerMap(0.5 * (math.log(float(w.mean())) + top) - gamma * centre, gamma)


def _fit_isotonic(r: Vector, u: Vector, options: _Options) -> IsotonicMap:
    """Pool adjacent violators on r² with equal u averaged first; inner points of flat runs are dropped."""
    del options
    knots, inverse, counts = np.unique(u, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=r**2) / counts
    fitted = np.asarray(isotonic_regression(means, weights=counts).x, dtype=np.float64)
    # a first block of zero residuals would claim certainty
    fitted = np.maximum(fitted, fitted[fitted > 0].min())
    keep = np.ones(len(fitted), dtype=bool)
    keep[1:-1] = (fitted[1:-1] != fitted[:-2]) | (fitted[1:-1] != fitted[2:])
    return IsotonicMap(tuple(knots[keep].tolist()), tuple(fitted[keep].tolist()))


def _fit_local(r: Vector, u: Vector, options: _Options) -> LocalMap:
    """RMS of u and of r in bins of equal count, ordered by u."""
    del options
    bins = np.array_split(np.argsort(u, kind="stable"), max(1, min(len(r) // BIN_ROWS, MOST_BINS)))
    knots, sigmas = (np.sqrt([np.mean(values[part] ** 2) for part in bins]) for values in (u, r))
    # Bins of equal u are one, and a bin of zero residuals would claim certainty.
    keep = np.r_[np.diff(knots) > 0, True]
    sigmas = np.maximum(sigmas, sigmas[sigmas > 0].min())
    return LocalMap(tuple(knots[keep].tolist()), tuple(sigmas[keep].tolist()))


def _fit_conformal(r: Vector, u: Vector, options: _Options) -> ConformalMap:
    delta = options.delta
    if not 0 < delta < 1:
        raise ConfigError("delta of the conformal map", got=delta, expected="between 0 and 1")
    scores = np.abs(r) / u
    if options.groups is None:
        return ConformalMap(delta, (("", _conformal_quantile(scores, delta, "")),))
    return ConformalMap(
        delta,
        tuple(
            (
                str(group),
                _conformal_quantile(scores[options.groups == group], delta, f" of group {str(group)!r}"),
            )
            for group in np.unique(options.groups)
        ),
    )


def _conformal_quantile(scores: Vector, delta: float, where: str) -> float:
    n = len(scores)
    # exact products such as 20·0.9 must not be rounded up by their last bit
    rank = math.ceil((n + 1) * (1 - delta) - 1e-9)
    if rank > n:
        needed = math.ceil((1 - delta) / delta - 1e-9)
        raise DataError(
            f"too few validation rows{where} for conformal intervals with delta = {delta:g}",
            got=f"{n} rows",
            expected=f"at least {needed}",
            fix="add rows or raise delta",
        )
    quantile = float(np.partition(scores, max(rank - 1, 0))[max(rank - 1, 0)])
    if quantile == 0:
        raise DataError(f"conformal quantile is 0{where}: most residuals are exactly 0")
    return quantile


def _fit_committee(r: Vector, u: Vector, options: _Options) -> CommitteeMap:
    """Imbalzano et al., J. Chem. Phys. 154 (2021) 074102: α² free of the bias of few members."""
    m = options.n_members
    if m is None or m <= 3:
        raise ConfigError("calibration_map committee needs n_members", got=m, expected="at least 4")
    alpha2 = (m - 3) / (m - 1) * float(np.mean((r / u) ** 2)) - 1 / m
    if alpha2 <= 0:
        warnings.warn(
            f"committee of {m} members is already wider than its errors: alpha^2 = {alpha2:.3g} set to "
            f"{COMMITTEE_MINIMUM:g}",
            stacklevel=3,
        )
        alpha2 = COMMITTEE_MINIMUM
    return CommitteeMap(math.sqrt(alpha2), m)


_FITS: Final[Mapping[str, Callable[[Vector, Vector, _Options], CalibrationMap]]] = {
    "alpha": _fit_alpha,
    "alpha_power": _fit_alpha_power,
    "alpha_sigma0": _fit_alpha_sigma0,
    "structure_floor": _fit_structure_floor,
    "power": _fit_power,
    "isotonic": _fit_isotonic,
    "local": _fit_local,
    "conformal": _fit_conformal,
    "committee": _fit_committee,
}
