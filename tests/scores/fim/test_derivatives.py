from __future__ import annotations

import warnings

import numpy as np
import pytest

from surefield.errors import ConfigError, ExecutionError
from surefield.scores.fim.derivatives import numerical_jacobian, step_sizes

DEGREES = {"FD": 1, "FD2": 2, "FD3": 3, "FD4": 4, "CD": 2, "CD4": 4, "backward": 1}
WHERE = np.array([0.7, -1.3])


def polynomial(degree: int):
    return lambda phi: np.array([np.sum(phi**degree), phi[0] ** degree - phi[1], 1.0])


@pytest.mark.parametrize("method", DEGREES)
def test_stencils_are_exact_up_to_their_degree(method) -> None:
    for degree in range(1, DEGREES[method] + 2):
        slopes = degree * WHERE ** (degree - 1)
        exact = np.array([slopes, [slopes[0], -1.0], [0.0, 0.0]])
        got = numerical_jacobian(polynomial(degree), WHERE, np.array([0.1, 0.2]), method=method, warn=False)
        fits = np.allclose(got.values, exact, rtol=1e-11, atol=1e-11)
        assert fits == (degree <= DEGREES[method])
        if fits:
            assert got.errors.max() < 1e-10


def test_words_for_the_stencils() -> None:
    for word, name in (("central", "CD"), ("forward", "FD")):
        a, b = (
            numerical_jacobian(polynomial(3), WHERE, np.array([0.1, 0.2]), method=m, warn=False).values
            for m in (word, name)
        )
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("method", DEGREES)
def test_the_estimate_is_near_the_true_error(method) -> None:
    got = numerical_jacobian(np.exp, np.array([0.4]), np.array([0.02]), method=method, warn=False)
    true = abs(got.values[0, 0] / np.exp(0.4) - 1)
    assert 0.7 < got.errors[0] / true < 1.3


def test_large_errors_are_said() -> None:
    with pytest.warns(UserWarning, match=r"relative error above 0.001: A .*smaller step"):
        numerical_jacobian(np.exp, np.array([0.4]), np.array([0.5]), names=["A"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numerical_jacobian(np.exp, np.array([0.4]), np.array([0.01]), names=["A"])


def test_points_are_evaluated_once() -> None:
    seen = []

    def function(phi):
        seen.append(tuple(phi))
        return phi

    got = numerical_jacobian(function, WHERE, np.array([0.1, 0.1]), method="FD4")
    assert got.n_evaluations == len(seen) == len(set(seen))
    np.testing.assert_allclose(got.values, np.eye(2), atol=1e-12)


def test_default_steps_are_never_zero() -> None:
    phi = np.array([2.0, 0.0, -4.0])
    np.testing.assert_allclose(step_sizes(phi, None, 0.1), [0.2, 0.1, 0.4])
    np.testing.assert_allclose(step_sizes(phi, 0.3, 0.1), [0.3, 0.3, 0.3])
    np.testing.assert_allclose(step_sizes(phi, [1, 2, 3], 0.1), [1, 2, 3])


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan, [0.1, 0.0, 0.1], [0.1, 0.1], "small"])
def test_bad_steps_are_refused(step) -> None:
    with pytest.raises(ConfigError, match="derivative_kwargs: step"):
        step_sizes(np.ones(3), step, 0.1)


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(ConfigError, match="'CD9' is not known"):
        numerical_jacobian(np.exp, np.zeros(1), np.ones(1), method="CD9")


def test_values_that_are_no_numbers_name_the_parameter() -> None:
    with pytest.raises(ExecutionError, match="not finite at A changed by 1 steps"):
        numerical_jacobian(
            lambda p: p if p < 1 else [np.nan], np.zeros(1), np.ones(1), method="FD", names=["A"]
        )
    with pytest.raises(ExecutionError, match="another number of values"):
        numerical_jacobian(lambda p: np.zeros(1 + int(p[0] > 0)), np.zeros(1), np.ones(1), method="FD")


def test_errors_of_the_function_come_out_as_they_are() -> None:
    def fails(phi):
        raise ExecutionError("the relaxation did not converge")

    with pytest.raises(ExecutionError, match=r"^the relaxation did not converge$"):
        numerical_jacobian(fails, np.zeros(1), np.ones(1))
