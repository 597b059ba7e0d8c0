"""Invariants of a channel: against contractions of the full tensors, and under rotations."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from surefield.descriptors.channel_invariants import N_INVARIANTS, channel_invariants, channel_vectors
from surefield.descriptors.moments import angular_basis, packed_indices, packed_roots, symmetric_products


def full(packed: np.ndarray, rank: int) -> np.ndarray:
    """The tensor itself of its packed components."""
    tensor = np.zeros((3,) * rank)
    start = sum(len(packed_indices(r)) for r in range(rank))
    for place, (index, root) in enumerate(zip(packed_indices(rank), packed_roots(rank), strict=True)):
        for permuted in set(itertools.permutations(index)):
            tensor[permuted] = packed[start + place] / root
    return tensor


@pytest.fixture(scope="module")
def neighbors():
    rng = np.random.default_rng(3)
    return rng.normal(size=(7, 3)), rng.normal(size=7)


def moments_of(vectors, weights):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(angular_basis(unit.T)) @ weights


def test_they_are_the_contractions_of_the_docstring(neighbors):
    packed = moments_of(*neighbors)
    s, v, m, t = (full(packed, rank) for rank in range(4))
    w, trace = np.einsum("ijj->i", t), np.trace(m)
    vv, mm, tt, vw, ww = v @ v, np.sum(m * m), np.sum(t * t), v @ w, w @ w
    t_m = np.einsum("ijk,jk->i", t, m)
    expected = [s, trace, vv, mm, tt, vw, ww, v @ m @ v, w @ m @ v, w @ m @ w, np.trace(m @ m @ m)]
    expected += [v @ t_m, w @ t_m, np.einsum("ij,ikl,jkl", m, t, t), s * s, s**3, s * trace]
    expected += [s * vv, s * mm, s * tt, s * vw, s * ww, trace * vv, trace * mm]
    got = np.asarray(channel_invariants(packed[:, None]))[:, 0]
    assert len(got) == N_INVARIANTS
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_rotations_and_reflections_leave_them(neighbors):
    vectors, weights = neighbors
    rotation = Rotation.random(rng=np.random.default_rng(1)).as_matrix()
    before = channel_invariants(moments_of(vectors, weights))
    for matrix in (rotation, -rotation):
        after = channel_invariants(moments_of(vectors @ matrix.T, weights))
        np.testing.assert_allclose(after, before, rtol=1e-10)


def test_second_derivatives_are_those_of_the_contractions(neighbors):
    packed = moments_of(*neighbors)
    direction = np.random.default_rng(2).normal(size=packed.shape)

    def slope(x):
        return jax.jvp(lambda y: channel_invariants(y).sum(), (x,), (direction,))[1]

    step = 1e-5
    numeric = (slope(packed + step * direction) - slope(packed - step * direction)) / (2 * step)
    exact = jax.jvp(slope, (packed,), (direction,))[1]
    np.testing.assert_allclose(exact, numeric, rtol=1e-7)


def test_vectors_are_what_their_names_say(neighbors):
    packed = moments_of(*neighbors)
    s, v, m, t = (full(packed, rank) for rank in range(4))
    w = np.einsum("ijj->i", t)
    expected = [v, w, s * v, s * w, m @ v, m @ w, np.einsum("ijk,jk->i", t, m)]
    got = np.asarray(channel_vectors(packed[:, None]))[:, :, 0]
    np.testing.assert_allclose(got, np.array(expected).T, rtol=1e-12)


def test_products_with_a_vector(neighbors):
    packed = moments_of(*neighbors)
    s, v, m = (full(packed, rank) for rank in range(3))
    x = np.random.default_rng(6).normal(size=3)
    outer = np.einsum("ij,k->ijk", m, x)
    expected = {
        1: s * x,
        2: (np.outer(v, x) + np.outer(x, v)) / 2,
        3: sum(np.transpose(outer, p) for p in itertools.permutations(range(3))) / 6,
    }
    starts = np.cumsum([0, *(len(packed_indices(rank)) for rank in range(4))])
    for rank, tensor in expected.items():
        below = packed[starts[rank - 1] : starts[rank]]
        got = symmetric_products(rank, (below[:, None] * x).reshape(-1, 1))
        found = [tensor[index] for index in packed_indices(rank)]
        np.testing.assert_allclose(got[:, 0], packed_roots(rank) * found, atol=1e-12)
