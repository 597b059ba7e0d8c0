"""Progress of long work: a bar with the time left on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["Track", "track"]

#: Seconds between two lines where there is no terminal.
LINE_INTERVAL: Final = 10.0


class Track(Protocol):
    """One piece of work whose progress is shown."""

    def advance(self, n: int = 1, **fields: object) -> None:
        """Count `n` more steps as done and show the fields (numbers with four digits), e.g. `loss=0.01`."""
        ...


class _Silent:
    def advance(self, n: int = 1, **fields: object) -> None:
        pass


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, n: int = 1, **fields: object) -> None:
        if fields:
            self._progress.update(self._task, advance=n, fields=_text(fields))
        else:
            self._progress.update(self._task, advance=n)


class _Lines:
    """Writes a line at most every `LINE_INTERVAL` seconds, so that short work stays silent."""

    def __init__(self, total: int | None, description: str) -> None:
        self._total = total
        self._description = description
        self._done = 0
        self._fields = ""
        self._begin = self._last = time.monotonic()

    def advance(self, n: int = 1, **fields: object) -> None:
        self._done += n
        self._fields = _text(fields) if fields else self._fields
        now = time.monotonic()
        if now - self._last >= LINE_INTERVAL:
            self._last = now
            print(self._line(now - self._begin), file=sys.stderr, flush=True)

    def _line(self, elapsed: float) -> str:
        parts = [f"{self._description}: {self._done}"]
        if self._total is not None:
            parts[0] += f"/{self._total}"
        parts.append(f"{_duration(elapsed)} elapsed")
        if self._total is not None and self._done:
            parts.append(f"{_duration(elapsed * max(self._total - self._done, 0) / self._done)} left")
        return ", ".join([*parts, self._fields] if self._fields else parts)


#: The display that is on, if any: bars inside it are added to it, because a terminal has room for one.
_displays: list[Progress] = []


@contextmanager
def track(total: int | None, description: str, enabled: bool | None = None) -> Iterator[Track]:
    """Show the progress of a piece of work on standard error; may be nested.

    Args:
        total: number of steps, None if unknown.
        description: what is done, a word or two.
        enabled: False for silence; True for a bar even where there is no terminal; by default a bar on a
            terminal or in a notebook, elsewhere a line at most every 10 s.
    """
    console = _displays[0].console if _displays else Console(stderr=True)
    if enabled is False:
        yield _Silent()
    elif enabled or console.is_terminal or console.is_jupyter:
        with _display(console) as progress:
            task = progress.add_task(description, total=total, fields="")
            try:
                yield _Bar(progress, task)
            finally:
                if len(progress.tasks) > 1:  # the outermost bar stays on the screen
                    progress.remove_task(task)
    else:
        yield _Lines(total, description)


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
        TextColumn("left"),
        TimeRemainingColumn(),
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


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
