"""Sums of Gaussian kernels over all pairs of a set, exactly; pairs too far apart to count are left out.

A term may be left out only where it is below exp(-t) of the largest of its sum, t = max(40, ln(N/1e-12))
for N terms, so that all of these together are below 1e-12 of the sum. That a pair is so far apart follows
from the triangle inequality |a - b| >= |c - b| - |c - a|, with c the centre of the leaf that a lies in.
Distances are |a|²/2 + |b|²/2 - a·b around the centre of the block; blocks are so small that their rounding
error is below 1e-9. All rows are in units of the bandwidth: K(a, b) = exp(-|a - b|²/2).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from surefield.scores.quests.blocks import (
    LEAF_ROWS,
    Block,
    BlockedRows,
    Leaf,
    MergedRows,
    arrange,
    leaf_squares,
    leaves,
    left_factor,
    right_factor,
    squares_between,
)
from surefield.scores.quests.nearest import nearest_rows
from surefield.scores.quests.parts import COLUMNS, in_parts, threshold

__all__ = ["SelfSums", "self_sums"]

#: Blocks whose distances to all others are held at once.
_BLOCKS: Final = 128


@dataclass(frozen=True, eq=False)
class SelfSums:
    """S_i = Σ_j K(x_i, x_j) over all rows, for each distinct one.

    Attributes:
        sums: (n_distinct,) at least 1.
        nearest: (n_distinct,) distance to the nearest other row, 0 for copies; None if it was not asked for.
    """

    sums: Float[np.ndarray, " n_distinct"]
    nearest: Float[np.ndarray, " n_distinct"] | None


def self_sums(
    merged: MergedRows,
    *,
    batch_size: int,
    executor: Executor | str | None = None,
    progress: bool | None = None,
    nearest: bool = False,
) -> SelfSums:
    """Sums over all rows of a set, for each of its distinct rows; every pair is computed once.

    Args:
        merged: distinct rows and their counts.
        batch_size: the most rows around a block that are held at once.
        executor, progress: see `parts.in_parts`.
        nearest: whether the nearest other rows are wanted as well.
    """
    blocks = arrange(merged.rows)
    counts = merged.counts[blocks.order]
    n_rows = len(counts)
    t = threshold(float(counts.sum()))
    part = functools.partial(_of_blocks, blocks, counts, math.sqrt(2.0 * t), batch_size, nearest)
    total = _Sums.zeros(counts, nearest)
    for added in in_parts(part, len(blocks.blocks), n_rows**2, executor, progress):
        np.add(total.sums, added.sums, out=total.sums)
        if total.largest is not None and added.largest is not None:
            np.maximum(total.largest, added.largest, out=total.largest)
    if total.largest is None:
        return SelfSums(_restored(total.sums, blocks.order), None)
    distances = np.sqrt(np.maximum(-2.0 * total.largest, 0.0))
    distances[counts > 1] = 0.0
    alone = np.flatnonzero(np.isinf(distances))
    if len(alone) and n_rows > 1:
        squares = nearest_rows(blocks.rows[alone], blocks.rows, 1, without=alone, executor=executor)
        distances[alone] = np.sqrt(squares[:, 0])
    return SelfSums(_restored(total.sums, blocks.order), _restored(distances, blocks.order))


def _restored(values: Float[np.ndarray, " n"], order: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    result = np.empty_like(values)
    result[order] = values
    return result


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums of all rows while pairs come in, and the largest exponent of each with another row."""

    counts: Float[np.ndarray, " n_rows"]
    sums: Float[np.ndarray, " n_rows"]
    largest: Float[np.ndarray, " n_rows"] | None

    @classmethod
    def zeros(cls, counts: Float[np.ndarray, " n_rows"], nearest: bool) -> _Sums:
        return cls(counts, np.zeros(len(counts)), np.full(len(counts), -np.inf) if nearest else None)

    def add_leaf(self, here: slice, exponents: Float[np.ndarray, "n n"]) -> None:
        """All pairs of one leaf."""
        if self.largest is not None:
            np.fill_diagonal(exponents, -np.inf)
            self.largest[here] = np.maximum(self.largest[here], exponents.max(axis=1))
        np.fill_diagonal(exponents, 0.0)  # exactly
        np.exp(exponents, out=exponents)
        self.sums[here] += exponents @ self.counts[here]

    def add_pairs(
        self, here: slice, there: Int[np.ndarray, " n_columns"], exponents: Float[np.ndarray, "n n_columns"]
    ) -> None:
        """Pairs of a leaf with later rows, for both."""
        if self.largest is not None:
            self.largest[here] = np.maximum(self.largest[here], exponents.max(axis=1))
            self.largest[there] = np.maximum(self.largest[there], exponents.max(axis=0))
        np.exp(exponents, out=exponents)
        self.sums[here] += exponents @ self.counts[there]
        self.sums[there] += self.counts[here] @ exponents


def _of_blocks(
    blocks: BlockedRows,
    counts: Float[np.ndarray, " n_rows"],
    reach: float,
    batch_size: int,
    nearest: bool,
    numbers: Sequence[int],
) -> _Sums:
    """What the pairs add whose first row is in some of the blocks and whose second row comes later."""
    total = _Sums.zeros(counts, nearest)
    scratch = np.empty(LEAF_ROWS * COLUMNS)  # fresh memory costs as much as the sums
    for number, later in _later_blocks(blocks, numbers, reach):
        block, centre = blocks.blocks[number], blocks.centres[number]
        shifted = blocks.rows[block.start : block.stop] - centre
        right = right_factor(shifted)
        left, parts = left_factor(right), list(leaves(block, shifted))
        for leaf in parts:
            total.add_leaf(_rows(block, leaf), left[leaf.rows] @ right[leaf.rows].T)
        farthest = float(blocks.radii[number]) + reach
        batches = itertools.chain(
            [np.arange(block.start, block.stop)], _near(blocks, later, centre, farthest, batch_size)
        )
        for places in batches:
            around = right_factor(blocks.rows[places] - centre)
            squares = leaf_squares(parts, around)
            for index, leaf in enumerate(parts):
                here = _rows(block, leaf)
                limit = (float(leaf.reach.max()) + reach) ** 2 + 1e-6
                # Earlier rows have had their turn.
                chosen = np.flatnonzero((squares[:, index] <= limit) & (places >= here.stop))
                for first in range(0, len(chosen), COLUMNS):
                    columns = chosen[first : first + COLUMNS]
                    held = scratch[: (here.stop - here.start) * len(columns)].reshape(-1, len(columns))
                    exponents = np.matmul(left[leaf.rows], around[columns].T, out=held)
                    total.add_pairs(here, places[columns], exponents)
    return total


def _rows(block: Block, leaf: Leaf) -> slice:
    return slice(leaf.rows.start + block.start, leaf.rows.stop + block.start)


def _later_blocks(
    blocks: BlockedRows, numbers: Sequence[int], reach: float
) -> Iterator[tuple[int, Int[np.ndarray, " n"]]]:
    """Number of each block, and those of later blocks with rows that may be within `reach` of its rows."""
    for first in range(0, len(numbers), _BLOCKS):
        some = np.array(numbers[first : first + _BLOCKS])
        squares, slack = squares_between(blocks.centres[some], blocks.centres)
        near = squares <= (blocks.radii[some][:, None] + blocks.radii[None, :] + reach) ** 2 + slack
        for number, row in zip(some, near, strict=True):
            yield int(number), np.flatnonzero(row[number + 1 :]) + number + 1


def _near(
    blocks: BlockedRows,
    numbers: Int[np.ndarray, " n_blocks"],
    centre: Float[np.ndarray, " n_features"],
    reach: float,
    batch_size: int,
) -> Iterator[Int[np.ndarray, " n"]]:
    """Rows of some blocks within `reach` of a point, batch by batch."""
    spans = [np.arange(blocks.blocks[i].start, blocks.blocks[i].stop) for i in numbers]
    places = np.concatenate(spans) if spans else np.empty(0, np.int64)
    for first in range(0, len(places), batch_size):
        part = places[first : first + batch_size]
        squares, slack = squares_between(centre[None], blocks.rows[part])
        near = part[squares[0] <= reach**2 + slack]
        if len(near):
            yield near
