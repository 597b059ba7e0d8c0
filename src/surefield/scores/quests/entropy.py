"""Entropy, efficiency and diversity of sets of rows, and what a row adds to a set: functions of arrays.

Schwalbe-Koda et al., Nature Communications 16, 4014 (2025), with K(a, b) = exp(-|a - b|²/(2h²)), natural
logarithms, sums that hold a row's own term, and log-sum-exp throughout. Results depend neither on
`batch_size` nor on who computes them; terms that are left out are below 1e-12 of their sum (`self_sums`).
"""

from __future__ import annotations

import math
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from surefield.errors import DataError
from surefield.scores.quests.arguments import (
    BANDWIDTH,
    BATCH_SIZE,
    checked_bandwidth,
    checked_batch_size,
    checked_rows,
)
from surefield.scores.quests.blocks import merge
from surefield.scores.quests.nearest import nearest_rows
from surefield.scores.quests.novelty import Reference
from surefield.scores.quests.self_sums import self_sums
from surefield.selection.distances import squared_norms

__all__ = [
    "SetEntropy",
    "delta_entropy",
    "diversity",
    "efficiency",
    "entropy",
    "set_entropy",
    "suggest_bandwidth",
]


#: Rows that differ by less than this part of the longest row are copies of each other.
_ROUNDING: Final = 1e-10


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
    reference = Reference.of(X, h)
    nearest_only = k if approx else None
    found = reference.novelty(
        Y, nearest_only=nearest_only, batch_size=batch_size, executor=executor, progress=progress
    )
    return found.values


def suggest_bandwidth(
    descriptors: Float[np.ndarray, "n_rows n_features"],
    *,
    executor: Executor | str | None = None,
    progress: bool | None = None,
) -> float:
    """Median distance of a row to the nearest other one, in the unit of the rows: a bandwidth to begin with.

    Raises:
        DataError: fewer than two rows, rows that are not finite, or half of them copies or more.
    """
    rows = checked_rows(descriptors, "descriptors")
    if len(rows) < 2:
        raise DataError("a bandwidth needs two rows or more", got=len(rows))
    shifted = rows - rows.mean(axis=0)
    squares = nearest_rows(
        shifted, shifted, 1, without=np.arange(len(rows)), executor=executor, progress=progress
    )
    median = float(np.median(np.sqrt(squares)))
    if not median > _ROUNDING * float(np.sqrt(squared_norms(rows).max())):
        raise DataError(
            "no bandwidth can be suggested: half of the rows or more are copies of others",
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
        batch_size=checked_batch_size(batch_size),
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
