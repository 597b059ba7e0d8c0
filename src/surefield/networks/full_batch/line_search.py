"""Line search for the strong Wolfe conditions: Nocedal and Wright, Numerical Optimization (2006), 3.5."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

__all__ = ["Point", "wolfe_search"]

#: Sufficient decrease and curvature.
DECREASE, CURVATURE = 1e-4, 0.9
#: Longest and shortest extrapolation, as factors of the step; nearest approach to the ends of an interval.
_GROWTH: Final = (2.0, 10.0)
_MARGIN: Final = 0.1


class Point(NamedTuple):
    """One evaluation on the line.

    Attributes:
        step: length, in units of the direction.
        value: loss; infinite where it is not finite.
        slope: its derivative by the step.
        payload: whatever the caller wants back.
    """

    step: float
    value: float
    slope: float
    payload: Any


def wolfe_search(evaluate: Callable[[float], Point], start: Point, first: float, most: int) -> Point | None:
    """A step along a descent direction that satisfies the strong Wolfe conditions.

    f(a) <= f(0) + c1 a f'(0) and |f'(a)| <= c2 |f'(0)|.

    Args:
        evaluate: value and slope of a step.
        start: at step 0; its slope is negative.
        first: step to try first.
        most: number of evaluations.

    Returns:
        The point; one that only decreases the loss sufficiently if `most` evaluations or the precision of the
        numbers allow no better; None if there is none.
    """
    low, high = start, None
    step = first
    for _ in range(most):
        point = evaluate(step)
        too_long = not _decreases(start, point) or (low is not start and point.value >= low.value)
        if not too_long and abs(point.slope) <= -CURVATURE * start.slope:
            return point
        if too_long:
            high = point
        else:
            # The minimum lies on the side to which the loss falls.
            ahead = 1.0 if high is None else high.step - low.step
            low, high = (point, low) if point.slope * ahead >= 0 else (point, high)
        if high is None:
            step = _further(start, point)
            continue
        step = _between(low, high)
        if abs(high.step - low.step) <= 1e-12 * max(abs(high.step), abs(low.step)):
            break
    return low if low is not start else None


def _decreases(start: Point, point: Point) -> bool:
    # The first condition alone would pass a step that rounding makes nothing of.
    return point.value < start.value and point.value <= start.value + DECREASE * point.step * start.slope


def _further(start: Point, point: Point) -> float:
    """Longer step from the parabola through the slopes."""
    change = point.slope - start.slope
    guess = -start.slope * point.step / change if change > 0 else math.inf
    return min(max(guess, _GROWTH[0] * point.step), _GROWTH[1] * point.step)


def _between(low: Point, high: Point) -> float:
    """Minimum of the cubic through both ends, kept away from them; the middle where there is none."""
    width = high.step - low.step
    guess = low.step + 0.5 * width
    if math.isfinite(high.value) and math.isfinite(high.slope):
        mean = 3 * (low.value - high.value) / width + low.slope + high.slope
        square = mean * mean - low.slope * high.slope
        if square >= 0:
            root = math.copysign(math.sqrt(square), width)
            bottom = high.slope - low.slope + 2 * root
            if bottom != 0:
                guess = high.step - width * (high.slope + root - mean) / bottom
    else:
        guess = low.step + _MARGIN * width
    ends = sorted((low.step + _MARGIN * width, high.step - _MARGIN * width))
    return min(max(guess, ends[0]), ends[1])
