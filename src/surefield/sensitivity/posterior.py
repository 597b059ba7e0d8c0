"""The Gaussian posterior of last-layer weights: its regulariser, and the spread u of any output.

With C the summed outer products of training rows, u²(g) = gᵀ(C + ς²I)⁻¹g (last-layer prediction rigidity:
Bigi et al., Mach. Learn.: Sci. Technol. 5 (2024) 045018). A calibrated standard deviation is α·u.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, Self

import numpy as np
from jaxtyping import Float, Float64, Int
from numpy.typing import ArrayLike
from scipy.linalg import get_blas_funcs, solve_triangular

from surefield.errors import ConfigError, DataError
from surefield.sensitivity.covariance import as_rows

__all__ = ["LLPRPosterior", "evidence_regularizer", "resolve_regularizer", "val_nll_regularizer"]

logger = logging.getLogger(__name__)

#: An eigenvalue counts towards the rank above this times the largest one.
RANK_TOLERANCE: Final = 1e-12
#: ς²/(tr C/d) when neither weights nor a validation set are there to choose it.
FALLBACK_RELATIVE: Final = 1e-6
EVIDENCE_STEPS: Final = 500
EVIDENCE_PLAIN_STEPS: Final = 50
EVIDENCE_TOLERANCE: Final = 1e-8
#: Of all ς² as good as the best to this validation NLL, the largest is taken.
NLL_SLACK: Final = 0.01

Validation = Mapping[str, tuple[ArrayLike, ArrayLike]]


def evidence_regularizer(
    C: ArrayLike, n_rows: int, sum_sq_residuals: float, weight_norm2: float, floor: float = 1e-9
) -> float:
    """ς² that maximises the evidence (MacKay, Neural Comput. 4 (1992) 415), by fixed point.

    Args:
        C: (n_features, n_features).
        n_rows: N, unmasked training rows of all kinds.
        sum_sq_residuals: Σ_κ λ_κ Σ r² over the training rows.
        weight_norm2: ‖w‖² of the last-layer weights.
        floor: lowest ς²/(tr C/d).

    Raises:
        DataError: C is not a finite, non-zero square matrix.
        ConfigError: n_rows or weight_norm2 not positive, sum_sq_residuals negative.
    """
    matrix = _symmetric(C)
    mean = _mean_eigenvalue(matrix)
    for name, value, ok in (
        ("n_rows", n_rows, n_rows > 0),
        ("weight_norm2", weight_norm2, np.isfinite(weight_norm2) and weight_norm2 > 0),
        ("sum_sq_residuals", sum_sq_residuals, np.isfinite(sum_sq_residuals) and sum_sq_residuals >= 0),
    ):
        if not ok:
            raise ConfigError(f"{name} is out of range for the evidence", got=value)
    eigenvalues = np.clip(np.linalg.eigvalsh(matrix), 0.0, None)
    varsigma2, change = mean, math.inf
    for step in range(EVIDENCE_STEPS):
        gamma = float(np.sum(eigenvalues / (eigenvalues + varsigma2)))
        noise = sum_sq_residuals / max(n_rows - gamma, 1e-3 * n_rows)
        following = max(gamma * noise / weight_norm2, floor * mean)
        change = abs(math.log(following / varsigma2))
        # With fewer rows than features the plain iteration may jump between two values for ever.
        varsigma2 = following if step < EVIDENCE_PLAIN_STEPS else math.sqrt(varsigma2 * following)
        if change < EVIDENCE_TOLERANCE:
            return varsigma2
    warnings.warn(
        f"the evidence for the regulariser did not converge in {EVIDENCE_STEPS} steps; "
        f"last relative change {change:.1e}, varsigma2 = {varsigma2:.6g} is used",
        stacklevel=2,
    )
    return varsigma2


def val_nll_regularizer(C: ArrayLike, validation: Validation, floor: float = 1e-9) -> float:
    """Largest ς² whose validation NLL, with α profiled out, is within 0.01 of the best.

    The grid of ς²/(tr C/d) is 10^-9, 10^-8.5, …, 10^-2, cut below at `floor`.

    Args:
        C: (n_features, n_features).
        validation: kind → (rows (n, n_features), residuals (n,) or (n, n_properties)); NaN residuals are
            masked; with properties the NLL is the mean over them.
        floor: lowest point of the grid.

    Raises:
        DataError: no usable label, residuals all zero, or a labelled row with u = 0.
    """
    matrix = _symmetric(C)
    mean = _mean_eigenvalue(matrix)
    if not validation:
        raise DataError("no validation rows; give at least one kind, or another regularizer")
    eigenvalues, vectors = np.linalg.eigh(matrix)
    eigenvalues = np.clip(eigenvalues, 0.0, None)
    grid = 10.0 ** np.arange(-9.0, -1.9, 0.5)
    grid = grid[grid >= floor * (1 - 1e-9)]
    if not len(grid):
        raise ConfigError("floor is above the whole grid", got=floor, expected="at most 1e-2")
    filters = 1.0 / (eigenvalues[:, None] + grid * mean)
    nll = np.zeros(len(grid))
    for kind, (rows, residuals) in validation.items():
        u2 = (as_rows(rows, len(matrix), kind) @ vectors) ** 2 @ filters
        nll += _profiled_nll(u2, residuals, kind)
    return float(grid[nll <= nll.min() + NLL_SLACK][-1] * mean)


def resolve_regularizer(
    regularizer: float | str | Mapping[str, float] | None,
    C: ArrayLike,
    *,
    n_rows: int = 0,
    sum_sq_residuals: float | None = None,
    weight_norm2: float | None = None,
    validation: Validation | None = None,
    floor: float = 1e-9,
) -> float:
    """ς² for a `regularizer` of the configuration.

    A number ς gives ς²; `{"relative": x}` gives x·tr(C)/d; None or "evidence" the evidence, which falls back
    to "val_nll" when the weights are unknown and to a relative 1e-6 when there is no validation set either.

    Raises:
        ConfigError: negative, not finite, or an unknown rule.
    """
    if regularizer is None or regularizer == "evidence":
        if weight_norm2 is not None and sum_sq_residuals is not None:
            return evidence_regularizer(C, n_rows, sum_sq_residuals, weight_norm2, floor)
        if validation:
            logger.info("last-layer weights or train residuals unknown: regularizer chosen by val_nll")
            return val_nll_regularizer(C, validation, floor)
        logger.warning(
            "neither weights nor validation rows: regularizer set to relative %g", FALLBACK_RELATIVE
        )
        return FALLBACK_RELATIVE * _mean_eigenvalue(_symmetric(C))
    if regularizer == "val_nll":
        return val_nll_regularizer(C, validation or {}, floor)
    if isinstance(regularizer, Mapping) and set(regularizer) == {"relative"}:
        return _checked_regularizer(regularizer["relative"]) * _mean_eigenvalue(_symmetric(C))
    if isinstance(regularizer, int | float) and not isinstance(regularizer, bool):
        return _checked_regularizer(regularizer) ** 2
    raise ConfigError(
        "unknown regularizer",
        got=repr(regularizer),
        expected="a number, {relative: x}, 'evidence', 'val_nll' or null",
    )


@dataclass(frozen=True, eq=False)
class LLPRPosterior:
    """Σ = (C + ς²I)⁻¹ in factored form; made by `from_covariance` or `from_cholesky`.

    Attributes:
        varsigma2: ς², what was added to the diagonal of C.
        eigenvalues: of C, ascending, clipped at 0.
        factor: B with B Bᵀ = Σ, so that u(g) = ‖gB‖.
        cholesky: L with L Lᵀ = C + ς²I on the Cholesky route, else None; u(g) = ‖L⁻¹g‖ then.
    """

    varsigma2: float
    eigenvalues: Float64[np.ndarray, " n_features"]
    factor: Float64[np.ndarray, "n_features n_features"]
    cholesky: Float64[np.ndarray, "n_features n_features"] | None = None

    @classmethod
    def from_covariance(
        cls,
        C: ArrayLike,
        varsigma2: float | None = None,
        *,
        regularizer: float | Mapping[str, float] | None = None,
        compat: Literal["metatrain"] | None = None,
    ) -> Self:
        """Posterior of a covariance C (n_features, n_features), symmetrised.

        Args:
            C: summed outer products of rows.
            varsigma2: ς² itself (0 is allowed only at full rank).
            regularizer: instead of varsigma2: a number ς (squared once) or {"relative": x}. With
                `compat="metatrain"` a number r is added as it is, and None takes the first of
                1e-20, 1e-19, …, 1e16 for which a float64 Cholesky factor exists.
            compat: "metatrain" for the rules and the Cholesky route of that program.

        Raises:
            ConfigError: nothing or two things given, a negative or unusable value.
            DataError: C is not a finite square matrix.
        """
        matrix = _symmetric(C)
        if compat == "metatrain":
            if varsigma2 is not None:
                raise ConfigError("compat='metatrain' takes regularizer, not varsigma2")
            if isinstance(regularizer, Mapping):
                raise ConfigError("compat='metatrain' takes a number or null as regularizer")
            return cls._by_cholesky(matrix, regularizer)
        if compat is not None:
            raise ConfigError("unknown compat", got=repr(compat), expected="null or 'metatrain'")
        if (varsigma2 is None) == (regularizer is None):
            raise ConfigError(
                "give exactly one of varsigma2 and regularizer; "
                "evidence_regularizer and val_nll_regularizer compute a varsigma2"
            )
        if varsigma2 is None:
            varsigma2 = resolve_regularizer(regularizer, matrix)
        varsigma2 = _checked_regularizer(varsigma2)
        eigenvalues, vectors = np.linalg.eigh(matrix)
        eigenvalues = np.clip(eigenvalues, 0.0, None)
        rank = _rank(eigenvalues)
        if varsigma2 == 0 and rank < len(matrix):
            raise _singular(rank, len(matrix))
        return cls(varsigma2, eigenvalues, vectors / np.sqrt(eigenvalues + varsigma2))

    @classmethod
    def from_cholesky(cls, L: ArrayLike, varsigma2: float = 0.0) -> Self:
        """Posterior with Σ⁻¹ = L Lᵀ, for a lower triangular L (n_features, n_features).

        The part of L Lᵀ that is regulariser is unknown unless told by `varsigma2`; rank, condition and
        effective_dof refer to L Lᵀ - ς²I.

        Raises:
            DataError: L is not lower triangular with a positive diagonal.
        """
        lower = _square(L, "Cholesky factor")
        if np.triu(lower, 1).any() or (np.diag(lower) <= 0).any():
            raise DataError("a Cholesky factor must be lower triangular with a positive diagonal")
        eigenvalues = np.clip(np.linalg.eigvalsh(lower @ lower.T) - varsigma2, 0.0, None)
        factor = solve_triangular(lower, np.eye(len(lower)), lower=True).T
        return cls(_checked_regularizer(varsigma2), eigenvalues, factor, lower)

    @classmethod
    def _by_cholesky(cls, matrix: np.ndarray, regularizer: float | None) -> Self:
        if regularizer is not None:
            added = _checked_regularizer(regularizer)
            lower = _cholesky(matrix, added)
            if lower is None:
                raise _singular(_rank(np.linalg.eigvalsh(matrix)), len(matrix), added)
            return cls.from_cholesky(lower, added)
        for exponent in range(-20, 17):
            added = float(10.0**exponent)
            lower = _cholesky(matrix, added)
            if lower is not None:
                break
        else:
            raise DataError("no regularizer up to 1e16 makes this covariance positive definite")
        rank = _rank(np.linalg.eigvalsh(matrix))
        if rank < len(matrix):
            warnings.warn(
                f"rank {rank} of {len(matrix)} features with compat='metatrain' and no regularizer: "
                f"{added:.0e} sits at rounding level and sigma is not reproducible; give a regularizer",
                stacklevel=3,
            )
        return cls.from_cholesky(lower, added)

    @property
    def n_features(self) -> int:
        """Length d of a row."""
        return len(self.eigenvalues)

    @property
    def covariance(self) -> Float64[np.ndarray, "n_features n_features"]:
        """C, from its factors."""
        if self.cholesky is not None:
            return self.cholesky @ self.cholesky.T - self.varsigma2 * np.eye(self.n_features)
        vectors = self.factor * np.sqrt(self.eigenvalues + self.varsigma2)
        return (vectors * self.eigenvalues) @ vectors.T

    @property
    def rank(self) -> int:
        """Eigenvalues of C above 1e-12 of the largest."""
        return _rank(self.eigenvalues)

    @property
    def condition(self) -> float:
        """(λ_max + ς²)/(λ_min + ς²)."""
        lowest = float(self.eigenvalues[0]) + self.varsigma2
        return (float(self.eigenvalues[-1]) + self.varsigma2) / lowest if lowest > 0 else float("inf")

    @property
    def effective_dof(self) -> float:
        """γ = Σ_j λ_j/(λ_j + ς²), how many weights the data determine."""
        positive = self.eigenvalues[self.eigenvalues > 0]
        return float(np.sum(positive / (positive + self.varsigma2)))

    def whiten(self, rows: ArrayLike) -> Float64[np.ndarray, "*rows n_features"]:
        """Rows (..., n_features) in coordinates where Σ is the identity: gB, or L⁻¹g on the Cholesky route.

        Raises:
            PotentialError: wrong number of features, or a value that is not finite.
        """
        values = np.asarray(rows, dtype=np.float64)
        if values.ndim == 0:
            raise DataError("rows must be (..., n_features), got a single number")
        flat = as_rows(values.reshape(math.prod(values.shape[:-1]), values.shape[-1]), self.n_features)
        if self.cholesky is None:
            white = flat @ self.factor
        else:
            white = solve_triangular(self.cholesky, flat.T, lower=True).T if len(flat) else flat
        return white.reshape(values.shape)

    def whiten_blocks(
        self, rows: Float64[np.ndarray, "n_rows n_features"], n_blocks: int
    ) -> Float64[np.ndarray, "n_rows n_features"]:
        """`whiten` of rows that fill one of so many equal blocks each, as the energies of atoms do."""
        if n_blocks == 1 or self.cholesky is not None:
            return self.whiten(rows)
        parts = as_rows(rows, self.n_features).reshape(len(rows), n_blocks, -1)
        factors = self.factor.reshape(n_blocks, -1, self.n_features)
        white = np.zeros((len(rows), self.n_features))
        for block, factor in enumerate(factors):
            filled = np.flatnonzero(np.abs(parts[:, block]).sum(axis=1))
            white[filled] += parts[filled, block] @ factor
        return white

    def energy_spreads(
        self,
        features: Float[np.ndarray, "n_atoms n_site_features"],
        blocks: Int[np.ndarray, " n_atoms"],
        n_blocks: int,
    ) -> tuple[float, Float64[np.ndarray, " n_atoms"]]:
        """u of the sum of the energies of atoms, and of each, from the inputs of the last layer.

        They are those of `whiten` in the precision of the features: with an upper triangular factor of every
        block of Σ, so that no atom reads more of Σ than its own block.

        Args:
            features: last-layer inputs of atoms, float32 or float64.
            blocks: which of the equal blocks of a row they fill.
            n_blocks: how many there are.
        """
        width = self.n_features // n_blocks
        if features.shape[1] != width or not np.isfinite(features).all():
            as_rows(features, width)  # says what is wrong
        by_atom, sums = np.zeros(len(features)), np.zeros((n_blocks, width))
        for block in np.unique(blocks):
            own = features if n_blocks == 1 else features[blocks == block]
            sums[block] = own.sum(axis=0, dtype=np.float64)
            parts = np.concatenate([own, sums[block, None].astype(own.dtype)])
            u = _lengths(self._triangle(block, n_blocks, features.dtype), parts)
            by_atom[blocks == block] = u[:-1]
            if n_blocks == 1:
                return float(u[-1]), by_atom
        row = sums.reshape(1, -1).astype(features.dtype)
        return float(_lengths(self._triangle(None, n_blocks, features.dtype), row)[0]), by_atom

    @cached_property
    def _triangles(self) -> dict[Any, np.ndarray]:
        return {}

    def _triangle(self, block: int | None, n_blocks: int, dtype: np.dtype) -> np.ndarray:
        """Upper triangular R with RᵀR the block of Σ, or all of it, in the order that BLAS reads."""
        key = block, n_blocks, dtype.str
        if key not in self._triangles:
            width = self.n_features // n_blocks
            rows = slice(None) if block is None else slice(block * width, (block + 1) * width)
            triangle = np.linalg.qr(self.factor[rows].T, mode="r")
            self._triangles[key] = np.asfortranarray(triangle, dtype)
        return self._triangles[key]

    def color(self, white: ArrayLike) -> Float64[np.ndarray, "n_samples n_features"]:
        """Standard normal vectors z (n_samples, n_features) as weight displacements Bz of covariance Σ."""
        z = as_rows(white, self.n_features, "random")
        if self.cholesky is None or not len(z):
            return z @ self.factor.T
        return solve_triangular(self.cholesky, z.T, lower=True, trans=1).T

    def u(self, rows: ArrayLike) -> Float64[np.ndarray, "*rows"]:
        """u = √(gᵀΣg) of rows (..., n_features); an uncalibrated standard deviation."""
        return np.linalg.norm(self.whiten(rows), axis=-1)

    def quadratic(self, a: ArrayLike, b: ArrayLike | None = None) -> Float64[np.ndarray, "n_a n_b"]:
        """aΣbᵀ of rows a (n_a, n_features) and b (n_b, n_features); b defaults to a."""
        left = self.whiten(np.atleast_2d(np.asarray(a, dtype=np.float64)))
        right = left if b is None else self.whiten(np.atleast_2d(np.asarray(b, dtype=np.float64)))
        return left @ right.T


def _lengths(triangle: np.ndarray, rows: np.ndarray) -> Float64[np.ndarray, " n_rows"]:
    """Lengths of R g of rows g (n_rows, n)."""
    by_matrix, by_vector = get_blas_funcs(("trmm", "trmv"), (triangle,))
    if len(rows) == 1:  # reads the triangle once, where the other copies it first
        return np.array([np.linalg.norm(by_vector(triangle, rows[0]))], np.float64)
    return np.linalg.norm(by_matrix(1.0, triangle, rows.T), axis=0).astype(np.float64)


def _profiled_nll(
    u2: Float64[np.ndarray, "n_rows n_grid"], residuals: ArrayLike, kind: str
) -> Float64[np.ndarray, " n_grid"]:
    """Gaussian NLL of σ = αu at its best α, for every column of u²; mean over properties."""
    values = np.asarray(residuals, dtype=np.float64)
    if values.ndim not in (1, 2) or len(values) != len(u2):
        raise DataError(
            f"{kind} residuals do not fit their rows", got=f"shape {values.shape}", expected=len(u2)
        )
    if np.isinf(values).any():
        raise DataError(f"infinite {kind} residual", where=f"row {int(np.argwhere(np.isinf(values))[0][0])}")
    columns = values.reshape(len(u2), -1).T if len(u2) else np.empty((0, 0))
    parts = []
    for column in columns:
        keep = ~np.isnan(column)
        if not keep.any() or not column[keep].any():
            raise DataError(f"{kind} validation labels are all masked or all residuals are 0")
        kept = u2[keep]
        if (kept <= 0).any():
            first = int(np.flatnonzero(keep)[np.argmax((kept <= 0).any(axis=1))])
            raise DataError("u = 0", where=f"{kind} validation row {first}", fix="mask symmetry-zero rows")
        scale = np.mean(column[keep, None] ** 2 / kept, axis=0)
        parts.append(
            0.5 * np.log(2 * np.pi) + 0.5 + 0.5 * np.mean(np.log(kept), axis=0) + 0.5 * np.log(scale)
        )
    if not parts:
        raise DataError(f"no {kind} validation rows")
    return np.mean(parts, axis=0)


def _square(matrix: ArrayLike, name: str) -> np.ndarray:
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
        raise DataError(f"{name} must be (n_features, n_features)", got=f"shape {values.shape}")
    if not np.isfinite(values).all():
        raise DataError(f"{name} is not finite", where=f"entry {np.argwhere(~np.isfinite(values))[0]}")
    return values


def _symmetric(C: ArrayLike) -> np.ndarray:
    matrix = _square(C, "covariance")
    return 0.5 * (matrix + matrix.T)


def _mean_eigenvalue(matrix: np.ndarray) -> float:
    mean = float(np.trace(matrix)) / len(matrix)
    if mean <= 0:
        raise DataError("covariance without positive trace: no rows were added", got=f"tr(C)/d = {mean:.3g}")
    return mean


def _rank(eigenvalues: np.ndarray) -> int:
    return int(np.sum(eigenvalues > RANK_TOLERANCE * max(float(eigenvalues[-1]), 0.0)))


def _cholesky(matrix: np.ndarray, added: float) -> np.ndarray | None:
    try:
        lower = np.linalg.cholesky(matrix + added * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        return None
    return lower if np.isfinite(lower).all() else None


def _checked_regularizer(value: float) -> float:
    if not (np.isfinite(value) and value >= 0):
        raise ConfigError("regularizer must be finite and not negative", got=value, fix="null chooses one")
    return float(value)


def _singular(rank: int, n_features: int, value: float = 0.0) -> ConfigError:
    return ConfigError(
        "regularizer too small for this covariance",
        got=f"{value:g} with rank {rank}",
        expected=f"a positive one, or rank {n_features}",
        fix="regularizer: null chooses one",
    )
