from __future__ import annotations

import io

import pytest
from rich.console import Console

from surefield.execution import progress
from surefield.execution.progress import track


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "working_seconds", clock.monotonic)
    return clock


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda **_: Console(file=text, force_terminal=True, width=120, color_system=None)
    )
    return text


def test_without_a_terminal_a_line_every_ten_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with track(100, "train") as bar:
        for i in range(100):
            clock.now += 0.25
            bar.advance(loss=1.0 / (i + 1))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "train: 40/100, 10 s elapsed, 15 s left, loss 0.025",
        "train: 80/100, 20 s elapsed, 5 s left, loss 0.0125",
    ]


def test_unknown_total_and_long_work(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with track(None, "explore") as bar:
        clock.now += 75
        bar.advance()
        clock.now += 7225
        bar.advance(4)
    assert capsys.readouterr().err.splitlines() == [
        "explore: 1, 1 min 15 s elapsed",
        "explore: 5, 2 h 1 min elapsed",
    ]


def test_silence(clock: Clock, capsys: pytest.CaptureFixture[str], terminal: io.StringIO) -> None:
    with track(2, "train", enabled=False) as bar:
        clock.now += 60
        bar.advance(loss=1.0)
    assert capsys.readouterr().err == ""
    assert terminal.getvalue() == ""


def test_a_bar_on_a_terminal(terminal: io.StringIO) -> None:
    with track(3, "train") as bar:
        bar.advance(2, loss=0.123456)
        bar.advance()
    last = terminal.getvalue().splitlines()[-2]  # the very last one turns the cursor on
    for part in ("train", "3/3", "0:00:00", "left", "loss 0.1235"):
        assert part in last


def test_nested_bars_share_the_display(terminal: io.StringIO) -> None:
    with track(2, "rounds") as outer:
        for _ in range(2):
            with track(5, "label") as inner:
                inner.advance(5)
                assert len(progress._displays[0].tasks) == 2
            assert len(progress._displays[0].tasks) == 1
            outer.advance()
    assert progress._displays == []
    assert "2/2" in terminal.getvalue()


def test_the_display_ends_with_an_error(terminal: io.StringIO) -> None:
    with pytest.raises(ValueError, match="stop"), track(2, "rounds"), track(2, "label"):
        raise ValueError("stop")
    assert progress._displays == []
