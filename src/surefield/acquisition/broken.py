"""Selections from pools that hold structures which nobody should pay a label for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from surefield.errors import DataError
from surefield.selection.constraints import Constraints, checked_exclude
from surefield.selection.duplicates import sanity_filter
from surefield.selection.select_rows import notes_on_dropped
from surefield.selection.selection import Dropped, Selection
from surefield.structures.read import Frames

__all__ = ["Sound"]


@dataclass(frozen=True, eq=False)
class Sound:
    """The structures of a pool that can be labelled, and where they stand in it.

    Attributes:
        whole: the pool.
        kept: indices of those that can be labelled.
        refused: the others, with the reason.
    """

    whole: Frames
    kept: list[int]
    refused: list[Dropped]

    @classmethod
    def of(cls, pool: Frames) -> Sound:
        """Sorted out by `sanity_filter`.

        Raises:
            DataError: every structure is broken.
        """
        kept, refused = sanity_filter(pool)
        if not kept:
            first = f"{pool.origin(0)}: {refused[0].reason}"
            raise DataError("every structure of the pool is broken", got=first)
        return cls(pool, kept, refused)

    @property
    def frames(self) -> Frames:
        """Those that can be labelled."""
        return self.whole[self.kept]

    @property
    def notes(self) -> list[str]:
        """What was left out, in words."""
        return [f"left out, {self.whole.origin(entry.index)}: {entry.reason}" for entry in self.refused]

    def values(self, values: Any) -> Any:
        """Of one value for each structure of the pool, those of the kept ones; all else as it is."""
        if isinstance(values, str) or values is None or callable(values) or len(values) != len(self.whole):
            return values
        return values[self.kept] if isinstance(values, np.ndarray) else [values[i] for i in self.kept]

    def scores(self, scores: Mapping[str, Any] | str | None) -> Mapping[str, Any] | str | None:
        """Scores of the kept ones."""
        if not isinstance(scores, Mapping):
            return scores
        return {name: self.values(column) for name, column in scores.items()}

    def exclude(self, exclude: Sequence[int] | np.ndarray) -> list[int]:
        """Excluded structures, by their places among the kept ones."""
        places = checked_exclude(exclude, len(self.whole))
        return np.flatnonzero(np.isin(self.kept, places)).tolist()

    def constraints(self, constraints: Constraints) -> Constraints:
        """Constraints of the kept ones."""
        return replace(
            constraints,
            exclude=self.exclude(constraints.exclude),
            groups=self.values(constraints.groups),
            cost=self.values(constraints.cost),
        )

    def in_pool(self, picks: Selection) -> Selection:
        """A selection from the kept ones as one from the whole pool, where features of the others are 0."""
        places, dropped = np.array(self.kept, np.int64), list(self.refused)
        for entry in picks.dropped:
            other, reason = entry.kept, entry.reason
            if other is not None and entry.kept_in == "pool":
                words, other = f"structure {other} of pool", self.kept[other]
                reason = reason.replace(words, f"structure {other} of pool")
            dropped.append(replace(entry, index=self.kept[entry.index], reason=reason, kept=other))
        dropped.sort(key=lambda entry: entry.index)
        notes = [note for note in picks.notes if note not in notes_on_dropped(picks.dropped)]
        rows = picks.g_pool
        if self.refused and rows is not None:
            whole = np.zeros((len(self.whole), rows.shape[1]))
            whole[places] = rows
            rows = whole
        return replace(
            picks,
            indices=places[picks.indices],
            dropped=dropped,
            notes=[*notes_on_dropped(dropped), *notes],
            config={**picks.config, "n_pool": len(self.whole), "n_broken": len(self.refused)},
            g_pool=rows,
        )
