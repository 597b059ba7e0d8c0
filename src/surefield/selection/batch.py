"""A batch while it is picked: who may be next under the constraints, and what was picked so far."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from surefield.errors import DataError
from surefield.selection import distances
from surefield.selection.centers import Centers
from surefield.selection.constraints import PoolLimits, shares
from surefield.selection.request import Picks, Request

__all__ = ["GrowingBatch"]

_Mask = Bool[np.ndarray, " n_pool"]
_ORDER: Final = ("quota", "min_distance", "budget")


class GrowingBatch:
    """Picks of one run of a method, and the masks that follow from them.

    Args:
        request: what is asked for, with its limits.
        size: picks wanted if not those of the request.
        scale: quotas and budget are multiplied by this, for methods that give picks back.
        measure: whether least distances are seen to here; a method that knows distances may do it.

    Attributes:
        indices: pool indices in pick order.
        gains: value of the rule for each.
        passed_on: how often places of groups without candidates went to others.
        stopped: which constraint left no candidate; empty if none did.
    """

    def __init__(
        self, request: Request, size: int | None = None, scale: float = 1.0, measure: bool = True
    ) -> None:
        n_pool = request.features.n_pool
        self.request = request
        self.size = min(request.batch_size if size is None else size, n_pool)
        self.limits = limits = request.limits or PoolLimits(np.ones(n_pool, dtype=bool))
        self.indices: list[int] = []
        self.gains: list[float] = []
        self.stopped = ""
        self.passed_on = 0
        self.notes = list(limits.notes)
        self._free = limits.allowed.copy()
        self._budget = scale * limits.budget
        self._spent = 0.0
        self._quota = None if limits.quota is None else np.rint(scale * limits.quota).astype(np.int64)
        self._relative = None
        if limits.cost is not None and np.ptp(limits.cost) > 0:
            self._relative = limits.cost / limits.cost.min()
        # Distances to train count here in mode `p`, too.
        self._centers = Centers(request.features, train=True) if limits.gap and measure else None

    @property
    def full(self) -> bool:
        """Whether all picks are made that were asked for, or the whole pool is picked."""
        return len(self.indices) >= self.size

    @property
    def free(self) -> _Mask:
        """(n_pool,) rows that are neither picked nor excluded."""
        return self._free

    @property
    def costly(self) -> bool:
        """Whether labels differ in cost, so that gains are divided by it."""
        return self._relative is not None

    def per_cost(self, values: Float[np.ndarray, " m"], part: slice = slice(None)) -> Float[np.ndarray, " m"]:
        """Values of a part of the pool, divided by the cost relative to the cheapest label.

        Negative ones are multiplied by it.
        """
        if self._relative is None:
            return values
        relative = self._relative[part]
        return np.where(values > 0, values / relative, values * relative)

    def candidates(self, viable: _Mask | None = None) -> _Mask | None:
        """Rows that may be picked next, or None if there is none; `stopped` then names the constraint.

        Args:
            viable: (n_pool,) rows that the method itself can pick.
        """
        mask = self._free if viable is None else self._free & viable
        if not mask.any():
            self.stopped = "" if self._free.any() else "exhausted"
            return None
        others = {"min_distance": self._apart(), "budget": self._affordable()}
        within = mask
        for others_mask in others.values():
            within = within if others_mask is None else within & others_mask
        masks = {"quota": self._open(), **others}
        result = mask
        for name in _ORDER:
            step = masks[name]
            result = result if step is None else result & step
            if not result.any():
                if self._quota is not None and within.any() and self._pass_on(within):
                    return self.candidates(viable)
                self.stopped = "quota" if self._quota is not None and within.any() else name
                return None
        return result

    def add(self, index: int, gain: float | np.floating) -> None:
        """Pick a row."""
        self.indices.append(index)
        self.gains.append(float(gain))
        self._free[index] = False
        if self.limits.cost is not None:
            self._spent += float(self.limits.cost[index])
        if self._centers is not None:
            self._centers.add(index)

    def surplus(self) -> Bool[np.ndarray, " n_picks"] | None:
        """Which picks may be given back to keep the request: those of groups above their quota first."""
        limits = self.limits
        if limits.group is not None and limits.quota is not None:
            counts, allowed = self._counts(), limits.quota
            if limits.share is not None:
                # Places that a group could not fill belong to the others.
                allowed = shares(self.request.batch_size, limits.share, counts)
            over = counts > allowed
            if over.any():
                return over[limits.group[self.indices]]
        if len(self.indices) > self.request.batch_size or self._spent > limits.budget:
            return np.ones(len(self.indices), dtype=bool)
        return None

    def take_back(self, place: int) -> None:
        """Give a pick back, by its place in the order."""
        del self.indices[place], self.gains[place]
        if self.limits.cost is not None:
            self._spent = float(sum(self.limits.cost[self.indices]))

    def picks(self, stopped: str = "", squared_distances: ArrayLike | None = None) -> Picks:
        """The answer of the method.

        Args:
            stopped: why there are fewer picks than asked for, if no constraint is the reason.
            squared_distances: (n_picks,) if the method knows them.
        """
        chosen = np.array(self.indices, dtype=np.int64)
        near = _in_order(self.request, chosen) if squared_distances is None else squared_distances
        reason = None
        if len(chosen) < self.request.batch_size:
            reason = self.stopped or stopped
            if len(chosen) == len(self._free):
                reason = "exhausted"
        return Picks(
            chosen,
            np.array(self.gains, dtype=np.float64),
            np.asarray(near, dtype=np.float64),
            reason,
            tuple(self.notes),
        )

    def _apart(self) -> _Mask | None:
        return None if self._centers is None else self._centers.distances >= self.limits.gap

    def _affordable(self) -> _Mask | None:
        cost, budget = self.limits.cost, self.limits.budget
        if cost is None or budget == np.inf:
            return None
        # What costs more than the whole budget is not picked to be given back.
        return (cost <= budget) & (self._spent + cost <= self._budget)

    def _open(self) -> _Mask | None:
        limits = self.limits
        if self._quota is None or limits.group is None:
            return None
        return (self._counts() < self._quota)[limits.group]

    def _counts(self) -> Int[np.ndarray, " n_groups"]:
        assert self.limits.group is not None
        return np.bincount(self.limits.group[self.indices], minlength=len(self.limits.labels))

    def _pass_on(self, within: _Mask) -> bool:
        """Give the places that groups cannot fill to groups that have candidates; False for fixed quotas."""
        limits = self.limits
        if limits.share is None or limits.group is None or self._quota is None:
            return False
        counts, left = self._counts(), self.size - len(self.indices)
        short = np.flatnonzero(counts < self._quota).tolist()
        what = ", ".join(f"{limits.labels[i]!r} {self._quota[i] - counts[i]}" for i in short)
        if limits.strict and short:
            raise DataError(
                "groups cannot fill their quotas",
                got=f"places left: {what}",
                fix="a smaller quota, a larger budget, or strict_quota=False",
            )
        room = np.bincount(limits.group[within], minlength=len(limits.labels))
        self.passed_on += 1
        self._quota = counts + shares(left, limits.share, room)
        self.notes.append(f"groups without further candidates left places to others: {what}")
        return True


def _in_order(request: Request, indices: Int[np.ndarray, " n_picks"]) -> Float[np.ndarray, " n_picks"]:
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
