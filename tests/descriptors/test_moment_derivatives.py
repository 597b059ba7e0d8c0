"""Derivatives of the invariants in closed form are those of automatic differentiation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefield.descriptors.moment_derivatives import invariants_along
from surefield.descriptors.moments import invariants


@pytest.mark.parametrize("n_triple", [0, 1, 3])
def test_they_are_those_of_automatic_differentiation(n_triple):
    rng = np.random.default_rng(0)
    tensors, directions = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, 3, 20), (2, 5, 3, 20)))

    def along(direction):
        return jax.jvp(lambda a: invariants(a, n_triple), (tensors,), (direction,))[1]

    expected = jnp.stack([along(directions[:, k]) for k in range(5)], axis=1)
    np.testing.assert_allclose(invariants_along(tensors, directions, n_triple), expected, rtol=0, atol=1e-13)
