from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import rosen, rosen_der

from surefield.errors import ConfigError
from surefield.networks.full_batch.optimizers import (
    BFGS,
    LBFGS,
    OptaxOptimizer,
    OptimizerEnd,
    optax_names,
)

START = np.array([-1.2, 1.0, 0.7, -0.4, 1.5])
MAKE = {
    "BFGS": lambda: BFGS(gtol=1e-8),
    "L-BFGS-B": lambda: LBFGS(ftol=0, gtol=1e-8, maxcor=3),
    "adam": lambda: OptaxOptimizer("adam", learning_rate=0.02),
    "noisy_sgd": lambda: OptaxOptimizer("noisy_sgd", learning_rate=1e-4, key=3),
}


def _counted():
    calls = []

    def evaluate(x):
        calls.append(np.array(x))
        return rosen(x), rosen_der(x)

    return evaluate, calls


def _run(optimizer, state, evaluate, steps):
    for _ in range(steps):
        state = optimizer.step(state, evaluate)
    return state


def _last(optimizer, start, evaluate):
    """State at which the optimizer ends."""
    state = optimizer.start(start)
    for _ in range(200):
        try:
            state = optimizer.step(state, evaluate)
        except OptimizerEnd:
            return state
    raise AssertionError("it does not end")


@pytest.mark.parametrize("name", ["BFGS", "L-BFGS-B"])
def test_quasi_newton_finds_the_minimum(name):
    evaluate, calls = _counted()
    optimizer = MAKE[name]()
    with pytest.raises(OptimizerEnd, match="gtol"):
        _run(optimizer, optimizer.start(START), evaluate, 1000)
    np.testing.assert_allclose(calls[-1], 1.0, atol=1e-6)
    assert len(calls) < 120


@pytest.mark.parametrize("name", MAKE)
def test_a_restored_state_goes_on_bit_by_bit(name):
    whole, interrupted = _counted(), _counted()
    _run(MAKE[name](), MAKE[name]().start(START), whole[0], 14)
    optimizer = MAKE[name]()
    arrays = optimizer.arrays(_run(optimizer, optimizer.start(START), interrupted[0], 6))
    assert all(isinstance(value, np.ndarray) and value.dtype != object for value in arrays.values())
    arrays = {key: value.copy() for key, value in arrays.items()}
    optimizer = MAKE[name]()
    _run(optimizer, optimizer.restored(arrays), interrupted[0], 8)
    np.testing.assert_array_equal(whole[1], interrupted[1])


def test_state_before_the_first_evaluation_is_restored():
    for name, make in MAKE.items():
        optimizer = make()
        state = optimizer.restored(optimizer.arrays(optimizer.start(START)))
        evaluate, calls = _counted()
        optimizer.step(state, evaluate)
        np.testing.assert_array_equal(calls[0], START, err_msg=name)


def test_bfgs_memory_is_the_inverse_hessian():
    matrix = np.array([[3.0, 1.0, 0.2], [1.0, 2.0, 0.1], [0.2, 0.1, 1.0]])
    optimizer = BFGS(gtol=1e-10)
    state = _last(optimizer, np.array([1.0, -2.0, 3.5]), lambda x: (0.5 * x @ matrix @ x, matrix @ x))
    lower = np.tril(state.memory)
    np.testing.assert_allclose(lower + np.tril(lower, -1).T, np.linalg.inv(matrix), atol=0.02)


def test_ftol_ends():
    optimizer = LBFGS(ftol=1e-2)
    with pytest.raises(OptimizerEnd, match=r"ftol = 0\.01"):
        _run(optimizer, optimizer.start(START), _counted()[0], 100)


def test_steps_into_the_infinite_are_shortened():
    def evaluate(x):
        if np.max(np.abs(x)) > 1.6:
            return np.nan, np.full(x.shape, np.nan)
        return rosen(x), rosen_der(x)

    state = _last(BFGS(gtol=1e-6), START, evaluate)
    np.testing.assert_allclose(state.x, 1.0, atol=1e-5)


@pytest.mark.parametrize("name", MAKE)
def test_start_that_is_not_finite(name):
    optimizer = MAKE[name]()
    with pytest.raises(OptimizerEnd, match="non-finite"):
        optimizer.step(optimizer.start(START), lambda x: (np.nan, x))


def test_a_loss_that_contradicts_its_slopes_ends():
    optimizer = BFGS()
    with pytest.raises(OptimizerEnd, match="not even along the gradient"):
        _run(optimizer, optimizer.start(START), lambda x: (x.sum(), -np.ones(5)), 5)


def test_names_of_optax():
    names = optax_names()
    assert {"adam", "adamw", "sgd", "rmsprop"} <= set(names)
    assert not {"lbfgs", "scale_by_adam", "scale_by_learning_rate"} & set(names)
    with pytest.raises(ConfigError, match="adam"):
        OptaxOptimizer("adm")
    with pytest.raises(ConfigError, match="rate"):
        OptaxOptimizer("adam", rate=1)
