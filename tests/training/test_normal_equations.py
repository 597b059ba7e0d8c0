"""Least squares from sums of products."""

from __future__ import annotations

import numpy as np
import pytest

from surefield.errors import DataError
from surefield.training import normal_equations
from surefield.training.normal_equations import NormalEquations


def equations(a, b):
    found = NormalEquations(a.shape[1])
    for part in np.array_split(np.arange(len(a)), 3):
        found.add(a[part], b[part])
    return found


def test_solution_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 6)), rng.normal(size=40)
    found = equations(a, b).solved(1e-5)
    x, rest, rank, s = np.linalg.lstsq(a, b, rcond=None)
    np.testing.assert_allclose(found.x, x, rtol=1e-11)
    np.testing.assert_allclose(found.singular_values, s, rtol=1e-11)
    assert found.rss == pytest.approx(float(rest[0]), rel=1e-11)
    assert (found.rank, found.n_parameters, found.n_rows) == (rank, 6, 40)
    assert found.condition == pytest.approx(s[0] / s[-1], rel=1e-11)


def test_small_directions_are_dropped():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(40, 5)), rng.normal(size=40)
    a[:, 4] = a[:, 3] * (1 + 1e-7)
    found = equations(a, b).solved(1e-5)
    assert found.rank == 4
    assert "rank 4 of 5 columns" in found.message
    assert found.x[4] == pytest.approx(found.x[3], rel=1e-5)


@pytest.mark.usefixtures("rounding_of_the_reference")
def test_reference_of_the_peer(shared):
    data = np.load(shared / "reference" / "trainers" / "expected" / "chimes" / "fit_water.npz")
    whole = NormalEquations(data["A"].shape[1])
    whole.add(data["A"], data["b"])
    expected = data["x_fast_svd"]
    np.testing.assert_allclose(whole.solved(1e-5).x, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("stop", [0, 3, 40])
def test_what_is_kept_goes_on_bit_by_bit(stop, monkeypatch):
    monkeypatch.setattr(normal_equations, "_GATHERED", 500)
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(40, 30, 4)), rng.normal(size=(40, 30))
    whole, first, second = (NormalEquations(4) for _ in range(3))
    for i in range(40):
        whole.add(a[i], b[i])
        if i == stop:
            second.go_on_from(first.arrays())
        (first if i < stop else second).add(a[i], b[i])
    if stop == 40:
        second.go_on_from(first.arrays())
    assert np.array_equal(second.solved(1e-5).x, whole.solved(1e-5).x)
    assert second.sse(np.ones(4)) == whole.sse(np.ones(4))


def test_what_is_refused():
    with pytest.raises(DataError, match="no rows were given"):
        NormalEquations(2).solved(1e-5)
    with pytest.raises(DataError, match="not finite"):
        NormalEquations(2).add(np.array([[1.0, np.nan]]), np.ones(1))
