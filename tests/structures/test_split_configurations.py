"""Splits of configurations."""

from __future__ import annotations

import pytest
from ase import Atoms

from surefield.errors import ConfigError, DataError
from surefield.structures.splits import copies_joined, split_configurations

IDS = [f"c{i}" for i in range(10)]


@pytest.fixture
def frames():
    return [
        Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7 + 0.05 * i]], info={"family": f"f{i // 3}"})
        for i in range(10)
    ]


@pytest.mark.parametrize(("share", "n"), [(1.0, 10), (0.8, 8), (0.01, 1), (0.99, 9)])
def test_sizes(frames, share, n):
    train, validation = split_configurations(IDS, frames, share, None, 0)
    assert len(train) == n
    assert sorted(train + validation) == list(range(10))
    assert train == sorted(train)


def test_seeds(frames):
    splits = {tuple(split_configurations(IDS, frames, 0.5, None, seed)[0]) for seed in range(5)}
    assert len(splits) > 1
    assert split_configurations(IDS, frames, 0.5, None, 3) == split_configurations(IDS, frames, 0.5, None, 3)


def test_the_draw_of_a_seed_stays(frames):
    """Without copies the split is the one that earlier versions made, with which runs are repeated."""
    assert split_configurations(IDS, frames, 0.6, None, 0)[1] == [0, 1, 8, 9]
    assert split_configurations(IDS, frames, 0.5, "family", 3)[1] == [0, 1, 2]


def test_copies_stay_on_one_side(frames):
    for original, atoms in zip(frames[:5], frames[5:], strict=True):
        atoms.positions = original.positions[::-1, ::-1]  # turned and renumbered
    for seed in range(5):
        train, validation = split_configurations(IDS, frames, 0.6, None, seed)
        assert {i % 5 for i in train}.isdisjoint(i % 5 for i in validation)
        assert len(train) == 6
    with pytest.raises(DataError, match=r"c0 \(train\) and c5 \(validation\)"):
        split_configurations(IDS, frames, 1.0, {"train": IDS[:5], "validation": IDS[5:]}, 0)
    assert copies_joined(frames, [7, 1], [0, 2, 5]) == ([1, 2, 7], [0, 5])
    assert copies_joined(frames, [7, 1], [0]) == ([7, 1], [0])


def test_families_stay_together(frames):
    train, validation = split_configurations(IDS, frames, 0.6, "family", 1)
    assert not {i // 3 for i in train} & {i // 3 for i in validation}
    assert validation


def test_given_ids(frames):
    split = {"train": ["c3", "c1"], "validation": [n for n in IDS if n not in ("c1", "c3")]}
    train, validation = split_configurations(IDS, frames, 1.0, split, 0)
    assert train == [1, 3]
    assert len(validation) == 8


@pytest.mark.parametrize(
    ("split", "error", "text"),
    [
        ({"train": ["c1"], "validation": []}, DataError, "9 configurations are in neither part"),
        ({"train": ["c1", "c1"], "validation": []}, DataError, "'c1' stands in it 2 times"),
        ({"train": ["x"]}, DataError, "no configuration has the id 'x'"),
        ({"fit": ["c1"]}, ConfigError, "needs the keys 'train' and 'validation', got fit"),
        ("colour", DataError, "configuration c0 has no such info; present: family"),
        (3, ConfigError, "split must be"),
    ],
)
def test_bad_splits(frames, split, error, text):
    with pytest.raises(error, match=text):
        split_configurations(IDS, frames, 0.5, split, 0)


def test_a_family_cannot_be_cut(frames):
    for atoms in frames:
        atoms.info["family"] = "one"
    with pytest.raises(DataError, match="needs two value"):
        split_configurations(IDS, frames, 0.5, "family", 0)
