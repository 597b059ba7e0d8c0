"""Minibatch training: AdamW with warm-up and cosine decay, clipping, an average of the weights, early stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from surefield.potentials.potential import Potential, trainable
from surefield.training.config import TrainConfig
from surefield.training.dataset import Sample, batches, plan_shapes
from surefield.training.loss import LossWeights, errors, loss, residuals

__all__ = ["History", "State", "fit_gradient", "initial_state"]

Row = dict[str, float]


class State(NamedTuple):
    """All that changes during training; a checkpoint is this and nothing else.

    Attributes:
        parameters: trainable arrays (others None).
        optimizer: state of the optimiser.
        average: exponential moving average of the parameters.
        best: averaged parameters with the least validation loss so far.
        step: optimiser steps done.
        epoch: epoch the next batch belongs to.
        batch: batches of that epoch already done.
        best_loss: validation loss of `best`.
        best_epoch: epoch after which it was found.
    """

    parameters: Potential
    optimizer: optax.OptState
    average: Potential
    best: Potential
    step: int
    epoch: int
    batch: int
    loss_sum: float
    best_loss: float
    best_epoch: int


@dataclass
class History:
    """One row per epoch, with the columns of `metrics.csv`."""

    rows: list[Row] = field(default_factory=list)


def optimiser(potential: Potential, config: TrainConfig, n_steps: int) -> optax.GradientTransformation:
    """Clipped AdamW; its schedule warms up over 2 % of the steps and decays as a cosine to 1 %."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, max(n_steps // 50, 1), max(n_steps, 2), 0.01 * config.learning_rate
    )
    return optax.chain(
        optax.clip_by_global_norm(config.gradient_clip),
        optax.adamw(schedule, weight_decay=config.weight_decay),
        optax.stateless(lambda updates, _: _scale(updates, potential, config)),
    )


def _scale(updates: Potential, potential: Potential, config: TrainConfig) -> Potential:
    """Slow down what the exact solution has set already."""
    factors = potential.learning_rate_factors(config.solved_factor, config.radial_factor)
    return jax.tree.map(lambda u, f: u * f, updates, eqx.filter(factors, trainable(potential)))


def initial_state(potential: Potential, config: TrainConfig, n_steps: int) -> State:
    """State before the first step."""
    parameters = eqx.filter(potential, trainable(potential))
    start = optimiser(potential, config, n_steps).init(parameters)
    return State(parameters, start, parameters, parameters, 0, 0, 0, 0.0, math.inf, 0)


def fit_gradient(
    potential: Potential,
    train: Sequence[Sample],
    validation: Sequence[Sample],
    config: TrainConfig,
    *,
    state: State | None = None,
    history: History | None = None,
    on_step: Callable[[State, float], None] = lambda state, value: None,
    on_epoch: Callable[[State, Row], None] = lambda state, row: None,
) -> tuple[Potential, State, History]:
    """Minimise the loss; the state with the least validation loss (the start included) is kept.

    Args:
        potential: starting point.
        train: labelled samples.
        validation: labelled samples for the early stop; empty: the last state is kept.
        config: optimiser, weights, epochs.
        state: continue from here instead of from the start.
        history: rows so far, when continuing.
        on_step: called after each step with the state and the batch's loss.
        on_epoch: called after each epoch with the state and its row of metrics.

    Returns:
        The potential with the kept weights, the last state, the history.
    """
    weights = LossWeights(config.energy_weight, config.forces_weight, config.stress_weight)
    shapes = plan_shapes(train, config.batch_size)
    static = eqx.filter(potential, trainable(potential), inverse=True)
    per_epoch = sum(1 for _ in batches(train, shapes, seed=config.seed, epoch=0, dtype=potential.dtype))
    n_steps = per_epoch * config.epochs
    transform = optimiser(potential, config, n_steps)
    history = History() if history is None else history
    begin = time.perf_counter() - (history.rows[-1]["seconds"] if history.rows else 0.0)

    @eqx.filter_jit(donate="all-except-first")
    def step(batch, parameters, optimizer, average):
        value, gradient = jax.value_and_grad(lambda p: loss(eqx.combine(p, static), batch, weights))(parameters)
        updates, optimizer = transform.update(gradient, optimizer, parameters)
        parameters = optax.apply_updates(parameters, updates)
        average = jax.tree.map(lambda a, p: a + (1 - config.ema) * (p - a), average, parameters)
        return parameters, optimizer, average, value

    if state is None:
        state = initial_state(potential, config, n_steps)
        if validation:
            value, _ = _validate(potential, validation, weights)
            state = state._replace(best_loss=value)
    while state.epoch < config.epochs:
        # Donated buffers must not be those of `best`.
        moving = jax.tree.map(jnp.copy, (state.parameters, state.optimizer, state.average))
        done, loss_sum = state.batch, state.loss_sum
        source = batches(train, shapes, seed=config.seed, epoch=state.epoch, dtype=potential.dtype)
        for number, batch in enumerate(source):
            if number < done:
                continue
            *moving, value = step(batch, *moving)
            loss_sum += float(value)
            state = State(*moving, state.best, state.step + 1, state.epoch, number + 1, loss_sum, *state[8:])
            on_step(state, float(value))
        row = {
            "step": state.step,
            "epoch": state.epoch + 1,
            "seconds": round(time.perf_counter() - begin, 2),
            "loss": loss_sum / per_epoch,
            "learning_rate": config.learning_rate,
        }
        if validation:
            candidate = eqx.combine(state.average, static)
            value, found = _validate(candidate, validation, weights)
            row |= found
            if value < state.best_loss:
                best = jax.tree.map(jnp.copy, state.average)
                state = state._replace(best=best, best_loss=value, best_epoch=state.epoch + 1)
        else:
            state = state._replace(best=jax.tree.map(jnp.copy, state.average), best_epoch=state.epoch + 1)
        state = state._replace(epoch=state.epoch + 1, batch=0, loss_sum=0.0)
        history.rows.append(row)
        on_epoch(state, row)
        if not np.isfinite(row["loss"]) or state.epoch - state.best_epoch >= config.patience:
            break
    return eqx.combine(state.best, static), state, history


def _validate(potential: Potential, samples: Sequence[Sample], weights: LossWeights) -> tuple[float, Row]:
    found = errors(residuals(potential, samples))
    value = weights.forces * found.forces_rmse**2 if np.isfinite(found.forces_rmse) else 0.0
    if np.isfinite(found.energy_rmse):
        value += weights.energy * found.energy_rmse**2
    if weights.stress > 0 and np.isfinite(found.stress_rmse):
        value += weights.stress * found.stress_rmse**2
    names = ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse")
    return value, {f"valid_{name}": getattr(found, name) for name in names}
