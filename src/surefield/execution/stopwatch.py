"""Seconds of work without those of compiling, which depend on what ran before."""

from __future__ import annotations

import time
from typing import Any, Final, Self, final

import jax

__all__ = ["Stopwatch"]

_COMPILING: Final = "/jax/core/compile/"


class _Compiling:
    """Seconds that JAX has spent tracing, lowering and compiling; one per process, as JAX counts."""

    listening: bool = False
    seconds: float = 0.0

    def listen(self) -> None:
        if not self.listening:
            jax.monitoring.register_event_duration_secs_listener(self._on_event)
            self.listening = True

    def _on_event(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith(_COMPILING):
            self.seconds += duration_secs


_compiling = _Compiling()


@final
class Stopwatch:
    """Adds up the seconds of all `with` blocks it is used for, compiling left out."""

    def __init__(self) -> None:
        _compiling.listen()
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._begin = time.perf_counter() - _compiling.seconds
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += max(time.perf_counter() - _compiling.seconds - self._begin, 0.0)
