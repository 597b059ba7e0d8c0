"""MaxDist and MaxDet of pools larger than memory, exactly: values only shrink as picks are made.

So the largest value that a chunk had when it was last looked at is an upper bound, and only the chunk with
the largest bound is looked at again: lazy greedy, Minoux, Optimization Techniques (1978), 234.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
from jaxtyping import Bool, Float, Int

from surefield.errors import ConfigError
from surefield.selection import distances
from surefield.selection.batch import GrowingBatch
from surefield.selection.chunked_features import ChunkedFeatures
from surefield.selection.determinant import SMALL_NOISE, best_alone, better_of
from surefield.selection.request import Picks, Request
from surefield.selection.weight_posterior import WeightPosterior

__all__ = ["max_det_by_chunks", "max_dist_by_chunks"]

_Rows = Float[np.ndarray, "m n_features"]
_Values = Float[np.ndarray, " m"]
#: Of rows of the pool, by a slice or by their indices.
_OfPart = Callable[[Any], np.ndarray]
_Mask = Bool[np.ndarray, " n_pool"]
_ALL: Final = slice(None)
#: Rows that are looked at together at most.
_BLOCK_ROWS: Final = 2048


class _Shrinking(ABC):
    """A value of every row that only shrinks as picks are made, brought up to date row by row.

    Attributes:
        values: (n_pool,) as they were when each was last lowered: upper bounds.
        upto: (n_pool,) number of picks that each value knows of.
        count: picks so far.
        reach: share by which bounds may be below the largest of their chunk to be looked at with it: the
            less a pick lowers a value, the smaller. Only the time depends on it.
    """

    reach: float

    def __init__(self, features: ChunkedFeatures) -> None:
        self.features = features
        self.values = np.empty(features.n_pool)
        self.upto = np.zeros(features.n_pool, dtype=np.int32)
        self.count = 0

    def refresh(self, part: slice, chosen: Int[np.ndarray, " m"]) -> None:
        """Bring some values of a part of the pool up to date."""
        chosen = chosen[self.upto[part][chosen] < self.count]
        for start in range(0, len(chosen), _BLOCK_ROWS):
            block = chosen[start : start + _BLOCK_ROWS]
            indices = part.start + block
            rows, known = self.features.rows(part, block), self.upto[indices]
            self.values[indices] = self._lowered(self.values[indices], rows, indices, known)
            self.upto[indices] = self.count

    @abstractmethod
    def add(self, index: int, row: Float[np.ndarray, " n_features"]) -> None:
        """A pick."""

    @abstractmethod
    def _lowered(
        self, values: _Values, rows: _Rows, indices: Int[np.ndarray, " m"], known: Int[np.ndarray, " m"]
    ) -> _Values:
        """Values of rows after all picks, those after the first `known` ones."""


class _SquaredDistances(_Shrinking):
    """d² to the nearest of train (mode `tp`) and picks."""

    reach = 0.03

    def __init__(self, features: ChunkedFeatures, train: bool) -> None:
        super().__init__(features)
        self._norms = features.pool_norms
        self._centers: list[tuple[Float[np.ndarray, " n_features"], float]] = []
        self.values[:] = np.inf
        for part in features.passes() if train else ():
            self.values[part], _ = distances.nearest(
                features.pool[part], self._norms[part], features.train, features.train_norms
            )

    def add(self, index: int, row: Float[np.ndarray, " n_features"]) -> None:
        self._centers.append((row, float(self._norms[index])))
        self.count += 1

    def _lowered(
        self, values: _Values, rows: _Rows, indices: Int[np.ndarray, " m"], known: Int[np.ndarray, " m"]
    ) -> _Values:
        norms = self._norms[indices]
        for row, norm in self._centers[int(known.min()) :]:
            new = distances.squared_distances(rows, norms, row, norm, ceiling=values)
            values = np.minimum(values, new)
        return values


class _Residuals(_Shrinking):
    """Posterior variance φᵀMφ + σ² of a label."""

    reach = 0.01

    def __init__(self, features: ChunkedFeatures, posterior: WeightPosterior) -> None:
        super().__init__(features)
        self._posterior = posterior
        self._steps = np.empty((64, features.n_features))
        for part in features.passes():
            self.values[part] = self._fresh(features.pool[part])
        self._scale = self.values.astype(np.float32)

    def add(self, index: int, row: Float[np.ndarray, " n_features"]) -> None:
        v = self._posterior.matrix @ row
        if self.count == len(self._steps):
            self._steps = np.concatenate([self._steps, np.empty_like(self._steps)])
        self._steps[self.count] = v / np.sqrt(float(row @ v) + self._posterior.variance)
        self._posterior.add(row)
        self.count += 1

    def _lowered(
        self, values: _Values, rows: _Rows, indices: Int[np.ndarray, " m"], known: Int[np.ndarray, " m"]
    ) -> _Values:
        first = int(known.min())
        drops = rows @ self._steps[first : self.count].T
        drops *= drops
        if known.max() > first:
            drops[np.arange(first, self.count)[None, :] < known[:, None]] = 0.0
        values = values - drops.sum(axis=1)
        # What is left may be small beside what it was computed from.
        lost = values < 1e-6 * self._scale[indices]
        if lost.any():
            values[lost] = self._fresh(rows[lost])
            self._scale[indices[lost]] = values[lost]
        return values

    def _fresh(self, rows: _Rows) -> _Values:
        return np.einsum("ij,ij->i", rows @ self._posterior.matrix, rows) + self._posterior.variance


class _Heap:
    """Chunks by the upper bound of what their best candidate is worth."""

    def __init__(
        self, features: ChunkedFeatures, shrinking: _Shrinking, worth: _OfPart, viable: _OfPart
    ) -> None:
        self._chunks, self._shrinking = features.chunks, shrinking
        self._worth, self._viable = worth, viable
        self._heap: list[tuple[float, int, int]] = []

    def build(self, mask: _Mask) -> None:
        """Bounds of all chunks from the values as they are."""
        self._heap = [self._top(k, self._bounds(k, mask)) for k in range(len(self._chunks))]
        heapq.heapify(self._heap)

    def refresh(self) -> None:
        """Bring all values up to date."""
        for part in self._chunks:
            self._shrinking.refresh(part, np.arange(part.stop - part.start))

    def best(self, mask: _Mask) -> int | None:
        """The candidate that is worth most, of equals the first; None if none is left.

        Of a chunk that comes first only the rows are looked at whose bounds are near the first.
        """
        while True:
            bound, index, k = self._heap[0]
            if bound == np.inf:
                return None
            if mask[index] and self._shrinking.upto[index] == self._shrinking.count:
                return index
            part, bounds = self._chunks[k], self._bounds(k, mask)
            largest = bounds.max()
            if largest > -np.inf:
                reach = self._shrinking.reach * abs(largest) if largest < np.inf else 0.0
                near = np.flatnonzero(bounds >= largest - reach)
                self._shrinking.refresh(part, near)
                rows = part.start + near
                bounds[near] = np.where(self._viable(rows), self._worth(rows), -np.inf)
            heapq.heapreplace(self._heap, self._top(k, bounds))

    def _bounds(self, k: int, mask: _Mask) -> _Values:
        part = self._chunks[k]
        return np.where(mask[part] & self._viable(part), self._worth(part), -np.inf)

    def _top(self, k: int, bounds: _Values) -> tuple[float, int, int]:
        place = int(np.argmax(bounds))
        return -float(bounds[place]), self._chunks[k].start + place, k


def max_dist_by_chunks(request: Request) -> Picks:
    """`max_dist` of `ChunkedFeatures`: the same picks and gains, with 16 bytes per row and a chunk in memory.

    Raises:
        ConfigError: `min_distance` in mode `p`, where distances to train are not known.
    """
    features = cast(ChunkedFeatures, request.features)
    weights, batch, gap = request.weights(), GrowingBatch(request, measure=False), _gap(request)
    squares = _SquaredDistances(features, request.mode == "tp")
    near: list[float] = []
    if request.mode == "p":
        candidates = batch.candidates(weights > 0)
        if candidates is None:
            return batch.picks("zero_scores", near)
        values = features.pool_norms * weights
        first = int(np.argmax(np.where(candidates, batch.per_cost(batch.per_cost(values)), -np.inf)))
        near.append(float(features.pool_norms[first]))
        batch.add(first, values[first])
        squares.add(first, features.pool[[first]][0])

    def worth(part: Any) -> _Values:
        values = squares.values[part]
        if request.scores is not None:
            values = values * np.where(weighted[part], weights[part], 1.0)  # not inf times 0
        return batch.per_cost(batch.per_cost(values, part), part)

    least, weighted = max(gap, np.nextafter(0, 1)), weights > 0

    def viable(part: Any) -> Bool[np.ndarray, " m"]:
        return (squares.values[part] >= least) & weighted[part]

    def pick(index: int) -> None:
        near.append(float(squares.values[index]))
        batch.add(index, squares.values[index] * weights[index])

    _greedy(features, batch, squares, worth, viable, pick)
    if not batch.stopped and gap and not batch.full and (squares.values[batch.free] > 0).any():
        batch.stopped = "min_distance"
    return batch.picks("zero_scores" if squares.values[batch.free].any() else "duplicates", near)


def max_det_by_chunks(request: Request) -> Picks:
    """`max_det` of `ChunkedFeatures`, in the form with the F x F covariance of the weights.

    Raises:
        ConfigError: no noise, or noise that is lost beside the features; `min_distance`.
    """
    features = cast(ChunkedFeatures, request.features)
    variance = request.sigma**2
    if variance <= SMALL_NOISE * max(features.pool_norms.max(), features.train_norms.max(initial=0.0)):
        raise ConfigError("sigma of max_det is too small for a pool in chunks", got=request.sigma)
    if request.limits is not None and request.limits.gap:
        raise ConfigError("min_distance with max_det needs the pool in memory", fix="chunk_size=None")
    weights, batch = request.weights(), GrowingBatch(request, measure=False)
    train = features.train if request.mode == "tp" else features.train[:0]
    residuals = _Residuals(features, WeightPosterior(train, request.sigma))
    cost = None if request.limits is None else request.limits.cost
    worth_of = weights[:, None] if cost is None else np.stack([weights, cost], axis=1)
    by_gain, weighted = request.scores is not None or batch.costly, weights > 0

    def gains(part: Any) -> _Values:
        return weights[part] * 0.5 * np.log(np.maximum(residuals.values[part] / variance, 1.0))

    def worth(part: Any) -> _Values:
        return batch.per_cost(gains(part), part) if by_gain else residuals.values[part]

    def first_copy(index: int, mask: _Mask) -> int:
        """Products by BLAS give copies values that differ by rounding; of equals the first is picked."""
        others = np.flatnonzero(features.pool_norms[:index] == features.pool_norms[index])
        others = others[mask[others] & (worth_of[others] == worth_of[index]).all(axis=-1)]
        if not len(others):
            return index
        copies = (features.pool[others] == features.pool[[index]]).all(axis=1)
        return int(others[np.argmax(copies)]) if copies.any() else index

    def pick(index: int) -> None:
        gain = 0.5 * float(np.log(residuals.values[index] / variance))
        batch.add(index, float(weights[index]) * max(gain, 0.0))

    best = best_alone(request, gains(_ALL))
    _greedy(features, batch, residuals, worth, lambda part: weighted[part], pick, first_copy)
    return better_of(batch, best, "zero_scores")


def _greedy(
    features: ChunkedFeatures,
    batch: GrowingBatch,
    shrinking: _Shrinking,
    worth: _OfPart,
    viable: _OfPart,
    pick: Callable[[int], None],
    settle: Callable[[int, _Mask], int] = lambda index, mask: index,
) -> None:
    """Pick what is worth most until the batch is full or nothing is left."""
    heap, passed_on = _Heap(features, shrinking, worth, viable), -1
    unlimited = batch.request.limits is None
    while not batch.full:
        # Without limits the heap alone sees what is left.
        mask = batch.free if unlimited and passed_on >= 0 else batch.candidates(viable(_ALL))
        if mask is None:
            return
        if batch.passed_on != passed_on:  # at the start, and where places of groups were passed on
            heap.build(mask)
            passed_on = batch.passed_on
        index = heap.best(mask)
        if index is None:
            # Only bounds said that something was left.
            heap.refresh()
            passed_on = -1
            continue
        index = settle(index, mask)
        pick(index)
        shrinking.add(index, features.pool[[index]][0])


def _gap(request: Request) -> float:
    gap = 0.0 if request.limits is None else request.limits.gap
    if gap and request.mode != "tp":
        raise ConfigError("min_distance of a pool in chunks needs mode 'tp' and max_dist")
    return gap
