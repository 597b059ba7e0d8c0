"""What a batch must keep to: who may be picked, how many of a group, at which cost, how far apart."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeGuard

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError, nearest
from surefield.selection import distances
from surefield.selection.chunked_features import ChunkedFeatures
from surefield.selection.features import Features, positive_int

__all__ = ["Constraints", "PoolLimits", "limits_of", "shares"]

_SHARES: Final = ("equal", "proportional")
_COSTS: Final = {"uniform": 0, "n_atoms": 1, "n_atoms^3": 3}
_DUPLICATES: Final = ("exact", "features")


@dataclass(frozen=True, eq=False)
class Constraints:
    """What a batch must keep to, whatever the method. All of it may be combined.

    Attributes:
        exclude: pool indices that are never picked. They still count in what the pool is (`bait`, the
            clusters of `lcmd`) unless `drop` is set.
        drop: whether the excluded are taken out of the pool altogether.
        groups: (n_pool,) labels of groups (phase, composition, run): what quotas count.
        quota: most picks of a group: a number by label (groups that are not named have no limit), `equal`
            (a G-th of the batch each) or `proportional` (to the members in the pool). Shares are rounded by
            the largest remainder, ties by the sorted labels; what a group cannot fill goes to the others by
            the same rule and is noted.
        strict_quota: a group that cannot fill its quota is an error instead.
        cost: of a label: (n_pool,) positive numbers, a function of `ase.Atoms` (in `select`), or `uniform`,
            `n_atoms`, `n_atoms^3`. Picks are then made by gain per cost.
        budget: most that the picks may cost together.
        min_distance: between a pick and train or earlier picks, as a feature distance (not squared), or
            `"0.5x"`: that many times the median distance of the pool to the nearest training row.
        deduplicate: copies that are dropped before anything is picked, so that the lowest index stays:
            `exact`: equal structures (needs structures: in `select`), `features`: also rows with
            d² ≤ 1e-10 (K_ii + K_jj), None: none.

    Raises:
        ConfigError: unknown option, or one that lacks the other that it needs.
    """

    exclude: Sequence[int] | Int[np.ndarray, " n_excluded"] = ()
    drop: bool = False
    groups: Sequence[Hashable] | np.ndarray | None = None
    quota: Mapping[Any, int] | str | None = None
    strict_quota: bool = False
    cost: ArrayLike | Callable[[Any], float] | str | None = None
    budget: float | None = None
    min_distance: float | str | None = None
    deduplicate: Literal["exact", "features"] | None = "exact"

    def __post_init__(self) -> None:
        if self.deduplicate is not None and self.deduplicate not in _DUPLICATES:
            raise ConfigError(
                f"unknown deduplicate {self.deduplicate!r}: {nearest(str(self.deduplicate), _DUPLICATES)}"
            )
        if isinstance(self.quota, str) and self.quota not in _SHARES:
            raise ConfigError(f"unknown quota {self.quota!r}: {nearest(self.quota, _SHARES)}")
        if self.quota is not None and self.groups is None:
            raise ConfigError("quota needs groups", fix="groups=, one label per structure of the pool")
        if self.quota is None and self.strict_quota:
            raise ConfigError("strict_quota needs a quota")
        if isinstance(self.cost, str) and self.cost not in _COSTS:
            raise ConfigError(f"unknown cost {self.cost!r}: {nearest(self.cost, _COSTS)}")
        if self.budget is not None:
            if self.cost is None:
                raise ConfigError("budget needs a cost", fix="cost='uniform' counts labels")
            if not (_is_number(self.budget) and 0 < self.budget < np.inf):
                raise ConfigError("budget out of range", got=self.budget, expected="a positive number")
        if self.min_distance is not None:
            _factor_or_number(self.min_distance)

    def describe(self) -> dict[str, Any]:
        """What is set, short and fit for JSON."""
        quota = self.quota
        entries = {
            "n_excluded": len(self.exclude) or None,
            "drop": self.drop or None,
            "quota": quota if isinstance(quota, str | None) else {str(k): int(v) for k, v in quota.items()},
            "strict_quota": self.strict_quota or None,
            "cost": self.cost if isinstance(self.cost, str | None) else "by structure",
            "budget": None if self.budget is None else float(self.budget),
            "min_distance": self.min_distance,
            "deduplicate": self.deduplicate,
        }
        return {name: value for name, value in entries.items() if value is not None}


@dataclass(frozen=True, eq=False)
class PoolLimits:
    """Constraints as numbers of one pool, checked.

    Attributes:
        allowed: (n_pool,) False for excluded rows.
        group: (n_pool,) index of each row's group among the labels.
        labels: of the groups, sorted.
        share: what places of a batch are shared among groups by, if they are: (n_groups,) members in the
            pool, or one each; else `quota` is the user's own.
        quota: (n_groups,) most picks of each group.
        strict: whether a group that cannot fill its quota is an error.
        cost: (n_pool,) of a label.
        budget: most that all picks may cost together.
        gap: least squared distance of a pick to train and earlier picks.
        notes: what was settled on the way.
    """

    allowed: Bool[np.ndarray, " n_pool"]
    group: Int[np.ndarray, " n_pool"] | None = None
    labels: tuple[Any, ...] = ()
    share: Int[np.ndarray, " n_groups"] | None = None
    quota: Int[np.ndarray, " n_groups"] | None = None
    strict: bool = False
    cost: Float[np.ndarray, " n_pool"] | None = None
    budget: float = np.inf
    gap: float = 0.0
    notes: tuple[str, ...] = field(default=())


def limits_of(
    constraints: Constraints,
    features: Features | ChunkedFeatures,
    batch_size: int | None,
    usable: Bool[np.ndarray, " n_pool"],
    kept: Int[np.ndarray, " n_kept"],
) -> PoolLimits:
    """Check constraints against a pool; the limits of those of its rows that are kept.

    Args:
        constraints: what to keep to; a cost that is a function of structures has become numbers.
        features: of train and the whole pool, with numbers of atoms if a cost counts them.
        batch_size: picks wanted; None: as many as the budget allows.
        usable: (n_pool,) rows that the method can pick at all, such as those with a score above 0.
        kept: (n_kept,) rows of the pool that have not been dropped.

    Raises:
        ConfigError: something that cannot be settled with what is known of the pool.
        DataError: wrong lengths, an unknown label, costs that are no positive numbers, an index out of range,
            or, with `strict_quota`, a group with too few candidates.
    """
    n_pool = features.n_pool
    allowed = np.ones(n_pool, dtype=bool)
    allowed[checked_exclude(constraints.exclude, n_pool)] = False
    cost = _checked_cost(constraints.cost, features)
    limits = PoolLimits(
        allowed[kept],
        cost=None if cost is None else cost[kept],
        budget=np.inf if constraints.budget is None else float(constraints.budget),
        gap=_squared_gap(constraints.min_distance, features, kept),
    )
    if constraints.groups is None:
        return limits
    group, labels = _checked_groups(constraints.groups, n_pool)
    limits = replace(limits, group=group[kept], labels=labels, strict=constraints.strict_quota)
    if constraints.quota is None:
        return limits
    return _with_quota(limits, constraints.quota, batch_size, (allowed & usable)[kept])


def _with_quota(
    limits: PoolLimits,
    quota: Mapping[Any, int] | str,
    batch_size: int | None,
    free: Bool[np.ndarray, " n_pool"],
) -> PoolLimits:
    labels, group = limits.labels, limits.group
    assert group is not None
    room = np.bincount(group[free], minlength=len(labels))
    if isinstance(quota, str):
        if batch_size is None:
            raise ConfigError(f"quota {quota!r} needs a batch_size to share")
        sizes = np.bincount(group, minlength=len(labels))
        sizes = sizes if quota == "proportional" else np.ones_like(sizes)
        limits = replace(limits, share=sizes)
        wanted = shares(batch_size, sizes, np.full(len(labels), batch_size))
        settled = shares(batch_size, sizes, room)
    else:
        wanted = settled = _checked_quota(quota, labels, len(group))
    named = np.array([isinstance(quota, str) or label in quota for label in labels])
    lacking = np.flatnonzero(named & (room < wanted)).tolist()
    if lacking and limits.strict:
        first = lacking[0]
        raise DataError(
            f"group {labels[first]!r} cannot fill its quota",
            got=f"{room[first]} candidates",
            expected=f"at least {wanted[first]}",
            fix="a smaller quota, or strict_quota=False",
        )
    notes = tuple(
        f"group {labels[i]!r} has {room[i]} candidates for {wanted[i]} places: the others take the rest"
        for i in lacking
        if limits.share is not None
    )
    return replace(limits, quota=settled, notes=notes)


def shares(
    total: int, sizes: Int[np.ndarray, " n_groups"], room: Int[np.ndarray, " n_groups"]
) -> Int[np.ndarray, " n_groups"]:
    """Whole numbers in proportion to sizes that add up to `total`, none above `room`.

    Rounded by the largest remainder, ties to the earlier group; what exceeds the room of a group is shared
    among the others in the same way.
    """
    result = np.zeros(len(sizes), dtype=np.int64)
    left = int(min(total, room.sum()))
    while left:
        weights = np.where(room > result, np.maximum(sizes, 1), 0)
        part, remainder = np.divmod(left * weights, weights.sum())
        order = np.argsort(-np.where(weights > 0, remainder, -1), kind="stable")
        part[order[: left - int(part.sum())]] += 1
        added = np.minimum(part, room - result)
        result += added
        left -= int(added.sum())
    return result


def checked_exclude(exclude: ArrayLike, n_pool: int) -> Int[np.ndarray, " n_excluded"]:
    """Indices of the pool, each once; else raise `DataError`."""
    values = np.asarray(exclude)
    if values.size == 0:
        return np.zeros(0, dtype=np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(
            "exclude must be a list of pool indices", got=f"{values.dtype} of shape {values.shape}"
        )
    bad = np.flatnonzero((values < 0) | (values >= n_pool))
    if len(bad):
        raise DataError("exclude is outside the pool", got=int(values[bad[0]]), expected=f"0 to {n_pool - 1}")
    return np.unique(values).astype(np.int64)


def _checked_groups(
    groups: Sequence[Hashable] | np.ndarray, n_pool: int
) -> tuple[Int[np.ndarray, " n_pool"], tuple[Any, ...]]:
    values = groups.tolist() if isinstance(groups, np.ndarray) else list(groups)
    if len(values) != n_pool:
        raise DataError("groups must have one label per pool row", got=len(values), expected=n_pool)
    try:
        labels: set[Any] = set(values)
    except TypeError:
        raise DataError("labels of groups must be hashable, such as text or numbers") from None
    try:
        order = sorted(labels)
    except TypeError:  # labels of several types
        order = sorted(labels, key=str)
    place = {label: i for i, label in enumerate(order)}
    return np.array([place[value] for value in values], dtype=np.int64), tuple(order)


def _checked_quota(
    quota: Mapping[Any, int], labels: tuple[Any, ...], n_pool: int
) -> Int[np.ndarray, " n_groups"]:
    result = np.full(len(labels), n_pool, dtype=np.int64)
    for label, number in quota.items():
        if label not in labels:
            raise DataError(f"quota for an unknown group: {nearest(str(label), map(str, labels))}", got=label)
        result[labels.index(label)] = positive_int(number, f"quota of {label!r}", smallest=0)
    return result


def _checked_cost(
    cost: ArrayLike | Callable[[Any], float] | str | None, features: Features | ChunkedFeatures
) -> Float[np.ndarray, " n_pool"] | None:
    if cost is None:
        return None
    if isinstance(cost, str):
        power = _COSTS[cost]
        if not power:
            return np.ones(features.n_pool)
        if features.n_atoms_pool is None:
            raise ConfigError(f"cost {cost!r} needs structures", fix="an array with one cost per row")
        return features.n_atoms_pool**power
    if callable(cost):
        raise ConfigError("cost is a function of structures, and rows have none", fix="an array of costs")
    return checked_costs(cost, features.n_pool)


def checked_costs(cost: ArrayLike, n_pool: int) -> Float[np.ndarray, " n_pool"]:
    """Positive numbers, one per row of the pool; else raise `DataError`."""
    try:
        values = np.asarray(cost, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("cost must be numbers, one per pool row", got=type(cost).__name__) from None
    if values.shape != (n_pool,):
        raise DataError(
            "cost must have one value per pool row", got=f"shape {values.shape}", expected=(n_pool,)
        )
    bad = np.flatnonzero(~((values > 0) & (values < np.inf)))
    if len(bad):
        raise DataError("unusable cost", where=f"row {bad[0]}", got=values[bad[0]], expected="above 0")
    return values


def _squared_gap(
    min_distance: float | str | None, features: Features | ChunkedFeatures, kept: Int[np.ndarray, " n_kept"]
) -> float:
    if min_distance is None:
        return 0.0
    number, relative = _factor_or_number(min_distance)
    if relative:
        if not features.n_train:
            raise ConfigError(
                f"min_distance {min_distance!r} is relative to training rows, and there are none",
                fix="give a distance as a number",
            )
        near, norms = np.empty(features.n_pool), features.pool_norms
        for part in features.passes():
            rows = features.pool[part]
            near[part], _ = distances.nearest(rows, norms[part], features.train, features.train_norms)
        number *= float(np.median(np.sqrt(near[kept])))
    return number**2


def _factor_or_number(value: object) -> tuple[float, bool]:
    relative = isinstance(value, str)
    try:
        if isinstance(value, str) and not value.endswith("x"):
            raise ValueError
        number = float(value[:-1]) if isinstance(value, str) else value
        if not (_is_number(number) and 0 <= number < np.inf):
            raise ValueError
    except ValueError:
        raise ConfigError(
            "min_distance out of range", got=repr(value), expected="a number from 0, or a factor as '0.5x'"
        ) from None
    return float(number), relative


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_array(cost: object) -> bool:
    return cost is not None and not isinstance(cost, str) and not callable(cost)
