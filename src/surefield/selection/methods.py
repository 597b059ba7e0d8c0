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
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError, nearest
from surefield.selection import distances
from surefield.selection.bait import bait_f, bait_fb
from surefield.selection.determinant import max_det
from surefield.selection.features import Features, positive_int
from surefield.selection.frank_wolfe import frank_wolfe
from surefield.selection.kernel import KernelMatrix
from surefield.selection.request import Mode, Picks, Request, as_picks, checked_mode, generator

__all__ = ["METHODS", "Method", "kmeanspp_probabilities", "max_dist_selection", "warn_if_short"]


class _Centers:
    """Squared distance of every pool row to the nearest center, and which center that is."""

    def __init__(self, features: Features, mode: Mode) -> None:
        self.features = features
        self.count = features.n_train if mode == "tp" else 0
        train, norms = features.train[: self.count], features.train_norms[: self.count]
        self.distances, self.nearest = distances.nearest(features.pool, features.pool_norms, train, norms)

    def add(self, index: int) -> None:
        """Make a pool row the next center; a row that is equally near to an older center stays there."""
        features = self.features
        point, norm = features.pool[index], float(features.pool_norms[index])
        new = distances.squared_distances(
            features.pool, features.pool_norms, point, norm, ceiling=self.distances
        )
        closer = new < self.distances
        self.distances[closer] = new[closer]
        self.nearest[closer] = self.count
        self.count += 1


#: Chooses a candidate from the values of all of them (0: not a candidate) and the centers so far.
Choice = Callable[[Float[np.ndarray, " n_pool"], _Centers], int]


def max_dist(request: Request) -> Picks:
    """Largest distance to the nearest of train and picks (MaxDist; farthest-point, k-center)."""
    return _far_from_centers(request, lambda values, centers: int(np.argmax(values)))


def lcmd(request: Request) -> Picks:
    """Farthest member of the cluster with the largest summed squared distance (LCMD)."""

    def choose(values: Float[np.ndarray, " n_pool"], centers: _Centers) -> int:
        sizes = {"sq-dist": centers.distances, "dist": np.sqrt(centers.distances), "none": None}[
            request.weight
        ]
        totals = np.bincount(centers.nearest, weights=sizes, minlength=centers.count)
        # A cluster of copies of its center has nobody to offer, however large it is.
        candidates = np.flatnonzero(values > 0)
        totals = totals[centers.nearest[candidates]]
        candidates = candidates[totals == totals.max()]
        return int(candidates[np.argmax(values[candidates])])

    return _far_from_centers(request, choose)


def kmeanspp(request: Request) -> Picks:
    """Random with probability proportional to d² (k-means++); one uniform number per pick."""
    rng = generator(request.seed)

    def draw(values: Float[np.ndarray, " n_pool"]) -> int:
        total = np.cumsum(values)
        place = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        # The product may be rounded up to the total itself.
        return min(place, int(np.flatnonzero(values)[-1]))

    return _far_from_centers(request, lambda values, centers: draw(values), lambda: draw(request.weights()))


def random(request: Request) -> Picks:
    """First entries of a permutation drawn from the seed: the baseline of every comparison."""
    indices = generator(request.seed).permutation(request.features.n_pool)[: request.batch_size]
    return as_picks(request, indices, np.full(len(indices), np.nan))


def max_diag(request: Request) -> Picks:
    """Largest scores, or largest K_ii = ‖φ‖² without scores, in descending order."""
    values = request.features.pool_norms if request.scores is None else request.scores
    indices = np.argsort(-values, kind="stable")[: request.batch_size]
    return as_picks(request, indices, values[indices])


def _far_from_centers(request: Request, choose: Choice, first: Callable[[], int] | None = None) -> Picks:
    """Pick one candidate after the other by d² to the centers, until all that are left have the value 0.

    Without centers (mode `p`) the first pick has the largest norm, unless `first` says otherwise.
    """
    features, weights = request.features, request.weights()
    centers = _Centers(features, request.mode)
    indices: list[int] = []
    gains: list[float] = []
    distances: list[float] = []
    stopped = None
    while len(indices) < request.batch_size:
        if centers.count:
            values = centers.distances * weights
            if not values.any():
                stopped = _why_none_left(features.n_pool - len(indices), centers)
                break
            index, distance = choose(values, centers), centers.distances
        else:
            values = features.pool_norms * weights
            largest = int(np.argmax(np.where(weights > 0, values, -1.0)))
            index, distance = first() if first else largest, features.pool_norms
        indices.append(index)
        gains.append(float(values[index]))
        distances.append(float(distance[index]))
        centers.add(index)
    return Picks(np.array(indices, dtype=np.int64), np.array(gains), np.array(distances), stopped)


def _why_none_left(left: int, centers: _Centers) -> str:
    if not left:
        return "exhausted"
    return "zero_scores" if centers.distances.any() else "duplicates"


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
    centers = _Centers(features, "tp")
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
    reason = {
        "exhausted": "the pool has no more structures",
        "duplicates": "all that are left are copies of train or picked structures",
        "zero_scores": "all that are left have the score 0 or are copies",
        "rank_exhausted": "the features of all that are left are combinations of those of train and picks",
        "zero_features": "the features of all that are left are 0",
    }[picks.stopped]
    warnings.warn(
        f"selection stopped with {len(picks.indices)} of {batch_size} picks ({picks.stopped}): {reason}",
        UserWarning,
        stacklevel=3,
    )


@dataclass(frozen=True)
class Method:
    """A selection method as `select_rows` knows it.

    Attributes:
        run: the method itself.
        default_mode: mode when none is given.
        weighted: whether scores multiply the value of its rule (and must not be negative).
        uses_features: whether picks depend on the features if no scores are given.
        noise: whether it assumes noise on the labels: `none`, `any` (0 also) or `positive`.
    """

    run: Callable[[Request], Picks]
    default_mode: Mode
    weighted: bool = True
    uses_features: bool = True
    noise: Literal["none", "any", "positive"] = "none"


METHODS: Final = MappingProxyType(
    {
        "max_dist": Method(max_dist, "tp"),
        "lcmd": Method(lcmd, "tp"),
        "kmeanspp": Method(kmeanspp, "tp"),
        "max_det": Method(max_det, "tp", noise="any"),
        "bait_f": Method(bait_f, "tp", noise="positive"),
        "bait_fb": Method(bait_fb, "tp", noise="positive"),
        "frank_wolfe": Method(frank_wolfe, "p"),
        "max_diag": Method(max_diag, "p", weighted=False),
        "random": Method(random, "tp", weighted=False, uses_features=False),
    }
)
