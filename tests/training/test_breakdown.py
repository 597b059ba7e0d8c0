"""Losses and tables of errors against the sums of the specification, written out."""

from __future__ import annotations

import numpy as np
import pytest

from surefield.potentials.parametric import LennardJones
from surefield.trainers.inputs import gather, make_configurations
from surefield.training.breakdown import ErrorTable, LossForm, breakdown
from surefield.training.problem import Weights


@pytest.fixture(scope="module")
def potential():
    return LennardJones({"epsilon": 0.4, "sigma": 2.1, "cutoff": 4.0}, ["Si"])


@pytest.fixture(scope="module")
def configurations(potential, silicon):
    frames = [atoms.copy() for atoms in silicon[:3]]
    for atoms, original in zip(frames, silicon, strict=False):
        atoms.calc = original.calc
    frames[1].info["structure_weight"] = 0.5
    weights = np.linspace(0.1, 2.0, 24)
    return make_configurations(potential, gather(frames, None, weights), Weights())


def rows(potential, configurations, weights, per_atom=True):
    """Weighted residuals of every configuration, from predictions."""
    found = []
    for c in configurations:
        (p,) = potential.predict([c.atoms])
        n = len(c.atoms) if per_atom else 1
        s = c.weight
        force = (p.forces - c.labels.forces) * weights.forces * s * c.atom_weights[:, None]
        stress = (p.stress - c.labels.stress) * weights.stress * s
        found.append(((p.energy - c.labels.energy) / n * weights.energy * s, force.ravel(), stress))
    return found


@pytest.mark.parametrize("method", ["mse", "mae"])
@pytest.mark.parametrize("bracket", ["rows", "sum", "mean"])
def test_brackets(potential, configurations, bracket, method):
    weights = Weights(2.0, 0.5, 30.0)
    f = np.abs if method == "mae" else np.square
    parts = rows(potential, configurations, weights)
    if bracket == "rows":
        expected = sum(f(e) + f(g).sum() + f(s).sum() for e, g, s in parts)
    else:
        expected = sum(f(e) + f(g).mean() + f(s).mean() for e, g, s in parts)
        expected /= 3 if bracket == "mean" else 1
    found = breakdown(potential, configurations, weights, LossForm(bracket, method))
    assert found.total == pytest.approx(expected, rel=1e-10)
    assert found.per_configuration.sum() == pytest.approx(expected, rel=1e-10)


def test_total_energies(potential, configurations):
    form = LossForm("sum", energy_per_atom=False)
    expected = sum(e**2 for e, *_ in rows(potential, configurations, Weights(), per_atom=False))
    assert breakdown(potential, configurations, Weights(), form).energy == pytest.approx(expected, rel=1e-10)


def test_errors(potential, configurations):
    table = breakdown(potential, configurations, Weights(), LossForm()).errors
    predictions = potential.predict([c.atoms for c in configurations])
    y = np.concatenate([c.labels.forces.ravel() for c in configurations])
    r = np.concatenate([p.forces.ravel() for p in predictions]) - y
    found = table["forces", "train", "unweighted"]
    assert found.count == 72
    assert found.mae == pytest.approx(np.abs(r).mean(), rel=1e-10)
    assert found.rmse == pytest.approx(np.sqrt((r**2).mean()), rel=1e-10)
    assert found.r2 == pytest.approx(1 - (r @ r) / ((y - y.mean()) ** 2).sum(), rel=1e-10)
    again = ErrorTable.from_records(table.records())
    assert dict(again) == dict(table)
    assert "| forces | train | weighted | 72 |" in str(table)
