"""What a selection method is asked for, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, nearest
from surefield.selection import distances
from surefield.selection.features import Features, positive_int

__all__ = ["ClusterWeight", "Mode", "Picks", "Request", "as_picks", "checked_mode", "generator"]

Mode = Literal["p", "tp"]
ClusterWeight = Literal["sq-dist", "dist", "none"]


@dataclass(frozen=True, eq=False)
class Request:
    """What a method is asked for; everything in it has been checked.

    Attributes:
        features: train and pool rows.
        batch_size: picks wanted, at least 1.
        mode: `p`: only the pool matters; `tp`: the training rows count as picked already.
        seed: key of the random numbers.
        scores: (n_pool,) values that `max_diag` ranks by and by which other methods weight a candidate.
        weight: what the clusters of `lcmd` are compared by: summed d², summed d, or number of members.
        sigma: σ of the noise that `max_det` and `bait` assume on a label, in units of the features.
        overselect: picks that `bait_fb` makes before it removes some, as a multiple of `batch_size`.
    """

    features: Features
    batch_size: int
    mode: Mode = "tp"
    seed: int = 0
    scores: Float[np.ndarray, " n_pool"] | None = None
    weight: ClusterWeight = "sq-dist"
    sigma: float = 0.1
    overselect: float = 2.0

    def weights(self) -> Float[np.ndarray, " n_pool"]:
        """Factor of every candidate's value: score over mean score, 1 without scores."""
        return np.ones(self.features.n_pool) if self.scores is None else self.scores / self.scores.mean()


@dataclass(frozen=True, eq=False)
class Picks:
    """Result of a method.

    Attributes:
        indices: (n_picks,) pool indices in pick order, none twice.
        gains: (n_picks,) value of the rule for each pick, NaN for a rule without values.
        squared_distances: (n_picks,) d² to the nearest of train (mode `tp`) and earlier picks; ‖φ‖² where
            there is neither.
        stopped: why there are fewer picks than asked for, else None.
    """

    indices: Int[np.ndarray, " n_picks"]
    gains: Float[np.ndarray, " n_picks"]
    squared_distances: Float[np.ndarray, " n_picks"]
    stopped: str | None


def as_picks(
    request: Request,
    indices: Sequence[int] | Int[np.ndarray, " n_picks"],
    gains: ArrayLike,
    stopped: str = "",
) -> Picks:
    """Answer of a method that is not about distances: these are added, and the reason for an early end."""
    chosen = np.asarray(indices, dtype=np.int64)
    short = len(chosen) < request.batch_size
    reason = (stopped if len(chosen) < request.features.n_pool else "exhausted") if short else None
    values = np.asarray(gains, dtype=np.float64)
    return Picks(chosen, values, _distances_in_order(request, chosen), reason)


def _distances_in_order(
    request: Request, indices: Int[np.ndarray, " n_picks"]
) -> Float[np.ndarray, " n_picks"]:
    """d² of every pick to the nearest of train (mode `tp`) and the picks before it; ‖φ‖² without any."""
    features = request.features
    rows, norms = features.pool[indices], features.pool_norms[indices]
    count = features.n_train if request.mode == "tp" else 0
    result, _ = distances.nearest(rows, norms, features.train[:count], features.train_norms[:count])
    step = 256
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        before, _ = distances.nearest(rows[part], norms[part], rows[:start], norms[:start])
        result[part] = np.minimum(result[part], before)
        for i in range(start, min(start + step, len(rows))):
            later = slice(i + 1, start + step)
            new = distances.squared_distances(rows[later], norms[later], rows[i], float(norms[i]))
            result[later] = np.minimum(result[later], new)
    return np.where(np.isinf(result), norms, result)


def generator(seed: int) -> np.random.Generator:
    """Random numbers that depend on the seed alone."""
    key = positive_int(seed, "seed", smallest=0)
    if key >= 2**128:
        raise ConfigError("seed is too large", got=key, expected="less than 2**128")
    return np.random.Generator(np.random.Philox(key=key))


def checked_mode(mode: str) -> Mode:
    """Return `p` or `tp` (capitals are accepted), else raise `ConfigError`."""
    lower = str(mode).lower()
    if lower == "p":
        return "p"
    if lower == "tp":
        return "tp"
    raise ConfigError(f"unknown mode {mode!r}: {nearest(lower, ['p', 'tp'])}")
