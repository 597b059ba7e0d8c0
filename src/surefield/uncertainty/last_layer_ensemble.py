"""Ensembles of last layers at array level: members are displacements D of the weights, with Σ_k D_k = 0.

Their mean is therefore the model's own prediction. Losses: Kellner & Ceriotti, Mach. Learn.: Sci. Technol.
5 (2024) 035006; CRPS: Gneiting & Raftery, J. Am. Stat. Assoc. 102 (2007) 359.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from surefield.calibration.metrics import gaussian_crps
from surefield.errors import ConfigError, DataError, nearest
from surefield.sensitivity.posterior import LLPRPosterior

__all__ = ["ensemble_loss", "ensemble_predict", "sample_ensemble"]

SCHEMES: Final = ("iid", "moment_matched")
#: Accepted spelling of a loss → its name.
LOSSES: Final = {
    "ensemble_nll": "ensemble_nll",
    "gaussian_nll_ensemble": "ensemble_nll",
    "gaussian_crps_ensemble": "gaussian_crps_ensemble",
    "empirical_crps_ensemble": "empirical_crps_ensemble",
}


def sample_ensemble(
    posterior: LLPRPosterior,
    alpha: ArrayLike,
    n_members: int,
    seed: int = 0,
    scheme: Literal["iid", "moment_matched"] = "moment_matched",
) -> Float64[np.ndarray, "n_members n_features *n_properties"]:
    """Displacements D_k = αBz_k of the last-layer weights, drawn from the posterior and centred.

    With `moment_matched` and more members than features the draws are also whitened, so that the spread
    (ddof = 1) of g·D_k over members is αu(g) for every row g. Draws depend on the seed and shapes only.

    Args:
        posterior: of d features.
        alpha: calibration factor, a number, or (n_properties,) for a trailing axis of properties.
        n_members: M ≥ 2.
        seed: key of the Philox generator, not negative.
        scheme: `iid` or `moment_matched`.

    Raises:
        ConfigError: n_members < 2, negative seed, unknown scheme, alpha not positive.
    """
    if n_members < 2:
        raise ConfigError("num_ensemble_members must be at least 2", got=n_members)
    if scheme not in SCHEMES:
        raise ConfigError(f"unknown ensemble_sampling {scheme!r}", fix=nearest(scheme, SCHEMES))
    if seed < 0:
        raise ConfigError("seed must not be negative", got=seed)
    scale = np.asarray(alpha, dtype=np.float64)
    if scale.ndim > 1 or not (np.isfinite(scale) & (scale > 0)).all():
        raise ConfigError("alpha must be positive, a number or (n_properties,)", got=alpha)
    generator = np.random.Generator(np.random.Philox(key=seed))
    members = []
    for factor in np.atleast_1d(scale):
        z = generator.standard_normal((n_members, posterior.n_features))
        z -= z.mean(axis=0)
        if scheme == "moment_matched" and n_members > posterior.n_features:
            # Z S^(-1/2) through the singular vectors: orthonormal to rounding even where S is near singular
            left, _, right = np.linalg.svd(z, full_matrices=False)
            z = np.sqrt(n_members - 1) * left @ right
        displacements = factor * posterior.color(z)
        members.append(displacements - displacements.mean(axis=0))
    return members[0] if scale.ndim == 0 else np.stack(members, axis=-1)


def ensemble_predict(
    prediction: ArrayLike, features: ArrayLike, displacements: ArrayLike
) -> Float64[np.ndarray, "n n_members *n_properties"]:
    """Member values e_k = ŷ + g·D_k.

    Args:
        prediction: ŷ, (n,) or (n, n_properties).
        features: rows g, (n, n_features): summed features for total energies, force rows for forces.
        displacements: D, (n_members, n_features) or (n_members, n_features, n_properties), summing to 0 over
            members.

    Raises:
        DataError: shapes that do not fit together.
    """
    mean = np.asarray(prediction, dtype=np.float64)
    rows = np.asarray(features, dtype=np.float64)
    d = np.asarray(displacements, dtype=np.float64)
    if (
        rows.ndim != 2
        or d.ndim not in (2, 3)
        or d.shape[1] != rows.shape[1]
        or mean.shape != (len(rows), *d.shape[2:])
    ):
        raise DataError(
            "prediction, features and displacements do not fit",
            got=f"shapes {mean.shape}, {rows.shape}, {d.shape}",
            expected="(n,), (n, n_features), (n_members, n_features), or with n_properties at the end of "
            "the first and last",
        )
    return np.expand_dims(mean, 1) + np.einsum("nd,md...->nm...", rows, d, optimize=True)


def ensemble_loss(type: str, members: ArrayLike, target: ArrayLike, eps: float = 1e-6) -> float:
    """Mean loss of an ensemble over the unmasked entries.

    Args:
        type: `ensemble_nll` (or `gaussian_nll_ensemble`; without ½ln 2π), `gaussian_crps_ensemble` or
            `empirical_crps_ensemble`.
        members: e_k, (n, n_members); the prediction is their mean, the variance unbiased.
        target: reference, (n,); NaN masks an entry.
        eps: floor of the variance, in squared units of the target.

    Raises:
        ConfigError: unknown loss, eps not positive.
        DataError: shapes do not fit, fewer than 2 members, values not finite, no target left.
    """
    name = LOSSES.get(type)
    if name is None:
        raise ConfigError(f"unknown ensemble loss {type!r}", fix=nearest(type, LOSSES))
    if not (np.isfinite(eps) and eps > 0):
        raise ConfigError("eps must be positive", got=eps)
    e, y = np.asarray(members, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if e.ndim != 2 or e.shape[1] < 2 or y.shape != e.shape[:1]:
        raise DataError(
            "members and target do not fit",
            got=f"{e.shape}, {y.shape}",
            expected="(n, n_members >= 2), (n,)",
        )
    keep = ~np.isnan(y)
    if not keep.any():
        raise DataError("no target left for the ensemble loss", got=f"{len(y)} entries, all NaN")
    e, y = e[keep], y[keep]
    bad = np.isinf(y) | ~np.isfinite(e).all(axis=1)
    if bad.any():
        raise DataError("values not finite", where=f"entry {int(np.flatnonzero(keep)[np.argmax(bad)])}")
    if name == "empirical_crps_ensemble":
        return float(np.mean(_empirical_crps(e, y)))
    residuals = y - e.mean(axis=1)
    variance = np.maximum(e.var(axis=1, ddof=1), eps)
    if name == "ensemble_nll":
        return float(np.mean(0.5 * (np.log(variance) + residuals**2 / variance)))
    return float(np.mean(gaussian_crps(residuals, np.sqrt(variance))))


def _empirical_crps(
    members: Float64[np.ndarray, "n n_members"], target: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """CRPS of the step function of the members, mean_k |e_k - y| - (1/2M²) Σ_kl |e_k - e_l|."""
    n_members = members.shape[1]
    # a sorted value e_(j) is added j times and subtracted M - 1 - j times in the sum over pairs k > l
    signs = 2 * np.arange(n_members) - n_members + 1
    pairs = np.sort(members, axis=1) @ signs
    return np.mean(np.abs(members - target[:, None]), axis=1) - pairs / n_members**2
