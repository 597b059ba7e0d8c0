from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefield.structures.graph import bucket_size, collate, edge_forces, edge_virials, sum_atoms
from surefield.structures.neighbors import neighborhood


@pytest.fixture(scope="module")
def structures(alloy):
    return [neighborhood(atoms, 3.5) for atoms in alloy]


@pytest.fixture(scope="module")
def graph(structures):
    return collate(structures, n_atoms=12, n_neighbors=32, n_structures=4)


def test_padding_changes_nothing(structures, graph):
    tight = collate(structures, n_atoms=9, n_neighbors=max(s.n_neighbors for s in structures))
    for one in (tight, graph):
        assert one.mask.sum() == sum(s.counts.sum() for s in structures)
        assert one.atom_mask.sum() == 9
    gradient = np.random.default_rng(0).normal(size=tight.vectors.shape) * tight.mask[..., None]
    wide = np.zeros(graph.vectors.shape)
    wide[:9, : gradient.shape[1]] = gradient
    np.testing.assert_allclose(edge_forces(wide, graph)[:9], edge_forces(gradient, tight), atol=1e-14)
    np.testing.assert_allclose(edge_virials(wide, graph)[:3], edge_virials(gradient, tight), atol=1e-14)
    np.testing.assert_array_equal(edge_forces(wide, graph)[9:], 0)


def test_padding_edges_are_their_own_reverse(graph):
    flat = graph.reverse.ravel()
    np.testing.assert_array_equal(flat[flat], np.arange(flat.size))
    empty = ~graph.mask.ravel()
    np.testing.assert_array_equal(flat[empty], np.flatnonzero(empty))
    np.testing.assert_allclose(np.linalg.norm(graph.vectors[~graph.mask], axis=1), 1e3)


def test_edges_stay_in_their_structure(graph):
    owner = np.broadcast_to(graph.structure[:, None], graph.mask.shape)
    np.testing.assert_array_equal(graph.structure[graph.neighbors][graph.mask], owner[graph.mask])


def _pair_energy(vectors, mask):
    return jnp.sum(jnp.where(mask, jnp.exp(-jnp.sum(vectors**2, axis=-1)) + vectors[..., 0] ** 3, 0.0))


def test_forces_and_virial_are_derivatives(graph):
    """Against automatic differentiation through positions and strain, by plain indexing."""
    shift = graph.vectors - (graph.positions[graph.neighbors] - graph.positions[:, None])

    def energy(positions, strain):
        vectors = positions[graph.neighbors] - positions[:, None] + shift
        grow = jnp.eye(3) + 0.5 * (strain + jnp.swapaxes(strain, 1, 2))
        return _pair_energy(jnp.einsum("nka,nab->nkb", vectors, grow[graph.structure]), graph.mask)

    zero = jnp.zeros((4, 3, 3))
    by_position, by_strain = jax.grad(energy, argnums=(0, 1))(jnp.asarray(graph.positions), zero)
    gradient = jax.grad(_pair_energy)(jnp.asarray(graph.vectors), graph.mask)
    np.testing.assert_allclose(edge_forces(gradient, graph), -by_position, atol=1e-9)
    np.testing.assert_allclose(edge_virials(gradient, graph), by_strain, atol=1e-9)


def test_transpose_of_edge_forces_is_what_autodiff_gives(graph):
    def plain(g):
        back = g.reshape(-1, 3)[graph.reverse.reshape(-1)].reshape(g.shape)
        return jnp.sum(g - back, axis=1)

    rng = np.random.default_rng(1)
    gradient, force = rng.normal(size=graph.vectors.shape), rng.normal(size=graph.positions.shape)
    value, mine = jax.vjp(lambda g: edge_forces(g, graph), jnp.asarray(gradient))
    expected, theirs = jax.vjp(plain, jnp.asarray(gradient))
    np.testing.assert_allclose(value, expected, atol=1e-14)
    # Only real edges count: the gradient of padding never reaches a parameter.
    mask = graph.mask[..., None]
    np.testing.assert_allclose(mine(force)[0] * mask, theirs(force)[0] * mask, atol=1e-14)


def test_sum_atoms(graph):
    np.testing.assert_array_equal(sum_atoms(graph.atom_mask.astype(float), graph), [3, 3, 3, 0])


def test_stress_belongs_to_three_periodic_directions(graph):
    assert graph.periodic.tolist() == [True, False, False, False]
    volume = np.asarray(graph.volume)
    np.testing.assert_allclose(volume[0], abs(np.linalg.det(graph.cell[0])))
    np.testing.assert_array_equal(volume[1:], 1.0)


def test_too_small_a_shape_is_refused(structures):
    with pytest.raises(ValueError, match="9 atoms"):
        collate(structures, n_atoms=8)


def test_bucket_sizes_are_few_and_large_enough():
    sizes = [bucket_size(n) for n in range(1, 500)]
    assert all(size >= n for n, size in enumerate(sizes, start=1))
    assert all(size <= 1.25 * n + 4 for n, size in enumerate(sizes, start=1) if n > 4)
    assert sizes == sorted(sizes)
    assert len(set(sizes)) < 25


def test_graph_is_a_pytree_of_arrays(graph):
    assert all(eqx.is_array_like(leaf) for leaf in jax.tree.leaves(graph))
