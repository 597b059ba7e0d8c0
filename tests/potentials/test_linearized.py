from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk

from surefield.errors import ConfigError, PotentialError
from surefield.foreign import opaque_kim
from surefield.foreign.computed_batch import geometry_of
from surefield.formats.kim_models import find_model
from surefield.potentials.evaluate import predict
from surefield.potentials.linearized import Linearized
from surefield.potentials.potential import Potential, trainable
from surefield.sensitivity.rows import structure_rows
from surefield.testing import check_potential


@pytest.fixture(scope="module")
def silicon():
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.15, seed=2)
    return atoms


@pytest.fixture(scope="module")
def stillinger_weber():
    return find_model("SW_StillingerWeber_1985_Si").make()


@pytest.fixture(scope="module")
def linear(stillinger_weber) -> Linearized:
    return stillinger_weber.last_layer()


def test_contract(linear, silicon):
    moved = eqx.tree_at(lambda p: p.readout, linear, linear.readout * 1.02)
    check_potential(moved, [silicon])


def test_at_its_start_it_is_the_potential(linear, stillinger_weber, silicon):
    (prediction,), (expected,) = predict(linear, [silicon]), predict(stillinger_weber, [silicon])
    assert prediction.energy == pytest.approx(expected.energy, rel=1e-14)
    np.testing.assert_allclose(prediction.forces, expected.forces, rtol=0, atol=1e-13)


def test_rows_are_relative_derivatives_by_the_parameters(linear, stillinger_weber, silicon):
    structure = linear.neighborhood(silicon)
    (rows,) = structure_rows(linear, [structure], ("energy", "forces", "stress"))
    step = 1e-5
    for column, (name, _) in enumerate(stillinger_weber.free):
        scale = float(linear.scale[column])
        size = scale * step
        vectors = [stillinger_weber.vector.at[column].add(k * size) for k in (-1, 1)]
        (minus,), (plus,) = (predict(stillinger_weber.with_vector(v), [silicon]) for v in vectors)
        for kind in ("energy", "forces", "stress"):
            slope = np.ravel((np.asarray(getattr(plus, kind)) - getattr(minus, kind)) / (2 * step))
            row = np.atleast_2d(getattr(rows, kind))[:, column]
            np.testing.assert_allclose(row, slope, rtol=1e-6, atol=1e-6 * np.abs(slope).max(), err_msg=name)


def test_weights_move_the_energy_along_the_rows(linear, silicon):
    (rows,) = structure_rows(linear, [linear.neighborhood(silicon)])
    change = np.linspace(-0.01, 0.02, len(rows.energy))
    moved = eqx.tree_at(lambda p: p.readout, linear, linear.readout + change)
    (before,), (after,) = predict(linear, [silicon]), predict(moved, [silicon])
    assert after.energy - before.energy == pytest.approx(float(rows.energy @ change), rel=1e-9)
    np.testing.assert_allclose((after.forces - before.forces).ravel(), rows.forces @ change, atol=1e-9)


def test_only_the_weights_are_trained(linear):
    chosen = trainable(linear)
    assert chosen.readout
    assert not any((chosen.reference, chosen.scale, chosen.bias, chosen.base.values["A"]))
    assert linear.n_solvable == 0
    with pytest.raises(PotentialError, match="not solved for"):
        linear.constant_energy(np.array([14]))


def test_scale_of_the_user(stillinger_weber):
    free = stillinger_weber.with_free([("A", 0), ("q", 0)])
    np.testing.assert_allclose(Linearized(free).scale, [15.2848479197914, 1.0])
    scaled = Linearized(free, [2.0, 0.5])
    np.testing.assert_allclose(scaled.readout, [[15.2848479197914 / 2, 0.0]])
    for scale in ([1.0], [1.0, 0.0]):
        with pytest.raises(ConfigError, match="2 positive numbers"):
            Linearized(free, scale)
    with pytest.raises(PotentialError, match="0 free parameters"):
        Linearized(stillinger_weber.with_free([]))


def test_around_a_network(copper_network):
    """Potentials that are trained otherwise give all their trained arrays."""
    linear = Linearized(copper_network)
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    (prediction,), (expected,) = predict(linear, [atoms]), predict(copper_network, [atoms])
    assert prediction.energy == pytest.approx(expected.energy, rel=1e-12)
    assert linear.readout.shape[1] > 50
    assert bool(jnp.isfinite(linear.readout).all())


class Springs(Potential):
    """Harmonic bonds, computed outside JAX as KIM's models are: derivatives by k and r0 are differences."""

    species: tuple[int, ...] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    offsets: Any
    values: dict[str, Any]

    def site_energies(self, graph):
        energies = opaque_kim._energies("springs", dict(self.values), graph.vectors, geometry_of(graph))
        return jnp.where(graph.atom_mask, (energies / graph.n_atoms)[graph.structure], 0.0)


def _springs(model_id, values, vectors, geometry):
    r = np.linalg.norm(vectors, axis=-1)
    stretch = np.where(geometry["mask"], r - values["r0"], 0.0)
    slopes = 2 * values["k"] * stretch[..., None] * vectors / r[..., None]
    return np.array([np.sum(values["k"] * stretch**2)]), slopes


def test_around_a_model_that_others_compute(silicon, monkeypatch):
    """Rows of such models are taken forwards only: differences have no way back."""
    monkeypatch.setattr(opaque_kim, "_compute", _springs)
    springs = Springs((14,), 2.6, jnp.zeros(1), {"k": jnp.array(0.7), "r0": jnp.array(2.3)})
    linear = Linearized(springs)
    structure = linear.neighborhood(silicon)
    (rows,) = structure_rows(linear, [structure], ("energy", "forces", "stress"))
    r = np.linalg.norm(structure.vectors, axis=-1)
    stretch = np.where(np.arange(structure.n_neighbors) < structure.counts[:, None], r - 2.3, 0.0)
    expected = [0.7 * np.sum(stretch**2), -2 * 0.7 * 2.3 * np.sum(stretch)]
    np.testing.assert_allclose(rows.energy, expected, rtol=1e-9)
    (alone,) = structure_rows(linear, [structure], ("energy",))
    np.testing.assert_allclose(alone.energy, rows.energy, rtol=1e-12)
    (moved,), (start,) = (
        predict(eqx.tree_at(lambda p: p.values["k"], springs, k), [silicon]) for k in (1.4, 0.7)
    )
    np.testing.assert_allclose(
        rows.forces[:, 0], (moved.forces - start.forces).ravel(), rtol=1e-8, atol=1e-10
    )
    np.testing.assert_allclose(rows.stress[:, 0], moved.stress - start.stress, rtol=1e-8, atol=1e-12)
