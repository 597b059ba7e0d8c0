"""Train and test sets without leakage: copies stay together, groups stay together, clusters stay together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from ase import Atoms

from surefield import keys
from surefield.errors import ConfigError, DataError, check_known
from surefield.structures.fingerprint import Fingerprints, duplicate_groups, fingerprints
from surefield.structures.read import Frames, read_frames

__all__ = ["cluster_frames", "copies_joined", "split_configurations", "split_frames"]

_METHODS = ("random", "group", "cluster")


def split_frames(
    frames: Frames | Sequence[Atoms],
    fraction: float,
    *,
    method: Literal["random", "group", "cluster"] = "random",
    group_key: str | None = None,
    n_clusters: int | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Split structures into two parts, copies of one geometry always on the same side.

    Args:
        frames: structures.
        fraction: of the structures that go to the second part, between 0 and 1; not exceeded, unless every
            unit (copies, group, cluster) is larger.
        method: "random" draws distinct geometries (rotated, mirrored, renumbered and repeated cells are one);
            "group" draws values of `info[group_key]`, together with the groups that share a geometry with
            them; "cluster" draws clusters of similar structures, the hardest test of extrapolation.
        group_key: entry of `info` for "group"; "config_type" by default.
        n_clusters: for "cluster"; the square root of the number of geometries by default.
        seed: of the draw.

    Returns:
        Indices of the first (train) and second (test) part, sorted, each at least one.

    Raises:
        ConfigError: unknown method, fraction out of range, `group_key` missing or not wanted.
        DataError: a structure lacks the key, or all structures are one unit.
    """
    frames = read_frames(frames)
    check_known([method], _METHODS, "unknown method {} to split")
    if not 0.0 < fraction < 1.0:
        raise ConfigError(f"fraction must be between 0 and 1, got {fraction}")
    if group_key is not None and method != "group":
        raise ConfigError(f"group_key={group_key!r} needs method='group', got method={method!r}")
    if n_clusters is not None and method != "cluster":
        raise ConfigError(f"n_clusters is for method 'cluster', got method {method!r}")
    if len(frames) < 2:
        raise _indivisible(len(frames), method, "too few structures")
    generator = np.random.Generator(np.random.Philox(seed))
    prints = fingerprints(frames)
    units = duplicate_groups(prints)
    if method == "group":
        key = group_key or keys.CONFIG_TYPE
        values = _info_values(frames, key, lambda i: f"no {key!r} in the info of {frames.origin(i)}; keys ")
        units = _merged(np.unique(values, return_inverse=True)[1], units)
    elif method == "cluster":
        units = cluster_frames(prints, n_clusters, units=units, generator=generator)
    if units.max() == 0:
        raise _indivisible(len(frames), method, "structures that all belong together")
    return _draw(units, fraction, generator)


def cluster_frames(
    prints: Fingerprints,
    n_clusters: int | None = None,
    *,
    units: np.ndarray | None = None,
    generator: np.random.Generator,
) -> np.ndarray:
    """Cluster structures by their fingerprints and compositions (k-means from far-apart starts).

    Args:
        prints: fingerprints.
        n_clusters: number of clusters; the square root of the number of units by default.
        units: (n_structures,) integers; structures of one unit come into one cluster.
        generator: draws the first centre.

    Returns:
        (n_structures,) number of the cluster.
    """
    units = np.arange(len(prints)) if units is None else units
    first = np.unique(units, return_index=True)[1]
    # Å against fractions: one element exchanged altogether counts as much as 10 Å.
    points = np.hstack([prints.values / np.sqrt(max(prints.values.shape[1], 1)), 10.0 * prints.compositions])[
        first
    ]
    n_clusters = round(np.sqrt(len(points))) if n_clusters is None else n_clusters
    if not 1 <= n_clusters <= len(points):
        raise ConfigError(
            f"n_clusters must be between 1 and {len(points)} distinct geometries, got {n_clusters}"
        )
    centers = points[_far_apart(points, n_clusters, generator)]
    nearest_center = np.zeros(len(points), dtype=np.int64)
    for _ in range(50):
        distance = ((points**2).sum(axis=1)[:, None] - 2.0 * points @ centers.T) + (centers**2).sum(axis=1)
        center = np.argmin(distance, axis=1)
        if np.array_equal(center, nearest_center):
            break
        nearest_center = center
        for k in np.unique(center):
            centers[k] = points[center == k].mean(axis=0)
    return nearest_center[np.unique(units, return_inverse=True)[1]]


def _far_apart(points: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Indices of points each as far as possible from those before it."""
    chosen = [int(generator.integers(len(points)))]
    distance = np.full(len(points), np.inf)
    for _ in range(n - 1):
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(np.argmax(distance)))
    return np.array(chosen)


def _info_values(frames: Sequence[Atoms], key: str, missing: Callable[[int], str]) -> list[str]:
    """Values of an entry of `info`, as text; `missing` starts the message for a structure without it."""
    for i, atoms in enumerate(frames):
        if key not in atoms.info:
            raise DataError(f"{missing(i)}present: {', '.join(map(str, atoms.info)) or 'none'}")
    return [str(atoms.info[key]) for atoms in frames]


def _merged(groups: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Join the groups that hold copies of one geometry."""
    joined = groups.copy()
    for copy in np.unique(copies):
        members = np.unique(joined[copies == copy])
        joined[np.isin(joined, members)] = members[0]
    return np.unique(joined, return_inverse=True)[1]


def _indivisible(n: int, method: str, got: str) -> DataError:
    fix = "two geometries, groups or clusters are needed at least"
    return DataError(f"cannot split {n} structures by method {method!r}; got {got}; {fix}")


def split_configurations(
    ids: Sequence[str],
    frames: Sequence[Atoms],
    share: float,
    split: Mapping[str, Sequence[str]] | str | None,
    seed: int,
) -> tuple[list[int], list[int]]:
    """Indices of the training and of the validation configurations, both in stored order.

    Copies of one geometry are on the same side, as in `split_frames`.

    Args:
        ids: of the configurations.
        frames: the configurations.
        share: of the configurations that is fitted, in (0, 1].
        split: {'train': ids, 'validation': ids} fixes it; a name keeps configurations with the same
            `info[name]` on one side.
        seed: of the draw.

    Raises:
        ConfigError: share outside (0, 1], or a split with other keys.
        DataError: an id that does not exist or stands twice; copies of one geometry on both sides; a missing
            `info[name]`.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigError(f"training_split must be in (0, 1], got {share!r}")
    if isinstance(split, Mapping):
        return _named_parts(ids, frames, split)
    if split is not None and not isinstance(split, str):
        raise ConfigError(
            f"split must be a key of info or {{'train': ids, 'validation': ids}}, got {split!r}"
        )
    values = []
    if split is not None:
        values = _info_values(
            frames, split, lambda i: f"split={split!r}: configuration {ids[i]} has no such info; "
        )
    if share == 1:
        return list(range(len(ids))), []
    units = duplicate_groups(fingerprints(frames))
    what = "configuration" if len(ids) < 2 else "geometry of its own"
    if split is not None:
        numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
        units = _merged(np.array([numbers[value] for value in values], dtype=int), units)
        what = f"value of {split!r}"
    n_units = int(units.max(initial=-1)) + 1
    if n_units < 2:
        raise DataError(f"training_split={share} needs two {what}s at least, got {n_units}")
    return _share_drawn(units, share, np.random.default_rng(seed))


def copies_joined(
    frames: Sequence[Atoms], train: Sequence[int], validation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """A split whose validation part is free of copies of training structures: these are trained on as well.

    Args:
        frames: structures.
        train: indices that were drawn for training.
        validation: indices that were drawn for validation.
    """
    copies = _straddling(frames, train, validation)
    if not copies:
        return list(train), list(validation)
    return sorted([*train, *copies]), [i for i in validation if i not in copies]


def _straddling(frames: Sequence[Atoms], train: Sequence[int], validation: Sequence[int]) -> dict[int, int]:
    """Validation structures that are copies of training structures, with the first of these."""
    if not len(validation):
        return {}
    units = duplicate_groups(fingerprints(frames)).tolist()
    first: dict[int, int] = {}
    for i in sorted(train):
        first.setdefault(units[i], i)
    return {i: first[units[i]] for i in validation if units[i] in first}


def _named_parts(
    ids: Sequence[str], frames: Sequence[Atoms], split: Mapping[str, Any]
) -> tuple[list[int], list[int]]:
    if not set(split) <= {"train", "validation"} or not split.get("train"):
        raise ConfigError(f"split needs the keys 'train' and 'validation', got {', '.join(split) or 'none'}")
    place = {name: i for i, name in enumerate(ids)}
    parts = [list(split.get(part, ())) for part in ("train", "validation")]
    unknown = [name for part in parts for name in part if name not in place]
    if unknown:
        raise DataError(f"split: no configuration has the id {unknown[0]!r}; ids are like {ids[0]!r}")
    named = [name for part in parts for name in part]
    (often, count), *_ = Counter(named).most_common(1)
    if count > 1:
        raise DataError(f"split: configuration {often!r} stands in it {count} times")
    left = sorted(set(ids) - set(named))
    if left:
        raise DataError(f"split: {len(left)} configurations are in neither part, the first is {left[0]!r}")
    train, validation = (sorted(place[name] for name in part) for part in parts)
    for copy, original in _straddling(frames, train, validation).items():
        raise DataError(
            "split: one geometry stands in train and in validation",
            got=f"configurations {ids[original]} (train) and {ids[copy]} (validation)",
            fix="put copies on one side",
        )
    return train, validation


def _share_drawn(
    units: np.ndarray, share: float, generator: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Whole units in random order until the first part has its share; one unit at least is left."""
    wanted = min(max(round(len(units) * share), 1), len(units) - 1)
    sizes = np.bincount(units)
    order = generator.permutation(len(sizes))[:-1]
    before = np.cumsum(sizes[order]) - sizes[order]
    first = np.isin(units, order[before < wanted])
    return np.flatnonzero(first).tolist(), np.flatnonzero(~first).tolist()


def _draw(
    units: np.ndarray, fraction: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw whole units in random order, each taken when it still fits; the smallest when none does."""
    n = len(units)
    sizes = np.bincount(units)
    wanted = min(max(round(fraction * n), 1), n - 1)
    order = generator.permutation(len(sizes))
    test: list[int] = []
    left = wanted
    for unit in order.tolist():
        if sizes[unit] <= left:
            test.append(unit)
            left -= int(sizes[unit])
    if not test:  # all are larger than wanted
        test.append(int(order[np.argmin(sizes[order])]))
    second = np.isin(units, test)
    return np.flatnonzero(~second), np.flatnonzero(second)
