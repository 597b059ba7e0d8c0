"""Seconds of work without those of compiling, which depend on what ran before."""

from __future__ import annotations

import time
from typing import Any, Final, Self, final

import jax

__all__ = ["Stopwatch", "compiling_now", "compiling_seconds", "times", "working_seconds"]

_COMPILING: Final = "/jax/core/compile/"
#: What JAX reports when it begins to compile a program, or looks for it in the cache, and when it has it.
_BEGINS, _ENDS = (
    "/jax/compilation_cache/compile_requests_use_cache",
    "/jax/core/compile/backend_compile_duration",
)


class _Compiling:
    """Seconds that JAX has spent tracing, lowering and compiling; one per process, as JAX counts."""

    listening: bool = False
    seconds: float = 0.0
    since: float | None = None

    def __init__(self) -> None:
        self._counted: list[tuple[float, float]] = []

    def listen(self) -> None:
        if not self.listening:
            jax.monitoring.register_event_listener(self._on_begin)
            jax.monitoring.register_event_duration_secs_listener(self._on_event)
            self.listening = True

    def _on_begin(self, event: str, **_: Any) -> None:
        if event == _BEGINS:
            self.since = time.perf_counter()

    def _on_event(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith(_COMPILING):
            end = time.perf_counter()
            begin = end - duration_secs
            # Tracing a function traces those that it calls, which were reported before.
            while self._counted and self._counted[-1][0] >= begin:
                first, last = self._counted.pop()
                self.seconds -= last - first
            self._counted.append((begin, end))
            self.seconds += duration_secs
        if event == _ENDS:
            self.since = None


_compiling = _Compiling()


def compiling_seconds() -> float:
    """Seconds that this process has spent compiling since it was first asked."""
    _compiling.listen()
    return _compiling.seconds


def working_seconds() -> float:
    """Seconds on a clock that stands still while this process compiles."""
    return time.perf_counter() - compiling_seconds()


def compiling_now(longer_than: float = 1.0) -> bool:
    """Whether a program has been compiling for so many seconds (with a compilation cache only)."""
    since = _compiling.since
    return since is not None and time.perf_counter() - since > longer_than


@final
class Stopwatch:
    """Adds up the seconds of all `with` blocks it is used for, compiling left out."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._begin = working_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += max(working_seconds() - self._begin, 0.0)


def times(bare: float, seconds: float) -> float:
    """How many times `bare` it is, to three digits; NaN if that took no time."""
    return float(f"{seconds / bare:.3g}") if bare > 0 else float("nan")
