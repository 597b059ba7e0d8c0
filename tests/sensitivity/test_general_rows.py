"""Rows of a potential of which nothing is known: its features may depend on all atoms."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from surefield.potentials import LastLayerPotential, predict
from surefield.potentials.evaluate import species_index
from surefield.sensitivity import energy_features, structure_rows
from surefield.sensitivity.rows import mixed_derivatives
from surefield.structures.graph import collate
from surefield.uncertainty import LLPR

KINDS = ("energy", "forces", "stress")


class MessagePassing(LastLayerPotential):
    """Two layers: the second sums over neighbours what the first has made of theirs."""

    species: tuple[int, ...] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    offsets: Float[Array, " n_species"]
    mixing: Float[Array, "width width"]
    readout: Float[Array, "n_species n_site_features"]
    bias: Float[Array, " n_species"]

    def __init__(self, species: tuple[int, ...], width: int = 3, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.species, self.cutoff = species, 4.0
        self.offsets = jnp.asarray(rng.normal(size=len(species)))
        self.mixing = jnp.asarray(rng.normal(size=(width, width)))
        self.readout = jnp.asarray(rng.normal(size=(len(species), 2 * width)))
        self.bias = jnp.asarray(rng.normal(size=len(species)))

    def site_features(self, graph):
        width, numbers = len(self.mixing), graph.numbers / 79
        r = jnp.sqrt(jnp.sum(graph.vectors**2, axis=-1))
        near = jnp.where(r < self.cutoff, (1 - (r / self.cutoff) ** 2) ** 3, 0.0)
        radial = near[..., None] * jnp.cos(r[..., None] * jnp.arange(width))
        first = jnp.tanh(jnp.sum(radial * numbers[graph.neighbors][..., None], axis=1) @ self.mixing)
        second = jnp.sum(radial * first[graph.neighbors], axis=1) * numbers[:, None]
        return jnp.concatenate([first, second], axis=1)

    def site_energies(self, graph):
        index = species_index(self, graph)
        energies = jnp.sum(self.site_features(graph) * self.readout[index], axis=1) + self.bias[index]
        return jnp.where(graph.atom_mask, energies, 0.0)


@pytest.fixture(scope="module")
def potential():
    return MessagePassing((29, 79))


def test_rows_are_differences_by_the_weights(potential, alloy):
    """Of energies, forces and stress: all linear in the weights, so that a step of one is exact."""
    structures = [potential.neighborhood(atoms) for atoms in alloy]
    moved = [
        eqx.tree_at(lambda p: p.readout, potential, potential.readout.at[divmod(k, 6)].add(1.0))
        for k in range(potential.n_features)
    ]
    start, ends = predict(potential, alloy), [predict(p, alloy) for p in moved]
    rows = list(structure_rows(potential, structures, KINDS))
    for i, of_structure in enumerate(rows):
        for kind in KINDS:
            if getattr(start[i], kind) is None:
                assert kind not in of_structure
                continue
            slopes = [np.ravel(np.asarray(getattr(end[i], kind)) - getattr(start[i], kind)) for end in ends]
            columns = np.atleast_2d(of_structure[kind]).T
            np.testing.assert_allclose(columns, slopes, rtol=1e-9, atol=1e-11, err_msg=kind)
            assert np.abs(columns).max() > 1e-3
    np.testing.assert_allclose(energy_features(potential, structures), [r.energy for r in rows], rtol=1e-12)


def test_features_reach_farther_than_the_neighbours(potential, alloy):
    """Else the route for local features would do, and nothing here would show that it is not taken."""
    graph = collate([potential.neighborhood(alloy[0])])
    vectors = jnp.asarray(graph.vectors)
    total = lambda v: potential.site_features(eqx.tree_at(lambda g: g.vectors, graph, v))[0].sum()  # noqa: E731
    by_vectors = jax.jit(jax.grad(total))(vectors)
    assert np.abs(by_vectors[1:]).max() > 1e-3


def test_both_ways_agree(potential, alloy):
    graph = collate([potential.neighborhood(alloy[0])])
    ways = [
        eqx.filter_jit(lambda way=way: mixed_derivatives(potential, graph, by=way))()
        for way in ("weights", "coordinates")
    ]
    for one, other in zip(*ways, strict=True):
        assert np.abs(one).max() > 1e-3
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


def test_uncertainty(copper):
    potential = MessagePassing((29,), width=2)
    llpr = LLPR.fit(potential, copper[:6], calibration=copper[6:])
    (prediction,) = llpr.predict(copper[:1], forces=True, stress=True)
    assert prediction.energy_uncertainty > 0
    assert np.isfinite(prediction.forces_uncertainty).all()
    assert np.isfinite(prediction.stress_uncertainty).all()
