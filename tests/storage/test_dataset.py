from __future__ import annotations

from collections.abc import Callable

import pytest
from ase import Atoms

from surefield.errors import ConfigError, DataError
from surefield.storage.dataset import (
    StorageWarning,
    assign_ids,
    check_metadata,
    check_name,
    content_hash,
    entries_of,
    split_handle,
)


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "a/b", "a\\b", "../a", "a..b", "a\n", " a", "c:a", None, 3]
)
def test_names_that_are_no_names(name: object) -> None:
    with pytest.raises(ConfigError, match="not the name"):
        check_name(name)


@pytest.mark.parametrize(
    ("handle", "parts"),
    [
        ("si_0", ("si", 0)),
        ("run_v2_13", ("run_v2", 13)),
        ("si_2024_0", ("si_2024", 0)),
        ("a b-ü_1", ("a b-ü", 1)),
        ("si", None),
        ("si_v2", None),
        ("si_01", None),
        ("_1", None),
        ("si_²", None),
    ],
)
def test_the_version_is_cut_off_at_the_end_only(handle: str, parts: tuple[str, int] | None) -> None:
    assert split_handle(handle) == parts


def test_ids_follow_geometry_and_never_repeat(labelled: Callable[..., list[Atoms]]) -> None:
    frames = labelled(3)
    relabelled = frames[0].copy()
    relabelled.info["energy"] = -1.0
    entries, source = entries_of([*frames, relabelled, frames[0]])
    ids = assign_ids(entries, {})
    assert len(set(ids)) == 5
    assert [ids[3], ids[4]] == [f"{ids[0]}_1", f"{ids[0]}_2"]
    assert ids[0].startswith("cfg_")
    assert source == ("memory",)
    # one that is taken already, in the dataset that is added to
    assert assign_ids(entries[:2], {ids[0]: "", f"{ids[0]}_1": ""}) == [f"{ids[0]}_2", ids[1]]


def test_given_ids_are_kept_and_clashes_refused(labelled: Callable[..., list[Atoms]]) -> None:
    frames = labelled(3)
    frames[0].info["configuration_id"] = "mine"
    frames[1].info["configuration_id"] = 12
    entries, _ = entries_of(frames)
    ids = assign_ids(entries, {})
    assert ids[:2] == ["mine", "12"]
    assert assign_ids([entries[0], entries[0]], {}) == ["mine", "mine_1"]
    frames[1].info["configuration_id"] = "mine"
    with pytest.raises(DataError, match="configuration 1 of the data; got 'mine'"):
        assign_ids(entries_of(frames)[0], {})
    frames[1].info["configuration_id"] = 0.5
    with pytest.raises(DataError, match="text in one line"):
        entries_of(frames)


def test_the_hash_goes_on_from_the_hash_before() -> None:
    members = [("a", "1"), ("b", "2"), ("c", "3")]
    assert content_hash(members[2:], content_hash(members[:2])) == content_hash(members)
    assert content_hash(members) != content_hash(members[::-1])


def test_results_of_another_geometry_are_not_labels(labelled: Callable[..., list[Atoms]]) -> None:
    frames = labelled(2)
    frames[1].positions += 0.1
    with pytest.warns(StorageWarning, match="1 of 2 structures moved"):
        entries_of(frames)


@pytest.mark.parametrize("metadata", ["text", {"a": object()}])
def test_metadata_must_be_data(metadata: object) -> None:
    with pytest.raises(ConfigError, match="metadata"):
        check_metadata(metadata)  # type: ignore[arg-type]


def test_nothing_to_store() -> None:
    with pytest.raises(DataError, match="no configurations"):
        entries_of([])
