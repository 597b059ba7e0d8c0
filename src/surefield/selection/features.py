"""Feature rows of the training set and the pool, checked once and then only read."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError
from surefield.selection.distances import squared_norms

__all__ = ["Features", "checked_rows", "positive_int"]

#: Squared norms above this would overflow when distances are formed.
LARGEST_NORM = 1e300


@dataclass(frozen=True, eq=False, init=False)
class Features:
    """Features of the labelled structures and of the candidates.

    Arrays are cast to float64 (no copy if they are already) and exposed read-only; the caller's arrays are
    never changed. Rows of the pool are counted from 0.

    Attributes:
        train: (n_train, n_features); None stands for no training rows.
        pool: (n_pool, n_features), at least one row.
        n_atoms_train: (n_train,) atoms per structure, if known.
        n_atoms_pool: (n_pool,) the same for the pool.
        spec: how the features were made, in words; kept with the selection.
        transforms: what the rows have been through since, see `described_transforms`; kept as well.
        information: whether rows are packed information matrices, see `surefield.selection.information`.
        train_norms: (n_train,) squared norms of the rows, set here.
        pool_norms: (n_pool,) the same for the pool.

    Raises:
        DataError: not two-dimensional numbers, empty pool, widths differ, NaN or inf (the first bad row is
            named).
    """

    train: Float[np.ndarray, "n_train n_features"]
    pool: Float[np.ndarray, "n_pool n_features"]
    n_atoms_train: Float[np.ndarray, " n_train"] | None
    n_atoms_pool: Float[np.ndarray, " n_pool"] | None
    spec: str
    transforms: tuple[Mapping[str, Any], ...]
    information: bool
    train_norms: Float[np.ndarray, " n_train"] = field(repr=False)
    pool_norms: Float[np.ndarray, " n_pool"] = field(repr=False)

    def __init__(
        self,
        train: ArrayLike | None,
        pool: ArrayLike,
        n_atoms_train: ArrayLike | None = None,
        n_atoms_pool: ArrayLike | None = None,
        spec: str = "array",
        *,
        transforms: Sequence[Mapping[str, Any]] = (),
        information: bool = False,
    ) -> None:
        pool_rows, pool_norms = checked_rows(pool, "pool features")
        if not len(pool_rows):
            raise DataError("the pool is empty: there is nothing to select from")
        width = pool_rows.shape[1]
        train_rows, train_norms = checked_rows(
            np.zeros((0, width)) if train is None else train, "train features"
        )
        if train_rows.shape[1] != width:
            raise DataError(
                "train and pool features must have the same width",
                got=f"{train_rows.shape[1]} and {width} columns",
                fix="compute both with one feature map",
            )
        values = {
            "train": train_rows,
            "pool": pool_rows,
            "n_atoms_train": _counts(n_atoms_train, len(train_rows), "n_atoms_train"),
            "n_atoms_pool": _counts(n_atoms_pool, len(pool_rows), "n_atoms_pool"),
            "spec": str(spec),
            "transforms": tuple(transforms),
            "information": information,
            "train_norms": train_norms,
            "pool_norms": pool_norms,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def n_train(self) -> int:
        """Number of training rows."""
        return len(self.train)

    @property
    def n_pool(self) -> int:
        """Number of candidates."""
        return len(self.pool)

    @property
    def n_features(self) -> int:
        """Length of a feature row."""
        return self.pool.shape[1]

    def of(self, kept: Int[np.ndarray, " n_kept"]) -> Features:
        """The same of some rows of the pool, in their order."""
        sizes = None if self.n_atoms_pool is None else self.n_atoms_pool[kept]
        return Features(
            self.train,
            self.pool[kept],
            self.n_atoms_train,
            sizes,
            self.spec,
            transforms=self.transforms,
            information=self.information,
        )

    def carry_information(self) -> bool:
        """Whether some row is not zero and, if there are two or more, some row differs from the others."""
        if not self.pool_norms.any() and not self.train_norms.any():
            return False
        if self.n_train + self.n_pool == 1:
            return True
        # Rows with different norms differ; only if all norms agree must the rows themselves be compared.
        if np.ptp(self.pool_norms) > 0 or np.any(self.train_norms != self.pool_norms[0]):
            return True
        return any(not np.array_equal(row, self.pool[0]) for rows in (self.pool, self.train) for row in rows)

    def root_mean_square(self) -> float:
        """Root of the mean ‖φ‖² of the training rows, of the pool without any; 0 if all are 0.

        Of information matrices that of their diagonals, which is 1 as `ll_force` scales them.
        """
        if self.information:
            rows = self.train if self.n_train else self.pool
            size = round((np.sqrt(8 * self.n_features + 1) - 1) / 2)
            on_diagonal = np.equal(*np.triu_indices(size))
            return float(np.sqrt(max(rows[:, on_diagonal].mean(), 0.0)))
        return float(np.sqrt((self.train_norms if self.n_train else self.pool_norms).mean()))

    def first_copies(self) -> Int[np.ndarray, " n_pool"]:
        """For each row of the pool the index of the first one that equals it."""
        first = np.arange(self.n_pool)
        _, group, sizes = np.unique(self.pool_norms, return_inverse=True, return_counts=True)
        # Only rows of one norm can be copies.
        candidates = np.flatnonzero(sizes[group] > 1)
        if len(candidates):
            rows = self.pool[candidates]
            _, start, copy = np.unique(rows, axis=0, return_index=True, return_inverse=True)
            first[candidates] = candidates[start[copy.ravel()]]
        return first

    def passes(self) -> list[slice]:
        """The pool in one part, as `ChunkedFeatures` gives it in many."""
        return [slice(0, self.n_pool)]

    def size_correlation(self) -> float | None:
        """Correlation of ‖φ‖ with the number of atoms over the pool; None if unknown or one is constant."""
        if self.n_atoms_pool is None or np.ptp(self.n_atoms_pool) == 0 or np.ptp(self.pool_norms) == 0:
            return None
        return float(np.corrcoef(np.sqrt(self.pool_norms), self.n_atoms_pool)[0, 1])


def checked_rows(
    values: ArrayLike, what: str
) -> tuple[Float[np.ndarray, "m n_features"], Float[np.ndarray, " m"]]:
    """Cast to a read-only float64 matrix and return it with its squared norms; else raise `DataError`."""
    rows = np.asarray(values)
    if rows.dtype.kind not in "fiub":
        raise DataError(f"{what} must be real numbers", got=f"dtype {rows.dtype}")
    if rows.ndim != 2 or rows.shape[1] == 0:
        fix = "reduce per-atom features to one row per structure first" if rows.ndim == 3 else ""
        raise DataError(
            f"{what} must be 2-D", got=f"shape {rows.shape}", expected="(n_structures, n_features)", fix=fix
        )
    rows = np.asarray(rows, dtype=np.float64, order="C").view()
    rows.flags.writeable = False
    norms = squared_norms(rows)
    norms.flags.writeable = False
    usable = norms < LARGEST_NORM  # False for NaN
    if not usable.all():
        bad = int(np.flatnonzero(~usable)[0])
        finite = bool(np.isfinite(rows[bad]).all())
        fault = "are too large to be squared" if finite else "are not finite"
        value = rows[bad][
            np.argmax(np.abs(rows[bad])) if finite else np.flatnonzero(~np.isfinite(rows[bad]))[0]
        ]
        raise DataError(
            f"{what} {fault}",
            where=f"row {bad}",
            got=value,
            fix="remove this structure, or mend its features",
        )
    return rows, norms


def positive_int(value: object, what: str, *, smallest: int = 1) -> int:
    """Return a whole number that is large enough, else raise `ConfigError`."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise ConfigError(f"{what} must be a whole number", got=repr(value)) from None
    if number < smallest:
        raise ConfigError(f"{what} is too small", got=number, expected=f"at least {smallest}")
    return number


def _counts(values: ArrayLike | None, length: int, what: str) -> Float[np.ndarray, " m"] | None:
    if values is None:
        return None
    counts = np.array(values, dtype=np.float64)
    if counts.shape != (length,):
        raise DataError(
            f"{what} must have one entry per row", got=f"shape {counts.shape}", expected=(length,)
        )
    if not (np.isfinite(counts).all() and (counts > 0).all()):
        bad = int(np.flatnonzero(~(np.isfinite(counts) & (counts > 0)))[0])
        raise DataError(f"{what} must be positive", where=f"row {bad}", got=counts[bad])
    counts.flags.writeable = False
    return counts
