from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from surefield.errors import ConfigError, DataError
from surefield.training import train
from surefield.training.force_errors import ForceErrorLog


@dataclass(frozen=True)
class Named:
    id: str
    atoms: Atoms


@pytest.fixture
def configurations() -> list[Named]:
    return [Named("b", Atoms("Si2")), Named("a", Atoms("Si3"))]


@pytest.fixture
def errors() -> np.ndarray:
    return np.random.default_rng(0).random((6, 5))


def test_rows_are_appended_in_the_order_of_configurations_and_atoms(tmp_path: Path, configurations, errors):
    log = ForceErrorLog(tmp_path / "force_errors", configurations)
    for epoch, row in enumerate(errors):
        log.append(epoch, row)
        np.testing.assert_array_equal(np.load(tmp_path / "force_errors/errors.npy"), errors[: epoch + 1])
    log.finish(np.arange(10.0).reshape(5, 2))
    index = json.loads((tmp_path / "force_errors/index.json").read_text())
    assert index == [["b", 0], ["b", 1], ["a", 0], ["a", 1], ["a", 2]]
    np.testing.assert_array_equal(
        np.load(tmp_path / "force_errors/descriptors.npy"), np.arange(10.0).reshape(5, 2)
    )


def test_every_second_epoch_in_single_precision(tmp_path: Path, configurations, errors):
    log = ForceErrorLog(tmp_path, configurations, every=2, dtype="float32")
    for epoch, row in enumerate(errors):
        log.append(epoch, row)
    found = np.load(tmp_path / "errors.npy")
    np.testing.assert_array_equal(found, errors[::2].astype(np.float32))
    assert found.dtype == np.float32


def test_a_restart_leaves_no_gap_and_repeats_nothing(tmp_path: Path, configurations, errors):
    first = ForceErrorLog(tmp_path, configurations)
    for epoch in range(4):
        first.append(epoch, errors[epoch] + 1.0)
    # Killed in the middle of a row: bytes that the header does not count.
    with (tmp_path / "errors.npy").open("ab") as file:
        file.write(b"\1" * 13)
    again = ForceErrorLog(tmp_path, configurations)
    assert again.n_epochs == 4
    for epoch in range(2, 6):
        again.append(epoch, errors[epoch])
    np.testing.assert_array_equal(
        np.load(tmp_path / "errors.npy"), np.concatenate([errors[:2] + 1.0, errors[2:]])
    )
    with pytest.raises(DataError, match=r"epochs are missing.*got epoch 7; expected epoch 6"):
        again.append(7, errors[0])


def test_a_histogram_counts_every_epoch_once(tmp_path: Path, configurations, errors):
    edges = [0.2, 0.5, 0.8]
    log = ForceErrorLog(tmp_path, configurations, histogram_edges=edges)
    for epoch in range(4):
        log.append(epoch, errors[epoch])
    log = ForceErrorLog(tmp_path, configurations, histogram_edges=edges)
    for epoch in range(2, 6):
        log.append(epoch, errors[epoch])
    found = np.load(tmp_path / "histogram.npy")
    assert not (tmp_path / "errors.npy").exists()
    np.testing.assert_array_equal(found[:, 0], (errors < 0.5).sum(axis=0))
    np.testing.assert_array_equal(found.sum(axis=1), 6)
    np.testing.assert_array_equal(np.load(tmp_path / "edges.npy"), edges)
    with pytest.raises(DataError, match="other edges"):
        ForceErrorLog(tmp_path, configurations, histogram_edges=[0.0, 1.0])


def test_wrong_input_is_refused(tmp_path: Path, configurations, errors):
    log = ForceErrorLog(tmp_path, configurations)
    with pytest.raises(DataError, match=r"got \(4,\); expected \(5,\)"):
        log.append(0, errors[0, :4])
    with pytest.raises(DataError, match="epoch 0, configuration a, atom 1; got nan"):
        log.append(0, [0.0, 1.0, 2.0, np.nan, 1.0])
    with pytest.raises(DataError, match="descriptors do not fit"):
        log.finish(np.zeros((4, 2)))
    log.append(0, errors[0])
    with pytest.raises(DataError, match="another log"):
        ForceErrorLog(tmp_path, configurations, dtype="float32")
    with pytest.raises(DataError, match="other atoms"):
        ForceErrorLog(tmp_path, configurations[:1])
    with pytest.raises(ConfigError, match="every"):
        ForceErrorLog(tmp_path, configurations, every=0)
    with pytest.raises(ConfigError, match="rising"):
        ForceErrorLog(tmp_path, configurations, histogram_edges=[1.0, 0.5])


def test_every_training_logs_its_force_errors(copper, copper_network, tmp_path):
    """After each epoch, also when it goes on from a checkpoint; the final ones where there are no epochs."""
    settings = {"epochs": 2, "batch_size": 3, "ema": 0.0, "patience": 9, "progress": False}
    fit = train(copper_network, copper, 0, force_error_log=tmp_path / "a", folder=tmp_path, **settings)
    errors = np.load(tmp_path / "a" / "errors.npy")
    assert errors.shape == (2, 16)
    found = [p.forces - a.get_forces() for p, a in zip(fit.potential.predict(copper), copper, strict=True)]
    np.testing.assert_allclose(errors[1], np.linalg.norm(np.concatenate(found), axis=1), atol=1e-10)
    assert np.abs(errors[0] - errors[1]).max() > 1e-6
    assert np.load(tmp_path / "a" / "descriptors.npy").shape[0] == 16
    options = {"folder": tmp_path / "b", "dtype": "float32"}
    train(copper_network, copper, 0, force_error_log=options, **settings | {"epochs": 0})
    last = np.load(tmp_path / "b" / "errors.npy")
    assert (last.shape, last.dtype) == ((1, 16), np.float32)
