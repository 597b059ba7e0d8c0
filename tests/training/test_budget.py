from __future__ import annotations

import logging
from itertools import pairwise
from types import SimpleNamespace

import pytest
from pydantic import ValidationError
from tests.training.test_train import SETTINGS, _same

from surefield.training import TrainConfig, budget, train
from surefield.training.budget import Budget
from surefield.training.checkpoint import Checkpoint


class Clock:
    """Seconds that pass when they are told to, and with every look at the clock."""

    def __init__(self, per_look: float = 0.0) -> None:
        self.now, self.compiled, self.per_look = 100.0, 7.0, per_look

    def __call__(self) -> float:
        self.now += self.per_look
        return self.now

    def work(self, seconds: float, compiling: float = 0.0) -> None:
        self.now += seconds + compiling
        self.compiled += compiling


@pytest.fixture
def clock(monkeypatch):
    def started(per_look: float = 0.0) -> Clock:
        clock = Clock(per_look)
        monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=clock))
        monkeypatch.setattr(budget, "compiling_seconds", lambda: clock.compiled)
        monkeypatch.setattr(budget, "working_seconds", lambda: clock() - clock.compiled)
        return clock

    return started


def test_compiling_is_spent_but_no_step_takes_it(clock):
    time, total = clock(), Budget(2.0)
    time.work(10.0, compiling=5.0)  # the exact solution
    total.begin_steps()
    time.work(1.0, compiling=24.0)
    assert total.spent == pytest.approx(40.0)
    assert total.worked == pytest.approx(1.0)
    assert total.n_steps(1, 7) == 1 + 80
    time.work(79.0)
    assert total.n_steps(80, 7) == 81
    assert not total.over(80)
    time.work(0.6)
    assert total.over(80)
    assert total.compiled == pytest.approx(29.0)


def test_what_an_earlier_process_took_counts(clock):
    time, again = clock(), Budget(1.0)
    time.work(2.0)
    again.begin_steps(spent=30.0, worked=20.0)
    assert (again.spent, again.worked) == pytest.approx((32.0, 20.0))
    time.work(4.0)
    assert again.n_steps(12, 7) == 12 + 12
    again.reserve(4.0)
    assert again.n_steps(12, 7) == 12 + 10
    again.reserve(1000.0)  # at most a tenth of the whole
    assert again.left == pytest.approx(18.0)


def test_without_a_limit_no_clock_is_looked_at(clock):
    time, free = clock(), Budget()
    free.begin_steps()
    time.work(1e9)
    assert (free.spent, free.worked, free.n_steps(5, 60)) == (0.0, 0.0, 60)
    assert not free.over(5)


def test_a_training_ends_with_its_time_and_a_small_rate(clock, copper, copper_network, caplog):
    clock(0.01)
    settings = SETTINGS | {"minutes": 0.05, "epochs": 0}
    with caplog.at_level(logging.INFO, "surefield.training.train"):
        fit = train(copper_network, copper, 0.25, **settings)
    rates = [row["learning_rate"] for row in fit.history]
    assert len(rates) > 3
    assert max(rates) > 0.9 * SETTINGS["learning_rate"]
    assert rates[-1] < 0.02 * SETTINGS["learning_rate"]
    assert all(b < a for a, b in pairwise(rates[len(rates) // 2 :]))
    assert f"{len(rates)} epochs, {fit.history[-1]['step']} steps in 3 s of 0.05 min" in caplog.text
    assert "epochs fit into the time left" in caplog.text


def test_more_time_gives_more_steps_and_none_gives_the_exact_solution(clock, copper, copper_network, caplog):
    clock(0.01)
    steps = [
        train(copper_network, copper, 0, **SETTINGS | {"minutes": m}).history[-1]["step"]
        for m in (0.02, 0.04)
    ]
    assert 1.5 * steps[0] < steps[1] < 2.5 * steps[0]
    exact = train(copper_network, copper, 0, **SETTINGS | {"epochs": 0})
    clock(5.0)
    fit = train(copper_network, copper, 0, **SETTINGS | {"minutes": 0.05})
    assert fit.history == ()
    assert _same(fit.potential, exact.potential)
    assert "nothing was trained" in caplog.text


def test_an_interrupted_training_goes_on_with_the_time_that_is_left(
    clock, copper, copper_network, tmp_path, monkeypatch
):
    settings = SETTINGS | {"minutes": 0.05}
    clock(0.01)
    whole = train(copper_network, copper, 0.25, **settings).history[-1]
    save, seen = Checkpoint.save, []

    def interrupted(self, state, history):
        save(self, state, history)
        seen.append(state)
        if state.step == whole["step"] // 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(copper_network, copper, 0.25, folder=tmp_path, **settings)
    assert 0.5 < seen[-1].spent < 2.5
    monkeypatch.setattr(Checkpoint, "save", save)
    clock(0.01)
    fit = train(copper_network, copper, 0.25, folder=tmp_path, **settings)
    assert fit.history[-1]["step"] == pytest.approx(whole["step"], rel=0.25)
    assert fit.history[-1]["learning_rate"] < 0.02 * SETTINGS["learning_rate"]
    clock(0.01)
    again = train(copper_network, copper, 0.25, folder=tmp_path, **settings)
    assert again.history == fit.history
    assert _same(again.potential, fit.potential)


def test_minutes_are_positive():
    with pytest.raises(ValidationError, match="greater than 0"):
        TrainConfig(minutes=0)
