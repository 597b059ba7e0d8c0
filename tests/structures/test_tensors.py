"""Voigt components and rows of structures against ASE and by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from surefield.structures.tensors import VOIGT, from_voigt, row_slices, to_voigt, volume

TENSOR = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])


def test_order_is_that_of_ase():
    np.testing.assert_array_equal(to_voigt(TENSOR), full_3x3_to_voigt_6_stress(TENSOR))
    np.testing.assert_array_equal(from_voigt(to_voigt(TENSOR)), voigt_6_to_full_3x3_stress(np.arange(1.0, 7)))
    assert [VOIGT[k] for k in (3, 5)] == ["yz", "xy"]


def test_leading_axes_and_jax_arrays():
    stack = np.stack([TENSOR, 2 * TENSOR])

    assert to_voigt(stack).shape == (2, 6)
    np.testing.assert_array_equal(from_voigt(jnp.asarray(to_voigt(stack))), stack)


def test_volume_of_a_left_handed_cell():
    assert volume(np.diag([2.0, 3.0, -4.0])) == pytest.approx(24.0, rel=1e-14)


def test_rows_of_structures_one_after_the_other():
    assert row_slices([2, 0, 3]) == [slice(0, 2), slice(2, 2), slice(2, 5)]
    assert row_slices([]) == []
