"""Log-sum-exp of Gaussian kernels over reference rows, finite however far; exact as in `self_sums`.

Everything is seen from the centres of blocks of the reference, so that what a query gives does not depend on
the queries beside it, and the terms that count most have the smallest rounding errors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from surefield.scores.quests.blocks import (
    LEAF_ROWS,
    BlockedRows,
    Leaf,
    MergedRows,
    arrange,
    leaf_squares,
    leaves,
    left_factor,
    product_error,
    right_factor,
    squares_between,
)
from surefield.scores.quests.parts import COLUMNS, in_parts, threshold
from surefield.selection.distances import squared_norms

__all__ = ["LogSums", "ReferenceRows", "log_sums"]

#: Queries of a part of the work.
_QUERIES: Final = 1024
#: Centres of blocks and leaves whose distances to queries are held at once.
_CENTRES: Final = 512
#: Sums whose largest exponent lies lower are shifted, for their terms would become zero.
_LOWEST: Final = -600.0
#: Largest error of |a - b|²/2 by products of rows; beyond, differences are taken.
_PRODUCT_ERROR: Final = 1e-9


@dataclass(frozen=True, eq=False)
class ReferenceRows:
    """Reference rows in blocks, which many queries can be compared with.

    Attributes:
        blocks: distinct rows, block by block, as seen from the centre of each.
        centres: (n_blocks, n_features) of the blocks.
        leaf_centres: (n_leaves, n_features) of all leaves, block by block.
        n_rows: rows, copies counted.
        n_distinct: distinct rows.
    """

    blocks: tuple[_SeenBlock, ...]
    centres: Float[np.ndarray, "n_blocks n_features"]
    leaf_centres: Float[np.ndarray, "n_leaves n_features"]
    n_rows: float
    n_distinct: int

    @classmethod
    def of(cls, merged: MergedRows) -> ReferenceRows:
        """Arrange distinct rows."""
        blocked = arrange(merged.rows)
        counts = merged.counts[blocked.order]
        blocks = tuple(_SeenBlock.of(blocked, counts, i) for i in range(len(blocked.blocks)))
        leaf_centres = np.concatenate([[leaf.centre + b.centre for leaf in b.leaves] for b in blocks])
        return cls(blocks, blocked.centres, leaf_centres, float(counts.sum()), len(counts))


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
    reference: ReferenceRows,
    *,
    batch_size: int,
    executor: Executor | str | None = None,
    progress: bool | None = None,
) -> LogSums:
    """Log-sum-exp of each query.

    Args:
        queries: (n_queries, n_features) in units of the bandwidth.
        reference: in the same unit.
        batch_size: the most queries that are held at once around a block of reference rows.
        executor, progress: see `parts.in_parts`.
    """
    part = functools.partial(_of_queries, queries, reference, batch_size)
    n_parts = -(-len(queries) // _QUERIES)
    n_pairs = len(queries) * reference.n_distinct
    logs, largest = np.empty(len(queries)), np.empty(len(queries))
    for done in in_parts(part, n_parts, n_pairs, executor, progress):
        for rows, own_logs, own_largest in done:
            logs[rows], largest[rows] = own_logs, own_largest
    return LogSums(logs, np.sqrt(-2.0 * largest))


def _of_queries(
    queries: Float[np.ndarray, "n_queries n_features"],
    reference: ReferenceRows,
    batch_size: int,
    numbers: Sequence[int],
) -> list[tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
    """Log sums and largest exponents of the queries of some parts."""
    places = np.concatenate([np.arange(i * _QUERIES, min((i + 1) * _QUERIES, len(queries))) for i in numbers])
    done = []
    for first in range(0, len(places), batch_size):
        rows = places[first : first + batch_size]
        sums = _Sums(queries[rows], reference)
        sums.add_all(reference)
        done.append((rows, sums.logs(), sums.largest))
    return done


@dataclass(frozen=True, eq=False)
class _SeenBlock:
    """A block of reference rows as seen from its centre."""

    centre: Float[np.ndarray, " n_features"]
    radius: float
    right: Float[np.ndarray, "n n_factors"]
    counts: Float[np.ndarray, " n"]
    leaves: tuple[Leaf, ...]

    @classmethod
    def of(cls, blocked: BlockedRows, counts: Float[np.ndarray, " n_rows"], number: int) -> _SeenBlock:
        block, centre = blocked.blocks[number], blocked.centres[number]
        rows = slice(block.start, block.stop)
        shifted = blocked.rows[rows] - centre
        parts = tuple(leaves(block, shifted))
        return cls(centre, float(blocked.radii[number]), right_factor(shifted), counts[rows], parts)


class _Sums:
    """Sums of some queries while blocks of reference rows are added.

    Attributes:
        largest: (n_queries,) largest exponent so far.
    """

    def __init__(self, queries: Float[np.ndarray, "n_queries n_features"], reference: ReferenceRows) -> None:
        self._queries = queries
        self.largest = np.full(len(queries), -np.inf)
        self._look_first(reference)
        t = threshold(reference.n_rows)
        # What is farther than this from a query counts for nothing.
        self._reach = np.sqrt(2.0 * (t - self.largest))
        self._shift = np.where(self.largest < _LOWEST, self.largest, 0.0)
        self._sums = np.zeros(len(queries))
        self._scratch = np.empty(LEAF_ROWS * COLUMNS)  # fresh memory costs as much as the sums

    def logs(self) -> Float[np.ndarray, " n_queries"]:
        """Log-sum-exp over all that was added."""
        return self._shift + np.log(self._sums)

    def _look_first(self, reference: ReferenceRows) -> None:
        """Largest exponents with the rows of one leaf, that with the nearest centre."""
        nearest, which = np.full(len(self._queries), np.inf), np.zeros(len(self._queries), np.int64)
        for first in range(0, len(reference.leaf_centres), _CENTRES):
            squares, _ = squares_between(self._queries, reference.leaf_centres[first : first + _CENTRES])
            best = squares.argmin(axis=1)
            value = squares[np.arange(len(squares)), best]
            nearer = value < nearest
            nearest[nearer], which[nearer] = value[nearer], best[nearer] + first
        order = np.argsort(which, kind="stable")
        numbers, starts = np.unique(which[order], return_index=True)
        groups = dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True))
        for number, (block, leaf) in enumerate((b, leaf) for b in reference.blocks for leaf in b.leaves):
            chosen = groups.get(number, order[:0])
            for first in range(0, len(chosen), COLUMNS):
                rows = chosen[first : first + COLUMNS]
                left = left_factor(right_factor(self._queries[rows] - block.centre))
                self.largest[rows] = _exponents(left, block.right[leaf.rows])[1]

    def add_all(self, reference: ReferenceRows) -> None:
        """Add all reference rows."""
        for first in range(0, len(reference.blocks), _CENTRES):
            last = first + _CENTRES
            apart, slack = squares_between(self._queries, reference.centres[first:last])
            for number, block in enumerate(reference.blocks[first:last]):
                limit = (block.radius + self._reach) ** 2 * (1.0 + 1e-9) + slack
                near = np.flatnonzero(apart[:, number] <= limit)
                if len(near):
                    self._add_block(block, near)

    def _add_block(self, block: _SeenBlock, near: Int[np.ndarray, " n"]) -> None:
        """Add what the rows of a block give to queries that are near enough."""
        around = right_factor(self._queries[near] - block.centre)
        left, squares, reach = left_factor(around), leaf_squares(block.leaves, around), self._reach[near]
        slack = 4.0 * product_error(self._queries.shape[1], math.sqrt(-2.0 * float(around[:, -1].min())))
        for number, leaf in enumerate(block.leaves):
            limit = (float(leaf.reach.max()) + reach) ** 2 * (1.0 + 1e-9) + slack
            chosen = np.flatnonzero(squares[:, number] <= limit)
            for first in range(0, len(chosen), COLUMNS):
                rows = chosen[first : first + COLUMNS]
                pairs = _exponents(left[rows], block.right[leaf.rows], self._scratch)
                self._add(near[rows], *pairs, block.counts[leaf.rows])

    def _add(
        self,
        rows: Int[np.ndarray, " n"],
        exponents: Float[np.ndarray, "n n_columns"],
        largest: Float[np.ndarray, " n"],
        counts: Float[np.ndarray, " n_columns"],
    ) -> None:
        largest = np.maximum(self.largest[rows], largest)
        self.largest[rows] = largest
        shift = self._shift[rows]
        if shift.any():
            # A nearer row than those of the first look: what was summed is scaled to the new largest term.
            higher = (shift < 0) & (largest > shift)
            self._sums[rows] *= np.where(higher, np.exp(np.minimum(shift - largest, 0.0)), 1.0)
            shift = np.where(higher, largest, shift)
            self._shift[rows] = shift
            exponents -= shift[:, None]
        self._sums[rows] += np.exp(exponents, out=exponents) @ counts


def _exponents(
    left: Float[np.ndarray, "n n_factors"],
    right: Float[np.ndarray, "n_columns n_factors"],
    scratch: Float[np.ndarray, " n"] | None = None,
) -> tuple[Float[np.ndarray, "n n_columns"], Float[np.ndarray, " n"]]:
    """-|a - b|²/2, zero where it is zero but for rounding, and the largest of each row."""
    # The square of the longest of all rows, as they are seen from the centre.
    farthest = -2.0 * min(float(left[:, -2].min()), float(right[:, -1].min()))
    error = product_error(left.shape[1] - 2, math.sqrt(farthest))
    if error > _PRODUCT_ERROR:
        exponents = np.stack([-0.5 * squared_norms(right[:, :-2] - row) for row in left[:, :-2]])
        return exponents, exponents.max(axis=1)
    held = None if scratch is None else scratch[: len(left) * len(right)].reshape(len(left), -1)
    exponents = np.matmul(left, right.T, out=held)
    largest = exponents.max(axis=1)
    if largest.max() > -error:
        exponents[exponents > -error] = 0.0
        largest = np.where(largest > -error, 0.0, largest)
    return exponents, largest
