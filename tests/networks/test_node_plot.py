from __future__ import annotations

import csv
import re
import sys
from dataclasses import fields
from types import SimpleNamespace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.derivatives import atomic_features
from surefield.descriptors.symmetry_functions import SymmetryFunctions, make_default_symmetry_functions
from surefield.errors import ConfigError, DataError, PotentialError
from surefield.networks.amp import Amp
from surefield.networks.fingerprints import Gaussian
from surefield.networks.network_dicts import fprange_of, network_dicts
from surefield.networks.network_functions import calculate_nodal_outputs
from surefield.networks.neural_network import NeuralNetwork
from surefield.networks.node_plot import NodePlot, NodeSummary, node_outputs
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.potentials.image_network import ImageNetwork
from surefield.potentials.potential import TrainingData
from surefield.structures.neighbors import neighborhood


def alloy_network(frames, hidden=((4, 3), (5,)), **settings) -> AtomicNetwork:
    """Network whose inputs are scaled by the given structures; elements in the order Cu, Au."""
    pair = ["Au", "Cu"]
    descriptor = SymmetryFunctions.from_lists(pair, Cosine(4.0), make_default_symmetry_functions(pair))
    network = AtomicNetwork(descriptor, hidden, seed=3, **settings)
    return network.prepared(
        TrainingData([neighborhood(atoms, 4.0) for atoms in frames], [None] * len(frames), {})
    )


def parameters_of(network) -> SimpleNamespace:
    weights, scalings = network_dicts(network).values()
    return SimpleNamespace(
        weights=weights,
        scalings=scalings,
        fprange=fprange_of(network),
        activation=network.activation,
        output_activation=network.output_activation,
    )


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
@pytest.mark.parametrize("output_activation", ["linear", "activation"])
def test_outputs_are_those_of_single_atoms(alloy, activation, output_activation):
    network = alloy_network(alloy[:2], activation=activation, output_activation=output_activation)
    found, parameters = node_outputs(network, alloy), parameters_of(network)
    assert list(found) == ["Au", "Cu"]
    features = atomic_features(network.descriptor, [network.neighborhood(a) for a in alloy])
    seen = dict.fromkeys(found, 0)
    for atoms, values in zip(alloy, features, strict=True):
        for symbol, afp in zip(atoms.symbols, values, strict=True):
            expected = calculate_nodal_outputs(parameters, afp, symbol)
            assert len(found[symbol]) == len(expected) == (4 if symbol == "Cu" else 3)
            for layer, nodes in expected.items():
                np.testing.assert_allclose(found[symbol][layer][seen[symbol]], nodes, rtol=0, atol=1e-12)
            seen[symbol] += 1
    assert seen == {"Au": 4, "Cu": 5}


@pytest.fixture(scope="module")
def molecules() -> list[Atoms]:
    rng = np.random.default_rng(4)
    start = np.array([[0.0, 0.0, 0.0], [2.2, 0.1, 0.0], [0.3, 2.1, 0.4]])
    return [Atoms("CuCuAu", start + rng.normal(0, 0.1, (3, 3)), cell=[9, 9, 9], pbc=True) for _ in range(30)]


def test_outputs_of_an_image_centred_network(molecules):
    network = ImageNetwork(molecules[0], (4,)).prepared(
        TrainingData([neighborhood(a, 1.0) for a in molecules], [None] * 30, {})
    )
    wrapped = [atoms.copy() for atoms in molecules]
    wrapped[3].positions += [9, 0, -18]
    (layers,) = node_outputs(network, wrapped).values()
    expected = calculate_nodal_outputs(parameters_of(network), molecules[3].positions.ravel(), None)
    for layer, nodes in expected.items():
        np.testing.assert_allclose(layers[layer][3], nodes, rtol=0, atol=1e-12)
    assert [x.shape for x in layers] == [(30, 9), (30, 4), (30, 1)]


def flagged(table, flag):
    return {(row.element, row.layer, row.node) for row in table if getattr(row, flag)}


def test_the_table_counts_all_atoms(molecules, tmp_path):
    network = alloy_network(molecules)
    # The first hidden node of copper is stuck, the second on the flat part, the third there for few atoms.
    first = network.layers[0][0].at[:, :2].set(0.0).at[-1, 1].set(4.0)
    network = eqx.tree_at(lambda p: p.layers[0][0], network, first)
    table = NodePlot(network).plot(molecules, tmp_path / "nodes.pdf")
    assert len(table) == (20 + 5 + 1) + (20 + 4 + 3 + 1)
    outputs = node_outputs(network, molecules)
    for row in table:
        values = outputs[row.element][row.layer][:, row.node]
        np.testing.assert_allclose(
            [row.mean, row.std, row.min, row.max],
            [values.mean(), values.std(), values.min(), values.max()],
            rtol=0,
            atol=1e-14,
        )
        assert row.dead == (values.std() < 1e-3)
    assert {("Cu", 1, 0), ("Cu", 1, 1)} <= flagged(table, "dead")
    assert ("Cu", 1, 2) not in flagged(table, "dead")
    # There is one gold atom: no gold neighbours, so constant features of copper or gold stay at 0.
    assert ("Au", 0, 0) in flagged(table, "dead")
    assert flagged(table, "saturated") == {("Cu", 1, 1)}
    assert flagged(table, "extrapolating") == set()
    with (tmp_path / "nodes.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == [field.name for field in fields(NodeSummary)]
    assert len(rows) == len(table)
    again = [
        NodeSummary(r[0], int(r[1]), int(r[2]), *map(float, r[3:7]), *(x == "True" for x in r[7:]))
        for r in rows
    ]
    assert again == table


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@pytest.mark.parametrize(("share", "expected"), [(0.15, False), (0.25, True)])
def test_saturation_needs_a_fifth_of_the_atoms(molecules, tmp_path, activation, share, expected):
    """A steep node is on the flat part for that share of the copper atoms, and half way up for the others."""
    network = alloy_network(molecules, activation=activation)
    inputs = node_outputs(network, molecules)["Cu"][0]
    first = np.array(network.layers[0][0])
    feature = int(np.argmax(inputs.std(axis=0)))
    first[:, 0] = 0.0
    edge = np.quantile(inputs[:, feature], 1 - share)
    # tanh(u), 1/(1 + exp(-u)): the flat part begins at u = 2.65 and 4.6.
    flat = {"tanh": np.arctanh(0.99), "sigmoid": np.log(99)}[activation]
    first[feature, 0], first[-1, 0] = 0.1 * flat, flat - 0.1 * flat * edge
    network = eqx.tree_at(lambda p: p.layers[0][0], network, jnp.asarray(first))
    assert (
        ("Cu", 1, 0) in flagged(NodePlot(network).plot(molecules, tmp_path / "n.html"), "saturated")
    ) == expected
    first[:, 0] *= -1  # the other end
    network = eqx.tree_at(lambda p: p.layers[0][0], network, jnp.asarray(first))
    assert (
        ("Cu", 1, 0) in flagged(NodePlot(network).plot(molecules, tmp_path / "n.html"), "saturated")
    ) == expected


def test_linear_nodes_are_never_saturated(molecules, tmp_path):
    network = alloy_network(molecules)
    network = eqx.tree_at(lambda p: p.bias, network, jnp.asarray([5.0, 5.0]))
    table = NodePlot(network).plot(molecules, tmp_path / "n.html")
    assert flagged(table, "saturated") == set()
    bounded = alloy_network(molecules, output_activation="activation")
    bounded = eqx.tree_at(lambda p: p.bias, bounded, jnp.asarray([5.0, 5.0]))
    assert flagged(NodePlot(bounded).plot(molecules, tmp_path / "n.html"), "saturated") == {
        ("Cu", 3, 0),
        ("Au", 2, 0),
    }


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_extrapolation_shows(molecules, tmp_path, dtype):
    network = alloy_network(molecules, dtype=dtype)
    assert flagged(NodePlot(network).plot(molecules, tmp_path / "n.html"), "extrapolating") == set()
    squeezed = molecules[0].copy()
    squeezed.positions *= 0.8
    found = flagged(NodePlot(network).plot([*molecules, squeezed], tmp_path / "n.html"), "extrapolating")
    (features,) = atomic_features(network.descriptor, [network.neighborhood(squeezed)])
    expected = set()
    for symbol, values in zip(squeezed.symbols, features, strict=True):
        low, high = fprange_of(network)[symbol].T
        outside = ((values < low) | (values > high)) & (high > low)
        expected |= {(symbol, 0, node) for node in np.flatnonzero(outside).tolist()}
    assert found == expected
    assert len(found) > 10


def test_a_page_per_element_and_an_axis_per_layer(molecules, tmp_path):
    network = alloy_network(molecules, output_activation="linear")
    NodePlot(network).plot(molecules, tmp_path / "nodes.pdf")
    pdf = (tmp_path / "nodes.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", pdf)) == 2
    NodePlot(network).plot(molecules, tmp_path / "nodes.html")
    page = (tmp_path / "nodes.html").read_text()
    assert page.count("Plotly.newPlot(") >= 2
    # Copper has four layers, gold three; all but the linear output share the fixed axis.
    assert len(re.findall(r'"range":\[-1\.2,1\.2\]', page)) == 3 + 2
    for title in ("Au: 30 atoms, 26 nodes", "Cu: 60 atoms, 28 nodes", "hidden layer 2", "scaled inputs"):
        assert title in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nodes.csv", "nodes.html", "nodes.pdf"]
    one = NodePlot(network).plot(molecules[:1], tmp_path / "one.pdf")  # no densities of single numbers
    assert {row.std for row in one if row.element == "Au"} == {0.0}


def test_duplicates_count_and_absent_elements_do_not(molecules, tmp_path):
    network = alloy_network(molecules)
    twice = NodePlot(network).plot([molecules[0], molecules[1], molecules[1]], tmp_path / "n.pdf")
    au = node_outputs(network, molecules[:2])["Au"][1]
    row = next(row for row in twice if (row.element, row.layer, row.node) == ("Au", 1, 0))
    assert row.mean == pytest.approx((au[0, 0] + 2 * au[1, 0]) / 3, rel=1e-12)
    table = NodePlot(network).plot([Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2]])], tmp_path / "n.pdf")
    assert {row.element for row in table} == {"Cu"}


def test_it_takes_calculators_handles_and_potentials(copper, tmp_path):
    """A model that is set up and not trained, by every name it has."""
    handle = NeuralNetwork(hiddenlayers=(3,), randomseed=1, checkpoints=None)
    descriptor = Gaussian(cutoff=Cosine(4.0))
    plot = NodePlot(handle)
    with pytest.raises(ConfigError, match="only_setup"):
        plot.plot(copper, tmp_path / "n.pdf")
    handle.fit(copper, descriptor, None, None, only_setup=True)
    expected = NodePlot(handle.potential).plot(copper, tmp_path / "n.pdf")
    assert len(expected) == 8 + 3 + 1
    assert flagged(expected, "extrapolating") == set()
    assert plot.plot(copper, tmp_path / "n.pdf") == expected
    assert NodePlot(Amp(descriptor, handle)).plot(copper, tmp_path / "n.pdf") == expected
    (afp,) = atomic_features(handle.potential.descriptor, [handle.potential.neighborhood(copper[0])])
    nodes = calculate_nodal_outputs(handle.parameters, afp[1], "Cu")
    for layer, values in enumerate(node_outputs(handle.potential, copper)["Cu"]):
        np.testing.assert_allclose(values[1], nodes[layer], rtol=0, atol=1e-12)
    image = ImageNetwork(copper[0], (4,))
    table = NodePlot(image).plot(copper[:1], tmp_path / "n.pdf")
    assert {row.element for row in table} == {"image"}


def test_refused(molecules, network, tmp_path, monkeypatch):
    plot = NodePlot(alloy_network(molecules[:2]))
    for name in ("nodes.png", "nodes"):
        with pytest.raises(ConfigError, match=r"\.pdf or \.html"):
            plot.plot(molecules, tmp_path / name)
    with pytest.raises(DataError, match="no images"):
        plot.plot([], tmp_path / "nodes.pdf")
    with pytest.raises(PotentialError, match="Ag"):
        plot.plot([Atoms("Ag2", [[0, 0, 0], [0, 0, 2]])], tmp_path / "nodes.pdf")
    with pytest.raises(PotentialError, match="MomentNetwork"):
        NodePlot(network).plot(molecules, tmp_path / "nodes.pdf")
    for library, name in (("matplotlib.figure", "n.pdf"), ("plotly.subplots", "n.html")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            with pytest.raises(ImportError, match="pip install"):
                plot.plot(molecules, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
