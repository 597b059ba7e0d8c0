"""Selection methods on feature rows: each is a function of a `Request` and returns `Picks`.

To add a method, write such a function and give it a line in `METHODS`.
Source: Holzmüller, Zaverkin, Kästner, Steinwart, JMLR 24 (2023) 164, sections 4.2 and 4.3.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError, nearest
from surefield.selection import distances
from surefield.selection.bait import bait_f, bait_fb
from surefield.selection.batch import GrowingBatch
from surefield.selection.by_chunks import max_det_by_chunks, max_dist_by_chunks
from surefield.selection.centers import Centers
from surefield.selection.determinant import max_det
from surefield.selection.features import Features, positive_int
from surefield.selection.frank_wolfe import frank_wolfe
from surefield.selection.kernel import KernelMatrix
from surefield.selection.reason_words import ENDINGS
from surefield.selection.request import Mode, Picks, Request, checked_mode, generator

__all__ = [
    "METHODS",
    "Method",
    "check_method",
    "kmeanspp_probabilities",
    "max_dist_selection",
    "nearest_method",
    "warn_if_short",
]

#: Names of other packages that are no misspelt names of those here.
_ELSEWHERE: Final = MappingProxyType({"bait": "bait_f", "fw": "frank_wolfe", "acs-fw": "frank_wolfe"})

Values = Float[np.ndarray, " n_pool"]
Mask = Bool[np.ndarray, " n_pool"]

#: Chooses among candidates by the values of all rows and the centers so far.
Choice = Callable[[Float[np.ndarray, " n_pool"], Bool[np.ndarray, " n_pool"], Centers, GrowingBatch], int]


def max_dist(request: Request) -> Picks:
    """Largest distance to the nearest of train and picks (MaxDist; farthest-point, k-center)."""

    def choose(values: Values, candidates: Mask, centers: Centers, batch: GrowingBatch) -> int:
        # Distance over cost has the order of its square.
        return _largest(batch.per_cost(batch.per_cost(values)), candidates)

    return _far_from_centers(request, choose)


def lcmd(request: Request) -> Picks:
    """Farthest member of the cluster with the largest summed squared distance (LCMD)."""

    def choose(values: Values, candidates: Mask, centers: Centers, batch: GrowingBatch) -> int:
        worth = batch.per_cost(values)
        if not centers.count:
            return _largest(worth, candidates)
        sizes = {"sq-dist": centers.distances, "dist": np.sqrt(centers.distances), "none": None}[
            request.weight
        ]
        totals = np.bincount(centers.nearest, weights=sizes, minlength=centers.count)
        # A cluster without candidates, such as one of copies of its center, is passed over.
        rows = np.flatnonzero(candidates)
        totals = totals[centers.nearest[rows]]
        rows = rows[totals == totals.max()]
        return int(rows[np.argmax(worth[rows])])

    return _far_from_centers(request, choose)


def kmeanspp(request: Request) -> Picks:
    """Random with probability proportional to d² (k-means++); one uniform number per pick."""
    rng = generator(request.seed)

    def draw(values: Values, candidates: Mask, centers: Centers, batch: GrowingBatch) -> int:
        chances = values if centers.count else request.weights()
        chances = np.where(candidates, batch.per_cost(chances), 0.0)
        total = np.cumsum(chances)
        place = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        # The product may be rounded up to the total itself.
        return min(place, int(np.flatnonzero(chances)[-1]))

    return _far_from_centers(request, draw)


def random(request: Request) -> Picks:
    """First entries of a permutation drawn from the seed: the baseline of every comparison.

    What the constraints forbid is skipped.
    """
    order = generator(request.seed).permutation(request.features.n_pool)
    return _in_order(request, order, np.full(len(order), np.nan))


def max_diag(request: Request) -> Picks:
    """Largest scores, or largest K_ii = ‖φ‖² without scores, in descending order.

    Raises:
        DataError: negative scores with labels of different cost.
    """
    values = request.features.pool_norms if request.scores is None else request.scores
    worth = GrowingBatch(request).per_cost(values)
    if worth is not values and values.min() < 0:
        raise DataError("scores per cost need scores that are not negative", got=values.min())
    return _in_order(request, np.argsort(-worth, kind="stable"), values)


def _in_order(request: Request, order: Int[np.ndarray, " n_pool"], values: Values) -> Picks:
    """Picks in a given order, without those that the constraints forbid."""
    batch = GrowingBatch(request)
    if request.limits is None:
        for index in order[: batch.size].tolist():
            batch.add(index, float(values[index]))
    while not batch.full:
        candidates = batch.candidates()
        if candidates is None:
            break
        index = int(order[np.argmax(candidates[order])])
        batch.add(index, values[index])
    return batch.picks()


def _largest(values: Values, candidates: Mask) -> int:
    return int(np.argmax(np.where(candidates, values, -np.inf)))


def _far_from_centers(request: Request, choose: Choice) -> Picks:
    """Pick one candidate after the other by d² to the centers, until all that are left have the value 0.

    Without centers (mode `p`) ‖φ‖² stands for d² at the first pick.
    """
    features, weights = request.features, request.weights()
    centers, batch = Centers(features, train=request.mode == "tp"), GrowingBatch(request)
    near: list[float] = []
    while not batch.full:
        squares = centers.distances if centers.count else features.pool_norms
        values = squares * weights
        candidates = batch.candidates(values > 0 if centers.count else weights > 0)
        if candidates is None:
            break
        index = choose(values, candidates, centers, batch)
        near.append(float(squares[index]))
        batch.add(index, values[index])
        centers.add(index)
    allowed = batch.limits.allowed
    return batch.picks("zero_scores" if centers.distances[allowed].any() else "duplicates", near)


def max_dist_selection(
    matrix: KernelMatrix, batch_size: int | None = None, *, mode: str = "tp", compat: str | None = None
) -> tuple[Int[np.ndarray, " n_picks"], Float[np.ndarray, " n_picks"]]:
    """Select pool rows of a kernel matrix by largest distance.

    Args:
        matrix: stacked features; it is not changed.
        batch_size: picks wanted; None = the whole pool (with `compat`, 0 also).
        mode: `tp`: far from train and from earlier picks; `p`: from earlier picks only, first the largest
            norm. `tp` without train rows is `p`.
        compat: None, or `apax` for the rule of apax 0.14: train rows enter no distance, d starts as ‖φ‖²,
            `mode` has no effect, and copies may be picked.

    Returns:
        Pool indices in pick order and the squared distance at which each was picked. Fewer than `batch_size`,
        with one warning, if the pool is too small or only copies of train and picks are left.

    Raises:
        ConfigError: `batch_size`, `mode` or `compat` out of range.
    """
    n_train = matrix.n_train
    features = Features(matrix.g[:n_train], matrix.g[n_train:])
    if compat is not None:
        if compat != "apax":
            raise ConfigError(f"unknown compat {compat!r}: {nearest(compat, ['apax'])}")
        asked = 0 if batch_size is None else batch_size
        size = positive_int(asked, "batch_size", smallest=0) or features.n_pool
        picks = _max_dist_apax(features, size)
    else:
        size = features.n_pool if batch_size is None else positive_int(batch_size, "batch_size")
        chosen = checked_mode(mode)
        picks = max_dist(Request(features, size, mode=chosen if n_train else "p"))
    warn_if_short(picks, size)
    return picks.indices, picks.squared_distances


def _max_dist_apax(features: Features, batch_size: int) -> Picks:
    pool, norms = features.pool, features.pool_norms
    far = norms.copy()
    indices: list[int] = []
    gains: list[float] = []
    while len(indices) < min(batch_size, features.n_pool):
        if indices:
            last = indices[-1]
            far = np.minimum(far, distances.squared_distances(pool, norms, pool[last], float(norms[last])))
            far[indices] = -np.inf
        index = int(np.argmax(far))
        gains.append(float(far[index]))
        indices.append(index)
    stopped = "exhausted" if len(indices) < batch_size else None
    return Picks(np.array(indices, dtype=np.int64), np.array(gains), np.array(gains), stopped)


def kmeanspp_probabilities(
    pool: ArrayLike, train: ArrayLike | None = None, picked: ArrayLike = ()
) -> Float[np.ndarray, " n_pool"]:
    """Probability of every pool row to be the next pick of `kmeanspp`.

    Args:
        pool: (n_pool, n_features).
        train: (n_train, n_features), or None.
        picked: pool indices of the picks so far.

    Raises:
        DataError: unusable features, an index outside the pool, or nothing but copies of train and picks is
            left.
    """
    features = Features(train, pool)
    centers = Centers(features, train=True)
    for index in np.asarray(picked, dtype=np.int64).ravel():
        if not 0 <= index < features.n_pool:
            raise DataError(
                "picked index outside the pool", got=index, expected=f"0 to {features.n_pool - 1}"
            )
        centers.add(int(index))
    if not centers.count:
        return np.full(features.n_pool, 1.0 / features.n_pool)
    total = centers.distances.sum()
    if total == 0:
        raise DataError("all rows of the pool are copies of train or picked rows: there is no next pick")
    return centers.distances / total


def warn_if_short(picks: Picks, batch_size: int) -> None:
    """Give one warning if a method stopped early."""
    if picks.stopped is None:
        return
    found = f"{len(picks.indices)} of {batch_size} picks ({picks.stopped}): {ENDINGS[picks.stopped]}"
    warnings.warn(f"selection stopped with {found}", UserWarning, stacklevel=3)


@dataclass(frozen=True)
class Method:
    """A selection method as `select_rows` knows it.

    Attributes:
        run: the method itself.
        default_mode: mode when none is given.
        weighted: whether scores multiply the value of its rule (and must not be negative).
        uses_features: whether picks depend on the features if no scores are given.
        noise: whether it assumes noise on the labels: `none`, `any` (0 also) or `positive`.
        by_chunks: the method for pools that are read chunk by chunk, where it is another: lazy, while `run`
            passes over the whole pool at every pick.
    """

    run: Callable[[Request], Picks]
    default_mode: Mode
    weighted: bool = True
    uses_features: bool = True
    noise: Literal["none", "any", "positive"] = "none"
    by_chunks: Callable[[Request], Picks] | None = None


METHODS: Final = MappingProxyType(
    {
        "max_dist": Method(max_dist, "tp", by_chunks=max_dist_by_chunks),
        "lcmd": Method(lcmd, "tp"),
        "kmeanspp": Method(kmeanspp, "tp"),
        "max_det": Method(max_det, "tp", noise="any", by_chunks=max_det_by_chunks),
        "bait_f": Method(bait_f, "tp", noise="positive"),
        "bait_fb": Method(bait_fb, "tp", noise="positive"),
        "frank_wolfe": Method(frank_wolfe, "p"),
        "max_diag": Method(max_diag, "p", weighted=False),
        "random": Method(random, "tp", weighted=False, uses_features=False),
    }
)


def check_method(method: object) -> None:
    """Raise `ConfigError` unless it is the name of a method."""
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(f"unknown selection method {method!r}: {nearest_method(method)}")


def nearest_method(method: object) -> str:
    """What to say of a name that no method has."""
    elsewhere = _ELSEWHERE.get(str(method).lower())
    return nearest(str(method), METHODS) if elsewhere is None else f"did you mean {elsewhere!r}?"
