"""Progress of long work: a bar with the time left on a terminal, else a line now and then, and in the log."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from surefield.execution.stopwatch import compiling_now, compiling_seconds, working_seconds

__all__ = ["Track", "duration", "track"]

_log = logging.getLogger(__name__)
#: Seconds between two lines where there is no terminal, and in the log.
LINE_INTERVAL: Final = 10.0
LOG_INTERVAL: Final = 60.0
#: Steps that are averaged before the time left is predicted.
AVERAGED: Final = 3


class Track(Protocol):
    """One piece of work whose progress is shown."""

    def advance(self, n: int = 1, **fields: object) -> None:
        """Count `n` more steps as done and show the fields (numbers with four digits), e.g. `loss=0.01`."""
        ...


class _Silent:
    def advance(self, n: int = 1, **fields: object) -> None:
        pass


class _Work:
    """What is done and how long the rest will take; tells the log now and then.

    Steps of an earlier run and seconds of compiling do not enter the average: both come once.
    """

    def __init__(self, total: int | None, description: str, done: int) -> None:
        self._total = total
        self._description = description
        self._done = self._before = done
        self._fields = ""
        self._begin = self._logged = time.monotonic()
        self._compiled, self._working = compiling_seconds(), working_seconds()

    def advance(self, n: int = 1, **fields: object) -> None:
        self._done += n
        self._fields = _text(fields) if fields else self._fields
        if time.monotonic() - self._logged >= LOG_INTERVAL:
            self._logged = time.monotonic()
            _log.info("%s", self.line())

    def left(self) -> str:
        """Time left in words; nothing as long as it cannot be known."""
        if compiling_now():
            return "compiling"
        steps = self._done - self._before
        if self._total is None or steps < min(AVERAGED, self._total - self._before) or not steps:
            return ""
        worked = working_seconds() - self._working
        return f"{duration(max(worked, 0.0) * max(self._total - self._done, 0) / steps)} left"

    def line(self) -> str:
        """All that is known, in one line."""
        total = "" if self._total is None else f"/{self._total}"
        elapsed = f"{duration(time.monotonic() - self._begin)} elapsed"
        compiled = compiling_seconds() - self._compiled
        if compiled >= 1:
            elapsed += f" ({duration(compiled)} compiling)"
        parts = [f"{self._description}: {self._done}{total}", elapsed, self.left(), self._fields]
        return ", ".join(part for part in parts if part)


class _Bar:
    def __init__(self, progress: Progress, task: TaskID, work: _Work) -> None:
        self._progress = progress
        self._task = task
        self._work = work

    def advance(self, n: int = 1, **fields: object) -> None:
        self._work.advance(n, **fields)
        if fields:
            self._progress.update(self._task, advance=n, fields=_text(fields))
        else:
            self._progress.update(self._task, advance=n)


class _Lines:
    """Writes a line at most every `LINE_INTERVAL` seconds, so that short work stays silent."""

    def __init__(self, work: _Work) -> None:
        self._work = work
        self._last = time.monotonic()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        # No step ends while a program compiles, which may take minutes.
        while not self._ended.wait(LINE_INTERVAL):
            if compiling_now(LINE_INTERVAL / 2):
                print(self._work.line(), file=sys.stderr, flush=True)

    def advance(self, n: int = 1, **fields: object) -> None:
        self._work.advance(n, **fields)
        now = time.monotonic()
        if now - self._last >= LINE_INTERVAL:
            self._last = now
            print(self._work.line(), file=sys.stderr, flush=True)


class _Left(ProgressColumn):
    """Time left, or what keeps the work waiting; drawn anew also between two steps."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["work"].left())


#: The display that is on, if any: bars inside it are added to it, because a terminal has room for one.
_displays: list[Progress] = []


@contextmanager
def track(
    total: int | None, description: str, enabled: bool | None = None, *, done: int = 0
) -> Iterator[Track]:
    """Show the progress of a piece of work on standard error; may be nested.

    Args:
        total: number of steps, None if unknown.
        description: what is done, a word or two.
        enabled: False for silence; True for a bar even where there is no terminal; by default a bar on a
            terminal or in a notebook, elsewhere a line at most every 10 s.
        done: steps of `total` that an earlier run has done.
    """
    console = _displays[0].console if _displays else Console(stderr=True)
    if enabled is False:
        yield _Silent()
        return
    work = _Work(total, description, done)
    if enabled or console.is_terminal or console.is_jupyter:
        with _display(console) as progress:
            task = progress.add_task(description, total=total, completed=done, fields="", work=work)
            try:
                yield _Bar(progress, task, work)
            finally:
                if len(progress.tasks) > 1:  # the outermost bar stays on the screen
                    progress.remove_task(task)
    else:
        lines = _Lines(work)
        try:
            yield lines
        finally:
            lines.close()
    _log.info("%s", work.line())


@contextmanager
def _display(console: Console) -> Iterator[Progress]:
    if _displays:
        yield _displays[0]
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _Left(),
        TextColumn("{task.fields[fields]}"),
    )
    with Progress(*columns, console=console) as progress:
        _displays.append(progress)
        try:
            yield progress
        finally:
            _displays.remove(progress)


def _text(fields: dict[str, object]) -> str:
    def value(x: object) -> str:
        return f"{x:.4g}" if isinstance(x, float) else str(x)

    return ", ".join(f"{name} {value(x)}" for name, x in fields.items())


def duration(seconds: float) -> str:
    """A time in words, such as "3 min 20 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
