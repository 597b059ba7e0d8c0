"""Log-sum-exp of Gaussian kernels over reference rows, finite however far; exact as in `self_sums`."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from surefield.scores.quests.blocks import (
    BlockedRows,
    Leaf,
    MergedRows,
    arrange,
    leaves,
    left_factor,
    product_error,
    right_factor,
    squares_to,
)
from surefield.scores.quests.parts import COLUMNS, in_parts, threshold
from surefield.selection.distances import squared_norms

__all__ = ["LogSums", "log_sums"]

#: Rows around a leaf that are looked at first, to know how far its nearest rows are at most.
_FIRST_LOOK: Final = 256
#: Sums whose largest exponent lies lower are shifted, for their terms would become zero.
_LOWEST: Final = -600.0
#: Largest error of |a - b|²/2 by products of rows; beyond, differences are taken.
_PRODUCT_ERROR: Final = 1e-9


@dataclass(frozen=True, eq=False)
class LogSums:
    """ln Σ_j K(y_i, x_j) of each query over all reference rows.

    Attributes:
        logs: (n_queries,)
        nearest: (n_queries,) distance to the nearest reference row.
    """

    logs: Float[np.ndarray, " n_queries"]
    nearest: Float[np.ndarray, " n_queries"]


def log_sums(
    queries: Float[np.ndarray, "n_queries n_features"],
    reference: MergedRows,
    *,
    batch_size: int,
    executor: Executor | str | None = None,
    progress: bool | None = None,
) -> LogSums:
    """Log-sum-exp of each query.

    Args:
        queries: (n_queries, n_features) in units of the bandwidth.
        reference: distinct rows and their counts.
        batch_size: the most reference rows around a block of queries that are held at once.
        executor, progress: see `parts.in_parts`.
    """
    blocks = arrange(queries)
    t = threshold(float(reference.counts.sum()))
    part = functools.partial(_of_blocks, blocks, reference, t, batch_size)
    logs, largest = np.empty(len(queries)), np.empty(len(queries))
    n_pairs = len(queries) * len(reference.rows)
    for done in in_parts(part, len(blocks.blocks), n_pairs, executor, progress):
        for rows, block_logs, block_largest in done:
            logs[blocks.order[rows]] = block_logs
            largest[blocks.order[rows]] = block_largest
    return LogSums(logs, np.sqrt(-2.0 * largest))


def _of_blocks(
    blocks: BlockedRows, reference: MergedRows, t: float, batch_size: int, numbers: Sequence[int]
) -> list[tuple[slice, Float[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
    """Log sums and largest exponents of the queries in some of the blocks."""
    norms = squared_norms(reference.rows)
    done = []
    for number in numbers:
        block = blocks.blocks[number]
        rows = slice(block.start, block.stop)
        centre = blocks.rows[rows].mean(axis=0)
        shifted = blocks.rows[rows] - centre
        radius = math.sqrt(float(squared_norms(shifted).max()))
        squares, slack = squares_to(centre, reference.rows, norms)
        # One row is as near as this to all queries; what is beyond `reach` of the centre counts for none.
        upper = radius + math.sqrt(max(float(squares.min()), 0.0) + slack)
        reach = radius + math.sqrt(upper**2 + 2.0 * t)
        near = np.flatnonzero(squares <= reach**2 + slack)
        near = near[np.argsort(squares[near], kind="stable")]
        sums = _BlockSums(shifted, reach, t)
        parts = list(leaves(block, shifted))
        for first in range(0, len(near), batch_size):
            part = near[first : first + batch_size]
            around = right_factor(reference.rows[part] - centre)
            for number_of_leaf, leaf in enumerate(parts):
                sums.add(number_of_leaf, leaf, around, reference.counts[part])
        done.append((rows, sums.logs(), sums.largest))
    return done


class _BlockSums:
    """Sums of the queries of a block while reference rows come in, nearest to the block's centre first.

    Attributes:
        largest: (n,) largest exponent so far.
    """

    def __init__(self, shifted: Float[np.ndarray, "n n_features"], reach: float, t: float) -> None:
        self._left = left_factor(right_factor(shifted))
        self._error = product_error(shifted.shape[1], reach)
        self._t = t
        self._limits: dict[int, float] = {}
        self._shift = np.zeros(len(shifted))
        self._sums = np.zeros(len(shifted))
        self.largest = np.full(len(shifted), -np.inf)

    def logs(self) -> Float[np.ndarray, " n"]:
        """Log-sum-exp over all that was added."""
        return self._shift + np.log(self._sums)

    def add(
        self,
        number: int,
        leaf: Leaf,
        around: Float[np.ndarray, "n_around n_factors"],
        counts: Float[np.ndarray, " n_around"],
    ) -> None:
        """Add what rows around the block give to the queries of one leaf."""
        squares = leaf.squares(around)
        if number not in self._limits:
            self._limits[number] = self._limit(leaf, around, squares)
        chosen = np.flatnonzero(squares <= self._limits[number])
        for first in range(0, len(chosen), COLUMNS):
            columns = chosen[first : first + COLUMNS]
            self._add(leaf.rows, self._exponents(leaf.rows, around[columns]), counts[columns])

    def _limit(
        self,
        leaf: Leaf,
        around: Float[np.ndarray, "n_around n_factors"],
        squares: Float[np.ndarray, " n_around"],
    ) -> float:
        """Squared distance to the centre of the leaf beyond which no row counts for any query of it."""
        look = slice(None)
        if len(squares) > _FIRST_LOOK:
            look = np.argpartition(squares, _FIRST_LOOK)[:_FIRST_LOOK]
        best = np.minimum(self._exponents(leaf.rows, around[look]).max(axis=1), 0.0)
        self._shift[leaf.rows] = np.where(best < _LOWEST, best, 0.0)
        reach = float((leaf.reach + np.sqrt(2.0 * (self._t - best))).max())
        return reach**2 * (1.0 + 1e-12) + 4.0 * self._error

    def _exponents(
        self, rows: slice, right: Float[np.ndarray, "n_columns n_factors"]
    ) -> Float[np.ndarray, "n n_columns"]:
        """-|a - b|²/2 of a leaf and others."""
        left = self._left[rows]
        if self._error > _PRODUCT_ERROR:
            return np.stack([-0.5 * squared_norms(right[:, :-2] - row) for row in left[:, :-2]])
        return left @ right.T

    def _add(
        self,
        rows: slice,
        exponents: Float[np.ndarray, "n n_columns"],
        counts: Float[np.ndarray, " n_columns"],
    ) -> None:
        largest = exponents.max(axis=1)
        if largest.max() > -self._error:  # zero but for rounding: the rows are copies
            exponents[exponents > -self._error] = 0.0
            largest = np.where(largest > -self._error, 0.0, largest)
        largest = np.maximum(self.largest[rows], largest)
        self.largest[rows] = largest
        shift = self._shift[rows]
        if shift.any():
            # A nearer row than those of the first look: what was summed is scaled to the new largest term.
            lower = (shift < 0) & (largest > shift)
            self._sums[rows] *= np.where(lower, np.exp(np.minimum(shift - largest, 0.0)), 1.0)
            shift = np.where(lower, largest, shift)
            self._shift[rows] = shift
            exponents -= shift[:, None]
        self._sums[rows] += np.exp(exponents, out=exponents) @ counts
