"""The epoch loop of all gradient training: batches, steps, metrics, what is kept, hooks that see it all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import optax

__all__ = ["Course", "History", "Row", "State", "run_epochs"]

Row = dict[str, Any]


class State(NamedTuple):
    """All that changes during training; a checkpoint is this and nothing else.

    Attributes:
        parameters: potential with its trainable arrays (others None).
        optimizer: state of the optimiser.
        average: exponential moving average of the parameters; None where a training has none.
        best: parameters that would be kept now.
        step: optimiser steps done.
        epoch: epoch the next batch belongs to.
        batch: batches of that epoch already done.
        loss_sum: of these batches.
        best_loss: least validation score so far.
        best_epoch: epoch of `best`.
        spent: seconds of a training with a limit of time, see `Budget`.
        worked: of these, seconds of the steps.
    """

    parameters: Any
    optimizer: optax.OptState
    average: Any
    best: Any
    step: int = 0
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    best_loss: float = math.inf
    best_epoch: int = 0
    spent: float = 0.0
    worked: float = 0.0


@dataclass
class History:
    """One row per epoch, with the columns of `metrics.csv`."""

    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Course:
    """What one kind of training is made of.

    Attributes:
        n_epochs: in total.
        batches: of an epoch, in the order of that epoch.
        step: parameters, optimiser and average after one more batch, and the loss of the batch.
        measure: after an epoch, whose number and losses it is given: the row of metrics, and the state with
            what is to be kept.
        ended: whether a state and its row leave nothing to go on for.
        over: whether the time is over; then an epoch ends with the batches it has had.
    """

    n_epochs: int
    batches: Callable[[int], Iterable[Any]]
    step: Callable[[State, Any], tuple[State, Any]]
    measure: Callable[[State, Sequence[Any]], tuple[State, Row]]
    ended: Callable[[State, Row], bool]
    over: Callable[[State], bool] = lambda state: False


def run_epochs(
    course: Course,
    state: State,
    history: History,
    *,
    on_step: Sequence[Callable[[State, Any], None]] = (),
    on_epoch: Sequence[Callable[[State, Row], None]] = (),
) -> State:
    """Train from a state, in the middle of an epoch or not, to the end; rows are added to the history.

    Args:
        course: the training.
        state: to go on from.
        history: rows so far.
        on_step: called after each step with the state and the loss of the batch.
        on_epoch: called after each epoch with the state and its row, which is in the history by then.
    """
    while state.epoch < course.n_epochs and not course.over(state):
        if history.rows and course.ended(state, history.rows[-1]):
            break
        done, losses = state.batch, []
        for number, batch in enumerate(course.batches(state.epoch)):
            if number < done:
                continue
            state, loss = course.step(state, batch)
            state = state._replace(step=state.step + 1, batch=number + 1)
            losses.append(loss)
            for hook in on_step:
                hook(state, loss)
            if course.over(state):
                break
        state, row = course.measure(state._replace(epoch=state.epoch + 1), losses)
        state = state._replace(batch=0, loss_sum=0.0)
        history.rows.append(row)
        for hook in on_epoch:
            hook(state, row)
    return state
