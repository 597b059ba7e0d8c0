"""Sums of outer products of rows g = d(output)/d(last-layer weights), one per kind, streamed in chunks.

The sum C = sum_kappa lambda_kappa sum_rows g gᵀ is the only thing the last-layer posterior keeps of its
training set (Bigi et al., Mach. Learn.: Sci. Technol. 5 (2024) 045018). Kinds stay apart until they are
combined, because precision weights are known only after the validation set was seen.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError, PotentialError, nearest
from surefield.files import atomic_path, read_arrays

__all__ = ["RowCovariance", "as_rows", "peak_memory"]

FORMAT_VERSION: Final = 1
#: A removed row was never added when it leaves an eigenvalue below this times the largest one.
NEGATIVE_EIGENVALUE: Final = -1e-10
#: Matrices of features times features that are held at most beside sums of rows, while one is solved.
#: Measured peaks of resident memory, sums included: `solve_readout` 11 to 12 with an eigenbasis and 6 sums
#: (2336 features), 5 to 6 with Cholesky factors and 2 (3504); `LLPR.fit` 9 to 10 with 3 (2368 and 3552).
BESIDE_EIGENBASIS, BESIDE_FACTORS = 7, 4
#: Reason under which rows with a NaN residual are counted.
NAN_LABEL: Final = "nan_label"


def as_rows(rows: ArrayLike, n_features: int, kind: str = "rows") -> Float64[np.ndarray, "n_rows n_features"]:
    """Rows as a finite float64 matrix.

    Raises:
        DataError: not a matrix.
        PotentialError: wrong number of features, or a value that is not finite.
    """
    matrix = np.asarray(rows, dtype=np.float64)
    if matrix.ndim != 2:
        raise DataError(f"{kind} rows must be (n_rows, n_features)", got=f"shape {matrix.shape}")
    if matrix.shape[1] != n_features:
        raise PotentialError(
            f"{kind} rows come from another layer or model",
            got=f"{matrix.shape[1]} features",
            expected=n_features,
            fix="use one model and one layer for all rows",
        )
    if not np.isfinite(matrix).all():
        first = int(np.argmin(np.isfinite(matrix).all(axis=1)))
        column = int(np.argmin(np.isfinite(matrix[first])))
        raise PotentialError(
            f"non-finite feature {column}",
            where=f"{kind} row {first}",
            got=matrix[first, column],
            fix="look for overlapping atoms in this structure",
        )
    return matrix


def peak_memory(n_features: int, n_sums: int, *, eigenbasis: bool = True) -> float:
    """Bytes for sums of outer products of rows and for what is solved from them.

    Args:
        n_features: length of a row.
        n_sums: matrices in which rows are summed.
        eigenbasis: whether one of them is diagonalised, or else factorised.
    """
    return 8.0 * n_features**2 * (n_sums + (BESIDE_EIGENBASIS if eigenbasis else BESIDE_FACTORS))


class _Chunk(NamedTuple):
    """Rows times the roots of their weights, and what is kept besides."""

    rows: Float64[np.ndarray, "n_rows n_features"]
    n_residuals: int = 0
    sum_squares: float = 0.0


@dataclass(eq=False)
class _KindSum:
    """What is kept of the rows of one kind."""

    gram: Float64[np.ndarray, "n_features n_features"]
    n_rows: int = 0
    n_residuals: int = 0
    sum_squares: float = 0.0

    def add(self, chunk: _Chunk) -> None:
        """Add rows in place."""
        rows = chunk.rows
        # Rows have zeros for elements that their structure lacks: of many elements few columns count.
        used = np.flatnonzero(rows.any(axis=0))
        if 2 * len(used) < rows.shape[1]:
            rows = rows[:, used]
            self.gram[np.ix_(used, used)] += rows.T @ rows
        else:
            self.gram += rows.T @ rows  # NumPy sends this to BLAS syrk: half the work, symmetric
        self.n_rows += len(rows)
        self.n_residuals += chunk.n_residuals
        self.sum_squares += chunk.sum_squares

    def plus(self, other: _KindSum, sign: int = 1) -> _KindSum:
        return _KindSum(
            self.gram + sign * other.gram,
            self.n_rows + sign * other.n_rows,
            self.n_residuals + sign * other.n_residuals,
            self.sum_squares + sign * other.sum_squares,
        )


class RowCovariance:
    """Accumulator of C and of what the regulariser needs, per kind of row.

    All sums are float64, whatever the dtype of the rows; chunking and order change C by rounding only.

    Args:
        n_features: d, the length of every row.
        fingerprint: of model, layer, kinds and weights; only equal fingerprints merge.
    """

    def __init__(self, n_features: int, fingerprint: str = "") -> None:
        if n_features < 1:
            raise ConfigError("n_features must be a positive integer", got=n_features)
        self.n_features = int(n_features)
        self.fingerprint = str(fingerprint)
        #: True once any row came in less than double precision.
        self.single_precision = False
        self._sums: dict[str, _KindSum] = {}
        self._masked: dict[str, dict[str, int]] = {}

    def add(
        self,
        rows: ArrayLike,
        kind: str = "energy",
        weight: ArrayLike = 1.0,
        residuals: ArrayLike | None = None,
    ) -> Self:
        """Add rows (n_rows, n_features) of one kind.

        Args:
            rows: ∂(output)/∂w in the units of the output per unit of w.
            kind: `energy`, `forces`, `stress` or the name of a target.
            weight: of each row, a number or (n_rows,); kinds are weighted later, in `combined`.
            residuals: prediction minus reference, (n_rows,) or (n_rows, n_properties). A row without any
                label (NaN residual) is left out and counted. Squares are means over properties.

        Raises:
            DataError: malformed rows, weights or residuals.
            PotentialError: wrong number of features or a feature that is not finite.
        """
        chunk, n_masked = self._summed(rows, kind, weight, residuals)
        self.single_precision |= _is_single_precision(rows)
        self._sums.setdefault(kind, self._sum_of(kind)).add(chunk)
        if n_masked:
            self.count_masked(kind, NAN_LABEL, n_masked)
        return self

    def remove(
        self,
        rows: ArrayLike,
        kind: str = "energy",
        weight: ArrayLike = 1.0,
        residuals: ArrayLike | None = None,
    ) -> Self:
        """Undo an `add` of the same arguments; on an error nothing is changed.

        Raises:
            DataError: these rows were not added before.
        """
        chunk, n_masked = self._summed(rows, kind, weight, residuals)
        removed = _KindSum(np.zeros((self.n_features, self.n_features)))
        removed.add(chunk)
        before = self._sum_of(kind)
        after = before.plus(removed, sign=-1)
        largest = float(np.linalg.eigvalsh(before.gram)[-1])
        lowest = float(np.linalg.eigvalsh(after.gram)[0])
        counted = self._masked.get(kind, {}).get(NAN_LABEL, 0)
        left = float(np.abs(after.gram).max()) if after.n_rows == 0 else 0.0
        if (
            after.n_rows < 0
            or counted < n_masked
            or lowest < NEGATIVE_EIGENVALUE * largest
            or left > -NEGATIVE_EIGENVALUE * largest
        ):
            raise DataError(
                "these rows were not added before",
                where=f"kind {kind!r}",
                got=f"{removed.n_rows} of {before.n_rows} rows, lowest eigenvalue left {lowest:.3g}",
                expected=f"at least {NEGATIVE_EIGENVALUE * largest:.3g}",
                fix="remove with the rows, kind and weight of the add",
            )
        if n_masked:
            self._masked[kind][NAN_LABEL] -= n_masked
        if after.n_rows == 0:
            self._sums.pop(kind, None)
        else:
            self._sums[kind] = after
        return self

    def merge(self, other: RowCovariance) -> Self:
        """Add everything another accumulator (another process, another shard) has seen.

        Raises:
            DataError: the other one has another number of features or another fingerprint.
        """
        for name in ("n_features", "fingerprint"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise DataError(
                    f"cannot merge row covariances of different {name}",
                    got=repr(theirs),
                    expected=repr(mine),
                    fix="accumulate all shards with one model, layer and set of kinds",
                )
        for kind, total in other._sums.items():
            self._sums[kind] = self._sum_of(kind).plus(total)
        for kind, reasons in other.masked.items():
            for reason, count in reasons.items():
                self.count_masked(kind, reason, count)
        self.single_precision |= other.single_precision
        return self

    def count_masked(self, kind: str, reason: str, n_rows: int) -> None:
        """Note rows that the caller left out, for the report."""
        counts = self._masked.setdefault(kind, {})
        counts[reason] = counts.get(reason, 0) + int(n_rows)

    @property
    def matrix(self) -> Float64[np.ndarray, "n_features n_features"]:
        """C with weight 1 for every kind."""
        return self.combined(dict.fromkeys(self._sums, 1.0))

    def combined(self, weights: Mapping[str, float]) -> Float64[np.ndarray, "n_features n_features"]:
        """C = Σ_κ λ_κ Σ g gᵀ for weights λ_κ.

        Raises:
            ConfigError: a kind without weight, a weight without kind, or one that is negative or not finite.
        """
        for kind in weights:
            if kind not in self._sums:
                fix = nearest(kind, self._sums) if self._sums else "no rows were added yet"
                raise ConfigError(f"weight of unknown kind {kind!r}", fix=fix)
        total = np.zeros((self.n_features, self.n_features))
        for kind, part in self._sums.items():
            if kind not in weights:
                raise ConfigError(f"no weight for kind {kind!r}", fix="give 0 to leave it out")
            weight = float(weights[kind])
            if not (np.isfinite(weight) and weight >= 0):
                raise ConfigError(f"weight of kind {kind!r} must be finite and not negative", got=weight)
            total += weight * part.gram
        return total

    @property
    def n_rows(self) -> dict[str, int]:
        """Rows in C per kind, masked ones not counted."""
        return {kind: part.n_rows for kind, part in self._sums.items()}

    @property
    def sum_squared_residuals(self) -> dict[str, float]:
        """Σ weight·r² per kind (kind weights λ_κ not applied), for kinds whose rows all had residuals."""
        return {k: part.sum_squares for k, part in self._sums.items() if part.n_residuals == part.n_rows}

    @property
    def masked(self) -> dict[str, dict[str, int]]:
        """Rows left out, per kind and reason."""
        return {kind: dict(reasons) for kind, reasons in self._masked.items()}

    @property
    def regularizer_floor(self) -> float:
        """Smallest ς²/(tr C/d) that the rounding of the rows allows: 1e-9, or 1e-6 for float32 rows."""
        return 1e-6 if self.single_precision else 1e-9

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to an npz file under exactly this name, atomically and without pickled code.

        Raises:
            ExecutionError: disk full, no permission, no such folder.
        """
        arrays = self.arrays()
        grams = [arrays.pop(f"gram {i}") for i in range(len(self._sums))]
        arrays["grams"] = np.array(grams).reshape(-1, self.n_features, self.n_features)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays, from which `from_arrays` makes it again; large ones are not copied."""
        parts = list(self._sums.values())
        masked = [(k, reason, n) for k, reasons in self._masked.items() for reason, n in reasons.items()]
        return {
            "format_version": np.array(FORMAT_VERSION),
            "n_features": np.array(self.n_features),
            "fingerprint": np.array(self.fingerprint),
            "single_precision": np.array(self.single_precision),
            "kinds": np.array(list(self._sums), dtype=np.str_),
            **{f"gram {i}": p.gram for i, p in enumerate(parts)},
            "n_rows": np.array([p.n_rows for p in parts], dtype=np.int64),
            "n_residuals": np.array([p.n_residuals for p in parts], dtype=np.int64),
            "sum_squares": np.array([p.sum_squares for p in parts], dtype=np.float64),
            "masked_names": np.array([m[:2] for m in masked], dtype=np.str_).reshape(-1, 2),
            "masked_counts": np.array([m[2] for m in masked], dtype=np.int64),
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            PotentialError: missing, damaged or foreign file, or one of a newer format.
        """
        try:
            stored = read_arrays(path)
            version = int(stored["format_version"])
            if version <= FORMAT_VERSION:
                return cls.from_arrays(stored)
        except (DataError, ValueError, KeyError, IndexError, TypeError) as error:
            raise PotentialError("cannot read a row covariance", where=path, got=error) from error
        raise PotentialError(
            "row covariance of a newer format",
            where=path,
            got=f"version {version}",
            expected=f"at most {FORMAT_VERSION}",
            fix="update surefield",
        )

    @classmethod
    def from_arrays(cls, stored: Mapping[str, np.ndarray]) -> Self:
        """From what `arrays` gave, or the file of `save`."""
        loaded = cls(int(stored["n_features"]), str(stored["fingerprint"]))
        loaded.single_precision = bool(stored["single_precision"])
        for i, kind in enumerate(stored["kinds"]):
            loaded._sums[str(kind)] = _KindSum(
                stored["grams"][i] if "grams" in stored else stored[f"gram {i}"],
                int(stored["n_rows"][i]),
                int(stored["n_residuals"][i]),
                float(stored["sum_squares"][i]),
            )
        for (kind, reason), count in zip(stored["masked_names"], stored["masked_counts"], strict=True):
            loaded.count_masked(str(kind), str(reason), int(count))
        return loaded

    def _sum_of(self, kind: str) -> _KindSum:
        return self._sums.get(kind) or _KindSum(np.zeros((self.n_features, self.n_features)))

    def _summed(
        self, rows: ArrayLike, kind: str, weight: ArrayLike, residuals: ArrayLike | None
    ) -> tuple[_Chunk, int]:
        """Weighted rows of one chunk, and how many were masked."""
        matrix = as_rows(rows, self.n_features, kind)
        weights = _row_weights(weight, len(matrix), kind)
        if residuals is None:
            return _Chunk(_weighted(matrix, weights)), 0
        squares = _mean_squares(residuals, len(matrix), kind)
        keep = ~np.isnan(squares)
        n_kept = int(keep.sum())
        if n_kept < len(matrix):
            matrix, weights, squares = matrix[keep], weights[keep], squares[keep]
        chunk = _Chunk(_weighted(matrix, weights), n_kept, float(weights @ squares))
        return chunk, len(keep) - n_kept


def _is_single_precision(rows: ArrayLike) -> bool:
    dtype = np.asarray(rows).dtype
    # bfloat16 and its relatives are kind "V" for NumPy
    return dtype.kind in "fV" and dtype.itemsize < 8


def _weighted(
    rows: Float64[np.ndarray, "n_rows n_features"], weights: Float64[np.ndarray, " n_rows"]
) -> Float64[np.ndarray, "n_rows n_features"]:
    return rows * np.sqrt(weights)[:, None] if (weights != 1.0).any() else rows


def _row_weights(weight: ArrayLike, n_rows: int, kind: str) -> Float64[np.ndarray, " n_rows"]:
    weights = np.asarray(weight, dtype=np.float64)
    if weights.shape not in {(), (n_rows,)}:
        raise DataError(
            f"weights of {kind} rows", got=f"shape {weights.shape}", expected=f"a number or ({n_rows},)"
        )
    weights = np.broadcast_to(weights, (n_rows,))
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        first = int(np.argmax(bad))
        raise DataError(
            "row weights must be finite and not negative", where=f"{kind} row {first}", got=weights[first]
        )
    return weights


def _mean_squares(residuals: ArrayLike, n_rows: int, kind: str) -> Float64[np.ndarray, " n_rows"]:
    """Mean over the labelled properties of r², NaN for a row without any label."""
    values = np.asarray(residuals, dtype=np.float64)
    if values.ndim not in (1, 2) or len(values) != n_rows:
        raise DataError(
            f"residuals of {kind} rows",
            got=f"shape {values.shape}",
            expected=f"({n_rows},) or ({n_rows}, n_properties)",
        )
    values = values.reshape(n_rows, -1) if values.size else values.reshape(n_rows, 1)
    infinite = np.isinf(values).any(axis=1)
    if infinite.any():
        raise DataError(
            "infinite residual", where=f"{kind} row {int(np.argmax(infinite))}", fix="NaN masks a label"
        )
    labelled = ~np.isnan(values)
    count = labelled.sum(axis=1)
    squares = np.where(labelled, values, 0.0) ** 2
    return np.where(count > 0, squares.sum(axis=1) / np.maximum(count, 1), np.nan)
