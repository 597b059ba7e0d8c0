from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from surefield.errors import DataError, ExecutionError
from surefield.loop.journal import Journal

ROUND = ("event", "method", "seed", "round")


def write_some(path: Path) -> Journal:
    journal = Journal(path)
    journal.append({"event": "start", "n_pool": 10, "methods": ("max_dist", "random")})
    for number in range(1, 4):
        journal.append(
            {
                "event": "round",
                "method": "max_dist",
                "seed": 0,
                "round": number,
                "picks": np.arange(number),
                "gains": [np.inf, 0.1],
            },
            once=ROUND,
        )
    return journal


def test_what_is_kept_is_what_is_read(tmp_path: Path) -> None:
    journal = write_some(tmp_path / "j.jsonl")
    assert journal.events[1]["picks"] == [0]
    assert journal.events[1]["gains"] == [None, 0.1]
    assert Journal(tmp_path / "j.jsonl").events == journal.events


def test_the_same_events_give_the_same_bytes(tmp_path: Path) -> None:
    write_some(tmp_path / "a")
    write_some(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_run_killed_anywhere_ends_with_the_same_bytes(tmp_path: Path) -> None:
    write_some(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    cut = tmp_path / "cut"
    for length in range(0, len(whole), 11):
        cut.write_bytes(whole[:length])
        journal = Journal(cut)
        for event in Journal(tmp_path / "whole").events:
            keys = ROUND if event["event"] == "round" else ("event",)
            journal.append(event, once=keys)
        assert cut.read_bytes() == whole


def test_once(tmp_path: Path) -> None:
    journal = write_some(tmp_path / "j")
    before = journal.path.read_bytes()
    again = {"event": "round", "method": "max_dist", "seed": np.int64(0), "round": 2}
    assert not journal.append(again, once=ROUND)
    assert journal.path.read_bytes() == before
    assert journal.append({**again, "seed": 1}, once=ROUND)
    assert journal.append({"event": "end"})
    assert journal.append({"event": "end"})
    assert [e["round"] for e in journal.find(event="round", seed=0)] == [1, 2, 3]
    assert journal.find(event="round", absent=None) == []


def test_a_torn_line_is_repaired_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = write_some(tmp_path / "j")
    with journal.path.open("a") as file:
        file.write('{"event": "ro')
    with caplog.at_level(logging.WARNING):
        again = Journal(journal.path)
    assert "torn last line of 13 characters" in caplog.text
    assert again.events == journal.events
    again.append({"event": "end"})
    assert Journal(journal.path).events[-1] == {"event": "end"}


def test_a_full_disk_leaves_file_and_memory_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = write_some(tmp_path / "j")
    before = journal.events

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(ExecutionError, match="disk is full"):
            journal.append({"event": "end"})
    assert journal.events == before
    assert Journal(journal.path).events == before


def test_the_callers_event_is_not_shared(tmp_path: Path) -> None:
    event = {"event": "initial", "picks": [1, 2]}
    journal = Journal(tmp_path / "j")
    journal.append(event)
    event["picks"] = "changed"
    assert journal.events[0]["picks"] == [1, 2]


@pytest.mark.parametrize(
    ("event", "once", "message"),
    [
        ({"round": 1}, (), "needs a text 'event', got keys round"),
        ({"event": "round"}, ("event", "seed"), "lacks the identifying keys seed"),
        ({"event": "round", "path": Path("x")}, (), "cannot be written as JSON"),
    ],
)
def test_wrong_events(tmp_path: Path, event: dict[str, object], once: tuple[str, ...], message: str) -> None:
    journal = Journal(tmp_path / "j")
    with pytest.raises(DataError, match=message):
        journal.append(event, once=once)
    assert not journal.path.exists()


def test_long_journals_are_searched_by_what_events_hold(tmp_path: Path) -> None:
    """10,000 labels: each event is looked for when it is added; lists are found, too."""
    path = tmp_path / "j"
    path.write_text(
        "".join(f'{{"event": "labelled", "index": {i}, "round": {i // 50}}}\n' for i in range(10_000))
    )
    journal = Journal(path)
    assert [e["index"] for e in journal.find(event="labelled", round=3)] == list(range(150, 200))
    looked: list[dict[str, object]] = []
    for i in range(0, 10_000, 5):
        looked += journal.find(event="labelled", index=np.int64(i))
    assert len(looked) == 2000
    journal.append({"event": "picked", "picks": [3, 4]}, once=("event", "picks"))
    assert not journal.append({"event": "picked", "picks": (3, 4)}, once=("event", "picks"))
    assert journal.last(event="labelled") == {"event": "labelled", "index": 9999, "round": 199}
    assert journal.last(event="end") is None
    assert journal.find() == list(journal.events)
