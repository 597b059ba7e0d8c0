"""Training of members: it lowers the loss, keeps the best state, goes on bit by bit, and warns."""

from __future__ import annotations

import csv
import warnings

import numpy as np
import pytest

from surefield.errors import PotentialError
from surefield.uncertainty import LLPR, ensemble_loss
from surefield.uncertainty.architecture import LLPRTraining
from surefield.uncertainty.ensemble_training import learning_rate_at


def trained(copper_network, copper, folder=None, **keys):
    keys = {"num_epochs": 4, "learning_rate": 0.003, "batch_size": 2, **keys}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # residuals of copper may be larger on either set
        return LLPR.fit(
            copper_network,
            copper[:4],
            copper[4:],
            progress=False,
            folder=folder,
            num_ensemble_members={"energy": 8},
            **keys,
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("members")


@pytest.fixture(scope="module")
def llpr(copper_network, copper, folder):
    return trained(copper_network, copper, folder, checkpoint_interval=2)


def history(llpr):
    return llpr.statistics["training of energy members"]["history"]


def test_the_loss_falls_and_the_best_state_is_kept(llpr, copper_network, copper):
    rows = history(llpr)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    kept = min(rows, key=lambda row: row["valid_loss"])
    assert llpr.statistics["training of energy members"]["epoch"] == kept["epoch"]
    # the kept loss, from the members themselves
    found = llpr.predict(copper[4:], forces=True, stress=True, ensemble=True)
    labels = {
        "energy": [a.get_potential_energy() for a in copper[4:]],
        "forces": [a.get_forces() for a in copper[4:]],
        "stress": [a.get_stress() for a in copper[4:]],
    }
    total = 0.0
    for name, values in labels.items():
        members = np.concatenate(
            [np.asarray(p[f"{name}_ensemble"]).reshape(llpr.n_members, -1).T for p in found]
        )
        y = np.concatenate([np.ravel(v) for v in values])
        scale = np.sqrt(np.mean((members.mean(axis=1) - y) ** 2))
        total += ensemble_loss("ensemble_nll", members, y, (1e-3 * scale) ** 2)
    assert total == pytest.approx(kept["valid_loss"], rel=1e-5)


def test_members_stay_centred(llpr):
    np.testing.assert_allclose(llpr.displacements["energy"].sum(axis=0), 0, atol=1e-10)


def test_metrics_and_checkpoints_are_written(llpr, folder):
    assert {p.name for p in folder.iterdir()} == {"model_2.ckpt", "model_4.ckpt", "members.csv"}
    with (folder / "members.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(float(row["epoch"])) for row in rows] == [0, 1, 2, 3, 4]
    for name in ("rmse", "nll", "crps", "mean_z2"):
        assert f"valid_forces_{name}" in rows[0]


def test_goes_on_bit_by_bit(llpr, copper_network, copper, folder):
    """From the checkpoint of epoch 2 to the same members; a run that has ended does nothing."""
    (folder / "model_4.ckpt").unlink()
    again = trained(copper_network, copper, folder, checkpoint_interval=2)
    np.testing.assert_array_equal(again.displacements["energy"], llpr.displacements["energy"])
    assert history(again) == history(llpr)
    times = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    ended = trained(copper_network, copper, folder, checkpoint_interval=2)
    np.testing.assert_array_equal(ended.displacements["energy"], llpr.displacements["energy"])
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == times
    with pytest.raises(PotentialError, match="another training"):
        trained(copper_network, copper, folder, learning_rate=0.5)


@pytest.mark.parametrize("loss", ["gaussian_crps_ensemble", "empirical_crps_ensemble"])
def test_other_losses(copper_network, copper, loss):
    rows = history(trained(copper_network, copper, loss=loss, row_kinds=["energy"], log_mae=True))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[0]["valid_energy_mae"] <= rows[0]["valid_energy_rmse"]


def test_weights_of_terms(copper_network, copper):
    """Without forces and stresses only energies are learned, and only their loss is counted."""
    term = {"gradients": {"positions": {"weight": 0.0}, "strain": {"weight": 0.0}}}
    rows = history(trained(copper_network, copper, loss={"energy": term}, log_separate_blocks=True))
    assert "valid_energy_nll" in rows[0]
    assert "valid_forces_nll" not in rows[0]
    forces = {"weight": 0.0, "gradients": {"positions": {"weight": 2.0}, "strain": {"weight": 0.0}}}
    rows = history(trained(copper_network, copper, loss={"energy": forces}, log_separate_blocks=True))
    assert "valid_energy_nll" not in rows[0]
    assert {f"valid_forces_{c}_nll" for c in range(3)} <= set(rows[0])


@pytest.mark.slow  # members drawn twice are the same where the rounding of the null space is the same
def test_learning_that_helps_nowhere_is_undone(copper_network, copper):
    """Steps far too large: the members as drawn are kept, and a warning says so."""
    drawn = trained(copper_network, copper, num_epochs=None).displacements["energy"]
    with pytest.warns(UserWarning, match="no epoch was better on the calibration set"):
        found = LLPR.fit(
            copper_network,
            copper[:4],
            copper[4:],
            progress=False,
            num_ensemble_members={"energy": 8},
            num_epochs=1,
            learning_rate=1e3,
            warmup_fraction=0.0,
        )
    np.testing.assert_allclose(found.displacements["energy"], drawn, atol=1e-12)


def test_decay_and_clipping(llpr, copper_network, copper):
    """Both reach the steps: strong decay draws the members together, a tiny norm changes little by Adam."""
    decayed = trained(copper_network, copper, weight_decay=50.0)
    assert history(decayed)[-1] != history(llpr)[-1]
    spread = [np.abs(x.displacements["energy"]).max() for x in (llpr, decayed)]
    assert spread[1] < spread[0] or history(decayed)[-1]["train_loss"] > history(llpr)[-1]["train_loss"]
    clipped = trained(copper_network, copper, grad_clip_norm=1e-12)
    assert history(clipped)[-1] != history(llpr)[-1]


def test_schedule():
    """Up during the warm-up, then only down, to zero; anew for another total."""
    settings = LLPRTraining(warmup_fraction=0.1, learning_rate=1.0)
    rates = [learning_rate_at(step, 100, settings) for step in range(100)]
    assert rates[:11] == pytest.approx([0.1 * i for i in range(11)])
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[-1] == pytest.approx(0.5 * (1 + np.cos(np.pi * 89 / 90)))
    assert learning_rate_at(50, 200, settings) > rates[50]


def test_residuals_that_are_smaller_on_the_training_set(copper_network, copper):
    from ase.calculators.singlepoint import SinglePointCalculator

    fitted = []
    for atoms, p in zip(copper[:4], copper_network.predict(copper[:4]), strict=True):
        copy, results = atoms.copy(), dict(atoms.calc.results)
        results["energy"] = p.energy + 0.01 * (results["energy"] - p.energy)
        copy.calc = SinglePointCalculator(copy, **results)
        fitted.append(copy)
    with (
        pytest.warns(UserWarning, match="spreads learned from the latter will be overconfident"),
        pytest.warns(UserWarning, match="no epoch was better"),
    ):
        LLPR.fit(
            copper_network,
            fitted,
            copper[4:],
            progress=False,
            num_ensemble_members={"energy": 4},
            num_epochs=1,
            loss={"energy": {"gradients": {"positions": {"weight": 0}, "strain": {"weight": 0}}}},
        )
