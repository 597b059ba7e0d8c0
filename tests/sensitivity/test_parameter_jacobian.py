"""Rows by any parameters against finite differences of the predictions."""

from __future__ import annotations

from collections import defaultdict

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from tests.conftest import SW

from surefield.errors import ConfigError, PotentialError
from surefield.foreign import JaxPotential
from surefield.potentials import ZBL
from surefield.potentials.evaluate import neighborhoods_of
from surefield.potentials.parametric import StillingerWeber
from surefield.sensitivity import parameter_jacobian
from surefield.sensitivity.parameter_jacobian import ChosenParameters, in_float64, parameter_rows

ALL = ("energy", "forces", "stress")


def collected(chosen, frames, quantities=ALL) -> list[dict[str, np.ndarray]]:
    blocks = defaultdict(list)
    for block in parameter_rows(chosen, neighborhoods_of(chosen.potential, frames), quantities):
        parts = blocks[block.structure, block.quantity]
        assert block.start == sum(len(p) for p in parts)
        parts.append(block.rows)
    return [
        {name: np.concatenate(blocks[i, name]) for name in quantities if (i, name) in blocks}
        for i in range(len(frames))
    ]


def differences(chosen, frames, direction: np.ndarray, h: float) -> list[dict[str, np.ndarray]]:
    """Slope of all predictions along a direction of the parameters, to fourth order."""
    start, total = np.asarray(chosen.vector), None
    for k, weight in ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12)):
        values = [
            {n: np.ravel(v) * weight / h for n in ALL if (v := getattr(p, n)) is not None}
            for p in chosen.at(start + k * h * direction).predict(frames)
        ]
        total = values if total is None else [
            {n: a[n] + b[n] for n in a} for a, b in zip(total, values, strict=True)
        ]  # fmt: skip
    return total


def check(chosen, frames, h=1e-3, tolerance=1e-7) -> list[dict[str, np.ndarray]]:
    rows = collected(chosen, frames)
    direction = np.cos(1.0 + np.arange(chosen.vector.size)) * np.maximum(np.abs(chosen.vector), 0.1)
    for got, expected in zip(rows, differences(chosen, frames, direction, h), strict=True):
        assert got.keys() == expected.keys()
        for name, slope in expected.items():
            along = got[name] @ direction
            np.testing.assert_allclose(along, slope, rtol=0, atol=tolerance * max(np.abs(slope).max(), 1e-3))
    return rows


def test_stillinger_weber_is_right_where_q_is_zero(silicon) -> None:
    chosen = ChosenParameters(StillingerWeber(SW, ["Si"]))
    frames = [silicon[0], bulk("Si"), silicon[1].repeat((2, 1, 1))]
    rows = check(chosen, frames)
    q = [entry.name for entry in chosen.potential.free].index("q")
    unit = np.eye(8)[q]
    for got, expected in zip(rows, differences(chosen, frames, unit, 1e-3), strict=True):
        np.testing.assert_allclose(got["forces"][:, q], expected["forces"], atol=1e-9)
        assert abs(got["energy"][0, q]) > 1


@pytest.mark.parametrize("passes", [0, 1000], ids=["reverse", "forward"])
def test_all_parameters_of_a_network_both_ways(network, alloy, passes, monkeypatch) -> None:
    monkeypatch.setattr(parameter_jacobian, "_PASS_BACK", passes)
    rows = check(ChosenParameters(network), alloy, tolerance=1e-6)
    assert [sorted(r) for r in rows] == [["energy", "forces", "stress"], *[["energy", "forces"]] * 2]
    assert rows[0]["stress"].shape == (6, network.vector.size)


def test_blocks_of_rows_are_short_where_rows_are_long(network, alloy, monkeypatch) -> None:
    alloy = alloy[:1]
    whole = collected(ChosenParameters(network), alloy)
    monkeypatch.setattr(parameter_jacobian, "_BLOCK_NUMBERS", 3 * network.vector.size)
    monkeypatch.setattr(parameter_jacobian, "_PASS_BACK", 1000)  # forward, if that were held as a whole
    monkeypatch.setattr(parameter_jacobian, "_WHOLE_NUMBERS", 3 * network.vector.size)
    structures = neighborhoods_of(network, alloy)
    blocks = list(parameter_rows(ChosenParameters(network), structures, ALL))
    assert max(len(block.rows) for block in blocks) <= 3
    for block in blocks:
        part = whole[block.structure][block.quantity][block.start : block.start + len(block.rows)]
        np.testing.assert_allclose(block.rows, part, rtol=1e-12, atol=1e-14)


def test_the_last_layer_and_some_places(network, alloy) -> None:
    every = collected(ChosenParameters(network), alloy[:1])[0]
    last = check(ChosenParameters(network, last_layer=True), alloy[:1])[0]
    leaf = np.asarray(eqx.tree_at(lambda p: p.readout, network, network.readout * 0 + 1e300).vector)
    places = np.flatnonzero(leaf == 1e300)
    some = check(ChosenParameters(network, places[3:9]), alloy[:1])[0]
    for name in ALL:
        np.testing.assert_allclose(every[name][:, places], last[name], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(some[name], last[name][:, 3:9], rtol=1e-9, atol=1e-12)


def test_a_sum_with_a_baseline(network, alloy) -> None:
    both = network + ZBL(["Cu", "Au"])
    check(ChosenParameters(both, last_layer=True), alloy[:2])
    np.testing.assert_allclose(
        collected(ChosenParameters(both), alloy[:1])[0]["forces"],
        collected(ChosenParameters(network), alloy[:1])[0]["forces"],
        atol=1e-10,
    )


def gaussians(edges, parameters):
    r = jnp.linalg.norm(edges.vectors, axis=-1)
    basis = (
        jnp.exp(-((r[:, None] - parameters["centres"]) ** 2))
        * jnp.where(edges.mask, (r - 4) ** 2, 0)[:, None]
    )
    sums = jnp.zeros((len(edges.numbers), 3)).at[edges.receivers].add(basis)
    return jnp.tanh(sums) @ parameters["weights"]


def test_a_model_of_another_package(alloy) -> None:
    parameters = {"centres": jnp.asarray([1.5, 2.0, 2.5]), "weights": jnp.asarray([0.3, -0.2, 0.7])}
    model = JaxPotential(gaussians, parameters, "weights", ["Cu", "Au"], cutoff=4.0)
    chosen = ChosenParameters(in_float64(model))
    rows = check(chosen, alloy)
    assert rows[0]["energy"].shape == (1, 4)
    np.testing.assert_allclose(rows[0]["energy"][0, -1], 3)  # its bias is added to every atom
    check(ChosenParameters(in_float64(model), last_layer=True), alloy)


def test_bad_requests_are_refused(network, alloy) -> None:
    with pytest.raises(ConfigError, match="no rows of charges"):
        list(parameter_rows(ChosenParameters(network), neighborhoods_of(network, alloy), ["charges"]))


class Opaque(StillingerWeber):
    @property
    def numerical(self) -> bool:
        return True


def test_numerical_potentials_are_refused(silicon) -> None:
    model = Opaque(SW, ["Si"])
    with pytest.raises(PotentialError, match="'method': 'central'"):
        list(parameter_rows(ChosenParameters(model), neighborhoods_of(model, silicon[:1])))
