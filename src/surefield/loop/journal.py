"""The journal of a loop: what happened, in order, so that a killed run goes on where it stopped."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

from surefield.errors import DataError
from surefield.files import append_line, drop_torn_line, json_text, read_jsonl

__all__ = ["TIMES", "Journal"]

_log = logging.getLogger(__name__)
#: Entries that two runs of the same loop may have different.
TIMES: Final = ("seconds", "core_seconds")


@final
class Journal:
    """Append-only list of events, one JSON object a line; the same run writes the same bytes but for `TIMES`.

    Opening it cuts off a last line that a kill has torn; that event is done again.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if torn := drop_torn_line(self.path):
            _log.warning("%s: dropped a torn last line of %d characters", self.path, len(torn))
        self._events = read_jsonl(self.path)
        #: Places of the events that have a value under a key; of the keys that were looked for.
        self._places: dict[str, dict[Any, list[int]]] = {}

    @property
    def events(self) -> tuple[dict[str, Any], ...]:
        """All events, oldest first; read only."""
        return tuple(self._events)

    def find(self, **entries: Any) -> list[dict[str, Any]]:
        """Events that have all of these entries, oldest first."""
        wanted = json.loads(json_text(entries))
        if not wanted:
            return list(self._events)
        lists = [self._index(key).get(_hashable(value), []) for key, value in wanted.items()]
        chosen = [self._events[place] for place in min(lists, key=len)]
        return [e for e in chosen if all(k in e and e[k] == v for k, v in wanted.items())]

    def last(self, **entries: Any) -> dict[str, Any] | None:
        """The latest of the events that `find` gives."""
        return next(reversed(self.find(**entries)), None)

    def append(self, event: Mapping[str, Any], once: Sequence[str] = ()) -> bool:
        """Add an event; it is on the disk when this returns.

        Args:
            event: has a text "event" that says what happened; no times but `TIMES`, and no paths.
            once: keys that identify the event; if one with the same values is there, nothing is written.

        Returns:
            Whether the event was added.

        Raises:
            DataError: no "event", an identifying key is missing, or a value that JSON has no form for.
            ExecutionError: disk full or no permission; the journal is as it was.
        """
        if not isinstance(event.get("event"), str):
            raise DataError(f"an event of the journal needs a text 'event', got keys {', '.join(event)}")
        if missing := [key for key in once if key not in event]:
            raise DataError(f"event {event['event']!r} lacks the identifying keys {', '.join(missing)}")
        if once and self.find(**{key: event[key] for key in once}):
            return False
        line = json_text(event)
        append_line(self.path, line)
        # What is kept is what a later run reads: plain lists, null for NaN.
        self._events.append(json.loads(line))
        for key, places in self._places.items():
            self._enter(key, places, len(self._events) - 1)
        return True

    def _index(self, key: str) -> dict[Any, list[int]]:
        if key not in self._places:
            places: dict[Any, list[int]] = {}
            for number in range(len(self._events)):
                self._enter(key, places, number)
            self._places[key] = places
        return self._places[key]

    def _enter(self, key: str, places: dict[Any, list[int]], number: int) -> None:
        event = self._events[number]
        if key in event:
            places.setdefault(_hashable(event[key]), []).append(number)


def _hashable(value: Any) -> Any:
    return json_text(value) if isinstance(value, list | dict) else value
