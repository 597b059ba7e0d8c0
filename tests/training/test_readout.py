from __future__ import annotations

import jax
import numpy as np
import pytest

from surefield.errors import PotentialError
from surefield.potentials.potential import TrainingData
from surefield.sensitivity import structure_rows
from surefield.training import checkpoint, readout
from surefield.training.checkpoint import PartialSums
from surefield.training.dataset import prepare
from surefield.training.loss import LossWeights, errors, residuals
from surefield.training.readout import (
    FOLDS,
    RIDGES,
    TOLERATED,
    _accumulate,
    _ridge_path,
    solve_readout,
)

WEIGHTS = LossWeights(energy=30.0, forces=1.0)


@pytest.fixture(scope="module")
def data(copper):
    return prepare(copper, 3.5)


@pytest.fixture(scope="module")
def standard(copper_network, data):
    energies = [s.labels.energy for s in data.samples]
    mean = np.mean([s.labels.energy / s.structure.n_atoms for s in data.samples])
    return copper_network.prepared(TrainingData(data.structures, energies, {29: float(mean)}))


def _design(potential, samples, use_forces=True):
    """Rows of all residuals, with the roots of their weights, and their targets."""
    n, offset = potential.n_invariants, float(potential.offsets[0])
    n_forces = sum(s.labels.forces.size for s in samples)
    rows, targets = [], []
    every = structure_rows(potential, [s.structure for s in samples])
    for row, s in zip(every, samples, strict=True):
        root = np.sqrt(WEIGHTS["energy"] / len(samples)) / row.n_atoms
        rows.append(root * np.append(row.energy[:n], row.n_atoms)[None])
        targets.append(root * np.array([s.labels.energy - offset * row.n_atoms]))
        root = np.sqrt(WEIGHTS["forces"] / n_forces)
        rows.append(root * np.hstack([row.forces[:, :n], np.zeros((len(row.forces), 1))]))
        targets.append(root * s.labels.forces.ravel())
    return np.concatenate(rows), np.concatenate(targets)


def test_against_plain_ridge_regression(standard, data):
    solved, solution = solve_readout(standard, data.samples[:6], data.samples[6:], WEIGHTS)
    rows, targets = _design(standard, data.samples[:6])
    held_rows, held_targets = _design(standard, data.samples[6:])
    d = rows.shape[1]
    scale = np.sum(rows**2) / d
    owner = np.concatenate(
        [np.full(1 + 3 * s.structure.n_atoms, i % FOLDS) for i, s in enumerate(data.samples[:6])]
    )
    by_ridge, losses = {}, []
    for ridge in RIDGES:
        root = np.diag(np.sqrt(ridge * scale) * np.append(np.ones(d - 1), 1e-3))

        def fit(keep, root=root):
            stacked, wanted = np.vstack([rows[keep], root]), np.append(targets[keep], np.zeros(d))
            return np.linalg.lstsq(stacked, wanted, rcond=None)[0]

        w = fit(np.full(len(rows), True))
        by_ridge[ridge] = np.sum((held_rows @ w - held_targets) ** 2), w
        left_out = [np.sum((rows @ fit(owner != k) - targets)[owner == k] ** 2) for k in range(FOLDS)]
        losses.append(len(data.samples[6:]) * by_ridge[ridge][0] + 6 * np.sum(left_out))
    nearly_best = np.array(losses) <= (1 + TOLERATED) * min(losses)
    assert solution.ridge == RIDGES[int(np.flatnonzero(nearly_best)[0])]
    loss, w = by_ridge[solution.ridge]
    np.testing.assert_allclose(solution.validation_loss, loss, rtol=1e-5)
    np.testing.assert_allclose(solution.train_loss, np.sum((rows @ w - targets) ** 2), rtol=1e-4, atol=1e-12)
    n = standard.n_invariants
    np.testing.assert_allclose(solved.readout[0, :n], w[:-1], atol=1e-5 * np.abs(w).max())
    np.testing.assert_allclose(solved.bias[0], w[-1], atol=1e-5 * np.abs(w).max())


def test_many_features_are_solved_by_factorisation(monkeypatch):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 12)) * np.logspace(0, -3, 12)
    gram, scale = rows.T @ rows, np.trace(rows.T @ rows) / 11
    few = _ridge_path(gram, 2, scale)
    monkeypatch.setattr(readout, "LARGEST_FOLDED", 5)
    np.testing.assert_allclose(_ridge_path(gram, 2, scale), few, rtol=1e-6)
    indefinite = gram - 1e-3 * scale * np.diag([1.0] * 9 + [0.0] * 3)
    missing = [bool(np.isnan(w).all()) for w in _ridge_path(indefinite, 2, scale)]
    assert missing[0]
    assert not missing[-1]


def test_stresses_are_rows_like_forces(standard, data):
    """The Gram matrix with stresses is that without them and the weighted rows of the stresses."""
    samples = data.samples[:4]
    both = LossWeights(energy=30.0, forces=1.0, stress=200.0)
    (plain,), (whole,) = (
        _accumulate(standard, samples, w, 10_000, lambda: None, PartialSums(None, {}))
        for w in (WEIGHTS, both)
    )
    rows = structure_rows(standard, [s.structure for s in samples], ("stress",))
    full = np.concatenate(
        [
            np.column_stack([r.stress, np.zeros(6), s.labels.stress])
            for r, s in zip(rows, samples, strict=True)
        ]
    )
    assert full.shape == (24, plain.shape[1])
    np.testing.assert_allclose(whole - plain, full.T @ full * 200 / 24, atol=1e-9 * np.abs(plain).max())


def test_solution_starts_without_the_network_and_lowers_the_errors(standard, data):
    solved, solution = solve_readout(standard, data.samples, (), WEIGHTS)
    assert not np.any(solved.readout[:, standard.n_invariants :])
    assert jax.tree.all(jax.tree.map(np.array_equal, solved.weights, standard.weights))
    after = errors(residuals(solved, data.samples))
    before = errors(residuals(standard, data.samples))
    assert after.forces_rmse < 0.2 * before.forces_rmse
    expected = WEIGHTS["energy"] * after.energy_rmse**2 + WEIGHTS["forces"] * after.forces_rmse**2
    np.testing.assert_allclose(solution.train_loss, expected, rtol=1e-4)


def test_force_rows_can_be_limited(standard, data):
    few, _ = solve_readout(standard, data.samples, (), WEIGHTS, max_force_rows=6)
    none, _ = solve_readout(standard, data.samples, (), WEIGHTS, max_force_rows=0)
    rmse = [errors(residuals(p, data.samples)).forces_rmse for p in (few, none)]
    assert rmse[0] != rmse[1]


def test_thinned_forces_are_spread_over_the_folds(standard, data):
    """Every second structure keeps its forces; both of two folds must get some."""
    forces_only = LossWeights(energy=1e-12, forces=1.0)
    n_rows = sum(s.labels.forces.size for s in data.samples)
    nowhere = PartialSums(None, {})
    folds = _accumulate(standard, data.samples, forces_only, n_rows // 2, lambda: None, nowhere, 2)
    share = np.array([np.trace(fold) for fold in folds]) / np.trace(np.sum(folds, axis=0))
    assert share.min() > 0.1


@pytest.mark.parametrize("last", [3, 7], ids=["training", "validation"])
def test_an_interrupted_solution_goes_on(data, standard, tmp_path, monkeypatch, last):
    """The result is that of a whole pass; structures before the stop are not looked at again."""
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SAVE_SHARE", 0.0)
    parts = data.samples[:6], data.samples[6:]
    whole, expected = solve_readout(standard, *parts, WEIGHTS)

    def sums(identity):
        return lambda part: PartialSums(tmp_path / f"{part}.npz", {"training set": identity})

    count = []

    def stopped():
        count.append(1)
        if len(count) == last + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve_readout(standard, *parts, WEIGHTS, progress=stopped, sums=sums("a"))
    count.clear()
    assert sum(sums("a")(part).done for part in ("training", "validation")) == last
    again, solution = solve_readout(
        standard, *parts, WEIGHTS, progress=lambda: count.append(1), sums=sums("a")
    )
    assert len(count) == 8 - last
    np.testing.assert_allclose(again.readout, whole.readout, rtol=1e-8, atol=1e-10)
    assert solution.train_loss == pytest.approx(expected.train_loss, rel=1e-8)
    with pytest.raises(PotentialError, match="another training set"):
        solve_readout(standard, *parts, WEIGHTS, sums=sums("b"))
