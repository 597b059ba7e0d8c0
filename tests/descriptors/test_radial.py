from __future__ import annotations

import jax
import numpy as np

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


def test_recurrence_gives_the_bessel_functions():
    r = np.linspace(0.5, 3.9, 7)
    n = np.arange(1, 7)
    expected = np.sqrt(2 / CUTOFF) * np.sin(n[:, None] * np.pi * r / CUTOFF) / r
    expected *= np.asarray(smooth_cutoff(r, CUTOFF))
    np.testing.assert_allclose(bessel_basis(r, CUTOFF, 6), expected, atol=1e-14)


def test_single_precision_vanishes_beyond_the_cutoff():
    values = bessel_basis(np.array([CUTOFF, 5.0, 1e3], np.float32), CUTOFF, 8)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, 0)
