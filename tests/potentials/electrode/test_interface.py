from __future__ import annotations

from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from surefield.errors import ConfigError
from surefield.potentials.electrode.interface import Interface, decay_ranges, metal_and_radius
from surefield.structures.electrode import INTERFACE, PHI
from surefield.structures.graph import collate
from surefield.structures.neighbors import neighborhood

SMOOTH = Interface("Au", radius=1.66)
SHARP = replace(SMOOTH, smooth=False)
HEIGHTS = np.array([0.0, 2.1, 2.3, 2.05, 5.0])


def graph(heights=HEIGHTS, interface=np.nan, phi=4.5, symbols="Au3HO"):
    atoms = Atoms(symbols, positions=[[2.0 * i, 0.3 * i, z] for i, z in enumerate(heights)])
    structure = replace(neighborhood(atoms, 3.0), inputs={PHI: phi, INTERFACE: interface})
    return collate([structure, structure], n_structures=3)


def test_height_of_the_surface():
    """Softmax of the metal's heights, or the largest; a stated interface wins; hydrogen does not count."""
    weights = np.exp(10 * HEIGHTS[:3])
    below = -2.5 * 1.66 + 3.0
    for interface, top in ((SMOOTH, weights @ HEIGHTS[:3] / weights.sum()), (SHARP, 2.3)):
        z, z0 = interface.heights(graph())
        np.testing.assert_allclose(z[:5], HEIGHTS, atol=1e-14)
        np.testing.assert_allclose(z0[:2], top + below, rtol=1e-14)
        np.testing.assert_allclose(interface.heights(graph(interface=1.25))[1][:2], 1.25)


def test_any_normal():
    turned = replace(SMOOTH, normal=(0.0, -2.0, 0.0))
    moved = eqx.tree_at(lambda g: g.positions, graph(), graph().positions[:, [0, 2, 1]] * [1, -1, 1])
    np.testing.assert_allclose(turned.decays(moved), SMOOTH.decays(graph()), rtol=1e-13)


def test_functions_of_the_height():
    s = np.array([-0.2, 0.0, 0.25, 0.5, 2.0])[:, None] + np.zeros(4)
    etas = np.array(SMOOTH.etas)
    onset = np.array([0.0, 0.0, 0.5, 1.0, 1.0])[:, None]
    np.testing.assert_allclose(SMOOTH.decay(jnp.asarray(s)), onset * np.exp(-etas * s), atol=1e-15)
    np.testing.assert_allclose(
        SHARP.decay(jnp.asarray(s)), np.where(s >= 0, np.exp(-etas * s), 0.0), atol=1e-15
    )
    fingerprints, decays = SMOOTH.fingerprints(graph())[:10], SMOOTH.decays(graph())[:10]
    np.testing.assert_allclose(fingerprints, 4.5 * decays, rtol=1e-15)


def test_smooth_functions_have_two_continuous_derivatives():
    """At the onset and where it ends, values from both sides agree."""
    value = lambda s: SMOOTH.decay(s + jnp.zeros(4))[0]  # noqa: E731
    for function in (value, jax.grad(value), jax.grad(jax.grad(value))):
        left, right = (jax.jit(jax.vmap(function))(jnp.array([0.0, 0.5]) + shift) for shift in (-1e-7, 1e-7))
        np.testing.assert_allclose(left, right, atol=1e-4)


@pytest.mark.parametrize("interface", [SMOOTH, SHARP], ids=["smooth", "sharp"])
def test_derivatives_of_the_conventions(interface):
    """exact: finite differences; fixed-interface: the atom's own height only; amp-1.1: times s."""
    g = graph(np.array([0.0, 2.1, 2.3, 2.05, 5.0]))
    weight = jnp.arange(1.0, 1 + len(g.numbers))

    @partial(jax.jit, static_argnums=0)
    def total(interface, z):
        moved = eqx.tree_at(lambda g: g.positions, g, jnp.asarray(g.positions).at[:, 2].set(z))
        return jnp.sum(weight[:, None] * interface.decays(moved))

    z = jnp.asarray(g.positions)[:, 2]
    slope = jax.grad(total, argnums=1)
    exact = slope(interface, z)
    for i in range(5):
        found = total(interface, z.at[i].add(1e-5)) - total(interface, z.at[i].add(-1e-5))
        np.testing.assert_allclose(exact[i], found / 2e-5, atol=2e-8)
    fixed = slope(replace(interface, convention="fixed-interface"), z)
    _, z0 = interface.heights(g)
    s = np.asarray(z - z0[g.structure])
    own = jax.jit(jax.vmap(jax.grad(lambda s: jnp.sum(interface.decay(s + jnp.zeros(4))))))(jnp.asarray(s))
    np.testing.assert_allclose(fixed[:5], (weight * own)[:5], rtol=1e-12, atol=1e-14)
    with pytest.warns(UserWarning, match="no derivatives of the energy"):
        wrong = replace(interface, convention="amp-1.1")
    np.testing.assert_allclose(slope(wrong, z)[:5], (s * weight * own)[:5], rtol=1e-12, atol=1e-14)
    assert np.abs(exact[:3] - fixed[:3]).max() > 0.1  # the metal moves z0


def test_gradients_are_finite_without_metal():
    g = graph(symbols="H3O2", interface=1.0)
    slope = jax.grad(lambda p: jnp.sum(SMOOTH.decays(eqx.tree_at(lambda g: g.positions, g, p))))(
        jnp.asarray(g.positions)
    )
    assert np.isfinite(slope).all()


def test_ranges():
    low, high = decay_ranges(SMOOTH, (1, 8, 79, 80), [_structure(4.0), _structure(5.0)], times_phi=True)
    g = np.asarray(SMOOTH.decays(graph()))[:5]
    np.testing.assert_allclose(low[0], 4.0 * g[3], rtol=1e-14)
    np.testing.assert_allclose(high[1], 5.0 * g[4], rtol=1e-14)
    np.testing.assert_allclose(high[2], 5.0 * g[:3].max(axis=0), rtol=1e-14)
    assert (low[3] == -1).all()
    assert (high[3] == 1).all()
    plain, _ = decay_ranges(SMOOTH, (1,), [_structure(4.0)])
    np.testing.assert_allclose(4.0 * plain, low[:1], rtol=1e-14)


def _structure(phi):
    atoms = Atoms("Au3HO", positions=[[2.0 * i, 0.3 * i, z] for i, z in enumerate(HEIGHTS)])
    return replace(neighborhood(atoms, 3.0), inputs={PHI: phi, INTERFACE: np.nan})


def test_metal_and_radius():
    assert metal_and_radius("Au", None) == ("Au", 1.66)
    assert metal_and_radius("Au", 2.0) == ("Au", 2.0)
    assert metal_and_radius(None, None, "Pt") == ("Pt", 1.7)
    with pytest.raises(ConfigError, match="vdw_radius"):
        metal_and_radius("Ru", None)  # not in ASE's table
    for bad in ("Goldd", 79):
        with pytest.raises(ConfigError, match="no element"):
            metal_and_radius(bad, None)
    with pytest.raises(ConfigError, match="slab_metal is needed"):
        metal_and_radius(None, None)
    with pytest.raises(ConfigError, match="positive"):
        metal_and_radius("Ru", -1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normal": (0.0, 0.0, 0.0)}, "surface_normal"),
        ({"normal": (0.0, 1.0)}, "surface_normal"),
        ({"etas": ()}, "etas"),
        ({"etas": (1.0, -1.0)}, "etas"),
        ({"correction": np.nan}, "surface_correction"),
        ({"onset_width": 0.0}, "onset_width"),
        ({"convention": "exakt"}, "did you mean 'exact'"),
    ],
)
def test_unusable_settings(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMOOTH, **changes)
