from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from scipy.spatial.distance import cdist

from surefield.errors import ConfigError, DataError
from surefield.structures.fingerprint import fingerprints
from surefield.structures.read import read_frames
from surefield.structures.splits import split_frames


def rattled(n: int, base: Atoms | None = None, amplitude: float = 0.1) -> list[Atoms]:
    frames = []
    for seed in range(n):
        atoms = (base if base is not None else bulk("Si")).copy()
        atoms.rattle(amplitude, seed=seed)
        frames.append(atoms)
    return frames


def is_partition(train: np.ndarray, test: np.ndarray, n: int) -> bool:
    ordered = bool(np.all(np.diff(train) > 0) and np.all(np.diff(test) > 0))
    return ordered and sorted([*train, *test]) == list(range(n)) and len(train) > 0 and len(test) > 0


@pytest.mark.parametrize(("fraction", "n_test"), [(0.25, 10), (0.01, 1), (0.99, 39)])
def test_random_split_has_the_size_asked_for(fraction: float, n_test: int):
    train, test = split_frames(rattled(40), fraction)
    assert is_partition(train, test, 40)
    assert len(test) == n_test


def test_seed_decides():
    frames = rattled(40)
    first, same, other = (split_frames(frames, 0.3, seed=seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_copies_stay_on_one_side():
    frames = rattled(20)
    copies = []
    for atoms in frames:
        copy = atoms[::-1]  # other order, other images
        copy.positions += copy.cell[0]
        copies.append(copy)
    for seed in range(5):
        train, test = split_frames(frames + copies, 0.3, seed=seed)
        assert is_partition(train, test, 40)
        assert set(train % 20).isdisjoint(test % 20)
        assert len(test) == 12


def test_groups_stay_together():
    frames = rattled(40)
    for i, atoms in enumerate(frames):
        atoms.info |= {"config_type": f"type {i % 8}", "temperature": 300 * (i // 10)}
    train, test = split_frames(frames, 0.25, method="group")
    assert is_partition(train, test, 40)
    assert len(test) == 10
    assert set(train % 8).isdisjoint(test % 8)
    train, test = split_frames(frames, 0.25, method="group", group_key="temperature")
    assert len(test) == 10
    assert set(train // 10).isdisjoint(test // 10)


def test_the_smallest_group_is_the_test_set_when_all_are_too_large():
    frames = rattled(20)
    for i, atoms in enumerate(frames):
        atoms.info["config_type"] = "small" if i < 6 else "large"
    assert split_frames(frames, 0.1, method="group")[1].tolist() == list(range(6))


def test_copies_tie_groups_together():
    frames = rattled(12)
    frames[4] = frames[0].copy()
    for i, atoms in enumerate(frames):
        atoms.info["config_type"] = f"type {i // 4}"
    for seed in range(4):
        test = split_frames(frames, 0.4, method="group", seed=seed)[1]
        assert test.tolist() == [8, 9, 10, 11]
    frames[8] = frames[0].copy()
    frames[8].info["config_type"] = "type 2"
    with pytest.raises(
        DataError, match="cannot split 12 structures by method 'group'; got structures that all"
    ):
        split_frames(frames, 0.4, method="group")


def test_clusters_stay_together():
    kinds = [
        bulk("Si"),
        bulk("Si", "sc", a=2.5),
        bulk("Si", "fcc", a=4.0),
        molecule("SiH4"),
        molecule("Si2H6"),
    ]
    frames = [atoms for base in kinds for atoms in rattled(8, base, 0.01)]
    for seed in range(3):
        train, test = split_frames(frames, 0.8, method="cluster", seed=seed)
        assert is_partition(train, test, 40)
        assert set(train // 8).isdisjoint(test // 8)
        assert len(test) == 32


def test_cluster_split_holds_out_what_is_unlike_the_rest(shared: Path):
    frames = read_frames(shared / "data/mlearn/Si_train.xyz.xz")
    values = fingerprints(frames).values

    def distance_to_train(train: np.ndarray, test: np.ndarray) -> float:
        return float(np.median(cdist(values[test], values[train]).min(axis=1)))

    apart = []
    for method in ("random", "cluster"):
        train, test = split_frames(frames, 0.2, method=method, seed=1)
        assert is_partition(train, test, len(frames))
        assert 10 < len(test) <= round(0.2 * len(frames))
        apart.append(distance_to_train(train, test))
    assert apart[1] > 1.5 * apart[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 0.0}, "between 0 and 1, got 0.0"),
        ({"fraction": 1.0}, "between 0 and 1, got 1.0"),
        ({"fraction": 0.5, "method": "clusters"}, "did you mean 'cluster'"),
        ({"fraction": 0.5, "group_key": "a"}, "needs method='group', got method='random'"),
    ],
)
def test_arguments_are_checked(arguments: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        split_frames(rattled(3), **arguments)


def test_structures_that_cannot_be_split():
    with pytest.raises(DataError, match="cannot split 2 structures"):
        split_frames([bulk("Si"), bulk("Si")], 0.5)
    with pytest.raises(DataError, match="cannot split 0 structures"):
        split_frames([], 0.5)
    with pytest.raises(DataError, match="no 'config_type' in the info of frame 0; keys present: none"):
        split_frames([bulk("Si"), bulk("Cu")], 0.5, method="group")
