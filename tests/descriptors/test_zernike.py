from __future__ import annotations

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from scipy.special import binom, sph_harm_y

from surefield.descriptors.build import descriptor_from_config
from surefield.descriptors.cutoffs import Cosine, Polynomial
from surefield.descriptors.derivatives import dense_derivatives
from surefield.descriptors.zernike import ZernikeFunctions
from surefield.errors import ConfigError
from surefield.structures.graph import collate
from surefield.structures.neighbors import neighborhood

WEIGHTS = {"Cu": {"Cu": 1.0, "Pt": -0.5}, "Pt": {"Cu": 2.0, "Pt": 0.7}}


@pytest.fixture(scope="module")
def atoms(shared):
    return read(shared / "reference/networks/small/images.extxyz", "3")


def features(descriptor, atoms):
    graph = collate([neighborhood(atoms, descriptor.cutoff)])
    return np.asarray(jax.jit(descriptor.features)(graph))[: len(atoms)]


def by_definition(graph, i, cutoff, nmax, weights):
    """The power spectrum by the formula, with spherical harmonics."""
    vectors = graph.vectors[i][graph.mask[i]]
    numbers = graph.numbers[graph.neighbors[i][graph.mask[i]]]
    r = np.linalg.norm(vectors, axis=-1)
    polar, azimuth = np.arccos(vectors[:, 2] / r), np.arctan2(vectors[:, 1], vectors[:, 0])
    z = np.array([weights[int(n)] for n in numbers]) * np.asarray(cutoff(r))
    found = []
    for n in range(nmax + 1):
        for degree in range(n % 2, n + 1, 2):
            k = (n - degree) // 2
            radial = np.sqrt(2 * n + 3) * sum(
                (-1) ** s * binom(k, s) * binom(n - s + 0.5, k) * (r / cutoff.Rc) ** (n - 2 * s)
                for s in range(k + 1)
            )
            c = [
                np.sum(z * radial * np.conj(sph_harm_y(degree, m, polar, azimuth)))
                for m in range(-degree, degree + 1)
            ]
            found.append(np.sum(np.abs(c) ** 2))
    return found


def test_reference_with_and_without_periodic_boundaries(shared, atoms):
    stored = json.loads((shared / "reference/networks/descriptors/zernike.json").read_text())
    descriptor = ZernikeFunctions.from_weights(["Cu", "Pt"], Cosine(5.0), 5)
    cluster = Atoms(atoms.symbols, atoms.positions)
    for image, name in ((atoms, "periodic"), (cluster, "cluster_pbc_false")):
        np.testing.assert_allclose(features(descriptor, image), stored[name], rtol=1e-10)


@pytest.mark.parametrize("nmax", [0, 1, 7])
def test_values_are_those_of_the_formula(atoms, nmax):
    cutoff = Polynomial(4.5)
    descriptor = ZernikeFunctions.from_weights(["Cu", "Pt"], cutoff, nmax, WEIGHTS)
    graph = collate([neighborhood(atoms, 4.5)])
    values = np.asarray(descriptor.features(graph))
    assert len(descriptor.names("Cu")) == descriptor.width
    for i, symbol in ((0, "Pt"), (8, "Cu")):
        weights = {29: WEIGHTS[symbol]["Cu"], 78: WEIGHTS[symbol]["Pt"]}
        expected = by_definition(graph, i, cutoff, nmax, weights)
        np.testing.assert_allclose(values[i], expected, rtol=1e-10)


def test_jacobian_equals_forward_differentiation(atoms):
    descriptor = ZernikeFunctions.from_weights(["Cu", "Pt"], Cosine(4.5), 4, WEIGHTS)
    graph = collate([neighborhood(atoms, 4.5)])
    found = np.asarray(jax.jit(descriptor.jacobian)(graph))

    @jax.jit
    def of_one_atom(i):
        def moved(vectors):
            return descriptor.features(
                eqx.tree_at(lambda g: g.vectors, graph, jnp.asarray(graph.vectors).at[i].set(vectors))
            )[i]

        return jax.jacfwd(moved)(jnp.asarray(graph.vectors)[i]).transpose(1, 2, 0)

    for i in range(len(atoms)):
        np.testing.assert_allclose(found[i], of_one_atom(i), rtol=0, atol=1e-12)


def test_derivatives_agree_with_finite_differences(atoms):
    descriptor = ZernikeFunctions.from_weights(["Cu", "Pt"], Cosine(4.5), 5, WEIGHTS)
    _, primes = dense_derivatives(descriptor, [neighborhood(atoms, 4.5)])
    sides = []
    for step in (1e-5, -1e-5):
        moved = atoms.copy()
        moved.positions[8, 1] += step
        sides.append(features(descriptor, moved))
    np.testing.assert_allclose(primes[0, 8, 1], (sides[0] - sides[1]) / 2e-5, atol=1e-7)


def test_features_do_not_change_under_rotation(atoms):
    descriptor = ZernikeFunctions.from_weights(["Cu", "Pt"], Cosine(5.0), 6)
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    np.testing.assert_allclose(features(descriptor, turned), features(descriptor, atoms), rtol=1e-9)


def test_no_neighbours_and_padding_give_zero():
    descriptor = ZernikeFunctions.from_weights(["Cu"], Cosine(5.0), 3)
    graph = collate([neighborhood(Atoms("Cu"), 5.0)], n_atoms=3)
    np.testing.assert_array_equal(descriptor.features(graph), 0.0)
    np.testing.assert_array_equal(descriptor.jacobian(graph), 0.0)


def test_description_gives_the_same_descriptor():
    descriptor = ZernikeFunctions.from_weights(["Cu", "Pt"], Polynomial(4.5, 3.0), 4, WEIGHTS)
    again = descriptor_from_config(json.loads(json.dumps(descriptor.config())))
    assert again == descriptor
    assert hash(again) == hash(descriptor)
    assert descriptor.n_features == (9, 9)
    assert descriptor.names("Cu")[:3] == ["Zernike n=0 l=0", "Zernike n=1 l=1", "Zernike n=2 l=0"]


@pytest.mark.parametrize("nmax", [-1, 2.5, True, None])
def test_unusable_orders_are_refused(nmax):
    with pytest.raises(ConfigError, match="nmax must be a whole number"):
        ZernikeFunctions.from_weights(["Cu"], Cosine(5.0), nmax)


def test_missing_weights_are_refused():
    with pytest.raises(ConfigError, match=r"Gs\['O'\]\['O'\]"):
        ZernikeFunctions.from_weights(["Cu", "O"], Cosine(5.0), 3, {"Cu": {"Cu": 1.0}})
