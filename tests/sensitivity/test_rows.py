from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from surefield.errors import PotentialError
from surefield.potentials import LastLayerPotential, predict
from surefield.sensitivity import atom_features, energy_features, structure_rows
from surefield.sensitivity.rows import mixed_derivatives, vector_jacobian
from surefield.structures.graph import collate
from surefield.structures.neighbors import neighborhood
from surefield.structures.tensors import VOIGT_COLUMNS, VOIGT_ROWS

STEP = 5e-4


@pytest.fixture(scope="module")
def crystal(network, alloy):
    """The periodic structure and its rows."""
    structure = neighborhood(alloy[0], network.cutoff)
    (rows,) = structure_rows(network, [structure], ("energy", "forces", "stress"))
    return alloy[0], structure, rows


def _slopes(network, moved_by):
    """Fourth-order differences of the energy row along a parameter of the structure."""
    frames = [moved_by(k * STEP) for k in (-2, -1, 1, 2)]
    f = energy_features(network, [neighborhood(atoms, network.cutoff) for atoms in frames])
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * STEP)


def test_force_rows_are_differences_of_energy_rows(network, crystal):
    atoms, _, rows = crystal
    scale = np.abs(rows.forces).max()
    for component in range(9):

        def moved(amount, component=component):
            copy = atoms.copy()
            copy.positions[component // 3, component % 3] += amount
            return copy

        np.testing.assert_allclose(rows.forces[component], -_slopes(network, moved), atol=1e-6 * scale)


def test_stress_rows_are_differences_of_energy_rows(network, crystal):
    atoms, _, rows = crystal
    scale = np.abs(rows.stress).max()
    for component, (a, b) in enumerate(zip(VOIGT_ROWS, VOIGT_COLUMNS, strict=True)):

        def moved(amount, a=a, b=b):
            strain = np.zeros((3, 3))
            strain[a, b] += amount / 2
            strain[b, a] += amount / 2
            copy = atoms.copy()
            copy.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            return copy

        slope = _slopes(network, moved) / atoms.get_volume()
        np.testing.assert_allclose(rows.stress[component], slope, atol=1e-6 * scale)


def test_rows_times_weights_are_the_predictions(network, alloy, monkeypatch):
    """In order, from batches that hold up to two structures, and one for a structure larger than they are."""
    monkeypatch.setattr("surefield.sensitivity.rows.ATOMS_AT_ONCE", 7)
    frames = [alloy[0], alloy[1], alloy[0].repeat((1, 2, 2)), alloy[2], alloy[1], alloy[0]]
    structures = [neighborhood(atoms, network.cutoff) for atoms in frames]
    weights = np.asarray(network.readout).ravel()
    constants = np.asarray(network.bias + network.offsets)
    every = structure_rows(network, structures, ("energy", "forces", "stress"))
    for rows, expected, s in zip(every, predict(network, frames), structures, strict=True):
        constant = sum(constants[network.species.index(z)] for z in s.numbers.tolist())
        np.testing.assert_allclose(rows.energy @ weights + constant, expected.energy, rtol=1e-12)
        np.testing.assert_allclose(
            (rows.forces @ weights).reshape(-1, 3), expected.forces, rtol=1e-9, atol=1e-10
        )
        if expected.stress is None:
            assert rows.stress is None
        else:
            np.testing.assert_allclose(rows.stress @ weights, expected.stress, rtol=1e-9, atol=1e-11)


class General(LastLayerPotential):
    """The same features without the structure of a density, known to be local or not even that."""

    local_features = True
    inner: LastLayerPotential
    species: Any = eqx.field(static=True)
    cutoff: Any = eqx.field(static=True)
    offsets: Any
    readout: Any
    bias: Any

    def site_features(self, graph):
        return self.inner.site_features(graph)

    def site_energies(self, graph):
        return jnp.sum(self.site_features(graph) * self.readout[self.feature_block(graph)], axis=1)


def test_general_routes_give_the_same(network, crystal):
    _, structure, rows = crystal
    graph = collate([structure])
    names = ("species", "cutoff", "offsets", "readout", "bias")
    general = General(inner=network, **{name: getattr(network, name) for name in names})
    mask = graph.mask[..., None, None]
    fast, slow = (np.asarray(eqx.filter_jit(vector_jacobian)(p, graph)) * mask for p in (network, general))
    assert np.abs(slow).max() > 1e-2
    np.testing.assert_allclose(fast, slow, atol=1e-11 * np.abs(slow).max())
    forces = np.asarray(eqx.filter_jit(mixed_derivatives)(general, graph)[1])[:3].reshape(9, -1)
    np.testing.assert_allclose(forces, rows.forces, atol=1e-11 * np.abs(forces).max())


def test_energy_row_is_the_sum_of_the_atoms(network, alloy, crystal):
    _, structure, rows = crystal
    atoms = atom_features(network, structure)
    np.testing.assert_allclose(atoms.sum(axis=0), rows.energy, rtol=1e-12, atol=1e-14)
    blocks = atoms.reshape(3, 2, -1)
    for i, z in enumerate(structure.numbers.tolist()):
        block = network.species.index(z)
        assert np.abs(blocks[i, block]).max() > 0
        assert np.abs(blocks[i, 1 - block]).max() == 0


def test_no_rows_that_were_not_asked_for(network, crystal):
    _, structure, all_rows = crystal
    (rows,) = structure_rows(network, [structure], ("energies", "stress"))
    assert set(rows.values) == {"energies", "stress"}
    assert rows.forces is None
    assert "energy" not in rows
    np.testing.assert_allclose(rows.stress, all_rows.stress, rtol=1e-12)
    np.testing.assert_allclose(rows["energies"], atom_features(network, structure), rtol=1e-12)
    with pytest.raises(PotentialError, match="MomentNetwork has no excess electrons"):
        next(structure_rows(network, [structure], ("excess_electrons",)))
    assert energy_features(network, []).shape == (0, network.n_features)


@pytest.mark.slow  # programs that are not optimised round otherwise with other weights
def test_rows_do_not_depend_on_the_weights(network, crystal):
    _, structure, rows = crystal
    other = eqx.tree_at(lambda p: p.readout, network, jnp.zeros_like(network.readout))
    (again,) = structure_rows(other, [structure])
    np.testing.assert_array_equal(again.forces, rows.forces)
