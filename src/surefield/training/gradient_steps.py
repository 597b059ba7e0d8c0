"""Stochastic gradient training of dropout networks: steps with fresh masks, their batches, their metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from surefield.descriptors.derivatives import atomic_features
from surefield.execution.identity import computed
from surefield.potentials.dropout_network import DropoutNetwork
from surefield.potentials.potential import Potential, trainable
from surefield.potentials.saving import arrays_hash, pack, save_arrays
from surefield.training.checkpoint import (
    Checkpoint,
    data_digest,
    identity_of,
    potential_entries,
    sample_contents,
)
from surefield.training.dataset import Sample
from surefield.training.epochs import Course, History, Row, State, run_epochs
from surefield.training.force_errors import ForceErrorLog, open_log, with_forces
from surefield.training.loss import Residuals, errors
from surefield.training.network_data import PerKind, Stack, make_stacks, predicted, residuals, take
from surefield.training.problem import Problem, problem_hash

__all__ = ["OPTIMIZERS", "DropoutStep", "FitSettings", "Trained", "fit_steps"]

#: Optimisers at a rate of one; steps multiply by the learning rate.
OPTIMIZERS: Final[Mapping[str, Callable[[float], optax.GradientTransformation]]] = {
    "adadelta": optax.adadelta,
    "adagrad": optax.adagrad,
    "adam": optax.adam,
    "adamax": optax.adamax,
    "adamw": optax.adamw,
    "lion": optax.lion,
    "nadam": optax.nadam,
    "radam": optax.radam,
    "rmsprop": optax.rmsprop,
    "sgd": optax.sgd,
}
OPTIMIZER_STATE: Final = "optimizer_state.npz"
CHECKPOINT: Final = "checkpoint.npz"
ERROR_LOG: Final = "force_errors"
_WEIGHTS: Final = ("eweight", "fweight", "vweight")


class DropoutStep(NamedTuple):
    """What a compiled step depends on besides shapes: one of `OPTIMIZERS`, and 'mse' or 'mae'."""

    optimizer: str
    method: str

    @property
    def transform(self) -> optax.GradientTransformation:
        """The optimiser at a rate of one."""
        return OPTIMIZERS[self.optimizer](1.0)


class FitSettings(NamedTuple):
    """How to train.

    Attributes:
        step: optimiser and form of the loss.
        learning_rate: of all steps.
        epochs: in total.
        batch_size: largest number of configurations per step.
        log: whether errors of training forces are logged, or options of `ForceErrorLog`.
    """

    step: DropoutStep
    learning_rate: float
    epochs: int
    batch_size: int
    log: bool | Mapping[str, Any] = False


@dataclass(frozen=True, eq=False)
class Trained:
    """Outcome of `fit_steps`.

    Attributes:
        network: with the kept parameters, without members.
        history: one row per epoch.
        success: whether the loss stayed finite.
        message: one line.
        n_steps: optimiser steps.
        best_epoch: whose parameters were kept.
    """

    network: DropoutNetwork
    history: list[dict[str, Any]]
    success: bool
    message: str
    n_steps: int
    best_epoch: int


class _Batch(NamedTuple):
    """Rows of one stack for one step, in blocks; rows that are not valid only pad."""

    rows: Int[np.ndarray, "n_blocks block"]
    valid: Bool[np.ndarray, "n_blocks block"]


def fit_steps(
    network: DropoutNetwork, problem: Problem, settings: FitSettings, baseline: Potential | None = None
) -> Trained:
    """Train, or go on from the checkpoint in the folder of the run.

    Args:
        network: standardised, with start values.
        problem: configurations and weights.
        settings: how to train.
        baseline: fixed part of the energy that is not trained.

    Raises:
        PotentialError: the checkpoint is that of another training.
    """
    parts, method = (problem.train, problem.validation), settings.step.method
    fixed = eqx.filter(network, trainable(network), inverse=True)
    parameters = eqx.filter(network, trainable(network))
    start = State(parameters, settings.step.transform.init(cast(Any, parameters)), None, parameters)
    chosen = settings.step._asdict() | {
        "learning_rate": settings.learning_rate,
        "batch_size": settings.batch_size,
        "seed": problem.seed,
        **dict(zip(_WEIGHTS, problem.weights, strict=True)),
    }
    identity = identity_of(
        training=chosen,
        **potential_entries(network) | {"starting parameters": computed(pack(network).values())},
        baseline=None if baseline is None else potential_entries(baseline),
        **{"training set": sample_contents(problem.train, ids=True)},
        **{"validation set": sample_contents(problem.validation, ids=True)},
    )
    older = {
        "settings": [*settings.step, settings.learning_rate, settings.batch_size, problem.seed],
        "samples": data_digest(problem.train, problem.validation),
        "start": arrays_hash(network),
        "data": problem_hash(problem),
    }
    checkpoint = Checkpoint(problem.run.path(CHECKPOINT), "network_checkpoint", identity, older)
    state, history = checkpoint.load(start) or (start, History())
    stacks, held = make_stacks(network, parts, problem.weights, baseline)
    problem.run.path("metrics.csv").unlink(missing_ok=True)
    for row in history.rows:
        problem.run.add_metrics(row)
    plan = _Plan(stacks, len(problem.train), settings.batch_size, network.descriptor.width)
    options = {} if settings.log is True else settings.log
    log = None if options is False else open_log(problem.run.path(ERROR_LOG), problem.train, options)
    base, rate = jax.random.key(problem.seed), jnp.asarray(settings.learning_rate)

    def step(state: State, batches: tuple[_Batch, ...]) -> tuple[State, Array]:
        key = jax.random.fold_in(base, state.step)
        parameters, optimizer, loss = _train_step(
            state.parameters, state.optimizer, fixed, stacks, batches, key, rate, settings.step
        )
        return state._replace(parameters=parameters, optimizer=optimizer), loss

    def measure(state: State, losses: Sequence[Array]) -> tuple[State, Row]:
        loss = float(np.mean([float(loss) for loss in losses]))
        whole = eqx.combine(state.parameters, fixed)
        train = _evaluate(whole, stacks, problem.train, method)
        row: Row = {"epoch": state.epoch, "step": state.step, "loss": loss} | train.metrics("train")
        if problem.validation:
            row |= _evaluate(whole, held, problem.validation, method).metrics("validation")
        row |= dict(zip(_WEIGHTS, problem.weights, strict=True))
        score = row["validation_loss"] if problem.validation else -float(state.epoch)
        if math.isfinite(loss) and score < state.best_loss:
            state = state._replace(best=state.parameters, best_loss=score, best_epoch=state.epoch)
        if log is not None and math.isfinite(loss):
            log.append(state.epoch - 1, train.force_errors)
        return state, row

    course = Course(
        settings.epochs,
        lambda epoch: plan.batches(problem.seed, epoch),
        step,
        measure,
        lambda _, row: not math.isfinite(row["loss"]),
    )
    state = run_epochs(
        course,
        state,
        history,
        on_epoch=[lambda _, row: problem.run.add_metrics(row), lambda s, _: checkpoint.save(s, history)],
    )
    save_arrays(
        problem.run.path(OPTIMIZER_STATE),
        "optimizer_state",
        {"optimizer": settings.step.optimizer, "learning_rate": settings.learning_rate, "step": state.step},
        pack(state.optimizer),
    )
    kept = eqx.combine(state.best, fixed)
    if log is not None:
        _write_descriptors(log, kept, problem)
    success = math.isfinite(history.rows[-1]["loss"])
    message = f"{state.epoch} epochs, {state.step} steps, kept epoch {state.best_epoch}"
    message += f" with validation loss {state.best_loss:.6g}" if problem.validation else ""
    message += "" if success else "; the loss is no longer finite: lower learning_rate"
    return Trained(kept, history.rows, success, message, state.step, state.best_epoch)


@eqx.filter_jit
def _train_step(
    parameters: DropoutNetwork,
    optimizer: optax.OptState,
    fixed: DropoutNetwork,
    stacks: Sequence[Stack],
    batches: Sequence[_Batch],
    key: Array,
    rate: Array,
    settings: DropoutStep,
) -> tuple[DropoutNetwork, optax.OptState, Array]:
    """One step; blocks are worked off one after the other, so that memory does not grow with the batch."""

    def block_loss(parameters: Any, part: Stack, valid: Array) -> Array:
        network = eqx.combine(parameters, fixed)
        results = predicted(network, part, _masks(network, part.ids, key))
        brackets = residuals(results, part.targets).brackets(part.targets.n_atoms, settings.method)
        return jnp.sum(jnp.where(valid, brackets, 0.0))

    total: Any = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters))
    count = jnp.zeros(())
    for stack, batch in zip(stacks, batches, strict=True):

        def add(total: Any, own: _Batch, stack: Stack = stack) -> tuple[Any, None]:
            part = take(stack, cast(Any, own.rows))
            block = jax.value_and_grad(block_loss)(parameters, part, own.valid)
            return jax.tree.map(jnp.add, total, block), None

        total, _ = jax.lax.scan(add, total, batch)
        count += jnp.sum(batch.valid)
    loss, gradient = jax.tree.map(lambda x: x / count, total)
    updates, optimizer = settings.transform.update(gradient, optimizer, cast(Any, parameters))
    updates = jax.tree.map(lambda u: u * rate, updates)
    return cast(Any, optax.apply_updates(cast(Any, parameters), updates)), optimizer, loss


def _masks(network: DropoutNetwork, ids: Int[Array, " s"], key: Array) -> list[Float[Array, "s n_out"]]:
    """Factors of the hidden units of each configuration: from the key and its place, whatever the batch."""
    if not network.dropout:
        return []
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)

    def of_layer(number: int, width: int) -> Array:
        draw = lambda k: jax.random.bernoulli(jax.random.fold_in(k, number), network.keep, (width,))  # noqa: E731
        return jax.vmap(draw)(keys) / network.keep

    return [of_layer(number, width) for number, width in enumerate(network.neurons)]


class _Plan:
    """Which configurations make up each step: equal batches, in which every stack has its share.

    The places of the stacks are fixed, so that a step has one shape; each epoch deals their configurations
    out anew.
    """

    def __init__(self, stacks: Sequence[Stack], n: int, batch_size: int, width: int) -> None:
        self.counts = [len(stack.ids) for stack in stacks]
        self.n_steps = math.ceil(n / batch_size)
        spread = [(i + 0.5) / count for count in self.counts for i in range(count)]
        owner = np.repeat(np.arange(len(stacks)), self.counts)
        order = owner[np.argsort(spread, kind="stable")]
        ends = [(step + 1) * n // self.n_steps for step in range(self.n_steps)]
        parts = np.split(order, ends[:-1])
        self.sizes = [[int(np.sum(part == g)) for part in parts] for g in range(len(stacks))]
        self.blocks = [
            stack.block(width, max(sizes)) for stack, sizes in zip(stacks, self.sizes, strict=True)
        ]

    def batches(self, seed: int, epoch: int) -> Iterator[tuple[_Batch, ...]]:
        """Rows of each stack for every step of an epoch."""
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        decks = [rng.permutation(count) for count in self.counts]
        used = [0] * len(decks)
        for step in range(self.n_steps):
            parts = []
            for g, deck in enumerate(decks):
                size = self.sizes[g][step]
                block = self.blocks[g]
                rows = np.zeros(block * math.ceil(max(self.sizes[g]) / block), np.int32)
                rows[:size] = deck[used[g] : used[g] + size]
                used[g] += size
                valid = np.arange(len(rows)) < size
                parts.append(_Batch(rows.reshape(-1, block), valid.reshape(-1, block)))
            yield tuple(parts)


class _Evaluated(NamedTuple):
    """The network without dropout on all configurations of a set.

    Attributes:
        loss: mean of their brackets.
        residuals: plain ones of each kind that has labels.
    """

    loss: float
    residuals: Residuals

    def metrics(self, part: str) -> dict[str, float]:
        """Loss, and error measures of each kind."""
        measures = errors(self.residuals).as_dict()
        shown = {f"{part}_{name}": value for name, value in measures.items() if name != "n_structures"}
        return {f"{part}_loss": self.loss, **shown}

    @property
    def force_errors(self) -> Float[np.ndarray, " n_atoms"]:
        """Length of the force residual of each atom with a label, in order."""
        return np.linalg.norm(self.residuals.flat("forces").reshape(-1, 3), axis=1)


def _evaluate(
    network: DropoutNetwork, stacks: Sequence[Stack], samples: Sequence[Sample], method: str
) -> _Evaluated:
    """Loss and residuals, block by block."""
    brackets = np.zeros(len(samples))
    known = [
        {kind for kind in sample.labels if kind != "stress" or sample.structure.periodic}
        for sample in samples
    ]
    present = [kind for kind in PerKind._fields if any(kind in kinds for kinds in known)]
    columns = {kind: [np.array(np.nan)] * len(samples) for kind in present}
    for stack in stacks:
        count = len(stack.ids)
        block = stack.block(network.descriptor.width, count)
        for start in range(0, count, block):
            rows = np.minimum(np.arange(start, start + block), count - 1)
            part = take(stack, cast(Any, rows))
            values, plain = jax.tree.map(np.asarray, _block_residuals(network, part, method))
            for place, i in enumerate(np.asarray(part.ids).tolist()):
                brackets[i] = values[place]
                for kind in known[i].intersection(present):
                    own = getattr(plain, kind)[place]
                    own = own[: samples[i].n_atoms] if kind == "forces" else own
                    columns[kind][i] = np.where(samples[i].known(kind), own, np.nan)
    return _Evaluated(
        float(np.mean(brackets)), Residuals({k: tuple(column) for k, column in columns.items()})
    )


@eqx.filter_jit
def _block_residuals(network: DropoutNetwork, part: Stack, method: str) -> tuple[Array, PerKind]:
    """Brackets of the loss, and residuals without weights."""
    results, targets = predicted(network, part), part.targets
    brackets = residuals(results, targets).brackets(targets.n_atoms, method)
    plain = PerKind(
        (results.energy - targets.energy) / targets.n_atoms,
        results.forces - targets.forces,
        results.stress - targets.stress,
    )
    return brackets, plain


def _write_descriptors(log: ForceErrorLog, network: DropoutNetwork, problem: Problem) -> None:
    """Standardised features of the atoms in the log."""
    structures = [sample.structure for sample in with_forces(problem.train)]
    features = np.concatenate(atomic_features(network.descriptor, structures))
    log.finish(np.asarray(network.inputs(features)))  # type: ignore[arg-type]
