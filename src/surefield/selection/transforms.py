"""Transforms of feature rows, fitted on the training set: sizes, scales, components, sketches, posteriors."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar, cast

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy.linalg import cholesky, solve_triangular

from surefield.errors import ConfigError, DataError, check_known, nearest
from surefield.selection.distances import squared_norms
from surefield.selection.features import Features, checked_rows, positive_int
from surefield.selection.request import generator
from surefield.sensitivity.sketch import (
    GAUSSIAN_BYTES,
    SKETCHES,
    SketchKind,
    checked_width,
    count_sketch,
    gaussian_sketch,
)

__all__ = [
    "ACSRF",
    "L2",
    "PCA",
    "ACSGrad",
    "Center",
    "PerAtom",
    "Posterior",
    "RowTransform",
    "Scale",
    "Sketch",
    "Standardise",
    "Whiten",
    "described_transforms",
    "transform_features",
    "transforms_from",
]

Rows = Float[np.ndarray, "n_rows n_features"]
_Value = TypeVar("_Value")

#: Columns of the exact product of two kernels.
_LARGEST_PRODUCT = 65_536


class RowTransform(ABC):
    """A map of feature rows. `fit` keeps what it needs of the training rows and returns the transform itself.

    Rows are (n_rows, n_features), float64; n_atoms are the numbers of atoms of their structures.
    """

    @abstractmethod
    def fit(self, train: ArrayLike, n_atoms: ArrayLike | None = None) -> Self:
        """Learn from training rows.

        Raises:
            DataError: rows that are unusable, or too few or too equal for this transform.
        """

    @abstractmethod
    def transform(self, x: ArrayLike, n_atoms: ArrayLike | None = None) -> Rows:
        """Transformed rows, as a new array.

        Raises:
            ConfigError: `fit` has not been called.
            DataError: unusable rows, or another width than that of the training rows.
        """


def transform_features(features: Features, transforms: Sequence[RowTransform]) -> Features:
    """Features after one transform and the other, each fitted on train (on the pool without train).

    The transforms given are not changed. `ACSGrad` followed by `Sketch` is one sketch of the product kernel.

    Raises:
        ConfigError: something that is no transform.
        DataError: rows that a transform cannot use.
    """
    for transform in transforms:
        if not isinstance(transform, RowTransform):
            raise ConfigError(
                "transforms must be transforms of feature rows",
                got=type(transform).__name__,
                expected="PerAtom(), Center(), Posterior(sigma), ... of surefield.selection",
            )
    if transforms and features.information:
        fix = "leave transforms out, or take features='ll_grad' or 'full_grad_rp'"
        raise ConfigError("information matrices have no transforms", got=features.spec, fix=fix)
    for transform in _joined(transforms):
        fitted = copy.copy(transform)
        if features.n_train:
            fitted.fit(features.train, features.n_atoms_train)
        else:
            fitted.fit(features.pool, features.n_atoms_pool)
        features = Features(
            fitted.transform(features.train, features.n_atoms_train) if features.n_train else None,
            fitted.transform(features.pool, features.n_atoms_pool),
            features.n_atoms_train,
            features.n_atoms_pool,
            features.spec,
            transforms=[*features.transforms, *described_transforms([transform])],
        )
    return features


def _joined(transforms: Sequence[RowTransform]) -> list[RowTransform]:
    joined: list[RowTransform] = []
    for transform in transforms:
        last = joined[-1] if joined else None
        if isinstance(transform, Sketch) and isinstance(last, ACSGrad) and last.sketch is None:
            joined[-1] = replace(last, sketch=transform)
        else:
            joined.append(transform)
    return joined


@dataclass(eq=False)
class PerAtom(RowTransform):
    """φ/n_A^power: 1 for features of the energy per atom, 0.5 for energies whose variance grows with n_A."""

    power: float = 1.0

    def __post_init__(self) -> None:
        if self.power not in (0.5, 1.0):
            raise ConfigError("power of PerAtom", got=self.power, expected="1 or 0.5")

    def fit(self, train: ArrayLike, n_atoms: ArrayLike | None = None) -> Self:
        """Nothing to learn."""
        return self

    def transform(self, x: ArrayLike, n_atoms: ArrayLike | None = None) -> Rows:
        """φ/n_A^power; the numbers of atoms are needed."""
        rows = _rows(x)
        if n_atoms is None:
            raise DataError(
                "PerAtom needs the number of atoms of every structure",
                fix="transform(x, n_atoms), or Features(..., n_atoms_train=..., n_atoms_pool=...)",
            )
        counts = np.asarray(n_atoms, dtype=np.float64)
        if counts.shape != (len(rows),) or not (counts > 0).all():
            raise DataError("n_atoms must have one positive number per row", got=f"shape {counts.shape}")
        return rows / counts[:, None] ** self.power


@dataclass(eq=False)
class Center(RowTransform):
    """φ − mean of the training rows."""

    mean: Float[np.ndarray, " n_features"] | None = field(default=None, init=False, repr=False)

    def fit(self, train: ArrayLike, n_atoms: ArrayLike | None = None) -> Self:
        """Mean row."""
        self.mean = _rows(train).mean(axis=0)
        return self

    def transform(self, x: ArrayLike, n_atoms: ArrayLike | None = None) -> Rows:
        """φ − mean."""
        mean = _fitted(self, self.mean)
        return _rows(x, len(mean)) - mean


@dataclass(eq=False)
class Standardise(RowTransform):
    """(φ − mean)/std by column; columns that are constant over the training rows are dropped."""

    mean: Float[np.ndarray, " n_features"] | None = field(default=None, init=False, repr=False)
    deviation: Float[np.ndarray, " n_features"] | None = field(default=None, init=False, repr=False)
    kept: Bool[np.ndarray, " n_features"] | None = field(default=None, init=False, repr=False)

    def fit(self, train: ArrayLike, n_atoms: ArrayLike | None = None) -> Self:
        """Mean and standard deviation (divided by n) of every column."""
        rows = _rows(train)
        varies: Bool[np.ndarray, " n_features"] = np.ptp(rows, axis=0) > 0
        if not varies.any():
            raise DataError("no column of the training features varies", fix="use Center, or more structures")
        self.mean, self.deviation, self.kept = rows.mean(axis=0), rows.std(axis=0), varies
        return self

    def transform(self, x: ArrayLike, n_atoms: ArrayLike | None = None) -> Rows:
        """(φ − mean)/std of the columns that vary."""
        mean, deviation, kept = (_fitted(self, v) for v in (self.mean, self.deviation, self.kept))
        return ((_rows(x, len(mean)) - mean)[:, kept]) / deviation[kept]


@dataclass(eq=False)
class Scale(RowTransform):
    """φ times a factor, 1/√(mean ‖φ‖²) of the training rows if none is given."""

    factor: float | None = None
    fitted_factor: float | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.factor is not None and not 0 < abs(self.factor) < np.inf:
            raise ConfigError("factor of Scale", got=self.factor, expected="a finite number other than 0")

    def fit(self, train: ArrayLike, n_atoms: ArrayLike | None = None) -> Self:
        """The factor, if none is given."""
        self.fitted_factor = self.factor
        if self.factor is None:
            mean = float(squared_norms(_rows(train)).mean())
            if not mean:
                raise DataError("all training features are 0: they have no scale")
            self.fitted_factor = 1.0 / np.sqrt(mean)
        return self

    def transform(self, x: ArrayLike, n_atoms: ArrayLike | None = None) -> Rows:
        """φ times the factor."""
        return _rows(x) * _fitted(self, self.fitted_factor)


@dataclass(eq=False)
class L2(RowTransform):
    """φ/‖φ‖; rows that are 0 stay 0."""

    def fit(self, train: ArrayLike, n_atoms: ArrayLike | None = None) -> Self:
        """Nothing to learn."""
        return self

    def transform(self, x: ArrayLike, n_atoms: ArrayLike | None = None) -> Rows:
        """Rows of length 1."""
        rows = _rows(x)
        lengths = np.sqrt(squared_norms(rows))
        return rows / np.where(lengths > 0, lengths, 1.0)[:, None]


@dataclass(eq=False)
class Whiten(RowTransform):
    """(φ − mean)(cov + eps·tr(cov)/F·I)^(-1/2), cov the covariance of the training rows (divided by n)."""

    eps: float
    mean: Float[np.ndarray, " n_features"] | None = field(default=None, init=False, repr=False)
    factor: Float[np.ndarray, "n_features n_features"] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.eps < np.inf:
            raise ConfigError("eps of Whiten", got=self.eps, expected="a number of at least 0")

    def fit(self, train: ArrayLike, n_atoms: ArrayLike | None = None) -> Self:
        """Mean, and inverse root of the covariance."""
        rows = _rows(train)
        self.mean = rows.mean(axis=0)
        moved = rows - self.mean
        covariance = moved.T @ moved / len(rows)
        covariance += self.eps * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        values, vectors = np.linalg.eigh(covariance)
        if values[0] <= 1e-14 * values[-1]:
            raise DataError(
                "the covariance of the training features is singular",
                got=f"{len(rows)} rows, {rows.shape[1]} columns, eps {self.eps:g}",
                fix="raise eps, or reduce the columns with PCA",
            )
        self.factor = (vectors / np.sqrt(values)) @ vectors.T
        return self

    def transform(self, x: ArrayLike, n_atoms: ArrayLike | None = None) -> Rows:
        """Rows with, for eps = 0, the covariance 1 over the training set."""
        mean = _fitted(self, self.mean)
        return (_rows(x, len(mean)) - mean) @ _fitted(self, self.factor)


@dataclass(eq=False)
class PCA(RowTransform):
    """First k principal components of φ − mean, by falling variance; the largest weight is positive."""

    k: int
    mean: Float[np.ndarray, " n_features"] | None = field(default=None, init=False, repr=False)
    components: Float[np.ndarray, "k n_features"] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        positive_int(self.k, "k of PCA")

    def fit(self, train: ArrayLike, n_atoms: ArrayLike | None = None) -> Self:
        """Mean and principal axes."""
        rows = _rows(train)
        if self.k > min(rows.shape):
            raise DataError(
                "there are not as many principal components", got=f"k = {self.k}", expected=f"{rows.shape}"
            )
        self.mean = rows.mean(axis=0)
        axes = np.linalg.svd(rows - self.mean, full_matrices=False)[2][: self.k]
        largest = np.take_along_axis(axes, np.argmax(np.abs(axes), axis=1)[:, None], axis=1)
        self.components = axes * np.sign(largest)
        return self

    def transform(self, x: ArrayLike, n_atoms: ArrayLike | None = None) -> Rows:
        """(n_rows, k) coordinates."""
        mean = _fitted(self, self.mean)
        return (_rows(x, len(mean)) - mean) @ _fitted(self, self.components).T


@dataclass(eq=False)
class Sketch(RowTransform):
    """φR, (n_rows, p), with ⟨φR, ψR⟩ = ⟨φ, ψ⟩ on average over seeds.

    Attributes:
        p: width; the relative deviation of squared distances is about √(2/p).
        seed: of R.
        kind: `gaussian`: R is N(0, 1/p); `countsketch`: every column goes to a random place with a random
            sign; `auto`: `gaussian` where its matrix has 512 MB or less in float32; `none`: φ itself.
    """

    p: int
    seed: int = 0
    kind: SketchKind = "auto"
    width: int | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in SKETCHES:
            raise ConfigError(f"unknown sketch {self.kind!r}: {nearest(str(self.kind), SKETCHES)}")
        checked_width(positive_int(self.p, "p of Sketch"))
        generator(self.seed)

    def fit(self, train: ArrayLike, n_atoms: ArrayLike | None = None) -> Self:
        """The number of columns."""
        self.width = _rows(train).shape[1]
        return self

    def transform(self, x: ArrayLike, n_atoms: ArrayLike | None = None) -> Rows:
        """Sketched rows."""
        length = _fitted(self, self.width)
        rows = _rows(x, length)
        if self.kind == "none":
            return rows.copy()
        if self.kind == "gaussian" or (self.kind == "auto" and 4 * length * self.p <= GAUSSIAN_BYTES):
            return gaussian_sketch(rows, self.p, self.seed)
        places, signs = count_sketch(length, self.p, self.seed)
        result = np.zeros((self.p, len(rows)))
        np.add.at(result, places, (rows * signs).T)
        return np.ascontiguousarray(result.T)


@dataclass(eq=False)
class Posterior(RowTransform):
    """σφL⁻ᵀ with LLᵀ = ΦᵀΦ + σ²I of the training rows: what is left to learn after them.

    The kernel is the posterior covariance k − k_X(K + σ²I)⁻¹k_X of a Gaussian process, and ‖·‖² its variance:
    σ²u² with u of `LLPRPosterior` for ς = σ. With many columns (F > max(1024, 3n)) φ is shortened along
    the training rows alone instead, which gives the same kernel.

    Holzmüller et al., JMLR 24 (2023) 164, section 4.1.
    """

    sigma: float
    factor: Float[np.ndarray, "n_features n_features"] | None = field(default=None, init=False, repr=False)
    axes: Float[np.ndarray, "n_axes n_features"] | None = field(default=None, init=False, repr=False)
    shortening: Float[np.ndarray, " n_axes"] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_sigma(self.sigma, "Posterior")

    def fit(self, train: ArrayLike, n_atoms: ArrayLike | None = None) -> Self:
        """The factor L, or the axes of the training rows."""
        rows = _rows(train)
        self.factor = self.axes = self.shortening = None
        if rows.shape[1] > max(1024, 3 * len(rows)):
            _, values, self.axes = np.linalg.svd(rows, full_matrices=False)
            self.shortening = 1.0 - self.sigma / np.hypot(values, self.sigma)
            return self
        gram = rows.T @ rows
        if self.sigma**2 <= np.finfo(float).eps * np.trace(gram):
            raise DataError(
                "sigma of Posterior is too small for features of this size",
                got=f"sigma² = {self.sigma**2:.3g} for summed squares of {np.trace(gram):.3g}",
                fix="raise sigma, or scale the features",
            )
        self.factor = cholesky(gram + self.sigma**2 * np.eye(len(gram)), lower=True)
        return self

    def transform(self, x: ArrayLike, n_atoms: ArrayLike | None = None) -> Rows:
        """Rows whose inner products are posterior covariances."""
        if self.axes is not None:
            rows = _rows(x, self.axes.shape[1])
            return rows - ((rows @ self.axes.T) * _fitted(self, self.shortening)) @ self.axes
        factor = _fitted(self, self.factor)
        rows = _rows(x, len(factor))
        return np.ascontiguousarray(solve_triangular(factor, self.sigma * rows.T, lower=True).T)


@dataclass(eq=False)
class ACSRF(RowTransform):
    """Random features of active Bayesian coresets: likelihoods under weights drawn from the posterior.

    Feature s is p^(-1/2) [½ ln(1 + φᵀΣφ/σ²) − ((φᵀθ_s)² + φᵀΣφ)/(2σ²)], with θ_s ~ N(0, Σ) and
    Σ = (ΦᵀΦ + σ²I)⁻¹ of the training rows.

    Pinsler et al., NeurIPS 32 (2019); Holzmüller et al., JMLR 24 (2023) 164, section 4.1.
    """

    p: int
    sigma: float
    seed: int = 0
    posterior: Posterior | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        positive_int(self.p, "p of ACSRF")
        _check_sigma(self.sigma, "ACSRF")
        generator(self.seed)

    def fit(self, train: ArrayLike, n_atoms: ArrayLike | None = None) -> Self:
        """The posterior of the weights."""
        self.posterior = Posterior(self.sigma).fit(train)
        return self

    def transform(self, x: ArrayLike, n_atoms: ArrayLike | None = None) -> Rows:
        """(n_rows, p) features."""
        # These are σφB with BBᵀ = Σ, so θ = Bz has φᵀθ = (σφB)z/σ for a standard normal z.
        rows = _fitted(self, self.posterior).transform(x)
        z = generator(self.seed).standard_normal((self.p, rows.shape[1]))
        square = np.square(rows @ z.T) / self.sigma**2
        variance = (squared_norms(rows) / self.sigma**2)[:, None]
        level = 0.5 * np.log1p(variance / self.sigma**2)
        return (level - (square + variance) / (2.0 * self.sigma**2)) / np.sqrt(self.p)


@dataclass(eq=False)
class ACSGrad(RowTransform):
    """Features of the product kernel k·k_post, k_post the kernel of `Posterior(sigma)`.

    Exact with F² columns, for F up to 256, or with a sketch: the product of independent sketches of both
    factors, times √p.

    Holzmüller et al., JMLR 24 (2023) 164, section 4.1 (without its factor 1/σ⁴).

    Attributes:
        sigma: σ of the posterior.
        sketch: width, seed and kind; `Sketch` after `ACSGrad` in a list of transforms is put here.
    """

    sigma: float
    sketch: Sketch | None = None
    posterior: Posterior | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_sigma(self.sigma, "ACSGrad")

    def fit(self, train: ArrayLike, n_atoms: ArrayLike | None = None) -> Self:
        """The posterior of the weights."""
        rows = _rows(train)
        exact = self.sketch is None or self.sketch.kind == "none"
        if exact and rows.shape[1] ** 2 > _LARGEST_PRODUCT:
            raise DataError(
                "the product kernel has too many columns",
                got=f"{rows.shape[1]}² columns",
                expected=f"at most {_LARGEST_PRODUCT}",
                fix="ACSGrad followed by Sketch",
            )
        self.posterior = Posterior(self.sigma).fit(rows)
        return self

    def transform(self, x: ArrayLike, n_atoms: ArrayLike | None = None) -> Rows:
        """(n_rows, F²) features, or (n_rows, p)."""
        rows = _rows(x)
        after = _fitted(self, self.posterior).transform(rows)
        sketch = self.sketch
        if sketch is None or sketch.kind == "none":
            return np.einsum("ij,ik->ijk", rows, after).reshape(len(rows), -1)
        # The high half of the key: independent of every sketch with a seed below 2^64.
        other = replace(sketch, seed=int(sketch.seed) + 2**64)
        first = replace(sketch)
        return np.sqrt(sketch.p) * first.fit(rows).transform(rows) * other.fit(after).transform(after)


#: Classes by the kind that configurations and saved selections name.
KINDS: Final[Mapping[str, type[RowTransform]]] = MappingProxyType(
    {
        "per_atom": PerAtom,
        "center": Center,
        "standardise": Standardise,
        "scale": Scale,
        "l2": L2,
        "whiten": Whiten,
        "pca": PCA,
        "sketch": Sketch,
        "posterior": Posterior,
        "acsrf": ACSRF,
        "acsgrad": ACSGrad,
    }
)


def described_transforms(transforms: Sequence[RowTransform]) -> list[dict[str, Any]]:
    """Transforms as entries of a configuration, such as `{"kind": "per_atom", "power": 1.0}`.

    Settings only, not what was fitted. `transforms_from` makes them again, but for classes of users, of which
    the name is told.
    """
    names = {kind: name for name, kind in KINDS.items()}
    entries: list[dict[str, Any]] = []
    for transform in transforms:
        if type(transform) not in names:
            entries.append({"kind": type(transform).__name__})
            continue
        settings = {f.name: getattr(transform, f.name) for f in fields(cast(Any, transform)) if f.init}
        if isinstance(transform, Sketch):
            settings["sketch"] = settings.pop("kind")
        after = settings.pop("sketch") if isinstance(transform, ACSGrad) else None
        plain = {name: v.item() if isinstance(v, np.generic) else v for name, v in settings.items()}
        entries.append({"kind": names[type(transform)], **plain})
        entries += [] if after is None else described_transforms([after])
    return entries


def transforms_from(entries: Sequence[Mapping[str, Any]]) -> list[RowTransform]:
    """Transforms from the entries of a configuration or of `Selection.config["transforms"]`.

    Raises:
        ConfigError: an unknown kind, or settings that it does not have.
    """
    made: list[RowTransform] = []
    for entry in entries:
        settings = dict(entry)
        kind = settings.pop("kind", None)
        if kind not in KINDS:
            fix = "give a transform of your own itself"
            raise ConfigError(f"unknown transform {kind!r}; {nearest(str(kind), KINDS)}", fix=fix)
        known = [f.name for f in fields(cast(Any, KINDS[kind])) if f.init and f.name != "sketch"]
        if kind == "sketch":  # the name of its kind is that of all
            known.remove("kind")
            known.append("sketch")
        check_known(settings, known, f"{kind} has no setting {{}}")
        if "sketch" in settings:
            settings["kind"] = settings.pop("sketch")
        made.append(KINDS[kind](**settings))
    return made


def _rows(values: ArrayLike, width: int | None = None) -> Rows:
    rows, _ = checked_rows(values, "features")
    if width is not None and rows.shape[1] != width:
        raise DataError(
            "features have another width than those the transform was fitted on",
            got=f"{rows.shape[1]} columns",
            expected=width,
        )
    return rows


def _fitted(transform: RowTransform, value: _Value | None) -> _Value:
    if value is None:
        name = type(transform).__name__
        raise ConfigError(f"{name} is not fitted", fix="call fit(train) before transform(x)")
    return value


def _check_sigma(sigma: float, what: str) -> None:
    if not 0 < sigma < np.inf:
        raise ConfigError(f"sigma of {what} out of range", got=sigma, expected="a positive number")
