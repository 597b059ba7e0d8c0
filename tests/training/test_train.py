from __future__ import annotations

import csv
from collections.abc import Callable
from importlib import import_module

import equinox as eqx
import jax
import numpy as np
import pytest

from surefield.errors import ConfigError, PotentialError
from surefield.potentials import ZBL
from surefield.training import train
from surefield.training.checkpoint import Checkpoint
from surefield.training.dataset import prepare
from surefield.training.loss import errors, residuals
from surefield.training.train import METRICS

training = import_module("surefield.training.train")  # whose name is that of its function

SETTINGS = {"epochs": 4, "batch_size": 3, "learning_rate": 5e-3, "checkpoint_every": 1, "progress": False}


@pytest.fixture(scope="module")
def fit(copper, copper_network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    before = [np.array(leaf) for leaf in jax.tree.leaves(eqx.filter(copper_network, eqx.is_array))]
    found = train(copper_network, copper, 0.25, folder=folder, **SETTINGS)
    after = jax.tree.leaves(eqx.filter(copper_network, eqx.is_array))
    return found, folder, all(map(np.array_equal, before, after))


def _same(first, second, rtol=1e-10):
    a, b = (jax.tree.leaves(eqx.filter(x, eqx.is_array)) for x in (first, second))
    return all(np.allclose(x, y, rtol=rtol, atol=1e-12) for x, y in zip(a, b, strict=True))


def test_errors_fall(fit, copper_network, copper):
    found, _, _ = fit
    before = errors(residuals(copper_network, prepare(copper, 3.5).samples))
    assert found.train_errors.forces_rmse < 0.2 * before.forces_rmse
    assert found.train_errors.energy_rmse < 0.2 * before.energy_rmse
    losses = [row["loss"] for row in found.history]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_no_offset_of_the_energies_is_left_where_offsets_are_fitted(fit, copper, copper_network):
    plain, _, _ = fit
    fitted = train(copper_network, copper, 0.25, fit_offsets=True, **SETTINGS).potential
    samples = plain.train_set.samples
    before, after = (residuals(potential, samples).flat("energy") for potential in (plain.potential, fitted))
    assert abs(before.mean()) > 1e-2 * before.std()
    assert abs(after.mean()) < 1e-6 * after.std()
    assert after.std() == pytest.approx(before.std(), rel=1e-6)


@pytest.mark.parametrize(
    ("rate", "words"),
    [(10.0, ".*train for more epochs"), (1e30, ".*last loss was (nan|inf);.*lower learning")],
)
def test_a_potential_that_no_epoch_has_bettered_is_refused(
    rate, words, copper, copper_network, tmp_path, monkeypatch
):
    # as potentials without an exact solution, such as message networks, which take longer to compile
    monkeypatch.setattr(training, "_solved", lambda start, *_: (start, None))
    settings = SETTINGS | {"epochs": 2, "learning_rate": rate, "folder": tmp_path}
    for _ in range(2):  # read again in the end, too
        with pytest.raises(PotentialError, match=f"no epoch .* MomentNetwork; got no score below {words}"):
            train(copper_network, copper, 0.25, **settings)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) > 1


def test_intervals_are_computed_when_they_are_asked_for(fit, monkeypatch):
    found, _, _ = fit
    measured = errors(residuals(found.potential, found.train_set.samples))
    low, high = measured.intervals["forces_rmse"]
    assert low < measured.forces_rmse < high
    monkeypatch.delattr("surefield.training.loss.error_intervals")
    assert measured.intervals["forces_rmse"] == (low, high)
    again = errors(residuals(found.potential, found.train_set.samples))  # as after each epoch
    assert again.as_dict() == measured.as_dict()
    with pytest.raises(NameError, match="error_intervals"):
        _ = again.intervals


def test_the_callers_potential_is_unchanged(fit):
    assert fit[2]


def test_split_and_metrics(fit):
    found, folder, _ = fit
    assert (len(found.train_frames), len(found.validation_frames)) == (6, 2)
    assert found.validation_errors.n_structures == 2
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert tuple(rows[0]) == METRICS
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[-1]["loss"]) == found.history[-1]["loss"]


@pytest.mark.parametrize("saved", [True, False], ids=["after_saving", "before_saving"])
def test_resume_gives_what_an_uninterrupted_run_gives(
    fit, copper, copper_network, tmp_path, monkeypatch, saved
):
    save: Callable = Checkpoint.save
    seen = []

    def interrupted(self, state, history):
        seen.append(state.step)
        if len(seen) == 5 and not saved:
            raise KeyboardInterrupt
        save(self, state, history)
        if len(seen) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(copper_network, copper, 0.25, folder=tmp_path, **SETTINGS)
    monkeypatch.undo()
    again = train(copper_network, copper, 0.25, folder=tmp_path, **SETTINGS)
    expected = fit[0]
    assert _same(again.potential, expected.potential)
    assert again.solution == expected.solution
    np.testing.assert_allclose(
        [row["loss"] for row in again.history], [row["loss"] for row in expected.history], rtol=1e-9
    )


def test_a_finished_folder_is_read_not_trained_again(fit, copper, copper_network):
    found, folder, _ = fit
    again = train(copper_network, copper, 0.25, folder=folder, **SETTINGS)
    assert _same(again.potential, found.potential)
    assert again.history == found.history


def test_another_run_in_the_same_folder_is_refused(fit, copper, copper_network):
    _, folder, _ = fit
    with pytest.raises(PotentialError, match=r"learning_rate was 0\.005, now 0\.001"):
        train(copper_network, copper, 0.25, folder=folder, **SETTINGS | {"learning_rate": 1e-3})
    with pytest.raises(PotentialError, match="got training set: 6 structures, now 4; "):
        train(copper_network, copper[:6], 0.25, folder=folder, **SETTINGS)
    with pytest.raises(PotentialError, match="got weights of the training set; "):
        train(copper_network, _weighted(copper, [1.0] * 7 + [2.0]), 0.25, folder=folder, **SETTINGS)


def test_unknown_setting(copper, copper_network):
    with pytest.raises(ConfigError, match="learning_rate"):
        train(copper_network, copper, learning_rat=0.1)
    with pytest.raises(ConfigError, match="fraction"):
        train(copper_network, copper, 1.5)
    with pytest.raises(ConfigError, match="ZBL"):
        train(ZBL(["Cu"]), copper, 0)


def test_unknown_element(alloy, copper, copper_network):
    gold = copper[0].copy()
    gold.calc = copper[0].calc
    gold.numbers[0] = 79
    gold.calc = type(gold.calc)(gold, **copper[0].calc.results)
    with pytest.raises(PotentialError, match="Au"):
        train(copper_network, [*copper, gold], 0)


def test_patience_stops_and_the_best_is_kept(copper, copper_network):
    """With a rate that ruins the potential the exact solution stays the best."""
    settings = SETTINGS | {"epochs": 4, "learning_rate": 1.0, "ema": 0.0, "patience": 2, "solved_factor": 1.0}
    found = train(copper_network, copper, 0.25, **settings)
    start = train(copper_network, copper, 0.25, **SETTINGS | {"epochs": 0})
    assert len(found.history) == 2
    assert _same(found.potential, start.potential)


def _weighted(frames, factors, per_atom=None):
    copies = []
    for atoms, factor in zip(frames, factors, strict=True):
        copy = atoms.copy()
        copy.calc = atoms.calc
        copy.info["structure_weight"] = factor
        if per_atom is not None:
            copy.arrays["atomic_weights"] = np.array(per_atom)
        copies.append(copy)
    return copies


def test_weights_matter(fit, copper, copper_network):
    """A weight of zero is as good as no label: what its labels say has no influence."""
    settings = SETTINGS | {"epochs": 1}
    wrong = copper[7].copy()
    results = copper[7].calc.results
    wrong.calc = type(copper[7].calc)(wrong, **results | {"energy": results["energy"] + 5.0})
    factors = [1.0] * 7 + [0.0]
    isolated = {"Cu": 0.0}  # offsets do not come from the wrong energy
    first, second = (
        train(copper_network, _weighted(frames, factors), 0, isolated_atoms=isolated, **settings).potential
        for frames in (copper, [*copper[:7], wrong])
    )
    heavier = train(
        copper_network, _weighted(copper, [3.0] * 7 + [0.0]), 0, isolated_atoms=isolated, **settings
    )
    assert _same(first, second)
    assert not _same(first, heavier.potential, rtol=1e-6)


def test_atomic_weights_matter(copper, copper_network):
    settings = SETTINGS | {"epochs": 1}
    even, uneven = (
        train(copper_network, _weighted(copper, [1.0] * 8, weights), 0, **settings).potential
        for weights in ([1.0, 1.0], [1.0, 0.1])
    )
    assert not _same(even, uneven, rtol=1e-6)


def test_a_sum_fits_what_the_baseline_leaves(copper, copper_network):
    baseline = ZBL(["Cu"], inner=1.0, outer=2.4)
    found = train(copper_network + baseline, copper, 0.25, **SETTINGS | {"epochs": 1})
    assert found.potential.baseline is baseline
    held = prepare(found.validation_frames, 3.5).samples
    np.testing.assert_allclose(
        errors(residuals(found.potential, held)).forces_rmse, found.validation_errors.forces_rmse, rtol=1e-9
    )
