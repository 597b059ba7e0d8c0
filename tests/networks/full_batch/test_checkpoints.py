from __future__ import annotations

import numpy as np
import pytest

from surefield.errors import ConfigError, ExecutionError, PotentialError
from surefield.networks.full_batch import Checkpoints, CheckpointState, Progress
from surefield.potentials.saving import load_potential

FINGERPRINT = {"images": "abc", "loss function": "[1.0, 0.04]"}


def _state(step=7, **changes):
    progress = Progress().after(np.arange(3.0), 2.0, 2.0, False)
    progress = progress.after(np.arange(3.0) + 1, 1.0, 1.0, True)
    later = Progress(step, np.arange(3.0) + 2, 1.5, *_best(progress))
    values = {
        "fingerprint": FINGERPRINT,
        "progress": later,
        "boundary": progress,
        "optimizer": {"x": np.arange(3.0), "value": np.array(2.0)},
        "random_state": {"keys": np.arange(4, dtype=np.uint32)},
    }
    return CheckpointState(**(values | changes))


def _best(progress):
    return progress.best_vector, progress.best_loss, progress.best_step, progress.best_converged


def _equal(first, second):
    for name in ("step", "loss", "best_loss", "best_step", "best_converged"):
        assert getattr(first, name) == getattr(second, name)
    for name in ("vector", "best_vector"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("every", [5, -5])
def test_round_trip(tmp_path, every):
    files = Checkpoints(tmp_path / "amp", every)
    assert files.load(FINGERPRINT) is None
    state = _state(status="stopped", reason="interrupted: SIGTERM")
    files.save(state)
    found = Checkpoints(tmp_path / "amp", every).load(FINGERPRINT)
    _equal(found.progress, state.progress)
    _equal(found.boundary, state.boundary)
    assert set(found.optimizer) == {"x", "value"}
    np.testing.assert_array_equal(found.random_state["keys"], state.random_state["keys"])
    assert (found.status, found.reason) == (state.status, state.reason)


def test_names_of_the_files(tmp_path):
    Checkpoints(tmp_path / "amp", 5).save(_state())
    keep = Checkpoints(tmp_path / "amp", -5)
    for step in (9, 10, 100):
        keep.save(_state(step))
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"amp-checkpoint", "amp-checkpoints/9", "amp-checkpoints/10", "amp-checkpoints/100"}


@pytest.mark.parametrize("every", [5, -5])
def test_the_latest_in_either_form_is_taken(tmp_path, every):
    Checkpoints(tmp_path / "amp", -5).save(_state(9))
    Checkpoints(tmp_path / "amp", -5).save(_state(20))
    Checkpoints(tmp_path / "amp", 5).save(_state(12))
    assert Checkpoints(tmp_path / "amp", every).load(FINGERPRINT).progress.step == 20
    Checkpoints(tmp_path / "amp", 5).save(_state(30))
    assert Checkpoints(tmp_path / "amp", every).load(FINGERPRINT).progress.step == 30


@pytest.mark.parametrize("every", [None, 0])
def test_none_at_all(tmp_path, every):
    Checkpoints(tmp_path / "amp", 5).save(_state())
    files = Checkpoints(tmp_path / "amp", every)
    assert files.load(FINGERPRINT) is None
    assert not files.due(100)
    (tmp_path / "amp-checkpoint").unlink()
    files.save(_state())
    assert list(tmp_path.iterdir()) == []


def test_due():
    assert [step for step in range(1, 13) if Checkpoints("x", 5).due(step)] == [5, 10]
    assert [step for step in range(1, 13) if Checkpoints("x", -4).due(step)] == [4, 8, 12]


def test_of_another_training(tmp_path):
    files = Checkpoints(tmp_path / "amp", 5)
    files.save(_state())
    with pytest.raises(ConfigError, match=r"changed: loss function \(then \[1.0, 0.04\], now \[2.0\]\)"):
        files.load(FINGERPRINT | {"loss function": "[2.0]"})
    with pytest.raises(ConfigError, match=r"changed: images;"):
        files.load(FINGERPRINT | {"images": "abd"})
    assert files.load(FINGERPRINT | {"version": "0.2"}) is not None  # a file of version 0.1
    files.save(_state(fingerprint=FINGERPRINT | {"version": "0.2"}))
    with pytest.raises(ConfigError, match=r"changed: version;"):
        files.load(FINGERPRINT | {"version": "0.3"})


def test_damaged(tmp_path):
    files = Checkpoints(tmp_path / "amp", 5)
    files.save(_state())
    path = tmp_path / "amp-checkpoint"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(PotentialError, match="amp-checkpoint"):
        files.load(FINGERPRINT)


def test_no_folder(tmp_path):
    with pytest.raises(ExecutionError, match="folder"):
        Checkpoints(tmp_path / "none" / "amp", 5).save(_state())


@pytest.mark.parametrize("every", [2.5, "often", True])
def test_unusable_number(every):
    with pytest.raises(ConfigError, match="checkpoints"):
        Checkpoints("x", every)


def test_initial_parameters(tmp_path, make_network, copper):
    network = make_network(copper)
    Checkpoints(tmp_path / "amp", 5).save_initial(network)
    found = load_potential(tmp_path / "amp-initial-parameters")
    np.testing.assert_array_equal(found.vector, network.vector)
