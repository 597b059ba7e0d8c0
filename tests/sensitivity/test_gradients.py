from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefield.errors import ConfigError
from surefield.potentials import predict, trainable
from surefield.sensitivity import gradient_features
from surefield.sensitivity.gradients import CountSketch, gradient_rows
from surefield.structures.neighbors import neighborhood


def _moved(network, names, direction, amount):
    """Network with its trainable parameters, ordered by name, moved along a direction."""
    moving, fixed = eqx.partition(network, trainable(network))
    leaves = dict(
        zip(names, np.split(direction, np.cumsum([leaf.size for leaf in names.values()])[:-1]), strict=True)
    )

    def shift(place, leaf):
        return leaf + amount * jnp.asarray(leaves[jax.tree_util.keystr(place)].reshape(leaf.shape))

    return eqx.combine(jax.tree_util.tree_map_with_path(shift, moving), fixed)


def test_against_differences_of_the_energy(network, alloy):
    moving = eqx.filter(network, trainable(network))
    parts = {jax.tree_util.keystr(place): leaf for place, leaf in jax.tree_util.tree_leaves_with_path(moving)}
    names = {name: parts[name] for name in sorted(parts)}
    structures = [neighborhood(atoms, network.cutoff) for atoms in alloy]
    rows = np.stack(list(gradient_rows(network, structures)))
    assert rows.shape == (3, sum(leaf.size for leaf in names.values()))
    for direction in np.random.default_rng(0).normal(size=(2, rows.shape[1])):
        energies = [
            [p.energy for p in predict(_moved(network, names, direction, amount), alloy)]
            for amount in (-2e-4, -1e-4, 1e-4, 2e-4)
        ]
        slope = np.array([1, -8, 8, -1]) @ np.array(energies) / 12e-4
        np.testing.assert_allclose(rows @ direction, slope, rtol=1e-6)


def test_sketch_keeps_scalar_products_on_average():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 300)) + 0.5
    estimates = [
        float(jnp.dot(*(CountSketch(300, 32, seed)(jnp.asarray(v)) for v in (a, b)))) for seed in range(200)
    ]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - a @ b) < 4 * error
    assert error < 0.1 * np.linalg.norm(a) * np.linalg.norm(b)


def test_sketch_is_linear_and_seeded():
    v = jnp.asarray(np.random.default_rng(2).normal(size=70_000))
    first, again, other = (np.asarray(CountSketch(70_000, 16, seed)(v)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    np.testing.assert_allclose(CountSketch(70_000, 16, 3)(2 * v), 2 * first)
    # A longer vector begins with the same map.
    longer = jnp.concatenate([v, jnp.zeros(100_000)])
    np.testing.assert_allclose(CountSketch(170_000, 16, 3)(longer), first)


def test_features_are_sketched_gradients(network, alloy):
    structures = [neighborhood(atoms, network.cutoff) for atoms in alloy]
    rows = np.stack(list(gradient_rows(network, structures)))
    features = gradient_features(network, structures, width=64, seed=5)
    assert features.shape == (3, 64)
    sketch = CountSketch(rows.shape[1], 64, 5)
    np.testing.assert_allclose(features, [sketch(jnp.asarray(row)) for row in rows], rtol=1e-12)
    assert gradient_features(network, []).shape == (0, 512)


def test_width():
    with pytest.raises(ConfigError, match="width"):
        CountSketch(10, 0)
