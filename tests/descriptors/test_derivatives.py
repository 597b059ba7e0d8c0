from __future__ import annotations

import numpy as np
import pytest

from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.derivatives import atomic_features, dense_derivatives, feature_ranges
from surefield.descriptors.symmetry_functions import SymmetryFunctions, make_default_symmetry_functions
from surefield.descriptors.zernike import ZernikeFunctions
from surefield.structures.neighbors import neighborhood

GAUSSIAN = SymmetryFunctions.from_lists(
    ["Cu", "Au"], Cosine(4.0), make_default_symmetry_functions(["Cu", "Au"])
)
ZERNIKE = ZernikeFunctions.from_weights(["Cu", "Au"], Cosine(4.0), 3)


@pytest.fixture
def structures(alloy):
    """A molecule, a slab and crystals of several sizes."""
    return [neighborhood(atoms, 4.0) for atoms in [*alloy, alloy[0] * (2, 1, 1)]]


@pytest.mark.parametrize("descriptor", [GAUSSIAN, ZERNIKE], ids=["gaussian", "zernike"])
def test_mixed_structures_are_as_good_as_single_ones(structures, descriptor):
    features, primes = dense_derivatives(descriptor, structures)
    assert features.shape == (4, 6, descriptor.width)
    assert primes.shape == (4, 6, 3, 6, descriptor.width)
    for index, structure in enumerate(structures):
        n = structure.n_atoms
        one, slopes = dense_derivatives(descriptor, [structure])
        np.testing.assert_allclose(features[index, :n], one[0], rtol=0, atol=1e-10)
        np.testing.assert_allclose(primes[index, :n, :, :n], slopes[0], rtol=0, atol=1e-10)
        np.testing.assert_array_equal(features[index, n:], 0.0)
        np.testing.assert_array_equal(primes[index, n:], 0.0)
        np.testing.assert_array_equal(primes[index, :, :, n:], 0.0)


def test_moving_all_atoms_changes_nothing(structures):
    _, primes = dense_derivatives(GAUSSIAN, structures)
    np.testing.assert_allclose(primes.sum(axis=1), 0.0, atol=1e-12)


def test_repeated_cell_has_the_same_features_and_derivatives(structures):
    features, primes = dense_derivatives(GAUSSIAN, [structures[0], structures[3]])
    np.testing.assert_allclose(features[1], np.tile(features[0, :3], (2, 1)), atol=1e-12)
    # A move of an atom of the small cell is a move of both copies in the large one.
    both = primes[1, :3] + primes[1, 3:]
    np.testing.assert_allclose(both[:, :, :3], primes[0, :3, :, :3], atol=1e-12)


def test_plain_path_gives_the_same_numbers(structures):
    for compiled, plain in zip(
        dense_derivatives(GAUSSIAN, structures[:1]),
        dense_derivatives(GAUSSIAN, structures[:1], compiled=False),
        strict=True,
    ):
        np.testing.assert_allclose(plain, compiled, rtol=0, atol=1e-12)
    (found,) = atomic_features(GAUSSIAN, structures[:1], compiled=False)
    np.testing.assert_allclose(found, atomic_features(GAUSSIAN, structures[:1])[0], rtol=0, atol=1e-12)


def test_features_keep_the_order_of_the_structures(structures):
    features, _ = dense_derivatives(GAUSSIAN, structures)
    for structure, found, expected in zip(
        structures, atomic_features(GAUSSIAN, structures), features, strict=True
    ):
        np.testing.assert_allclose(found, expected[: structure.n_atoms], rtol=0, atol=1e-12)


def test_nothing_gives_nothing():
    features, primes = dense_derivatives(GAUSSIAN, [])
    assert features.shape == (0, 0, 20)
    assert primes.shape == (0, 0, 3, 0, 20)
    assert atomic_features(GAUSSIAN, []) == []
    assert feature_ranges(GAUSSIAN, []) == {}
