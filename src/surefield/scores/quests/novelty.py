"""A reference set of rows, and what other rows add to it."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from surefield.errors import DataError
from surefield.scores.quests.arguments import (
    BATCH_SIZE,
    checked_bandwidth,
    checked_batch_size,
    checked_k,
    checked_rows,
)
from surefield.scores.quests.blocks import merge
from surefield.scores.quests.log_sums import ReferenceRows, log_sums
from surefield.scores.quests.nearest import nearest_rows

__all__ = ["Novelty", "Reference"]


@dataclass(frozen=True, eq=False)
class Novelty:
    """What each query adds to a reference set.

    Attributes:
        values: (n_queries,) dH in nats.
        nearest: (n_queries,) distance to the nearest reference row, in bandwidths.
    """

    values: Float[np.ndarray, " n_queries"]
    nearest: Float[np.ndarray, " n_queries"]


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference set that queries are compared with, arranged once.

    Attributes:
        rows: (n_rows, n_features) around `middle`, in bandwidths.
        middle: (n_features,) in the unit of the rows that were given.
        bandwidth: in this unit.
    """

    rows: Float[np.ndarray, "n_rows n_features"]
    middle: Float[np.ndarray, " n_features"]
    bandwidth: float

    @classmethod
    def of(cls, rows: Float[np.ndarray, "n_rows n_features"], bandwidth: float) -> Reference:
        """Checked rows.

        Raises:
            ConfigError: a bandwidth that is not positive.
            DataError: no rows, or rows that are not finite.
        """
        checked, scale = checked_rows(rows, "X"), checked_bandwidth(bandwidth)
        middle = checked.mean(axis=0)
        return cls((checked - middle) / scale, middle, scale)

    @cached_property
    def _arranged(self) -> ReferenceRows:
        return ReferenceRows.of(merge(self.rows))

    def novelty(
        self,
        queries: Float[np.ndarray, "n_queries n_features"],
        *,
        nearest_only: int | None = None,
        batch_size: int = BATCH_SIZE,
        executor: Executor | str | None = None,
        progress: bool | None = None,
    ) -> Novelty:
        """dH = -ln Σ_x exp(-|y - x|²/(2h²)) of each query, over all reference rows or the nearest of them.

        Args:
            queries: (n_queries, n_features).
            nearest_only: sum over so many nearest reference rows, which are found exactly.
            batch_size, executor, progress: see `entropy.entropy`.

        Raises:
            ConfigError: numbers out of range.
            DataError: queries of another length than the reference, or not finite.
        """
        rows, batch = checked_rows(queries, "Y", empty=True), checked_batch_size(batch_size)
        if len(rows) and rows.shape[1] != self.rows.shape[1]:
            raise DataError(
                "rows of queries and reference have different lengths",
                got=f"{rows.shape[1]} and {self.rows.shape[1]} features",
                fix="describe both by the same descriptor",
            )
        k = None if nearest_only is None else checked_k(nearest_only, len(self.rows))
        if not len(rows):
            return Novelty(np.empty(0), np.empty(0))
        rows = (rows - self.middle) / self.bandwidth
        if k is None:
            sums = log_sums(rows, self._arranged, batch_size=batch, executor=executor, progress=progress)
            return Novelty(-sums.logs, sums.nearest)
        squares = nearest_rows(rows, self.rows, k, executor=executor, progress=progress)
        terms = np.exp(0.5 * (squares[:, :1] - squares)).sum(axis=1)
        return Novelty(0.5 * squares[:, 0] - np.log(terms), np.sqrt(squares[:, 0]))
