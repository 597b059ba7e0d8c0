"""The potential: contract, both ways to its numbers, and the cases of the public calculator."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from surefield.errors import PotentialError
from surefield.formats.chimes import read_params
from surefield.potentials import evaluate
from surefield.potentials.chimes import Chimes
from surefield.potentials.evaluate import evaluate_jit
from surefield.sensitivity.rows import atom_features
from surefield.structures.graph import collate
from surefield.testing import check_potential

from .conftest import SETTINGS

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
CASES = {
    "liqC_2b": ("liqC_2b", "liqC_200"),
    "liqC_2b3b": ("liqC_2b3b", "liqC_200"),
    "C6_inside": ("liqC_2b3b", "C6_inside"),
    "CO_128": ("liqCO_2b3b", "CO_128"),
    "diamond_2": ("liqCO_2b3b", "diamond_2"),
    "diamond_8": ("liqCO_2b3b", "diamond_8"),
    "diamond_64": ("liqCO_2b3b", "diamond_64"),
    "CHON_9": ("CHON_2b3b", "CHON_9"),
    "CO_24": ("CO2400K_2b3b4b", "CO_24"),
    "TiO2_48": ("TiO2_2b3b", "TiO2_48"),
    "TiO2_6": ("TiO2_2b3b", "TiO2_6"),
}


def by_rows(potential, atoms):
    """Energy, forces and virial from the rows and the penalty."""
    structure = potential.neighborhood(atoms)
    (rows,) = potential.closed_rows([structure], forces=True, strain=True)
    energy, forces, virial = potential.penalty(structure)
    x = potential.coefficients
    return rows.energy @ x + energy, (rows.forces @ x).reshape(-1, 3) + forces, rows.virial @ x + virial


def case(name, reference, structure):
    params, geometry = CASES[name]
    return read_params(reference / "inputs" / "chimes" / "params" / f"{params}.txt.xz"), structure(geometry)


def one_graph(potential, atoms):
    """A graph of the shape that all small structures here share, so that it is compiled once."""
    return collate([potential.neighborhood(atoms)], n_atoms=4, n_neighbors=16, n_structures=1)


@pytest.fixture(scope="module")
def crystal(alloy):
    return alloy[0]


@pytest.mark.slow
def test_contract(chimes, crystal):
    check_potential(chimes, [crystal])


@pytest.mark.parametrize("place", [0, 1, 2])
def test_loops_and_rows_agree(chimes, alloy, place):
    atoms = alloy[place]
    found = evaluate_jit(chimes, one_graph(chimes, atoms))
    energy, forces, virial = by_rows(chimes, atoms)
    assert float(found.energy[0]) == pytest.approx(energy, abs=1e-12)
    np.testing.assert_allclose(found.forces[:3], forces, atol=1e-12)
    np.testing.assert_allclose(found.virial[0], virial, atol=1e-12)


def test_features_are_the_rows_and_the_derivatives_by_the_readout(chimes, crystal):
    structure = chimes.neighborhood(crystal)
    (rows,) = chimes.closed_rows([structure], forces=False, strain=False)
    np.testing.assert_allclose(atom_features(chimes, structure).sum(axis=0), rows.energy, atol=1e-12)
    graph = one_graph(chimes, crystal)

    @eqx.filter_jit
    def slope(readout, graph):
        moved = lambda r: jnp.sum(eqx.tree_at(lambda p: p.readout, chimes, r).site_energies(graph))  # noqa: E731
        return jax.grad(moved)(readout)

    np.testing.assert_allclose(slope(chimes.readout, graph)[0], rows.energy, atol=1e-12)


def test_close_pairs_are_extrapolated_and_penalised_both_ways(chimes):
    atoms = Atoms("CuAuCu", [[0, 0, 0], [1.9, 0, 0], [1.0, 2.6, 0.5]], cell=[9, 9, 9], pbc=True)
    stiff = replace(SETTINGS, penalty_distance=0.2, penalty_scale=30.0)
    potential = Chimes(stiff, chimes.coefficients)
    structure = potential.neighborhood(atoms)
    inside = potential.inside(structure)
    assert inside == {"Au-Cu": (1, pytest.approx(1.9))}
    penalty, forces, virial = potential.penalty(structure)
    assert penalty == pytest.approx(30 * (2.0 + 0.2 - 1.9) ** 3, rel=1e-12)
    assert forces[0, 0] == pytest.approx(-90 * 0.3**2, rel=1e-12)
    assert virial[0, 0] == pytest.approx(-90 * 0.3**2 * 1.9, rel=1e-12)
    found = jax.jit(lambda graph: evaluate(potential, graph))(one_graph(potential, atoms))
    energy, forces, virial = by_rows(potential, atoms)
    assert float(found.energy[0]) == pytest.approx(energy, abs=1e-11)
    np.testing.assert_allclose(found.forces[:3], forces, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_calculator_cases(name, reference, structure):
    potential, atoms = case(name, reference, structure)
    data = np.load(reference / "expected" / "chimes" / "calculator.npz")
    energy, forces, virial = by_rows(potential, atoms)
    stress = np.array([virial[i] for i in VOIGT]) / atoms.get_volume()
    assert energy == pytest.approx(float(data[f"{name}_energy"]), abs=1e-6)
    np.testing.assert_allclose(forces, data[f"{name}_forces"], atol=1e-6)
    np.testing.assert_allclose(stress, data[f"{name}_stress"], atol=1e-6)


@pytest.mark.parametrize("name", ["C6_inside", "CO_24"])
def test_calculator_cases_in_compiled_loops(name, reference, structure):
    potential, atoms = case(name, reference, structure)
    data = np.load(reference / "expected" / "chimes" / "calculator.npz")
    (found,) = potential.predict([atoms])
    assert found.energy == pytest.approx(float(data[f"{name}_energy"]), abs=1e-6)
    np.testing.assert_allclose(found.forces, data[f"{name}_forces"], atol=1e-6)
    np.testing.assert_allclose(found.stress, data[f"{name}_stress"], atol=1e-6)


def test_small_cells_agree_with_their_replicas(reference, structure):
    for names in (("diamond_2", "diamond_8", "diamond_64"), ("TiO2_6", "TiO2_48")):
        energies = []
        for name in names:
            potential, atoms = case(name, reference, structure)
            energies.append(by_rows(potential, atoms)[0] / len(atoms))
        np.testing.assert_allclose(energies, energies[0], rtol=0, atol=1e-9)


def test_pairs_without_a_range_are_switched_off():
    settings = replace(SETTINGS, inner=(2.2, 2.1, 2.0), outer=(2.2, 4.4, 4.6), limits=())
    potential = Chimes(settings, np.ones(settings.n_columns))
    atoms = Atoms("Cu2Au", [[0, 0, 0], [2.1, 0, 0], [1.0, 2.2, 0]], cell=[9, 9, 9], pbc=True)
    energy, forces, virial = by_rows(potential, atoms)
    assert np.isfinite([energy, *forces.ravel(), *virial.ravel()]).all()
    (rows,) = potential.closed_rows([potential.neighborhood(atoms)], forces=True, strain=False)
    assert not rows.energy[:6].any()  # no Cu-Cu, and no cluster with such a pair
    assert not rows.energy[settings.blocks(3)[1].columns].any()


def test_excluded_clusters_are_left_out(chimes, crystal):
    settings = replace(SETTINGS, excluded=((0, 1), (0, 0, 1)))
    kept = [n in settings.names for n in SETTINGS.names]
    fewer = Chimes(settings, chimes.coefficients[kept])
    silent = chimes.with_coefficients(np.where(kept, chimes.coefficients, 0.0))
    found, expected = by_rows(fewer, crystal), by_rows(silent, crystal)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    graph = one_graph(fewer, crystal)
    total = eqx.filter_jit(lambda p, g: p.site_energies(g))(fewer, graph).sum()
    assert float(total) == pytest.approx(expected[0], abs=1e-12)


def test_types_keep_the_order_of_the_file(chimes):
    assert chimes.species == (29, 79)
    turned = Chimes(replace(SETTINGS, types=("Au", "Cu")))
    assert turned.species == (29, 79)
    assert turned.settings.names[-2:] == ("offset Au", "offset Cu")


def test_the_last_layer_has_no_bias(chimes):
    assert chimes.readout.shape == (1, SETTINGS.n_columns)
    assert chimes.n_solvable == chimes.n_features == SETTINGS.n_columns
    np.testing.assert_array_equal(chimes.bias_row(np.array([29, 79])), [0])


def test_unknown_elements_are_refused(chimes):
    with pytest.raises(PotentialError, match="does not know Ni"):
        chimes.predict([Atoms("NiCu", [[0, 0, 0], [2.5, 0, 0]])])
