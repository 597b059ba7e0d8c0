from __future__ import annotations

import numpy as np
import pytest

from surefield.errors import ConfigError, DataError
from surefield.training.minimize import METHODS, minimize

FREE = (np.full(2, -np.inf), np.full(2, np.inf))


class Valley:
    """Rosenbrock's function as squares; not finite where `wall` says."""

    def __init__(self, wall: float = np.inf) -> None:
        self.wall = wall

    def rows(self, x):
        bad = np.nan if x[0] > self.wall else 1.0
        return bad * np.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])

    def jacobian(self, x):
        return np.array([[-20 * x[0], 10.0], [-1.0, 0.0]])

    def loss(self, x):
        return float(self.rows(x) @ self.rows(x))

    def gradient(self, x):
        return self.loss(x), 2 * self.rows(x) @ self.jacobian(x)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("CG", "TNC", "COBYLA")])
def test_every_method_finds_the_minimum(method):
    seen: list[np.ndarray] = []
    found = minimize(Valley(), np.array([-1.0, 1.5]), FREE, method, max_evals=2000, accepted=seen.append)
    np.testing.assert_allclose(found.x, 1.0, atol=1e-3)
    assert found.loss == min(record["loss"] for record in found.history)
    assert found.history[-1]["best"] == found.loss
    assert seen


@pytest.mark.parametrize("method", [name for name, kind in METHODS.items() if kind.bounds])
def test_bounds_are_kept(method):
    bounds = np.array([-2.0, -2.0]), np.array([0.5, 2.0])
    visited: list[np.ndarray] = []

    class Bowl(Valley):
        def rows(self, x):
            visited.append(np.array(x))
            return np.array([2 * (x[0] - 1.0), x[1] - x[0]])

        def jacobian(self, x):
            return np.array([[2.0, 0.0], [-1.0, 1.0]])

    found = minimize(Bowl(), np.array([-1.0, 1.5]), bounds, method, max_evals=5000)
    assert np.array(visited)[:, 0].max() <= 0.5
    np.testing.assert_allclose(found.x, 0.5, atol=1e-3)


@pytest.mark.parametrize("method", [name for name, kind in METHODS.items() if not kind.bounds])
def test_bounds_are_refused_by_name(method):
    with pytest.raises(ConfigError, match=f"{method} does not honour bounds"):
        minimize(Valley(), np.zeros(2), (np.zeros(2), np.ones(2)), method, max_evals=5)


@pytest.mark.parametrize("method", ["L-BFGS-B", "BFGS", "Nelder-Mead", "lm", "trf"])
def test_the_limit_and_a_wall(method):
    start = np.array([-1.0, 1.5])
    found = minimize(Valley(), start, FREE, method, max_evals=7)
    assert (found.success, len(found.history)) == (False, 7)
    assert "max_evals = 7" in found.message
    assert found.loss < Valley().loss(start)
    behind = minimize(Valley(wall=0.8), start, FREE, method, max_evals=500)
    assert np.isfinite(behind.loss)
    assert behind.x[0] <= 0.8
    with pytest.raises(DataError, match="at the start is nan"):
        minimize(Valley(wall=-2.0), start, FREE, method, max_evals=5)


def test_options_are_checked():
    with pytest.raises(ConfigError, match="Unknown solver options: speed"):
        minimize(Valley(), np.zeros(2), FREE, "BFGS", max_evals=5, options={"speed": 1})
    with pytest.raises(ConfigError, match="speed"):
        minimize(Valley(), np.zeros(2), FREE, "lm", max_evals=5, options={"speed": 1})
    one = minimize(Valley(), np.zeros(2), FREE, "L-BFGS-B", max_evals=500, options={"maxiter": 1})
    assert not one.success
    with pytest.raises(ConfigError, match="did you mean 'Powell'"):
        minimize(Valley(), np.zeros(2), FREE, "Powel", max_evals=5)
