"""Ctrl-C and SIGTERM end a training at its next evaluation, with everything saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["interruptible"]


@contextmanager
def interruptible(stop: Callable[[str], Any]) -> Iterator[None]:
    """Call `stop` with a reason on Ctrl-C or SIGTERM; a second signal acts as it does without this.

    Handlers of the user are left alone, and so is everything outside the main thread.

    Args:
        stop: is to make the work end soon.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = {
        number: signal.getsignal(number)
        for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL))
        if signal.getsignal(number) is default
    }

    def handle(number: int, frame: Any) -> None:
        for name, handler in known.items():
            signal.signal(name, handler)
        stop("Ctrl-C" if number == signal.SIGINT else "SIGTERM")

    for number in known:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in known.items():
            signal.signal(number, handler)
