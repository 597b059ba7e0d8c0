"""Which structures that could not be labelled are tried again in a later round, by the journal alone.

An engine that has answered (no convergence, other atoms, its time limit) would answer the same again, so its
structure is left until `retries` or `time_limit` of the oracle change. Where a process was killed instead
(memory, a node that went down), the structure is tried once more.
"""

from __future__ import annotations

from typing import Any, Final

from surefield.loop.journal import Journal

__all__ = ["AGAIN", "due_again", "first_places"]

#: Purpose of labels of structures that had failed before.
AGAIN: Final = "again"
#: Of the settings in the journal: how often and how long a label is tried.
_ATTEMPTS: Final = "attempts."
#: Stages in which a structure may end with its process.
_MOST_KILLED: Final = 2


def due_again(journal: Journal) -> dict[str, str]:
    """Structures that are to be tried again, in the order of the journal, and why."""
    due: dict[str, str] = {}
    failures: dict[str, int] = {}
    left: set[str] = set()
    for event in journal.events:
        key = str(event.get("structure", ""))
        if event["event"] == "labelled":
            due.pop(key, None)
            left.discard(key)
        elif event["event"] == "failed":
            failures[key] = failures.get(key, 0) + 1
            due.pop(key, None)
            left.add(key)
            if event.get("killed") and failures[key] < _MOST_KILLED:
                due[key] = "its process was killed"
        elif event["event"] == "changed" and any(name.startswith(_ATTEMPTS) for name in event["changes"]):
            due |= dict.fromkeys((one for one in failures if one in left), "its attempts have changed")
    return due


def first_places(journal: Journal, structures: list[str]) -> list[dict[str, Any]]:
    """Purpose, round and index with which structures were chosen that have failed."""
    places = []
    for key in structures:
        first = next(e for e in journal.find(event="failed", structure=key) if e["purpose"] != AGAIN)
        places.append({name: first[name] for name in ("purpose", "round", "index")})
    return places
