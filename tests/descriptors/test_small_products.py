from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from surefield.descriptors.small_products import small_product


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(3, 4, 7))), jnp.asarray(rng.normal(size=(4, 2, 7)))


def swap(x):
    return jnp.swapaxes(x, 0, 1)


def _expected(a, b):
    return np.einsum("ikn,kjn->ijn", a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_is_a_matrix_product_for_every_atom(pair, dtype):
    a, b = (x.astype(dtype) for x in pair)
    found = small_product(a, b)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, _expected(a, b), atol=30 * np.finfo(dtype).eps)


SWAPS = [(False, False), (True, False), (False, True), (True, True)]


@pytest.fixture(params=SWAPS, ids=str)
def swapped(request, pair):
    """The product of a pair, of which some sides are stored as their transposes; and the pair so stored."""
    swap_a, swap_b = request.param
    stored = tuple(swap(x) if flag else x for x, flag in zip(pair, request.param, strict=True))
    return functools.partial(small_product, swap_a=swap_a, swap_b=swap_b), stored


def test_swapped_sides_are_multiplied_as_their_transposes(pair, swapped):
    product, stored = swapped
    np.testing.assert_allclose(product(*stored), _expected(*pair), atol=1e-14)


def test_derivatives_of_second_order_both_ways(swapped):
    product, stored = swapped
    check_grads(lambda a, b: jnp.tanh(product(a, b)), stored, order=2, modes=["fwd", "rev"])


@pytest.mark.parametrize("axes", [(0, None), (None, 1), (2, 2), (1, 0), (3, 0)])
def test_mapped_axes(swapped, axes):
    """`vmap` of either side or both equals a loop."""
    product, stored = swapped
    rng = np.random.default_rng(1)
    sides = [
        side if axis is None else np.moveaxis(np.stack([side * s for s in rng.normal(size=5)]), 0, axis)
        for side, axis in zip(stored, axes, strict=True)
    ]
    found = jax.vmap(product, in_axes=axes)(*sides)
    for i in range(5):
        one = [s if axis is None else np.take(s, i, axis) for s, axis in zip(sides, axes, strict=True)]
        np.testing.assert_allclose(found[i], product(*one), atol=1e-13)


def test_empty_sides_and_compiled(pair):
    a, b = pair
    assert small_product(a[:0], b).shape == (0, 2, 7)
    np.testing.assert_array_equal(small_product(a[:, :0], b[:0]), np.zeros((3, 2, 7)))
    np.testing.assert_allclose(jax.jit(small_product)(a, b), _expected(a, b), atol=1e-14)


def test_nan_stays_nan(pair):
    a, b = pair
    bad = np.asarray(a).copy()
    bad[0, 0, 0] = np.nan
    found = np.asarray(small_product(jnp.asarray(bad), b))
    assert np.isnan(found[0, :, 0]).all()
    assert np.isfinite(found[1:]).all()
    bad.view(np.int64)[0, 0, 0] = 2**63 - 1  # the excluded bit pattern
    assert np.isnan(np.asarray(small_product(jnp.asarray(bad), b))).all()


def test_shapes_that_do_not_fit(pair):
    a, b = pair
    with pytest.raises(TypeError, match="small_product of"):
        small_product(a, swap(b))
