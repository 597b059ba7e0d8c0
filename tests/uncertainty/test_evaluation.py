from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from surefield.calibration.maps import AlphaMap
from surefield.errors import PotentialError
from surefield.potentials import Prediction, save_potential
from surefield.training.dataset import prepare
from surefield.training.loss import error_intervals, mean_and_half_width
from surefield.uncertainty import DropoutEnsemble
from surefield.uncertainty.build import load_uncertainty
from surefield.uncertainty.evaluation import compare


@pytest.fixture(scope="module")
def data(copper):
    return prepare(copper[:2], 3.0)


@pytest.fixture(scope="module")
def predictions(data):
    """Energies too high by 0.2 eV, forces by 0.1 eV/Å with a sigma of 0.2, and right by symmetry in x."""
    forces = np.array([[0.0, 0.1, 0.1], [0.0, 0.1, 0.1]])
    return [
        Prediction(
            energy=s.labels.energy + 0.2,
            energy_uncertainty=0.4,
            forces=s.labels.forces + forces,
            forces_uncertainty=2 * forces,
            stress=s.labels.stress,
        )
        for s in data.samples
    ]


def test_errors_are_per_atom_and_symmetry_says_nothing(data, predictions, tmp_path):
    comparison = compare(predictions, data, ("energy", "forces"))
    assert comparison.quantities == ["energy", "forces"]
    assert comparison.test() == pytest.approx(
        {"energy_mae": 0.1, "energy_rmse": 0.1, "forces_mae": 0.2 / 3, "forces_rmse": np.sqrt(0.02 / 3)}
    )
    residuals, sigma = comparison.residuals("forces")
    np.testing.assert_allclose(residuals, np.full(8, 0.1))
    np.testing.assert_allclose(sigma, np.full(8, 0.2))
    np.testing.assert_allclose(comparison.residuals("energy")[1], [0.2, 0.2])
    comparison.save(tmp_path / "predictions.npz")
    with np.load(tmp_path / "predictions.npz") as file:
        names = {f"{k}{s}" for k in ("energy", "forces") for s in ("", "_reference", "_uncertainty")}
        assert set(file.files) == {"n_atoms", "species", "origin", *names}
        assert file["origin"].tolist() == ["frame 0", "frame 1"]


def test_calibration_beside_a_constant_sigma(data, predictions):
    maps = {"energy": AlphaMap(2.0), "forces": AlphaMap(3.0)}
    uncertainty = DropoutEnsemble._of(potential=None, maps=maps, thresholds={}, statistics={})
    scores = compare(predictions, data, ("energy", "forces", "stress")).calibration(uncertainty)
    assert set(scores) == {"energy", "forces"}
    assert scores["forces"]["coverage_68"] == scores["forces"]["coverage_95"] == 1.0
    assert scores["forces"]["n_structures"] == 2
    assert scores["energy"]["alpha"] == 2.0
    # all residuals are 0.1 and all sigmas 0.2
    assert scores["energy"]["nll"] == pytest.approx(0.5 * np.log(2 * np.pi * 0.2**2) + 0.125)
    assert scores["energy"]["nll_constant"] == pytest.approx(0.5 * np.log(2 * np.pi * 0.1**2) + 0.5)


def test_labels_that_a_structure_lacks_do_not_count(data, predictions):
    bare = data.samples[0].labels.replace(energy=None, forces=None)
    less = replace(data, samples=(replace(data.samples[0], labels=bare), data.samples[1]))
    comparison = compare(predictions, less, ("energy", "forces"))
    assert comparison.test()["forces_mae"] == pytest.approx(0.2 / 3)
    np.testing.assert_array_equal(np.isnan(comparison.errors("forces")), np.arange(12) < 6)
    assert comparison.intervals() == {}  # one structure has none
    none = replace(data, samples=tuple(replace(s, labels=bare) for s in data.samples))
    assert compare(predictions, none, ("energy", "forces")).quantities == []


def test_no_model_knows_the_composition_and_no_force(data, predictions):
    spreads = compare(predictions, data, ("energy", "forces")).baselines()
    forces = np.concatenate([s.labels.forces for s in data.samples])
    energies = np.array([s.labels.energy / s.n_atoms for s in data.samples])
    assert spreads["forces_rmse"] == pytest.approx(np.sqrt(np.mean(forces**2)))
    assert spreads["energy_rmse"] == pytest.approx(energies.std())


def test_intervals_count_structures_not_values():
    """Twenty structures of three equal residuals each are twenty independent values."""
    each = np.linspace(0.5, 1.5, 20)
    rows, values = np.repeat(np.arange(20), 3), np.repeat(each, 3)
    mean, half = mean_and_half_width(values, rows)
    assert mean == pytest.approx(1.0)
    assert half == pytest.approx(2.093024 * each.std(ddof=1) / np.sqrt(20), rel=1e-6)
    low, high = error_intervals(-values, rows)["mae"]
    assert (low, high) == pytest.approx((np.exp(-half), np.exp(half)))


def test_a_potential_is_no_uncertainty(tmp_path, copper_network):
    save_potential(tmp_path / "potential.npz", copper_network)
    with pytest.raises(PotentialError, match="holds no uncertainty; got potential; expected llpr or dropout"):
        load_uncertainty(tmp_path / "potential.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "potential.npz").read_bytes()[:500])
    with pytest.raises(PotentialError, match=r"cut.npz is cut short, damaged"):
        load_uncertainty(tmp_path / "cut.npz")
