from __future__ import annotations

import math

import pytest

from surefield.networks.full_batch.line_search import CURVATURE, DECREASE, Point, wolfe_search


def _line(function, slope):
    steps = []

    def evaluate(step):
        steps.append(step)
        return Point(step, function(step), slope(step), step)

    return evaluate, steps


FUNCTIONS = {
    "parabola": (lambda a: (a - 2) ** 2, lambda a: 2 * (a - 2)),
    "quartic": (lambda a: a**4 / 4 - a, lambda a: a**3 - 1),
    "exponential": (lambda a: math.exp(a) - 5 * a, lambda a: math.exp(a) - 5),
    "wavy": (
        lambda a: -a - 0.3 * math.sin(5 * a) + 0.1 * a * a,
        lambda a: -1 - 1.5 * math.cos(5 * a) + 0.2 * a,
    ),
}


@pytest.mark.parametrize("first", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_wolfe_conditions(name, first):
    function, slope = FUNCTIONS[name]
    evaluate, steps = _line(function, slope)
    start = Point(0.0, function(0), slope(0), None)
    found = wolfe_search(evaluate, start, first, 40)
    assert found.value <= start.value + DECREASE * found.step * start.slope
    assert abs(found.slope) <= CURVATURE * abs(start.slope)
    assert len(steps) < 15
    assert found.payload == found.step


def test_no_evaluation_more_than_allowed():
    evaluate, steps = _line(*FUNCTIONS["parabola"])
    found = wolfe_search(evaluate, Point(0.0, 4.0, -4.0, None), 1e-6, 3)
    assert len(steps) == 3
    assert 0 < found.step <= 1e-3


def test_infinite_values_are_too_far():
    def evaluate(step):
        if step > 0.5:
            return Point(step, math.inf, math.nan, None)
        return Point(step, (step - 0.3) ** 2, 2 * (step - 0.3), step)

    found = wolfe_search(evaluate, Point(0.0, 0.09, -0.6, None), 100.0, 40)
    assert 0 < found.step < 0.5


def test_nothing_lower():
    evaluate, steps = _line(lambda a: a, lambda a: 1.0)
    assert wolfe_search(evaluate, Point(0.0, 0.0, -1.0, None), 1.0, 60) is None
    assert len(steps) <= 60
