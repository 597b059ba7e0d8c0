"""Last layers that are trained with their body: mean and spread, exact forces, training that goes on."""

from __future__ import annotations

import numpy as np
import pytest

from surefield.descriptors.bispectrum import Bispectrum
from surefield.errors import ConfigError, DataError, PotentialError
from surefield.potentials import ZBL
from surefield.potentials.snap.snap import Snap
from surefield.testing import check_uncertainty
from surefield.training import TrainConfig
from surefield.uncertainty import ShallowEnsemble, uq_compare
from surefield.uncertainty.build import TrainingRecord
from surefield.uncertainty.config import ShallowEnsembleConfig
from surefield.uncertainty.member_deviations import member_deviations
from surefield.uncertainty.row_sums import quantity_rows


def fitted(copper_network, copper, folder=None, **options):
    options = {"M": 5, "seed": 3, "training": TrainConfig(epochs=6, batch_size=3), **options}
    return ShallowEnsemble.fit(
        copper_network, copper[:4], copper[4:], folder=folder, progress=False, **options
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shallow")


@pytest.fixture(scope="module")
def ensemble(copper_network, copper, folder):
    return fitted(copper_network, copper, folder)


def test_contract(ensemble, copper):
    check_uncertainty(ensemble, copper[5:7])


def test_body_and_members_are_trained(ensemble, copper_network):
    """The loss falls, the best epoch is kept, and the mean of the members is the prediction."""
    rows = ensemble.statistics["history"]
    assert len(rows) == 7
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["train_forces_rmse"] != rows[0]["train_forces_rmse"]  # the body moves
    best = min(rows, key=lambda row: row["valid_loss"])
    assert ensemble.statistics["epoch"] == best["epoch"]
    np.testing.assert_allclose(ensemble.displacements.sum(axis=0), 0, atol=1e-12)


def test_spread_is_that_of_the_members(ensemble, copper):
    frames = copper[:2]
    found = ensemble.predict(frames, forces=True, stress=True, per_atom=True, ensemble=True)
    members = [ensemble.predict(frames, member=k) for k in range(1, 6)]
    for index, p in enumerate(found):
        for name in ("energy", "energies", "forces", "stress"):
            values = np.array([member[index][name] for member in members])
            np.testing.assert_allclose(p[f"{name}_ensemble"], values, rtol=1e-8, atol=1e-9)
            np.testing.assert_allclose(p[name], values.mean(axis=0), rtol=1e-8, atol=1e-9)
        spread = np.std([member[index].forces for member in members], axis=0, ddof=1)
        np.testing.assert_allclose(p.forces_uncertainty, ensemble.maps["forces"].sigma(spread), rtol=1e-6)


def test_deviations_are_rows_times_displacements(ensemble, copper):
    """Of energies, forces and stresses, against the rows of LLPR; also of more members than at once."""
    layer, structures = ensemble.last_layer(), [ensemble.potential.neighborhood(a) for a in copper[:2]]
    drawn = np.random.default_rng(0).normal(size=(19, layer.n_features))
    names = ("energy", "forces", "stress")
    every = list(quantity_rows(layer, structures, names))
    for index, values in member_deviations(layer, drawn, structures, names):
        for name in names:
            n = structures[index].n_atoms if name == "energy" else 1
            expected = n * drawn @ every[index][name].T
            scale = np.abs(expected).max()
            np.testing.assert_allclose(values[name].reshape(19, -1), expected, atol=1e-9 * scale)


def test_a_killed_fit_goes_on(ensemble, copper_network, copper, folder):
    """From the start again or from a checkpoint, bit by bit; nothing is done twice."""
    assert {p.name for p in folder.iterdir()} == {"model_6.ckpt", "members.csv", "start"}
    again = fitted(copper_network, copper, folder)
    np.testing.assert_array_equal(again.displacements, ensemble.displacements)
    (p,), (q,) = again.predict(copper[:1]), ensemble.predict(copper[:1])
    assert p.energy == q.energy
    with pytest.raises(PotentialError, match="another training"):
        fitted(copper_network, copper, folder, learning_rate=0.5)


@pytest.mark.slow
def test_baseline_stays_as_it_is(copper_network, copper):
    whole = copper_network + ZBL(["Cu"], 0.5, 1.0)
    found = fitted(whole, copper, training=TrainConfig(epochs=1), M=2)
    assert isinstance(found.potential, type(whole))
    assert found.predict(copper[:1], ensemble=True)[0].energy_ensemble.shape == (2,)


@pytest.mark.slow
def test_compared(copper_network, copper, tmp_path):
    """Beside a constant, trained as the record says, and kept in the folder of the comparison."""
    config, record = ShallowEnsembleConfig(M=2), TrainingRecord(TrainConfig(epochs=1))
    table = uq_compare(
        copper_network,
        *(copper[:4], copper[4:6], copper[6:]),
        ["constant", config],
        **{"record": record, "n_bootstrap": 3, "folder": tmp_path, "progress": False},
    )
    assert {row["estimator"] for row in table.rows()} == {"constant", "shallow_ensemble"}
    assert (tmp_path / "fits" / "shallow_ensemble" / "shallow" / "model_1.ckpt").exists()


def test_mistakes(copper_network, copper):
    for wrong in (1, 2.0):
        with pytest.raises(ConfigError, match="M, the number of members, must be at least 2"):
            fitted(copper_network, copper, M=wrong)
    with pytest.raises(ConfigError, match=r"starts from random weights; got training.start_from old.npz"):
        fitted(copper_network, copper, training=TrainConfig(start_from="old.npz"))
    with pytest.raises(ConfigError, match="loss"):
        fitted(copper_network, copper, loss="ensemble_nl")
    with pytest.raises(PotentialError, match="Snap has no body to train together with the members"):
        fitted(Snap(Bispectrum((29,), 2, 3.5, (0.5,), (1.0,))), copper)
    with pytest.raises(DataError):
        ShallowEnsemble.fit(copper_network, copper[:4], [])
