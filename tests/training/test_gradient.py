from __future__ import annotations

import equinox as eqx
import jax
import numpy as np
import pytest

from surefield.config import parse
from surefield.errors import ConfigError
from surefield.potentials.potential import Potential, trainable
from surefield.structures.batching import plan_shapes
from surefield.training import TrainConfig, gradient
from surefield.training.dataset import make_batch, prepare
from surefield.training.gradient import (
    energy_factor,
    fit_gradient,
    initial_state,
    reweighted,
    step_settings,
    train_step,
)
from surefield.training.loss import LossWeights, errors, loss, residuals


@pytest.fixture(scope="module")
def samples(copper, copper_network):
    return prepare(copper, copper_network).samples


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([2.0, 1.0, 1.2, 1.3], 2),  # 1.2 is within a quarter of the least
        ([2.0, 1.0, 0.5, 0.7], 2),
        ([2.0, 1.0, 1.6, 1.2], 3),
        ([1.0, 1.3, 1.3, 2.0], 0),
        ([1.0, np.nan, 1.1, np.nan], 2),
        ([1.0, np.nan, 5.0, 6.0], 0),
    ],
)
def test_the_last_state_near_the_least_score_is_kept(copper_network, samples, monkeypatch, scores, kept):
    left = iter(scores)
    monkeypatch.setattr(gradient, "_validate", lambda *_: (next(left), {}))
    averages = []
    _, state, _ = fit_gradient(
        copper_network,
        samples[:3],
        samples[3:5],
        TrainConfig(epochs=3, batch_size=3),
        on_epoch=[lambda state, _: averages.append(state.average)],
    )
    start = eqx.filter(copper_network, trainable(copper_network))
    assert state.best_epoch == kept
    assert eqx.tree_equal(state.best, [start, *averages][kept])


def test_more_validation_structures_are_believed_more(copper_network, samples, monkeypatch):
    """25 structures give a standard error of a fifth: 1.2 is near 1, 1.21 is not."""
    for last, kept in ((1.2, 2), (1.21, 1)):
        left = iter([2.0, 1.0, last])
        monkeypatch.setattr(gradient, "_validate", lambda *_, left=left: (next(left), {}))
        config = TrainConfig(epochs=2, batch_size=3)
        _, state, _ = fit_gradient(copper_network, samples[:3], [*samples[:5]] * 5, config)
        assert state.best_epoch == kept


def _step(potential, samples, **settings):
    """Parameters after one step."""
    config = TrainConfig(**settings)
    state = initial_state(potential, config)
    ((shape, _),) = plan_shapes([s.structure for s in samples], len(samples))
    fixed = eqx.filter(potential, trainable(potential), inverse=True)
    batch = make_batch(samples, shape, potential.dtype)
    found = train_step(
        batch,
        state.parameters,
        state.optimizer,
        state.average,
        fixed,
        1e-2,
        0.9,
        step_settings(config, potential),
    )
    return found[0]


def test_weight_decay_shrinks_the_network_alone(copper_network, samples):
    with_decay, without = (
        _step(copper_network, samples[:3], weight_decay=w, solved_factor=0.0) for w in (0.5, 0.0)
    )
    moved = jax.tree.map(lambda a, b: np.asarray(a - b), with_decay, without)
    width = copper_network.n_invariants
    for weight, change in zip(copper_network.weights, moved.weights, strict=True):
        np.testing.assert_allclose(change, -1e-2 * 0.5 * weight, atol=1e-14)
    np.testing.assert_allclose(
        moved.readout[:, width:], -1e-2 * 0.5 * copper_network.readout[:, width:], atol=1e-14
    )
    for still in (moved.readout[:, :width], moved.radial, moved.bias, *moved.biases):
        np.testing.assert_array_equal(still, 0)


def test_weight_decay_that_is_not_set_is_that_of_the_potential(copper_network):
    class Other(Potential):
        species: tuple[int, ...] = (29,)
        cutoff: float = 3.0
        offsets: np.ndarray = eqx.field(default_factory=lambda: np.zeros(1))

        def site_energies(self, graph):
            raise NotImplementedError

    assert step_settings(TrainConfig(), copper_network).weight_decay == 1.0
    assert step_settings(TrainConfig(), Other()).weight_decay == 0.0
    assert step_settings(TrainConfig(weight_decay=0.3), Other()).weight_decay == 0.3


def test_energies_count_more_as_the_steps_go_on(copper_network, samples):
    assert [energy_factor((0.1, 10.0), step, 100) for step in (0, 50)] == [0.1, 0.1]
    np.testing.assert_allclose([energy_factor((0.1, 10.0), step, 100) for step in (75, 100)], [1.0, 10.0])
    assert energy_factor((1.0, 1.0), 3, 0) == 1.0

    ((shape, _),) = plan_shapes([s.structure for s in samples[:3]], 3)
    batch = make_batch(samples[:3], shape, copper_network.dtype)
    nothing = {"energy": 0.0, "forces": 0.0, "stress": 0.0}
    energies, forces = (LossWeights(**nothing | {name: 1.0}) for name in ("energy", "forces"))
    more = reweighted(batch, 4.0)
    np.testing.assert_allclose(
        loss(copper_network, more, energies), 4 * loss(copper_network, batch, energies)
    )
    np.testing.assert_array_equal(loss(copper_network, more, forces), loss(copper_network, batch, forces))
    assert reweighted(batch, 1.0) is batch


def test_a_ramp_changes_what_is_learned(copper_network, samples):
    def energy_error(ramp):
        config = TrainConfig(epochs=30, energy_ramp=ramp, forces_weight=1.0, patience=100)
        potential, *_ = fit_gradient(copper_network, samples[:8], (), config)
        return errors(residuals(potential, samples[:8])).energy_rmse

    assert energy_error((0.1, 1000.0)) < energy_error((0.1, 0.1))


@pytest.mark.parametrize("ramp", [(0.0, 1.0), (1.0, -1.0), (1.0, np.inf)])
def test_ramps_are_positive(ramp):
    with pytest.raises(ConfigError, match="both factors must be positive"):
        parse(TrainConfig, {"energy_ramp": ramp}, where="training")
