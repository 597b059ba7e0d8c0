"""Polynomials of a transformed distance: values, slopes, ends, extrapolation, cutoff functions."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from surefield.descriptors.chimes.polynomials import EXTRAPOLATION, penalty, radial
from surefield.potentials.chimes import ChimesSettings

BASE = ChimesSettings(("C",), (8, 0, 0), (1.2,), (5.0,), (1.4,))
INNER, OUTER, LENGTH = 1.2, 5.0, 1.4


def variable(r, transform):
    if transform == "DEFAULT":
        return (2 * r - INNER - OUTER) / (OUTER - INNER)
    x = (lambda d: np.exp(-d / LENGTH)) if transform == "MORSE" else (lambda d: 1 / d)
    return (2 * x(r) - x(INNER) - x(OUTER)) / (x(INNER) - x(OUTER))


def cutoff(r, settings):
    if settings.cutoff == "CUBIC":
        return (1 - r / OUTER) ** 3
    d = OUTER * (1 - settings.tersoff)
    tail = 0.5 + 0.5 * np.sin(np.pi * (r - d) / (OUTER - d) + np.pi / 2)
    return np.where(r < d, 1.0, tail)


@pytest.mark.parametrize("transform", ["MORSE", "INVRSE_R", "DEFAULT"])
@pytest.mark.parametrize("kind", ["CUBIC", "TERSOFF"])
def test_values_and_slopes(transform, kind):
    settings = replace(BASE, transform=transform, cutoff=kind, tersoff=0.6)
    r = np.linspace(INNER, OUTER - 1e-3, 41)
    found = radial(np, r, INNER, OUTER, LENGTH, 7, settings)
    angle = np.arccos(np.clip(variable(r, transform), -1, 1))
    expected = cutoff(r, settings) * np.cos(np.arange(7)[:, None] * angle)
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    h = 1e-5
    ahead, behind = (radial(np, r[1:] + s, INNER, OUTER, LENGTH, 7, settings).values for s in (h, -h))
    np.testing.assert_allclose(found.slopes[:, 1:], (ahead - behind) / (2 * h), atol=2e-7)


def test_the_variable_is_one_at_the_inner_end_except_for_plain_distances():
    ends = np.array([INNER, OUTER])
    for transform, sign in (("MORSE", 1), ("INVRSE_R", 1), ("DEFAULT", -1)):
        settings = replace(BASE, transform=transform, cutoff="TERSOFF", tersoff=0.01)
        first = radial(np, ends, INNER, OUTER, LENGTH, 2, settings).values[1, 0]
        assert first == pytest.approx(sign, abs=1e-14)


def test_below_the_inner_cutoff_polynomials_level_off():
    settings = replace(BASE, cutoff="TERSOFF", tersoff=0.5)
    at = radial(np, np.array([INNER]), INNER, OUTER, LENGTH, 6, settings)
    r = np.array([INNER - 0.02, INNER - 1.0])
    found = radial(np, r, INNER, OUTER, LENGTH, 6, settings)
    step = EXTRAPOLATION * (np.exp((r - INNER) / EXTRAPOLATION) - 1)
    np.testing.assert_allclose(found.values, at.values + step * at.slopes, rtol=1e-13)
    np.testing.assert_allclose(found.slopes[:, 1], 0, atol=1e-30)
    h = 1e-6
    below = radial(np, np.array([INNER - h]), INNER, OUTER, LENGTH, 6, settings)
    np.testing.assert_allclose(below.slopes, at.slopes, rtol=2e-4)  # one continuous derivative


def test_nothing_is_left_beyond_the_outer_cutoff():
    for kind in ("CUBIC", "TERSOFF"):
        found = radial(np, np.array([5.0, 5.5, 50.0]), INNER, OUTER, LENGTH, 5, replace(BASE, cutoff=kind))
        assert not found.values.any()
        assert np.abs(found.slopes).max() < 1e-15


def test_both_array_libraries_agree():
    r = np.array([0.9, 1.2, 2.0, 4.9])
    a, b = (radial(xp, xp.asarray(r), INNER, OUTER, LENGTH, 6, BASE) for xp in (np, jnp))
    np.testing.assert_allclose(np.asarray(b.values), a.values, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(np.asarray(b.slopes), a.slopes, rtol=1e-13, atol=1e-13)


def test_penalty_begins_a_little_above_the_inner_cutoff():
    settings = replace(BASE, penalty_distance=0.1, penalty_scale=50.0)
    np.testing.assert_allclose(
        penalty(np, np.array([1.1, 1.25, 1.3]), INNER, settings), [0.4, 0.00625, 0.0], atol=1e-15
    )
