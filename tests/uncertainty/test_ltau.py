"""LTAU: errors of similar training atoms during the training."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import surefield as sf
from surefield.errors import ConfigError, DataError
from surefield.sensitivity import site_features
from surefield.testing import check_uncertainty
from surefield.uncertainty import LTAU
from surefield.uncertainty.loss_trajectories import bin_edges, expected_errors, midpoints


@pytest.fixture(scope="module")
def fit(copper_network, copper, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ltau")
    trained = sf.train(
        copper_network, copper[:5], copper[5:7], epochs=2, force_error_log=folder, progress=False
    )
    return trained, folder


@pytest.fixture(scope="module")
def ltau(fit):
    trained, folder = fit
    return LTAU.fit(trained.potential, trained.train_set, trained.validation_set, folder, k=3)


def test_contract(ltau, copper):
    check_uncertainty(ltau, copper[6:])


def test_expected_error_is_that_of_the_nearest_atoms(ltau, fit, copper):
    """Bins and formula of the definition, written out: density, midpoints, mean over the neighbours."""
    trained, folder = fit
    errors = np.load(folder / "errors.npy")
    low, high = errors[errors > 0].min(), errors.max()
    edges = np.logspace(np.log10(low), np.log10(high), 101)
    edges[[0, -1]] = low, high
    counts = np.array([np.histogram(own, edges)[0] for own in errors.T])  # the last bin is closed
    assert counts.sum() == errors.size
    widths = np.diff(edges)
    density = counts / counts.sum(axis=1, keepdims=True) / widths

    def features(structures):
        return np.concatenate([x for _, x in sorted(site_features(trained.potential, structures))])

    query = trained.potential.neighborhood(copper[7])
    each = np.linalg.norm(features([query])[:, None] - features(trained.train_set.structures)[None], axis=2)
    nearest = np.argsort(each, axis=1, kind="stable")[:, :3]
    mean = density[nearest].mean(axis=1)
    expected = np.sum(mean * widths * np.sqrt(edges[1:] * edges[:-1]), axis=1)
    ((_, found),) = ltau.expected_errors([query])
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    ((_, spreads),) = ltau.spreads([query], ("forces",), batch_size=1)
    np.testing.assert_allclose(spreads["forces"].u[:, 0], np.sqrt(np.pi / 8) * expected, rtol=1e-10)


def test_approximate_index(ltau, fit, copper, tmp_path):
    """The same neighbours as by the exact search, also after saving."""
    pytest.importorskip("faiss")
    trained, folder = fit
    sets = trained.potential, trained.train_set, trained.validation_set
    found = LTAU.fit(*sets, folder, k=3, index="faiss")
    found.save(tmp_path / "ltau.npz")
    for sure in (found, LTAU.load(tmp_path / "ltau.npz")):
        assert sure.environments.index == "faiss"
        for p, q in zip(sure.predict(copper, forces=True), ltau.predict(copper, forces=True), strict=True):
            np.testing.assert_allclose(p.forces_uncertainty, q.forces_uncertainty, rtol=1e-6)


def test_without_faiss(fit, monkeypatch):
    trained, folder = fit
    sets = trained.potential, trained.train_set, trained.validation_set
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"needs the package faiss.*pip install 'surefield\[ann\]'"):
        LTAU.fit(*sets, folder, k=3, index="faiss")
    with pytest.raises(ConfigError, match=r"unknown index 'fais'.*did you mean 'faiss'"):
        LTAU.fit(*sets, folder, k=3, index="fais")


def test_errors_of_the_whole_training_count(ltau, fit):
    errors = np.load(fit[1] / "errors.npy")
    assert errors.shape[0] == 2
    np.testing.assert_allclose(ltau.errors, errors.mean(axis=0), rtol=0.2)


def test_refusals(fit, copper, tmp_path):
    trained, folder = fit
    sets = trained.potential, trained.train_set, trained.validation_set
    with pytest.raises(ConfigError, match=r"k is larger.*Cu.*11.*at most 10"):
        LTAU.fit(*sets, folder, k=11)
    with pytest.raises(DataError, match="no log of force errors"):
        LTAU.fit(*sets, tmp_path)
    with pytest.raises(DataError, match="other structures than the training set"):
        LTAU.fit(trained.potential, trained.validation_set, trained.train_set, folder)


def test_bins():
    edges = bin_edges(0.01, 1.0, 2)
    np.testing.assert_allclose(edges, [0.01, 0.1, 1.0], rtol=1e-12)
    np.testing.assert_allclose(midpoints(edges, "log"), np.sqrt([0.001, 0.1]), rtol=1e-12)
    np.testing.assert_allclose(midpoints(edges, "linear"), [0.055, 0.55], rtol=1e-12)
    errors = np.array([[0.01, 0.05], [1.0, 0.2]])
    np.testing.assert_allclose(expected_errors(errors, 2), [np.mean(np.sqrt([0.001, 0.1]))] * 2, rtol=1e-12)
    with pytest.warns(UserWarning, match="1 force errors are zero"):
        found = expected_errors(np.array([[0.0, 1.0], [0.5, 1.0]]), 4)
    assert 0.5 <= found[0] < 0.6
    with pytest.warns(UserWarning, match=r"all force errors are 0\.7"):
        assert expected_errors(np.full((3, 2), 0.7)) == pytest.approx([0.7, 0.7], rel=1e-6)
    with pytest.raises(DataError, match="all force errors are zero"):
        expected_errors(np.zeros((2, 2)))
    with pytest.raises(DataError, match="epoch 1, atom 0"):
        expected_errors(np.array([[0.1], [np.nan]]))
    with pytest.raises(ConfigError, match="n_bins"):
        bin_edges(0.1, 1.0, 0)
