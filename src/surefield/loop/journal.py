"""The journal of a loop: what happened, in order, so that a killed run goes on where it stopped."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from surefield.errors import DataError
from surefield.files import append_line, drop_torn_line, json_text, read_jsonl

__all__ = ["Journal"]

_log = logging.getLogger(__name__)


@final
class Journal:
    """Append-only list of events, one JSON object a line; the same run writes the same bytes.

    Opening it cuts off a last line that a kill has torn; that event is done again.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if torn := drop_torn_line(self.path):
            _log.warning("%s: dropped a torn last line of %d characters", self.path, len(torn))
        self._events = read_jsonl(self.path)

    @property
    def events(self) -> tuple[dict[str, Any], ...]:
        """All events, oldest first; read only."""
        return tuple(self._events)

    def find(self, **entries: Any) -> list[dict[str, Any]]:
        """Events that have all of these entries, oldest first."""
        wanted = json.loads(json_text(entries))
        return [e for e in self._events if all(k in e and e[k] == v for k, v in wanted.items())]

    def append(self, event: Mapping[str, Any], once: Sequence[str] = ()) -> bool:
        """Add an event; it is on the disk when this returns.

        Args:
            event: has a text "event" that says what happened; no times and no paths.
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
        return True
