"""Rows of descriptors in compact blocks, so that sums over pairs leave out whole blocks that are far away."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from surefield.selection.distances import squared_norms

__all__ = [
    "Block",
    "BlockedRows",
    "Leaf",
    "MergedRows",
    "arrange",
    "leaf_squares",
    "leaves",
    "left_factor",
    "merge",
    "product_error",
    "right_factor",
    "squares_between",
]

#: Rows of a leaf: enough for a fast matrix product, few enough to be compact.
LEAF_ROWS: Final = 256
#: Rows of a block: its leaves share one copy of the rows around it.
BLOCK_ROWS: Final = 2048
#: Rows nearer to each other than this count as one row of their mean; in bandwidths.
MERGED: Final = 1e-7
#: Rows from which the longest direction of many is guessed.
_SAMPLE: Final = 512
#: Largest error of |a - b|²/2 by a matrix product of rows of a block and rows around it.
_PRODUCT_ERROR: Final = 1e-9


@dataclass(frozen=True)
class MergedRows:
    """Distinct rows, and how many there were of each.

    Attributes:
        rows: (n_distinct, n_features) means of rows that lie within `MERGED` of each other.
        counts: (n_distinct,) as floats, for products.
        places: (n_rows,) which distinct row each row has become.
    """

    rows: Float[np.ndarray, "n_distinct n_features"]
    counts: Float[np.ndarray, " n_distinct"]
    places: Int[np.ndarray, " n_rows"]


def merge(rows: Float[np.ndarray, "n_rows n_features"]) -> MergedRows:
    """Join rows that are copies but for rounding; rows are in units of the bandwidth.

    With the mean of the joined rows in place of each, errors of first order cancel in sums over them. What is
    left of a sum of exp(-u²/2) with u² < 80 is below (u² + 1) MERGED²/2 < 4.1e-13 of it.
    """
    # Rows of one cell of a grid differ by less than its diagonal.
    cells = np.rint(rows * (np.sqrt(rows.shape[1]) / MERGED)) + 0.0
    bits = np.ascontiguousarray(cells).view(np.int64)
    odd = np.random.Generator(np.random.Philox(key=0)).integers(-(2**61), 2**61, bits.shape[1]) * 2 + 1
    # The low bits of whole numbers as floats are zeros, which products would keep in the low bits.
    hashes = ((bits ^ (bits >> 29)) * odd).sum(axis=1)
    _, first, places = np.unique(hashes, return_index=True, return_inverse=True)
    if not np.array_equal(cells, cells[first[places]]):  # two cells of one hash
        _, first, places = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    places = places.ravel()
    counts = np.bincount(places).astype(np.float64)
    if len(first) == len(rows):
        return MergedRows(rows[first], counts, places)
    order = np.argsort(places, kind="stable")
    opens = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    # Sums of differences to the first, so that the mean of equal rows is that row.
    means = rows[first] + np.add.reduceat(rows[order] - rows[first[places[order]]], opens) / counts[:, None]
    return MergedRows(means, counts, places)


@dataclass(frozen=True)
class Block:
    """Some neighbouring leaves, first to last row and their limits.

    Attributes:
        start, stop: rows of the block.
        limits: (n_leaves + 1,) first row of each leaf, and the end of the last.
    """

    start: int
    stop: int
    limits: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class BlockedRows:
    """Rows in the order of their leaves.

    Attributes:
        rows: (n_rows, n_features) in units of the bandwidth.
        order: (n_rows,) place of each row in the array that was arranged.
        blocks: all blocks, in the order of their rows.
        centres: (n_blocks, n_features) mean of the rows of each block.
        radii: (n_blocks,) largest distance of a row to the centre of its block.
    """

    rows: Float[np.ndarray, "n_rows n_features"]
    order: Int[np.ndarray, " n_rows"]
    blocks: tuple[Block, ...]
    centres: Float[np.ndarray, "n_blocks n_features"]
    radii: Float[np.ndarray, " n_blocks"]


def product_error(n_features: int, reach: float) -> float:
    """Bound of the rounding error of |a - b|²/2 by a product of rows of norms up to `reach`."""
    return (n_features + 4) * np.finfo(np.float64).eps * 2.0 * reach**2


def arrange(rows: Float[np.ndarray, "n_rows n_features"]) -> BlockedRows:
    """Cut rows into leaves, each by the plane across its longest direction, until they are small.

    Also few rows are cut as long as they spread so far that products of rows would lose digits.

    Args:
        rows: (n_rows, n_features) in units of the bandwidth.
    """
    # The rest of the reach is left for what lies around the block.
    widest = 0.9 * np.sqrt(_PRODUCT_ERROR / product_error(rows.shape[1], 1.0))
    order = np.arange(len(rows))
    blocks: list[Block] = []
    pending = [(0, len(rows), False)]
    leaves: list[int] = []
    while pending:
        start, stop, inside = pending.pop()
        size = stop - start
        members = rows[order[start:stop]]
        shifted = members - members.mean(axis=0)
        norms = squared_norms(shifted)
        wide = size > 1 and norms.max(initial=0.0) > widest**2
        if not inside and size <= BLOCK_ROWS and not wide:
            if leaves:
                blocks.append(_block(leaves))
            leaves, inside = [start], True
        if size <= LEAF_ROWS and not wide:
            leaves.append(stop)
            continue
        middle = _multiple(size)
        order[start:stop] = order[start:stop][np.argpartition(_along(shifted, norms), middle)]
        # The last in is the first out: leaves come in the order of their rows.
        pending += [(start + middle, stop, inside), (start, start + middle, inside)]
    if leaves:
        blocks.append(_block(leaves))
    return _blocked(np.ascontiguousarray(rows[order]), order, tuple(blocks))


def _blocked(
    rows: Float[np.ndarray, "n_rows n_features"], order: Int[np.ndarray, " n_rows"], blocks: tuple[Block, ...]
) -> BlockedRows:
    centres, radii = np.empty((len(blocks), rows.shape[1])), np.empty(len(blocks))
    for number, block in enumerate(blocks):
        own = rows[block.start : block.stop]
        centres[number] = own.mean(axis=0)
        radii[number] = math.sqrt(float(squared_norms(own - centres[number]).max()))
    return BlockedRows(rows, order, blocks, centres, radii)


@dataclass(frozen=True, eq=False)
class Leaf:
    """A leaf, as seen from the centre of its block.

    Attributes:
        rows: which rows of the block.
        centre: (n_features,) mean of its rows.
        reach: (n,) distance of each row to the centre.
    """

    rows: slice
    centre: Float[np.ndarray, " n_features"]
    reach: Float[np.ndarray, " n"]


def leaves(block: Block, shifted: Float[np.ndarray, "n n_features"]) -> Iterator[Leaf]:
    """Leaves of a block whose rows, around its centre, are `shifted`."""
    for first, last in zip(block.limits[:-1], block.limits[1:], strict=True):
        rows = slice(first - block.start, last - block.start)
        centre = shifted[rows].mean(axis=0)
        yield Leaf(rows, centre, np.sqrt(squared_norms(shifted[rows] - centre)))


def leaf_squares(
    parts: Sequence[Leaf], right: Float[np.ndarray, "n n_factors"]
) -> Float[np.ndarray, "n n_leaves"]:
    """|b - c|² of rows around a block, as `right_factor` gives them, to the centres of its leaves."""
    centres = np.stack([leaf.centre for leaf in parts])
    return squared_norms(centres)[None, :] - 2.0 * (right[:, :-2] @ centres.T + right[:, -1:])


def right_factor(shifted: Float[np.ndarray, "n n_features"]) -> Float[np.ndarray, "n n_factors"]:
    """[b, 1, -|b|²/2] of rows b: the product of the `left_factor` of a with it is -|a - b|²/2."""
    ones = np.ones((len(shifted), 1))
    return np.concatenate([shifted, ones, -0.5 * squared_norms(shifted)[:, None]], axis=1)


def left_factor(right: Float[np.ndarray, "n n_factors"]) -> Float[np.ndarray, "n n_factors"]:
    """[a, -|a|²/2, 1] from what `right_factor` gives for the same rows."""
    return np.concatenate([right[:, :-2], right[:, -1:], right[:, -2:-1]], axis=1)


def squares_between(
    rows: Float[np.ndarray, "n n_features"], others: Float[np.ndarray, "m n_features"]
) -> tuple[Float[np.ndarray, "n m"], float]:
    """|a - b|² of all pairs by a matrix product, and a bound of its rounding error."""
    norms, other_norms = squared_norms(rows), squared_norms(others)
    longest = max(float(norms.max(initial=0.0)), float(other_norms.max(initial=0.0)))
    slack = 2.0 * product_error(rows.shape[1], math.sqrt(longest))
    squares = rows @ others.T
    squares *= -2.0
    squares += norms[:, None]
    squares += other_norms[None, :]
    return squares, slack


def _block(limits: list[int]) -> Block:
    return Block(limits[0], limits[-1], tuple(limits))


def _multiple(size: int) -> int:
    """About half of the rows, in whole leaves if there are more than two."""
    if size <= 2 * LEAF_ROWS:
        return size // 2
    return LEAF_ROWS * max(1, round(size / 2 / LEAF_ROWS))


def _along(
    shifted: Float[np.ndarray, "n n_features"], norms: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Coordinates along the longest direction, by a few steps of power iteration from the farthest row."""
    direction = shifted[np.argmax(norms)]
    some = shifted[:: max(1, len(shifted) // _SAMPLE)]
    for _ in range(3):
        direction = (some @ direction) @ some
        length = np.linalg.norm(direction)
        if not length > 0:
            break
        direction = direction / length
    return shifted @ direction
