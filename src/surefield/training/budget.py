"""The time that a training may take: what is left of it, and how many steps that is."""

from __future__ import annotations

import math
import time
from typing import Final, final

from surefield.execution.stopwatch import compiling_seconds, working_seconds

__all__ = ["Budget"]

#: Share of the time that is kept for the errors in the end, at most.
_LARGEST_RESERVE: Final = 0.1
#: Steps before the first of them has shown what one takes: a warm-up over them begins low.
_UNKNOWN: Final = 5000


@final
class Budget:
    """Wall time of a training, of which all takes its part: exact solution, compiling, steps, errors.

    Compiling comes once: it is counted as spent, and left out of what a step takes.

    Args:
        minutes: in all, from now on; None: there is no limit.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self.seconds = math.inf if minutes is None else 60.0 * minutes
        self._begin = time.monotonic()
        self._compiled = compiling_seconds() if self.limited else 0.0
        self._reserve = self._worked = 0.0
        self._since: float | None = None
        self._ended = False

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return math.isfinite(self.seconds)

    @property
    def spent(self) -> float:
        """Seconds since the training began, those before an interruption included; 0 without a limit."""
        return time.monotonic() - self._begin if self.limited else 0.0

    @property
    def left(self) -> float:
        """Seconds that steps may still take."""
        return max(self.seconds - self._reserve - self.spent, 0.0)

    @property
    def worked(self) -> float:
        """Seconds of all steps and of what comes between them, without compiling; 0 without a limit."""
        if self._since is None:
            return self._worked
        return self._worked + max(working_seconds() - self._since, 0.0)

    def begin_steps(self, spent: float = 0.0, worked: float = 0.0) -> None:
        """Steps begin now; of a training that goes on, with what it had spent and worked before."""
        self._worked = worked
        self._begin -= spent
        if self.limited:
            self._since = working_seconds()

    def reserve(self, seconds: float) -> None:
        """Keep time for the errors in the end."""
        self._reserve = min(seconds, _LARGEST_RESERVE * self.seconds) if self.limited else 0.0

    def n_steps(self, step: int, planned: int) -> int:
        """Steps in all, as far as it is known after `step` of them; without a limit those that are planned.

        A schedule over so many steps follows the time: at the end they are those that were done.
        """
        if not self.limited:
            return planned
        if step == 0:
            return _UNKNOWN
        return step + max(round(self.left * step / max(self.worked, 1e-9)), 1)

    def over(self, step: int) -> bool:
        """Whether there is no time for half a step more; from then on it stays so."""
        half = 0.5 * self.worked / step if step else 0.0
        self._ended = self._ended or (self.limited and self.left <= half)
        return self._ended

    @property
    def compiled(self) -> float:
        """Seconds of compiling since the training began or went on."""
        return compiling_seconds() - self._compiled
