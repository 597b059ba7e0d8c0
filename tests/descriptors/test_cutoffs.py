from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefield.descriptors.cutoffs import Cosine, Polynomial, cutoff_function
from surefield.errors import ConfigError

RC = 6.5
FUNCTIONS = [Cosine(RC), Polynomial(RC), Polynomial(RC, gamma=2), Polynomial(RC, gamma=2.5)]


def formula(function, r):
    x = r / function.Rc
    if isinstance(function, Cosine):
        inside = (1 + np.cos(np.pi * x)) / 2
    else:
        g = function.gamma
        inside = 1 + g * x ** (g + 1) - (g + 1) * x**g
    return np.where(x < 1, inside, 0.0)


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_values_are_those_of_the_formula(function):
    r = np.linspace(0.0, 1.2 * RC, 301)
    np.testing.assert_allclose(function(r), formula(function, r), atol=1e-14)


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_slope_of_square_is_the_derivative(function):
    square = np.linspace(1e-4, 1.2 * RC**2, 101)
    expected = jax.vmap(jax.grad(function.of_square))(square)
    np.testing.assert_allclose(function.slope_of_square(square), expected, atol=1e-14)


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_derivatives_are_finite_everywhere(function):
    r = jnp.array([0.0, 1e-12, 1.0, RC, 2 * RC, 1e3])
    first = jax.grad(function)
    second = jax.grad(first)
    assert np.all(np.isfinite(jax.vmap(first)(r)))
    assert np.all(np.isfinite(jax.vmap(second)(r)))
    np.testing.assert_array_equal(jax.vmap(first)(r)[-2:], 0.0)


def test_second_derivative_of_the_cosine():
    r = np.linspace(0.5, 6.0, 12)
    second = jax.vmap(jax.grad(jax.grad(Cosine(RC))))(r)
    np.testing.assert_allclose(second, -0.5 * (np.pi / RC) ** 2 * np.cos(np.pi * r / RC), atol=1e-13)


def test_single_precision_stays_single_and_finite():
    values = Cosine(RC)(np.array([1.0, 6.49, 1e3], np.float32))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, formula(Cosine(RC), np.array([1.0, 6.49, 1e3])), atol=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_dictionary_gives_the_same_function(function):
    assert cutoff_function(function.todict()) == function
    assert cutoff_function(function) is function


def test_number_means_cosine():
    assert cutoff_function(6) == Cosine(6.0)
    assert Cosine(6.5).todict() == {"name": "Cosine", "kwargs": {"Rc": 6.5}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "Cosin", "kwargs": {"Rc": 6.5}}, "did you mean 'Cosine'"),
        ({"name": "Polynomial", "kwargs": {"Rc": 6.5, "gama": 4}}, "did you mean 'gamma'"),
        ({"name": "Cosine", "kwargs": {}}, "needs its radius"),
        ("6.5", "unusable cutoff"),
        (-1.0, "positive number"),
        (True, "unusable cutoff"),
        (float("nan"), "positive number"),
    ],
)
def test_unusable_cutoffs_are_refused(value, message):
    with pytest.raises(ConfigError, match=message):
        cutoff_function(value)
