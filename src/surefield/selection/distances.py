"""Squared feature distances whose value depends on the two rows alone.

Products of one row with many use `einsum`, not BLAS: BLAS rounds a row differently according to where it
stands in its block and to the number of threads, and then equal rows are no ties and picks depend on the
machine.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["k_nearest", "nearest", "squared_distances", "squared_norms"]

#: Below this fraction of K_ii + K_jj the Gram form has lost six digits; differences are taken instead.
CANCELLATION = 1e-6
#: Rows per side of a block of the Gram matrix: 2048 x 2048 float64 is 32 MiB.
BLOCK_ROWS = 2048
#: Entries of a block of row differences, 32 MiB in float64.
DIFFERENCE_ENTRIES = 2**22


def squared_norms(rows: Float[np.ndarray, "m n_features"]) -> Float[np.ndarray, " m"]:
    """K_ii = ‖φ_i‖² of every row; not finite if the row holds NaN or inf or is too large to square."""
    with np.errstate(all="ignore"):
        return np.einsum("ij,ij->i", rows, rows)


def squared_distances(
    rows: Float[np.ndarray, "m n_features"],
    norms: Float[np.ndarray, " m"],
    point: Float[np.ndarray, " n_features"],
    point_norm: float,
    *,
    ceiling: Float[np.ndarray, " m"] | None = None,
) -> Float[np.ndarray, " m"]:
    """d² = K_ii + K_jj − 2 K_ij of every row to one point, at least 0, and exactly 0 for copies of the point.

    Where d² < 1e-6 (K_ii + K_jj) it is computed again as Σ(φ_i − φ_j)².

    Args:
        rows: (m, n_features) float64.
        norms: (m,) squared norms of the rows.
        point: (n_features,) the point.
        point_norm: its squared norm.
        ceiling: (m,) values that cannot be below this are not computed again (the caller keeps the smaller of
            the two, so they do not matter).
    """
    scale = norms + point_norm
    distances = scale - 2.0 * np.einsum("ij,j->i", rows, point)
    close = distances < CANCELLATION * scale
    if ceiling is not None:
        close &= distances - _rounding(scale, rows.shape[1]) < ceiling
    near = np.flatnonzero(close)
    distances[near] = _exact(rows, near, point[None, :], np.zeros_like(near))
    return np.maximum(distances, 0.0, out=distances)


def nearest(
    rows: Float[np.ndarray, "m n_features"],
    norms: Float[np.ndarray, " m"],
    others: Float[np.ndarray, "k n_features"],
    other_norms: Float[np.ndarray, " k"],
) -> tuple[Float[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """d² of every row to the nearest of many others, and which one that is (the first of equals).

    One matrix product per block finds the candidates; only these (one per row as a rule) are computed as
    Σ(φ_i − φ_j)². Without others the distances are inf.

    Args:
        rows: (m, n_features) float64.
        norms: (m,) squared norms of the rows.
        others: (k, n_features) float64.
        other_norms: (k,) squared norms of the others.
    """
    best = np.full(len(rows), np.inf)
    which = np.zeros(len(rows), dtype=np.int64)
    for first in range(0, len(rows), BLOCK_ROWS):
        part = slice(first, first + BLOCK_ROWS)
        for start in range(0, len(others), BLOCK_ROWS):
            stop = start + BLOCK_ROWS
            _lower(
                best[part],
                which[part],
                rows[part],
                norms[part],
                others[start:stop],
                other_norms[start:stop],
                start,
            )
    return best, which


def k_nearest(
    rows: Float[np.ndarray, "m n_features"],
    others: Float[np.ndarray, "n n_features"],
    k: int,
    *,
    without: Int[np.ndarray, " m"] | None = None,
) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
    """d² of every row to the k nearest of many others, ascending, and which ones; of equals the lower index.

    As in `nearest`, products find the candidates and differences decide among them, so the result is exact.

    Args:
        rows: (m, n_features) float64.
        others: (n, n_features) float64, at least k of them (without the one that is left out).
        k: neighbours of each row.
        without: (m,) index of the one among the others that is left out for each row, such as the row itself.
    """
    distances, which = np.empty((len(rows), k)), np.empty((len(rows), k), np.int64)
    other_norms = squared_norms(others)
    step = max(1, DIFFERENCE_ENTRIES // max(len(others), 1))
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        scale = squared_norms(part)
        gram = part @ others.T
        gram *= -2.0
        gram += scale[:, None]
        gram += other_norms[None, :]
        if without is not None:
            gram[np.arange(len(part)), without[first : first + step]] = np.inf
        slack = _rounding(scale + other_norms.max(initial=0.0), rows.shape[1])
        kth = gram.min(axis=1) if k == 1 else np.partition(gram, k - 1, axis=1)[:, k - 1]
        row, other = np.nonzero(gram <= (kth + 2 * slack)[:, None])
        exact = _exact(part, row, others, other)
        order = np.lexsort((other, exact, row))
        opens = np.searchsorted(row[order], np.arange(len(part)))
        chosen = order[opens[:, None] + np.arange(k)]
        distances[first : first + step], which[first : first + step] = exact[chosen], other[chosen]
    return distances, which


def _lower(
    best: Float[np.ndarray, " m"],
    which: Int[np.ndarray, " m"],
    rows: Float[np.ndarray, "m n_features"],
    norms: Float[np.ndarray, " m"],
    others: Float[np.ndarray, "k n_features"],
    other_norms: Float[np.ndarray, " k"],
    offset: int,
) -> None:
    """Lower `best` and `which` in place by one block of others, the first of which has the index `offset`."""
    gram = rows @ others.T
    gram *= -2.0
    gram += norms[:, None]
    gram += other_norms[None, :]
    slack = _rounding(norms + other_norms.max(), rows.shape[1])
    reach = np.minimum(gram.min(axis=1) + slack, best) + slack
    row, other = np.nonzero(gram <= reach[:, None])
    if not len(row):
        return
    if len(row) > 2 * len(rows):
        # Copies among the others: the first stands for all of them.
        _, first, group = np.unique(others, axis=0, return_index=True, return_inverse=True)
        distinct = first[group.ravel()[other]] == other
        row, other = row[distinct], other[distinct]
    exact = _exact(rows, row, others, other)
    opens = np.concatenate([[True], row[1:] != row[:-1]])
    group = np.cumsum(opens) - 1
    smallest = np.minimum.reduceat(exact, np.flatnonzero(opens))
    hits = np.flatnonzero(exact == smallest[group])
    winner = hits[np.unique(group[hits], return_index=True)[1]]
    better: Bool[np.ndarray, " groups"] = exact[winner] < best[row[winner]]
    winner = winner[better]
    best[row[winner]] = exact[winner]
    which[row[winner]] = other[winner] + offset


def _exact(
    rows: Float[np.ndarray, "m n_features"],
    row: Int[np.ndarray, " pairs"],
    others: Float[np.ndarray, "k n_features"],
    other: Int[np.ndarray, " pairs"],
) -> Float[np.ndarray, " pairs"]:
    """Σ(φ_i − φ_j)² of index pairs, in blocks of bounded memory."""
    result = np.empty(len(row))
    step = max(1, DIFFERENCE_ENTRIES // rows.shape[1])
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        difference = rows[row[part]]
        difference -= others[other[part]]
        result[part] = squared_norms(difference)
    return result


def _rounding(scale: Float[np.ndarray, " m"], n_features: int) -> Float[np.ndarray, " m"]:
    """Bound of the rounding error of K_ii + K_jj − 2 K_ij where K_ii + K_jj = scale."""
    return 4.0 * (n_features + 4) * np.finfo(np.float64).eps * scale
