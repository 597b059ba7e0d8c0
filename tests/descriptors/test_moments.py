from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from surefield.descriptors.moments import angular_basis, invariants, moments


def _tensors(unit, radial):
    return np.asarray(moments(radial.T[None], angular_basis(unit.T[None])))


@pytest.fixture(scope="module")
def neighbors():
    rng = np.random.default_rng(2)
    unit = rng.normal(size=(9, 3))
    return unit / np.linalg.norm(unit, axis=1, keepdims=True), rng.normal(size=(9, 3))


@pytest.mark.parametrize("reflect", [1, -1])
def test_invariants_do_not_see_rotations_and_reflections(neighbors, reflect):
    unit, radial = neighbors
    turn = reflect * np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    before, after = (np.asarray(invariants(_tensors(u, radial), 2)) for u in (unit, unit @ turn.T))
    np.testing.assert_allclose(after, before, rtol=1e-11, atol=1e-11)
    assert np.ptp(before) > 1


def test_invariants_see_angles(neighbors):
    unit, radial = neighbors
    bent = unit.copy()
    bent[0] = unit[1]
    before, after = (np.asarray(invariants(_tensors(u, radial), 2)) for u in (unit, bent))
    np.testing.assert_allclose(after[:, :3], before[:, :3])
    assert np.all(np.abs(after[:, 9:] - before[:, 9:]).max() > 1e-2)


@pytest.mark.parametrize(("n_channels", "n_triple"), [(3, 0), (3, 2), (4, 4), (1, 1)])
def test_number_of_invariants(n_channels, n_triple):
    pairs = n_channels * (n_channels + 1) // 2
    triple_pairs = n_triple * (n_triple + 1) // 2
    expected = n_channels + 4 * pairs
    # A1 A2 A1, tr(A2 A2 A2), A1 (A3:A2), A2:(A3:A3)
    expected += triple_pairs * n_triple + math.comb(n_triple + 2, 3) + n_triple**3 + triple_pairs * n_triple
    assert invariants(np.ones((2, n_channels, 20)), n_triple).shape == (2, expected)


def test_against_full_tensors(neighbors):
    """Every family, from tensors with all their components."""
    unit, radial = neighbors
    a1 = np.einsum("kc,ki->ci", radial, unit)
    a2 = np.einsum("kc,ki,kj->cij", radial, unit, unit)
    a3 = np.einsum("kc,ki,kj,kl->cijl", radial, unit, unit, unit)
    up = [(a, b) for a in range(3) for b in range(a, 3)]
    expected = list(radial.sum(axis=0))
    expected += [np.sum(tensor[a] * tensor[b]) for a, b in up for tensor in (radial.sum(axis=0), a1, a2, a3)]
    few = list(itertools.combinations_with_replacement(range(2), 2))
    expected += [a1[a] @ a2[c] @ a1[b] for a, b in few for c in range(2)]
    triples = itertools.combinations_with_replacement(range(2), 3)
    expected += [np.trace(a2[a] @ a2[b] @ a2[c]) for a, b, c in triples]
    expected += [
        np.einsum("i,ijk,jk", a1[a], a3[b], a2[c]) for a, b, c in itertools.product(range(2), repeat=3)
    ]
    expected += [np.einsum("ikl,jkl,ij", a3[a], a3[b], a2[c]) for a, b in few for c in range(2)]
    found = np.asarray(invariants(_tensors(unit, radial), 2))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
