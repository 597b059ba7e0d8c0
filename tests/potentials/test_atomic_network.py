from __future__ import annotations

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.io import read

from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.symmetry_functions import SymmetryFunctions, make_default_symmetry_functions
from surefield.errors import ConfigError, PotentialError
from surefield.potentials import ZBL, predict
from surefield.potentials.atomic_network import AtomicNetwork, AtomicNetworkConfig
from surefield.potentials.calculator import ExtrapolationWarning
from surefield.potentials.potential import TrainingData
from surefield.potentials.saving import build
from surefield.sensitivity import structure_rows
from surefield.structures.neighbors import neighborhood
from surefield.testing import check_potential
from surefield.training import train

PAIR = ["Au", "Cu"]


@pytest.fixture(scope="module")
def small(shared):
    folder = shared / "reference" / "networks" / "small"
    model = json.loads((folder / "model.json").read_text())
    expected = json.loads((folder / "expected.json").read_text())
    return read(folder / "images.extxyz", ":"), model, expected


@pytest.fixture(scope="module")
def reference(small):
    """The network of the reference file, with the activation on its output node."""
    _, model, _ = small
    descriptor = SymmetryFunctions.from_lists(["Cu", "Pt"], Cosine(6.5), model["Gs"])
    hidden = [model["hiddenlayers"][symbol] for symbol in descriptor.symbols]
    network = AtomicNetwork(descriptor, hidden, output_activation="activation")
    low, high = np.moveaxis(np.array([model["fprange"][s] for s in descriptor.symbols]), 2, 0)
    network = eqx.tree_at(lambda p: (p.low, p.high), network, (jnp.asarray(low), jnp.asarray(high)))
    return network.with_vector(jnp.asarray(model["vector"]))


def alloy_network(hidden, seed=3, **settings):
    descriptor = SymmetryFunctions.from_lists(PAIR, Cosine(3.5), make_default_symmetry_functions(PAIR))
    network = AtomicNetwork(descriptor, hidden, seed=seed, **settings)
    rng = np.random.default_rng(0)
    dtype = network.dtype
    bias = jnp.asarray(rng.normal(size=2), dtype)
    values = (jnp.asarray(rng.normal(-3, 1, 2)), jnp.asarray([0.7, 1.3], dtype), bias)
    return eqx.tree_at(lambda p: (p.offsets, p.slopes, p.bias), network, values)


@pytest.mark.parametrize(
    ("hidden", "output_activation"),
    [
        ([(4, 3), (5,)], "activation"),
        ([(), ()], "linear"),
        pytest.param([(4, 3), (5,)], "linear", marks=pytest.mark.slow),
        pytest.param([(), ()], "activation", marks=pytest.mark.slow),
    ],
)
def test_contract(alloy, hidden, output_activation):
    check_potential(alloy_network(hidden, output_activation=output_activation), alloy)


@pytest.mark.parametrize("activation", ["sigmoid", pytest.param("linear", marks=pytest.mark.slow)])
def test_other_activations(alloy, activation):
    check_potential(alloy_network([(4,), (4,)], activation=activation), alloy[:1])


def test_single_precision(alloy):
    single = alloy_network([(4,), (4,)], dtype="float32")
    assert single.dtype == np.float32
    check_potential(single, alloy[:1])


def test_energies_and_forces_of_the_reference(small, reference):
    images, _, expected = small
    found = predict(reference, images)
    np.testing.assert_allclose([p.energy for p in found], expected["energies"], rtol=0, atol=1e-10)
    for got, energies, forces in zip(found, expected["atomic_energies"], expected["forces"], strict=True):
        np.testing.assert_allclose(got.energies, energies, rtol=0, atol=1e-10)
        np.testing.assert_allclose(got.forces, forces, rtol=0, atol=1e-10)


def test_ranges_of_the_reference(small, reference):
    images, model, _ = small
    found = reference.prepared(TrainingData([neighborhood(a, 6.5) for a in images], [None] * len(images), {}))
    for place, symbol in enumerate(reference.descriptor.symbols):
        expected = np.array(model["fprange"][symbol])
        ranges = np.stack([found.low[place], found.high[place]], 1)
        np.testing.assert_allclose(ranges, expected, rtol=0, atol=1e-12)


def test_vector_has_the_documented_order(small, reference):
    _, model, _ = small
    np.testing.assert_array_equal(np.asarray(reference.vector), model["vector"])
    with pytest.raises(ConfigError, match="217 entries, the potential 218"):
        reference.with_vector(jnp.zeros(217))
    with pytest.raises(ConfigError, match="219"):
        reference.with_vector(jnp.zeros(219))


@pytest.mark.parametrize("output_activation", ["linear", "activation"])
def test_rows_are_derivatives_by_the_last_weights(alloy, output_activation):
    network = alloy_network([(4, 3), (5,)], output_activation=output_activation)
    structure = neighborhood(alloy[0], network.cutoff)
    (rows,) = structure_rows(network, [structure], ("energy", "forces", "stress"))
    step = 1e-5

    def moved(index, sign):
        readout = network.readout.ravel().at[index].add(sign * step).reshape(network.readout.shape)
        return predict(eqx.tree_at(lambda p: p.readout, network, readout), alloy[:1])[0]

    for index in (0, 2, network.readout.shape[1] + 1):
        up, down = moved(index, 1), moved(index, -1)
        np.testing.assert_allclose(rows.energy[index], (up.energy - down.energy) / (2 * step), atol=1e-8)
        slope = (up.forces - down.forces).ravel() / (2 * step)
        np.testing.assert_allclose(rows.forces[:, index], slope, atol=1e-8)
        np.testing.assert_allclose(rows.stress[:, index], (up.stress - down.stress) / (2 * step), atol=1e-8)


def test_extrapolation_is_reported(alloy):
    network = alloy_network([(3,), (3,)])
    ready = network.prepared(TrainingData([neighborhood(alloy[0], 3.5)], [None], {}))
    (inside,) = predict(ready, alloy[:1])
    assert inside.extrapolation.shape == (3,)
    np.testing.assert_allclose(inside.extrapolation, 0, atol=1e-9)
    squeezed = alloy[0].copy()
    squeezed.set_cell(0.9 * squeezed.cell.array, scale_atoms=True)
    (outside,) = predict(ready, [squeezed])
    assert np.all(outside.extrapolation > 0.05)
    squeezed.calc = ready.calculator()
    with pytest.warns(ExtrapolationWarning, match=r"atom \d \((Cu|Au)\) lies outside .* its range"):
        squeezed.get_potential_energy()
    squeezed.rattle(0.01)
    squeezed.get_potential_energy()
    np.testing.assert_array_less(0.05, squeezed.calc.results["extrapolation"])
    squeezed.calc = ready.calculator(extrapolation="error")
    with pytest.raises(PotentialError, match="lies outside"):
        squeezed.get_forces()
    with pytest.raises(ConfigError, match="warn"):
        ready.calculator(extrapolation="wran")
    text = ready.describe_extrapolation(squeezed)
    assert (ready + ZBL(ready.species)).describe_extrapolation(squeezed) == text


def test_kind_has_the_same_names_in_runs_and_in_files():
    network = alloy_network([(3,), (3,)])
    kinds = ("atomic_network", "neural_network")
    assert [AtomicNetworkConfig(kind=kind).kind for kind in kinds] == list(kinds)
    for kind in kinds:
        assert build(network.config() | {"kind": kind}).config() == network.config()
    whole = network + ZBL(network.species)
    assert build(whole.config()).config() == whole.config()


def test_linear_model_is_solved_exactly(copper):
    """A linear model on labels that it can describe comes back; two trainings agree."""
    descriptor = SymmetryFunctions.from_lists(["Cu"], Cosine(4.0), make_default_symmetry_functions(["Cu"]))
    fit = train(AtomicNetwork(descriptor, [()]), copper, 0.25, epochs=0, progress=False)
    assert fit.solution is not None
    before = AtomicNetwork(descriptor, [()])
    spread = np.std([a.get_potential_energy() / len(a) for a in copper])
    assert fit.train_errors.energy_rmse < spread
    assert np.all(np.asarray(fit.potential.readout) != np.asarray(before.readout))


def test_minibatch_training_lowers_the_errors(copper):
    descriptor = SymmetryFunctions.from_lists(["Cu"], Cosine(4.0), make_default_symmetry_functions(["Cu"]))
    start = AtomicNetwork(descriptor, [(6,)], dtype="float32")
    settings = {"stress_weight": 0.0, "progress": False}
    first = train(start, copper, 0.25, epochs=0, **settings)
    later = train(start, copper, 0.25, epochs=40, learning_rate=0.03, **settings)
    assert later.train_errors.forces_rmse < 0.95 * first.train_errors.forces_rmse
    frozen = jax.tree.leaves((first.potential.low, first.potential.high, first.potential.offsets))
    moved = jax.tree.leaves((later.potential.low, later.potential.high, later.potential.offsets))
    for a, b in zip(frozen, moved, strict=True):
        np.testing.assert_array_equal(a, b)


def test_unknown_element(alloy):
    wrong = alloy[0].copy()
    wrong.symbols[0] = "Pt"
    with pytest.raises(PotentialError, match="Pt"):
        predict(alloy_network([(3,), (3,)]), [wrong])
