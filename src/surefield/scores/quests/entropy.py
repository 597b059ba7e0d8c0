"""Entropy, efficiency and diversity of sets of rows, and what a row adds to a set: functions of arrays.

Schwalbe-Koda et al., Nature Communications 16, 4014 (2025), with K(a, b) = exp(-|a - b|²/(2h²)), natural
logarithms, sums that hold a row's own term, and log-sum-exp throughout. Results depend neither on
`batch_size` nor on who computes them; terms that are left out are below 1e-12 of their sum (`self_sums`).
"""

from __future__ import annotations

import math
import operator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from surefield.errors import ConfigError, DataError
from surefield.scores.quests.blocks import merge
from surefield.scores.quests.log_sums import log_sums
from surefield.scores.quests.nearest import nearest_rows
from surefield.scores.quests.self_sums import self_sums

__all__ = [
    "BANDWIDTH",
    "BATCH_SIZE",
    "Novelty",
    "SetEntropy",
    "delta_entropy",
    "diversity",
    "efficiency",
    "entropy",
    "novelty",
    "set_entropy",
    "suggest_bandwidth",
]

#: Of the QUESTS descriptor with 32 neighbours within 5 Å, 1/Å.
BANDWIDTH: Final = 0.015
#: Rows that are held at once around those whose sums are taken.
BATCH_SIZE: Final = 20_000


@dataclass(frozen=True)
class SetEntropy:
    """What the kernel sums of a set say of it.

    Attributes:
        n_rows: N, environments.
        entropy: H = -(1/N) Σ_i ln(S_i/N) in nats, 0 to ln N.
        diversity: D = ln Σ_i 1/S_i, 0 to ln N.
        nearest: median and smallest distance to the nearest other row, and the largest one, in bandwidths;
            infinite for a single row.
        alone: share of rows with no other row within 5 bandwidths.
    """

    n_rows: int
    entropy: float
    diversity: float
    nearest: tuple[float, float, float]
    alone: float

    @property
    def efficiency(self) -> float:
        """H / ln N, 0 to 1.

        Raises:
            DataError: a single row, for ln N is zero.
        """
        if self.n_rows == 1:
            raise DataError(
                "the efficiency of a single environment is not defined (ln N = 0)", expected="two or more"
            )
        return min(self.entropy / math.log(self.n_rows), 1.0)


@dataclass(frozen=True, eq=False)
class Novelty:
    """What each query adds to a reference set.

    Attributes:
        values: (n_queries,) dH in nats.
        nearest: (n_queries,) distance to the nearest reference row, in bandwidths.
    """

    values: Float[np.ndarray, " n_queries"]
    nearest: Float[np.ndarray, " n_queries"]


def entropy(
    X: Float[np.ndarray, "n_rows n_features"],
    h: float = BANDWIDTH,
    *,
    batch_size: int = BATCH_SIZE,
    executor: Executor | str | None = None,
    progress: bool | None = None,
) -> float:
    """H = -(1/N) Σ_i ln(S_i/N), S_i = Σ_j exp(-|x_i - x_j|²/(2h²)), in nats.

    Args:
        X: (n_rows, n_features), such as descriptors of atoms; any descriptor, also features of a model.
        h: bandwidth in the unit of X.
        batch_size: rows held at once around those whose sums are taken: bounds memory, not the result.
        executor: where the sums are taken: None for threads of this process, 'serial', 'processes', or any
            `concurrent.futures.Executor`; the result is the same.
        progress: False for silence, True for a bar; by default shown for long sums.

    Raises:
        ConfigError: bandwidth or batch size that is not positive.
        DataError: no rows, or rows that are not finite.
    """
    return set_entropy(X, h, batch_size=batch_size, executor=executor, progress=progress).entropy


def efficiency(
    X: Float[np.ndarray, "n_rows n_features"],
    h: float = BANDWIDTH,
    *,
    batch_size: int = BATCH_SIZE,
    executor: Executor | str | None = None,
    progress: bool | None = None,
) -> float:
    """H / ln N, 0 (all rows alike) to 1 (all far apart); see `entropy`.

    Raises:
        DataError: also for a single row, for ln N is zero.
    """
    return set_entropy(X, h, batch_size=batch_size, executor=executor, progress=progress).efficiency


def diversity(
    X: Float[np.ndarray, "n_rows n_features"],
    h: float = BANDWIDTH,
    *,
    batch_size: int = BATCH_SIZE,
    executor: Executor | str | None = None,
    progress: bool | None = None,
) -> float:
    """D = ln Σ_i 1/S_i, logarithm of the effective number of distinct rows; see `entropy`."""
    return set_entropy(X, h, batch_size=batch_size, executor=executor, progress=progress).diversity


def delta_entropy(
    Y: Float[np.ndarray, "n_queries n_features"],
    X: Float[np.ndarray, "n_rows n_features"],
    h: float = BANDWIDTH,
    approx: bool = False,
    k: int = 3,
    *,
    batch_size: int = BATCH_SIZE,
    executor: Executor | str | None = None,
    progress: bool | None = None,
) -> Float[np.ndarray, " n_queries"]:
    """dH(y) = -ln Σ_x exp(-|y - x|²/(2h²)) over the reference rows: positive for what is new to them.

    Args:
        Y: (n_queries, n_features).
        X: (n_rows, n_features) reference.
        h: bandwidth.
        approx: sum over the k nearest reference rows only, which are found exactly; never below the exact dH.
        k: for `approx`.
        batch_size, executor, progress: see `entropy`.

    Raises:
        ConfigError: bandwidth, k or batch size out of range.
        DataError: no reference, rows that are not finite, or rows of different length.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "executor": executor, "progress": progress}
    return novelty(Y, X, h, approx, k, **options).values


def suggest_bandwidth(
    descriptors: Float[np.ndarray, "n_rows n_features"],
    *,
    executor: Executor | str | None = None,
    progress: bool | None = None,
) -> float:
    """Median distance of a row to the nearest other one, in the unit of the rows: a bandwidth to begin with.

    Raises:
        DataError: fewer than two rows, rows that are not finite, or more than half of them copies.
    """
    rows = checked_rows(descriptors, "descriptors")
    if len(rows) < 2:
        raise DataError("a bandwidth needs two rows or more", got=len(rows))
    shifted = rows - rows.mean(axis=0)
    squares = nearest_rows(
        shifted, shifted, 1, without=np.arange(len(rows)), executor=executor, progress=progress
    )
    median = float(np.median(np.sqrt(squares)))
    if not median > 0:
        raise DataError(
            "no bandwidth can be suggested: more than half of the rows are copies of others",
            fix="leave copies out (numpy.unique(descriptors, axis=0)), or choose a bandwidth",
        )
    return median


def set_entropy(
    X: Float[np.ndarray, "n_rows n_features"],
    h: float = BANDWIDTH,
    *,
    batch_size: int = BATCH_SIZE,
    executor: Executor | str | None = None,
    progress: bool | None = None,
    nearest: bool = False,
) -> SetEntropy:
    """Entropy, efficiency and diversity from the same sums, and with `nearest` what the bandwidth is like.

    Args and errors as for `entropy`.
    """
    rows, scale = checked_rows(X, "X"), checked_bandwidth(h)
    merged = merge((rows - rows.mean(axis=0)) / scale)
    found = self_sums(
        merged,
        batch_size=_checked_batch_size(batch_size),
        executor=executor,
        progress=progress,
        nearest=nearest,
    )
    n_rows = len(rows)
    value = float(merged.counts @ (math.log(n_rows) - np.log(found.sums))) / n_rows
    spread = math.log(float(merged.counts @ (1.0 / found.sums)))
    distances, alone = (math.nan, math.nan, math.nan), math.nan
    if found.nearest is not None:
        of_rows = found.nearest[merged.places]
        distances = (float(np.median(of_rows)), float(of_rows.min()), float(of_rows.max()))
        alone = float(np.mean(of_rows > 5.0))
    return SetEntropy(n_rows, max(value, 0.0), max(spread, 0.0), distances, alone)


def novelty(
    Y: Float[np.ndarray, "n_queries n_features"],
    X: Float[np.ndarray, "n_rows n_features"],
    h: float = BANDWIDTH,
    approx: bool = False,
    k: int = 3,
    *,
    batch_size: int = BATCH_SIZE,
    executor: Executor | str | None = None,
    progress: bool | None = None,
) -> Novelty:
    """`delta_entropy` with the distance of each query to the nearest reference row."""
    reference, scale = checked_rows(X, "X"), checked_bandwidth(h)
    queries = checked_rows(Y, "Y", empty=True)
    batch = _checked_batch_size(batch_size)
    if len(queries) and queries.shape[1] != reference.shape[1]:
        raise DataError(
            "rows of queries and reference have different lengths",
            got=f"{queries.shape[1]} and {reference.shape[1]} features",
            fix="describe both by the same descriptor",
        )
    k = _checked_k(k, len(reference)) if approx else 1
    if not len(queries):
        return Novelty(np.empty(0), np.empty(0))
    middle = reference.mean(axis=0)
    queries, reference = (queries - middle) / scale, (reference - middle) / scale
    if approx:
        squares = nearest_rows(queries, reference, k, executor=executor, progress=progress)
        terms = np.exp(0.5 * (squares[:, :1] - squares)).sum(axis=1)
        return Novelty(0.5 * squares[:, 0] - np.log(terms), np.sqrt(squares[:, 0]))
    sums = log_sums(queries, merge(reference), batch_size=batch, executor=executor, progress=progress)
    return Novelty(-sums.logs, sums.nearest)


def checked_rows(rows: Any, name: str, *, empty: bool = False) -> Float[np.ndarray, "n_rows n_features"]:
    """Rows as float64.

    Raises:
        DataError: not two-dimensional, empty (unless that is fine), or not finite.
    """
    array = np.asarray(rows)
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise DataError(
            f"{name} must be numbers, one row per environment",
            got=f"{array.dtype} of shape {array.shape}",
            expected="(n_rows, n_features)",
        )
    if not len(array) and empty:
        return np.empty(array.shape)
    if not array.size:
        raise DataError(f"{name} holds no environments", got=f"shape {array.shape}")
    array = array.astype(np.float64, copy=False)
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise DataError(f"{name} must be finite", where=f"row {int(np.argmax(bad))}", got="NaN or inf")
    return array


def checked_bandwidth(h: Any) -> float:
    """The bandwidth.

    Raises:
        ConfigError: not a positive number.
    """
    try:
        value = float(h)
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(h, bool) or not (math.isfinite(value) and value > 0):
        raise ConfigError("the bandwidth must be a positive number", got=repr(h), fix="see suggest_bandwidth")
    return value


def _whole(value: Any) -> int:
    try:
        return 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return 0


def _checked_batch_size(batch_size: Any) -> int:
    if _whole(batch_size) < 1:
        raise ConfigError("batch_size must be a whole number, at least 1", got=repr(batch_size))
    return _whole(batch_size)


def _checked_k(k: Any, n_rows: int) -> int:
    if not 1 <= _whole(k) <= n_rows:
        raise ConfigError(
            "the number of nearest neighbours must be at least 1 and not more than the reference rows",
            got=f"{k!r} of {n_rows}",
        )
    return _whole(k)
