from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefield.descriptors.radial import bessel_basis, smooth_cutoff

CUTOFF = 4.0


def test_cutoff_falls_from_one_to_zero():
    r = np.linspace(0, CUTOFF, 50)
    values = np.asarray(smooth_cutoff(r, CUTOFF))
    np.testing.assert_allclose(values[[0, -1]], [1, 0], atol=1e-14)
    assert np.all(np.diff(values) <= 0)
    np.testing.assert_array_equal(smooth_cutoff(np.array([4.1, 1e3]), CUTOFF), 0)


def test_two_continuous_derivatives_at_the_cutoff():
    def basis(r):
        return bessel_basis(np.ones(1) * r, CUTOFF, 4)[:, 0]

    first = jax.jacfwd(basis)
    second = jax.jacfwd(first)
    for function, power in ((basis, 3), (first, 3), (second, 2)):
        inside = np.abs(np.asarray(function(CUTOFF - 1e-5)))
        assert np.all(inside < 1e-2 * 10 ** -(power - 2))
        np.testing.assert_array_equal(function(CUTOFF + 1e-5), 0)


def _formula(r):
    n = np.arange(1, 33)[:, None]
    return np.sqrt(2 / CUTOFF) * jnp.sin(n * np.pi * r / CUTOFF) / r * smooth_cutoff(r, CUTOFF)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-14), (np.float32, 1e-5)])
def test_values_and_derivatives_are_those_of_the_formula(dtype, tolerance):
    def basis(r):
        return bessel_basis(r[None], CUTOFF, 32)[:, 0]

    def formula(r):
        return _formula(r)[:, 0]

    r = np.linspace(0.5, 3.9, 7)
    for order in range(3):
        value = jax.jit(jax.vmap(basis))(jnp.asarray(r, dtype))
        assert value.dtype == dtype
        scale = 2 * (32 * np.pi / CUTOFF) ** order
        np.testing.assert_allclose(value, jax.jit(jax.vmap(formula))(r), atol=tolerance * scale)
        basis = (jax.jacfwd, jax.jacrev)[order % 2](basis)
        formula = jax.jacfwd(formula)


def test_single_precision_vanishes_beyond_the_cutoff():
    values = bessel_basis(np.array([CUTOFF, 5.0, 1e3], np.float32), CUTOFF, 8)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, 0)
