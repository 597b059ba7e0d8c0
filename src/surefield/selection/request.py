"""What a selection method is asked for, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from surefield.errors import ConfigError, nearest
from surefield.selection.constraints import PoolLimits
from surefield.selection.features import Features, positive_int

__all__ = ["ClusterWeight", "Mode", "Picks", "Request", "checked_mode", "generator"]

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
        limits: what the batch must keep to, if anything.
    """

    features: Features
    batch_size: int
    mode: Mode = "tp"
    seed: int = 0
    scores: Float[np.ndarray, " n_pool"] | None = None
    weight: ClusterWeight = "sq-dist"
    sigma: float = 0.1
    overselect: float = 2.0
    limits: PoolLimits | None = None

    def weights(self) -> Float[np.ndarray, " n_pool"]:
        """Factor of every candidate's value: score over mean score, 1 without scores."""
        if self.scores is None or not self.scores.any():
            return np.full(self.features.n_pool, float(self.scores is None))
        return self.scores / self.scores.mean()


@dataclass(frozen=True, eq=False)
class Picks:
    """Result of a method.

    Attributes:
        indices: (n_picks,) pool indices in pick order, none twice.
        gains: (n_picks,) value of the rule for each pick, NaN for a rule without values.
        squared_distances: (n_picks,) d² to the nearest of train (mode `tp`) and earlier picks; ‖φ‖² where
            there is neither.
        stopped: why there are fewer picks than asked for, else None.
        notes: what a reader should know.
    """

    indices: Int[np.ndarray, " n_picks"]
    gains: Float[np.ndarray, " n_picks"]
    squared_distances: Float[np.ndarray, " n_picks"]
    stopped: str | None
    notes: tuple[str, ...] = ()


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
