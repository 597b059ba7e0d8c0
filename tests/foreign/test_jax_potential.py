"""Functions of JAX by the name of their last layer: a made-up Equinox model with messages."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

import surefield as sf
from surefield.errors import PotentialError
from surefield.foreign import JaxPotential, register_model
from surefield.sensitivity import structure_rows
from surefield.testing import check_potential

CUTOFF, WIDTH = 3.2, 5


class Toy(eqx.Module):
    """Two rounds of messages over distances."""

    embed: jax.Array
    mix: list[eqx.nn.Linear]
    readout: eqx.nn.Linear

    def __init__(self, seed=0):
        first, *others, last = jax.random.split(jax.random.key(seed), 4)
        self.embed = jax.random.normal(first, (20, WIDTH))
        self.mix = [eqx.nn.Linear(WIDTH, WIDTH, key=key) for key in others]
        self.readout = eqx.nn.Linear(WIDTH, 1, key=last)


def hidden(inputs, model):
    r = jnp.sqrt(jnp.sum(inputs.vectors**2, axis=1))
    inside = inputs.mask & (r < CUTOFF)
    r = jnp.where(inside, r, 1.0)
    waves = jnp.exp(-3.0 * (r[:, None] - jnp.linspace(1.0, CUTOFF, WIDTH)) ** 2)
    waves = waves * jnp.where(inside, (1 - (r / CUTOFF) ** 2) ** 3, 0.0)[:, None]
    start = h = model.embed[inputs.numbers % 20]
    for layer in model.mix:
        messages = jax.ops.segment_sum(h[inputs.senders] * waves, inputs.receivers, len(h))
        h = jnp.tanh(jax.vmap(layer)(messages)) + 0.3 * start
    return h


def energy(inputs, model):
    return 1.7 * jax.vmap(model.readout)(hidden(inputs, model))[:, 0] - 5.0


def bent(inputs, model):
    return jax.nn.silu(energy(inputs, model))


def toy(seed=0, function=energy, last_layer="readout.weight", **options):
    parameters = Toy(seed)
    return JaxPotential(function, parameters, last_layer, ["H", "O", "Si"], CUTOFF, **options)


register_model("jax toy", lambda: toy(seed=1, name="jax toy"))


def moved(potential, step):
    return eqx.tree_at(lambda p: p.readout, potential, potential.readout + step)


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(1)
    cells = [bulk("Si"), molecule("H2O")]
    for atoms in cells:
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
    return cells


def test_contract(frames):
    check_potential(moved(toy(name="jax toy"), 0.5), frames)


def test_rows_are_derivatives_of_the_results_by_the_weights(frames):
    potential = toy()
    rows = list(
        structure_rows(
            potential,
            [potential.neighborhood(f) for f in frames],
            ("energy", "forces", "stress", "energies"),
        )
    )
    step = np.random.default_rng(3).normal(size=WIDTH)
    before, after = potential.predict(frames), moved(potential, step).predict(frames)
    for row, old, new in zip(rows, before, after, strict=True):
        assert set(row.values) >= {"energy", "forces", "energies"}
        for name in row.values:
            change = (row[name] @ step).reshape(np.shape(old[name]))
            np.testing.assert_allclose(new[name] - old[name], change, atol=1e-9)


def test_a_solved_last_layer_with_sigmas_picks_and_a_calculator(silicon):
    cells = silicon[:6]
    truth = moved(toy(), 0.3 * np.random.default_rng(0).normal(size=WIDTH))
    labelled, rng = [], np.random.default_rng(0)
    for atoms, prediction in zip(cells, truth.predict(cells), strict=True):
        copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        copy.info["REF_energy"] = prediction.energy + 30.0
        copy.arrays["REF_forces"] = prediction.forces + 1e-3 * rng.normal(size=prediction.forces.shape)
        labelled.append(copy)
    potential = toy()
    fit = sf.train(potential, labelled[:4], validation=labelled[4:], progress=False)
    assert fit.history == ()
    assert fit.validation_errors is not None
    assert isinstance(fit.potential, JaxPotential)
    assert fit.validation_errors.forces_rmse < 2e-3
    unchanged = jax.tree.map(
        lambda a, b: bool(jnp.all(a == b)), fit.potential.parameters, potential.parameters
    )
    assert all(jax.tree.leaves(unchanged))
    sure = sf.LLPR.fit(fit.potential, labelled[:4], labelled[4:], progress=False)
    atoms = cells[0].copy()
    atoms.calc = sure.calculator(forces=True)
    assert np.isfinite(atoms.get_forces()).all()
    assert atoms.calc.results["forces_uncertainty"].shape == (len(atoms), 3)
    assert len(set(sf.select(sure, labelled[:2], labelled[2:], n=3))) == 3


@pytest.mark.parametrize(
    ("function", "layer", "message"),
    [
        (energy, "readout.weigth", "no array 'readout.weigth'; did you mean 'readout.weight'"),
        (energy, "mix.1.weight", "not linear in 'mix.1.weight'"),
        (bent, "readout.weight", "not linear in 'readout.weight'"),
        (lambda inputs, model: 0 * hidden(inputs, model)[:, 0], "readout.weight", "does not depend on"),
        (lambda inputs, model: energy(inputs, model).sum(), "readout.weight", "one energy for each atom"),
        (lambda inputs, model: energy(inputs, model) * jnp.nan, "readout.weight", "not finite"),
    ],
)
def test_functions_that_cannot_serve(function, layer, message):
    with pytest.raises(PotentialError, match=message):
        toy(function=function, last_layer=layer)


def test_files(tmp_path):
    with pytest.raises(PotentialError, match="without a name"):
        sf.save_potential(tmp_path / "p.npz", toy())
    sf.save_potential(tmp_path / "p.npz", toy(name="nobody's"))
    with pytest.raises(PotentialError, match='needs the model "nobody\'s", which this process does not know'):
        sf.load(tmp_path / "p.npz")
    with pytest.raises(PotentialError, match="'chgnet' stands for another model"):
        register_model("chgnet", toy)
