"""Arguments of the functions of rows, checked."""

from __future__ import annotations

import math
import operator
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from surefield.errors import ConfigError, DataError

__all__ = ["BANDWIDTH", "BATCH_SIZE", "checked_bandwidth", "checked_batch_size", "checked_k", "checked_rows"]

#: Of the QUESTS descriptor with 32 neighbours within 5 Å, 1/Å.
BANDWIDTH: Final = 0.015
#: Rows that are held at once around those whose sums are taken.
BATCH_SIZE: Final = 20_000


def checked_rows(rows: Any, name: str, *, empty: bool = False) -> Float[np.ndarray, "n_rows n_features"]:
    """Rows as float64.

    Raises:
        DataError: not two-dimensional, empty (unless that is fine), or not finite.
    """
    array = np.asarray(rows)
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise DataError(
            f"{name} must be numbers, one row per environment",
            got=f"{array.dtype} of shape {array.shape}",
            expected="(n_rows, n_features)",
        )
    if not len(array) and empty:
        return np.empty(array.shape)
    if not array.size:
        raise DataError(f"{name} holds no environments", got=f"shape {array.shape}")
    array = array.astype(np.float64, copy=False)
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise DataError(f"{name} must be finite", where=f"row {int(np.argmax(bad))}", got="NaN or inf")
    return array


def checked_bandwidth(h: Any) -> float:
    """The bandwidth.

    Raises:
        ConfigError: not a positive number.
    """
    try:
        value = float(h)
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(h, bool) or not (math.isfinite(value) and value > 0):
        raise ConfigError("the bandwidth must be a positive number", got=repr(h), fix="see suggest_bandwidth")
    return value


def _whole(value: Any) -> int:
    try:
        return 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return 0


def checked_batch_size(batch_size: Any) -> int:
    """The batch size (ConfigError if it is not positive)."""
    if _whole(batch_size) < 1:
        raise ConfigError("batch_size must be a whole number, at least 1", got=repr(batch_size))
    return _whole(batch_size)


def checked_k(k: Any, n_rows: int) -> int:
    """Number of neighbours (ConfigError if there are not so many rows)."""
    if not 1 <= _whole(k) <= n_rows:
        raise ConfigError(
            "the number of nearest neighbours must be at least 1 and not more than the reference rows",
            got=f"{k!r} of {n_rows}",
        )
    return _whole(k)
