from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from surefield.errors import PotentialError
from surefield.training import checkpoint
from surefield.training.checkpoint import Checkpoint, changes, data_digest, identity_of
from surefield.training.dataset import prepare
from surefield.training.epochs import Course, History, State, run_epochs


@pytest.fixture(scope="module")
def samples(copper):
    return prepare(copper[:3], 3.5).samples


def test_all_that_enters_a_training_is_in_the_digest(samples):
    first, *others = samples
    s, labels = first.structure, first.labels
    variants = [
        first,
        replace(first, labels=labels.replace(energy=labels.energy + 1e-9)),
        replace(first, labels=labels.replace(forces=labels.forces + 1e-9)),
        replace(first, labels=labels.replace(stress=None)),
        replace(first, structure=replace(s, cell=s.cell * 1.1)),
        replace(first, structure=replace(s, numbers=s.numbers + 1)),
        replace(first, weight=2.0),
        replace(first, factors={"energy": 2.0}),
        replace(first, atom_weights=np.ones(s.n_atoms)),
    ]
    digests = {data_digest([changed, *others]) for changed in variants}
    assert len(digests) == len(variants)
    assert data_digest(samples) == data_digest(list(samples)) in digests
    assert data_digest(samples[:1], samples[1:]) != data_digest(samples[:2], samples[2:])


def test_changes_are_named_and_what_an_old_file_does_not_state_is_not_compared():
    now = {"settings": {"rate": 2.0, "new": 1}, "data": "b", "version": "0.2"}
    assert changes({"settings": {"rate": 1.0}, "data": "a"}, now) == ["rate was 1.0, now 2.0", "another data"]
    assert changes({"settings": {"rate": 2.0}}, now) == []
    assert changes({"version": "0.1"}, now) == ["another version"]


def _counted(n_epochs, limit=np.inf):
    """A course that adds up the numbers of its batches, and keeps the even epochs."""

    def step(state, batch):
        return state._replace(parameters=state.parameters + batch, loss_sum=state.loss_sum + batch), batch

    def measure(state, losses):
        row = {"epoch": state.epoch, "loss": state.loss_sum, "losses": len(losses)}
        return (state._replace(best=state.parameters) if state.epoch % 2 == 0 else state), row

    batches = lambda epoch: [np.array(float(10 * epoch + i)) for i in range(3)]  # noqa: E731
    return Course(n_epochs, batches, step, measure, lambda _, row: row["loss"] > limit)


def test_a_kill_at_any_step_changes_nothing(tmp_path):
    zero = np.zeros(())
    start = State(zero, zero, None, zero)
    whole = History()
    expected = run_epochs(_counted(3), start, whole)
    identity = identity_of(settings={"rate": 1.0})
    for last in range(1, 9):
        history = History()
        checkpoint = Checkpoint(tmp_path / f"{last}.npz", "checkpoint", identity)

        def hook(state, _, checkpoint=checkpoint, history=history, last=last):
            checkpoint.save(state, history)
            if state.step == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_epochs(_counted(3), start, history, on_step=[hook])
        state, history = checkpoint.load(start)
        state = run_epochs(_counted(3), state, history)
        assert float(state.parameters) == float(expected.parameters) == 99
        assert float(state.best) == float(expected.best) == 36
        assert [row["loss"] for row in history.rows] == [3.0, 33.0, 63.0]
    other = Checkpoint(tmp_path / "1.npz", "checkpoint", identity_of(settings={"rate": 2.0}))
    with pytest.raises(PotentialError, match=r"another training; got rate was 1\.0, now 2\.0; train into"):
        other.load(start)
    assert Checkpoint(tmp_path / "none.npz", "checkpoint", identity).load(start) is None


def test_an_end_is_an_end_also_when_it_is_gone_on_from():
    zero = np.zeros(())
    history = History()
    state = run_epochs(_counted(9, limit=30), State(zero, zero, None, zero), history)
    assert state.epoch == len(history.rows) == 2
    assert run_epochs(_counted(9, limit=30), state, history) is state


def test_a_pass_that_is_interrupted_loses_seconds(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    sums = checkpoint.PartialSums(tmp_path / "rows.npz", {})
    for now[0] in (1.0, 6.0):
        sums.save(lambda: {"done": np.array(now[0])})
    assert sums.done == 6
