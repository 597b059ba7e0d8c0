from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefield.potentials.message_network import MessageNetwork
from surefield.potentials.potential import trainable
from surefield.training.orthogonal import adam_and_orthogonal, clip_outliers


def clipped(norms, **settings):
    """Norms of gradients of these norms after clipping."""
    transform = clip_outliers(**settings)
    direction = {"a": jnp.asarray([0.6, 0.0], jnp.float32), "b": jnp.asarray([[0.8]], jnp.float32)}
    state, after = transform.init(direction), []
    for norm in norms:
        updates, state = transform.update(jax.tree.map(lambda d, n=norm: n * d, direction), state)
        np.testing.assert_allclose(updates["b"][0, 0] / updates["a"][0], 0.8 / 0.6, rtol=1e-6)
        after.append(np.sqrt(sum(float(jnp.sum(u**2)) for u in updates.values())))
    return after


def test_only_outliers_are_clipped():
    usual = [1.0, 1.5, 0.7, 1.2]
    mean = np.exp(np.mean(np.log(usual)))
    np.testing.assert_allclose(clipped([*usual, 1000.0], memory=4)[:4], usual, rtol=1e-6)
    np.testing.assert_allclose(clipped([*usual, 1000.0], memory=4)[4], 2 * mean, rtol=1e-6)
    np.testing.assert_allclose(clipped([*usual, 1.9 * mean], memory=4)[4], 1.9 * mean, rtol=1e-6)
    # The first ones, of which no usual norm is known, are left alone.
    np.testing.assert_allclose(clipped([1.0, 1000.0], memory=4), [1.0, 1000.0], rtol=1e-6)


def test_gradients_that_stay_large_become_usual():
    after = clipped([1.0] * 10 + [8.0] * 60, memory=10)
    np.testing.assert_allclose(after[10], 2.0, rtol=1e-6)
    assert after[10:] == sorted(after[10:])
    np.testing.assert_allclose(after[-1], 8.0, rtol=1e-6)


def test_batches_without_labels_do_not_lower_what_is_usual():
    norms = [1.0] * 4 + [0.0] * 20 + [1.5]
    transform, state = clip_outliers(memory=4), None
    for norm in norms:
        gradient = {"a": jnp.asarray([norm], jnp.float32)}
        state = transform.init(gradient) if state is None else state
        updates, state = transform.update(gradient, state)
    np.testing.assert_allclose(updates["a"], 1.5, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-6, 1.0])
def test_steps_of_matrices_have_one_size(size):
    potential = MessageNetwork([1, 8], n_layers=1, n_channels=8, n_basis=4, hidden=(8,))
    rng = np.random.default_rng(2)
    moving = eqx.filter(potential, trainable(potential))
    gradient = jax.tree.map(lambda a: jnp.asarray(size * rng.normal(size=a.shape), a.dtype), moving)
    transform = adam_and_orthogonal(potential, trainable(potential))
    step, _ = transform.update(gradient, transform.init(moving))
    (matrix,) = step.weights
    values = np.linalg.svd(matrix, compute_uv=False)
    # Newton and Schulz's iteration leaves singular values near one; sqrt(8) rows have a mean square of 0.2^2.
    assert np.all(np.abs(values / (0.2 * np.sqrt(8)) - 1) < 0.4)
    assert np.sum(np.asarray(matrix) * np.asarray(gradient.weights[0])) < 0
