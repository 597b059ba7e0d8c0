"""Code outside JAX, called from programs of JAX: its errors come out as they were raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import jax

from surefield.errors import SurefieldError

__all__ = ["call_outside", "errors_from_outside"]

_RAISED: Final[list[SurefieldError]] = []


def call_outside(function: Callable[..., Any], shapes: Any, *arguments: Any) -> Any:
    """`jax.pure_callback`, one call after the other; errors of this package are kept for who called JAX."""

    def kept(*values: Any) -> Any:
        try:
            return function(*values)
        except SurefieldError as error:
            _RAISED[:] = [error]
            raise

    return jax.pure_callback(kept, shapes, *arguments, vmap_method="sequential")


@contextmanager
def errors_from_outside() -> Iterator[None]:
    """What JAX reports as an error of its own becomes the error that `call_outside` saw."""
    _RAISED.clear()
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError, RuntimeError) as error:  # the latter by Equinox
        if not _RAISED or isinstance(error, SurefieldError):
            raise
        raise _RAISED.pop() from error
