"""What a score says something about."""

from __future__ import annotations

from enum import Enum
from typing import Any, final

from surefield.errors import ConfigError

__all__ = ["ScoreQuantity", "checked_quantity"]


@final
class ScoreQuantity(Enum):
    """Quantities of scores; wherever one is taken, so is its name, in any case."""

    IMPORTANCE = 0
    UNCERTAINTY = 1
    EFFICIENCY = 2
    DIVERSITY = 3
    DELTA_ENTROPY = 4
    SENSITIVITY = 5


def checked_quantity(score_quantity: Any, supported: ScoreQuantity, name: str) -> ScoreQuantity:
    """The quantity itself.

    Args:
        score_quantity: a member, or its name in any case.
        supported: what the class computes.
        name: of the class.

    Raises:
        ConfigError: no quantity at all, or another one.
    """
    member = score_quantity
    if isinstance(score_quantity, str):
        member = ScoreQuantity.__members__.get(score_quantity.strip().upper())
    if member is supported:
        return supported
    got = member.name if isinstance(member, ScoreQuantity) else repr(score_quantity)
    raise ConfigError(f"{name} does not compute this score_quantity", got=got, expected=supported.name)
