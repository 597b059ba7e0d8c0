"""Train and test sets without leakage: copies stay together, groups stay together, clusters stay together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from ase import Atoms

from surefield import keys
from surefield.errors import ConfigError, DataError, nearest
from surefield.structures.fingerprint import Fingerprints, duplicate_groups, fingerprints
from surefield.structures.read import Frames, read_frames

__all__ = ["cluster_frames", "split_frames"]

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
    if method not in _METHODS:
        raise ConfigError(f"unknown method {method!r} to split; {nearest(method, _METHODS)}")
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
        units = _merged(_info_groups(frames, group_key or keys.CONFIG_TYPE), units)
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
        found = np.argmin(distance, axis=1)
        if np.array_equal(found, nearest_center):
            break
        nearest_center = found
        for k in np.unique(found):
            centers[k] = points[found == k].mean(axis=0)
    return nearest_center[np.unique(units, return_inverse=True)[1]]


def _far_apart(points: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Indices of points each as far as possible from those before it."""
    chosen = [int(generator.integers(len(points)))]
    distance = np.full(len(points), np.inf)
    for _ in range(n - 1):
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(np.argmax(distance)))
    return np.array(chosen)


def _info_groups(frames: Frames, key: str) -> np.ndarray:
    values = []
    for i, atoms in enumerate(frames):
        if key not in atoms.info:
            present = ", ".join(map(str, atoms.info)) or "none"
            raise DataError(f"no {key!r} in the info of {frames.origin(i)}; keys present: {present}")
        values.append(str(atoms.info[key]))
    return np.unique(values, return_inverse=True)[1]


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
