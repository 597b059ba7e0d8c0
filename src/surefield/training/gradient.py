"""Minibatch training: AdamW or orthogonalised steps, cosine decay, averaged weights, early stop."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from surefield.execution.stopwatch import Stopwatch
from surefield.potentials.potential import Potential, trainable
from surefield.quantities import fitted, quantity
from surefield.structures.batching import plan_shapes
from surefield.training.budget import Budget
from surefield.training.config import TrainConfig
from surefield.training.dataset import Batch, Sample, batches
from surefield.training.epochs import Course, History, Row, State, run_epochs
from surefield.training.loss import LossWeights, errors, loss, residuals
from surefield.training.orthogonal import adam_and_orthogonal
from surefield.training.recipe import recipe

__all__ = [
    "StepSettings",
    "energy_factor",
    "fit_gradient",
    "initial_state",
    "reweighted",
    "step_settings",
    "train_step",
]

#: Decay of an average that has forgotten its start before it matters.
_SHORT_MEMORY = 0.99
#: Errors that every row has.
_SHOWN = ("energy", "forces")


class StepSettings(NamedTuple):
    """What a compiled step depends on besides shapes."""

    weights: LossWeights
    gradient_clip: float
    weight_decay: float
    solved_factor: float
    radial_factor: float

    def transform(self, potential: Potential) -> optax.GradientTransformation:
        """Clipped steps with a rate of one; the step adds weight decay and multiplies by the rate."""
        steps = adam_and_orthogonal(potential, trainable(potential))
        return optax.chain(optax.clip_by_global_norm(self.gradient_clip), steps)


def step_settings(config: TrainConfig, potential: Potential) -> StepSettings:
    """What the compiled step needs to know of a training configuration."""
    weights, chosen = LossWeights(**config.loss_weights), recipe(config, potential)
    return StepSettings(
        weights,
        config.gradient_clip,
        chosen.weight_decay,
        config.solved_factor,
        chosen.radial_factor,
    )


def learning_rate(highest: float, step: int, n_steps: int) -> float:
    """Rate of a step: linear warm-up over 2 % of the steps, then a cosine down to 1 %."""
    warm = max(n_steps // 50, 1)
    if step < warm:
        return highest * (step + 1) / warm
    done = min((step - warm) / max(n_steps - warm, 1), 1.0)
    return highest * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def energy_factor(ramp: tuple[float, float], step: int, n_steps: int) -> float:
    """Factor of the weight of energies at a step: the first to half of the steps, then up to the second."""
    first, last = ramp
    return first * (last / first) ** max(2 * step / max(n_steps, 1) - 1, 0.0)


def _kept(ema: float, step: int) -> float:
    """Decay of the average of the weights at a step.

    A memory of more than some hundred steps would hold on to the random start for epochs: it grows with them.
    """
    return ema if ema <= _SHORT_MEMORY else min(ema, (1 + step) / (10 + step))


def reweighted(batch: Batch, factor: float) -> Batch:
    """Batch whose energies count `factor` times as much."""
    if factor == 1.0 or "energy" not in batch.weights:
        return batch
    weights = batch.weights["energy"]
    # They multiply residuals, which are squared; not part of the compiled step, which knows them by shape.
    changed = (weights * math.sqrt(factor)).astype(weights.dtype)
    return eqx.tree_at(lambda b: b.weights["energy"], batch, changed)


@eqx.filter_jit
def train_step(
    batch: Batch,
    parameters: Potential,
    optimizer: optax.OptState,
    average: Potential,
    fixed: Potential,
    rate: float | Array,
    kept: float | Array,
    settings: StepSettings,
) -> tuple[Potential, optax.OptState, Potential, Array]:
    """One optimiser step; compiled once per shape, whatever the data, the schedule and the run.

    `rate` is the learning rate, `kept` the part of the average of the weights that the step leaves.
    """
    value, gradient = jax.value_and_grad(lambda p: loss(eqx.combine(p, fixed), batch, settings.weights))(
        parameters
    )
    whole = eqx.combine(parameters, fixed)
    updates, optimizer = settings.transform(whole).update(gradient, optimizer)
    moving = jax.tree.map(lambda p: p is not None, parameters, is_leaf=lambda p: p is None)
    factors = eqx.filter(whole.learning_rate_factors(settings.solved_factor, settings.radial_factor), moving)
    decays = eqx.filter(whole.weight_decay_factors(), moving)
    updates = jax.tree.map(
        lambda u, p, f, d: (u - settings.weight_decay * d * p) * (f * rate).astype(u.dtype),
        updates,
        parameters,
        factors,
        decays,
    )
    parameters = cast(Potential, optax.apply_updates(cast(Any, parameters), updates))
    average = jax.tree.map(lambda a, p: a + jnp.asarray(1 - kept, p.dtype) * (p - a), average, parameters)
    return parameters, optimizer, average, value


def initial_state(potential: Potential, config: TrainConfig) -> State:
    """State before the first step."""
    parameters = eqx.filter(potential, trainable(potential))
    start = step_settings(config, potential).transform(potential).init(cast(Any, parameters))
    return State(parameters, start, parameters, parameters)


def fit_gradient(
    potential: Potential,
    train: Sequence[Sample],
    validation: Sequence[Sample],
    config: TrainConfig,
    *,
    state: State | None = None,
    history: History | None = None,
    budget: Budget | None = None,
    on_step: Sequence[Callable[[State, float], None]] = (),
    on_epoch: Sequence[Callable[[State, Row], None]] = (),
) -> tuple[Potential, State, History]:
    """Minimise the loss; the last state with nearly the least validation score (the start included) is kept.

    Nearly: within one standard error. A product of two RMSEs over n structures is known to about 1/sqrt(n)
    of itself, and the least of many such scores is often an early one by chance.

    Args:
        potential: starting point.
        train: labelled samples.
        validation: labelled samples for the early stop; empty: the last state is kept.
        config: optimiser, weights, epochs.
        state: continue from here instead of from the start.
        history: rows so far, when continuing.
        budget: of the whole training; its limit, if it has one, takes the place of epochs.
        on_step: hooks after each step, see `run_epochs`.
        on_epoch: hooks after each epoch.

    Returns:
        The potential with the kept weights, the last state, the history.
    """
    chosen = recipe(config, potential)
    shapes = plan_shapes([s.structure for s in train], chosen.batch_size)
    static = eqx.filter(potential, trainable(potential), inverse=True)
    settled: dict[str, Any] = {
        "seed": config.seed,
        "dtype": potential.dtype,
        "quantities": fitted(potential.supplies),
    }
    per_epoch = sum(1 for _ in batches(train, shapes, epoch=0, **settled))
    n_epochs = chosen.n_epochs(per_epoch)
    budget = Budget() if budget is None else budget

    def n_steps(step: int) -> int:
        return budget.n_steps(step, per_epoch * n_epochs)

    settings = step_settings(config, potential)
    weights = settings.weights
    history = History() if history is None else history
    begin = time.perf_counter() - (history.rows[-1]["seconds"] if history.rows else 0.0)

    def validate(potential: Potential) -> tuple[float, Row]:
        with (watch := Stopwatch()):
            outcome = _validate(potential, validation, weights)
        # Both sets are looked at once more in the end.
        budget.reserve(watch.seconds * (1 + len(train) / len(validation)))
        return outcome

    if state is None:
        state = initial_state(potential, config)
        if validation:
            value, _ = validate(potential)
            state = state._replace(best_loss=value)
    budget.begin_steps(state.spent, state.worked)

    def step(state: State, batch: Batch) -> tuple[State, float]:
        rate = jnp.asarray(learning_rate(chosen.learning_rate, state.step, n_steps(state.step)))
        kept = jnp.asarray(_kept(chosen.ema, state.step))
        batch = reweighted(batch, energy_factor(chosen.energy_ramp, state.step, n_steps(state.step)))
        *moving, value = train_step(
            batch, state.parameters, state.optimizer, state.average, static, rate, kept, settings
        )
        state = state._replace(**dict(zip(("parameters", "optimizer", "average"), moving, strict=True)))
        loss_sum = state.loss_sum + float(value)
        return state._replace(loss_sum=loss_sum, spent=budget.spent, worked=budget.worked), float(value)

    def measure(state: State, losses: Sequence[float]) -> tuple[State, Row]:
        row = {
            "step": state.step,
            "epoch": state.epoch,
            "seconds": round(time.perf_counter() - begin, 2),
            "loss": state.loss_sum / state.batch,
            "learning_rate": learning_rate(chosen.learning_rate, state.step, n_steps(state.step)),
        }
        near = True
        if validation:
            value, metrics = validate(eqx.combine(state.average, static))
            row |= metrics
            if value < state.best_loss:  # never true of NaN
                state = state._replace(best_loss=value)
            near = value <= (1 + _standard_error(validation)) * state.best_loss
        if budget.over(state.step):
            state = state._replace(spent=budget.seconds)
        return state._replace(best=state.average, best_epoch=state.epoch) if near else state, row

    def ended(state: State, row: Row) -> bool:
        third = n_steps(state.step) // (3 * per_epoch) if budget.limited else 0
        return not np.isfinite(row["loss"]) or state.epoch - state.best_epoch >= max(chosen.patience, third)

    first = state.step

    def over(state: State) -> bool:
        # Between epochs by what `measure` saw: time that passed since would let a rerun do one more.
        if state.batch or state.step == first:
            return budget.over(state.step)
        return state.spent >= budget.seconds

    course = Course(
        sys.maxsize if budget.limited else n_epochs,
        lambda epoch: batches(train, shapes, epoch=epoch, **settled),
        step,
        measure,
        ended,
        over,
    )
    state = run_epochs(course, state, history, on_step=on_step, on_epoch=on_epoch)
    return eqx.combine(state.best, static), state, history


def _standard_error(validation: Sequence[Sample]) -> float:
    """Of a validation score, relative; at most a quarter, so that few structures still stop a divergence."""
    return min(1 / math.sqrt(len(validation)), 0.25)


def _validate(potential: Potential, samples: Sequence[Sample], weights: LossWeights) -> tuple[float, Row]:
    measured = errors(residuals(potential, samples))
    rmse = {name: getattr(measured, f"{name}_rmse") for name in fitted(potential.supplies)}
    known = [value for name, value in rmse.items() if weights[name] > 0 and np.isfinite(value)]
    # The product knows no weights: halving either error is worth the same.
    value = float(np.prod(known)) if known else math.inf
    shown = [n for n in rmse if quantity(n).source != "strain" and (n in _SHOWN or np.isfinite(rmse[n]))]
    row = {f"valid_{n}_{what}": getattr(measured, f"{n}_{what}") for n in shown for what in ("mae", "rmse")}
    return value, row
