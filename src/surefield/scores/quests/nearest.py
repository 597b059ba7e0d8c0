"""Nearest rows, exactly: only rows are looked at that can be among the nearest by the triangle inequality."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
from jaxtyping import Float, Int

from surefield.scores.quests.blocks import Block, BlockedRows, arrange, squares_between
from surefield.scores.quests.parts import in_parts
from surefield.selection.distances import k_nearest, squared_norms

__all__ = ["nearest_rows"]


def nearest_rows(
    queries: Float[np.ndarray, "n_queries n_features"],
    reference: Float[np.ndarray, "n_rows n_features"],
    k: int,
    *,
    without: Int[np.ndarray, " n_queries"] | None = None,
    executor: Executor | str | None = None,
    progress: bool | None = None,
) -> Float[np.ndarray, "n_queries k"]:
    """Squared distances to the k nearest rows, by differences, ascending.

    Args:
        queries: (n_queries, n_features).
        reference: (n_rows, n_features), at least k of them without the one that is left out.
        k: neighbours of each query.
        without: (n_queries,) the row that is left out for each query, such as itself.
        executor, progress: see `parts.in_parts`.
    """
    blocks = arrange(queries)
    skipped = None if without is None else without[blocks.order]
    part = functools.partial(_of_blocks, blocks, reference, k, skipped)
    result = np.empty((len(queries), k))
    n_pairs = len(queries) * len(reference)
    for done in in_parts(part, len(blocks.blocks), n_pairs, executor, progress):
        for rows, squares in done:
            result[blocks.order[rows]] = squares
    return result


def _of_blocks(
    blocks: BlockedRows,
    reference: Float[np.ndarray, "n_rows n_features"],
    k: int,
    skipped: Int[np.ndarray, " n_queries"] | None,
    numbers: Sequence[int],
) -> list[tuple[slice, Float[np.ndarray, "n k"]]]:
    looked_at = k + (skipped is not None)
    done = []
    for number in numbers:
        for rows in _leaves(blocks.blocks[number]):
            queries = blocks.rows[rows]
            centre = queries.mean(axis=0)
            squares, slack = squares_between(centre[None], reference)
            squares = squares[0]
            radius = math.sqrt(float(squared_norms(queries - centre).max()))
            kth = math.sqrt(max(float(np.partition(squares, looked_at - 1)[looked_at - 1]), 0.0) + slack)
            # k rows have |a - b| <= |a - c| + kth, and |c - b| <= |a - c| + |a - b|.
            near = np.flatnonzero(squares <= (2.0 * radius + kth) ** 2 * (1.0 + 1e-12) + slack)
            own = None if skipped is None else np.searchsorted(near, skipped[rows])
            done.append((rows, k_nearest(queries, reference[near], k, without=own)[0]))
    return done


def _leaves(block: Block) -> list[slice]:
    return [slice(a, b) for a, b in zip(block.limits[:-1], block.limits[1:], strict=True)]
