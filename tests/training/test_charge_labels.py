from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import numpy as np
import pytest

from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.symmetry_functions import SymmetryFunctions, make_symmetry_functions
from surefield.errors import DataError
from surefield.potentials import predict
from surefield.potentials.electrode.charge_network import ChargeNetwork
from surefield.structures.batching import Shape
from surefield.structures.read import read_frames
from surefield.training import train
from surefield.training.dataset import make_batch, prepare
from surefield.training.loss import LossWeights, errors, loss, residuals

ELEMENTS = ("Au", "H", "O")


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "reference" / "networks" / "charge"


@pytest.fixture(scope="module")
def made_up(folder):
    return list(read_frames(folder / "made_up_train.extxyz", ":3"))


def network(hidden=((4,),) * 3, dtype="float64"):
    functions = make_symmetry_functions(ELEMENTS, "G2", [0.05, 0.5, 4.0, 20.0])
    descriptor = SymmetryFunctions.from_lists(ELEMENTS, Cosine(5.0), dict.fromkeys(ELEMENTS, functions))
    return ChargeNetwork(descriptor, hidden, hidden, slab_metal="Au", dtype=dtype)


def _with_info(atoms, **info):
    copy = atoms.copy()
    copy.info |= info
    return copy


def test_labels_are_grand_canonical(made_up):
    """E becomes Omega; excess electrons are labels; without an electrode nothing of that happens."""
    phi, electrons = (made_up[1].info[key] for key in ("electrode_potential", "excess_electrons"))
    frames = [made_up[0], _with_info(made_up[1], grand_canonical=False)]
    data = prepare(frames, network())
    plain = prepare(frames, 4.0)
    first, second = (sample.labels for sample in data.samples)
    assert first.energy == plain.samples[0].labels.energy
    np.testing.assert_allclose(second.energy, plain.samples[1].labels.energy + phi * electrons, rtol=1e-14)
    assert second.excess_electrons == electrons
    assert data.samples[1].structure.inputs["electrode_potential"] == phi
    assert "1 were E" in data.label_note
    assert [sample.labels.excess_electrons for sample in plain.samples] == [None, None]
    with pytest.raises(DataError, match="no electrode potential in frame 0"):
        prepare([_with_info(made_up[0], electrode_potential=None)], network())


def test_charge_term_of_the_loss(made_up):
    """Weight times the mean of squared errors of excess electrons per atom, weights of frames included."""
    frames = [made_up[0], _with_info(made_up[1], structure_weight=2.0), made_up[2]]
    del frames[2].info["excess_electrons"]
    start = network()
    samples = prepare(frames, start).samples
    batch = make_batch(samples, Shape(44, 44, 4), np.float64)
    with_term, without = (
        float(
            eqx.filter_jit(loss)(start, batch, LossWeights(energy=1.0, forces=0.0, excess_electrons=weight))
        )
        for weight in (7.0, 0.0)
    )
    found = [p.excess_electrons for p in predict(start, frames[:2])]
    known = [atoms.info["excess_electrons"] for atoms in frames[:2]]
    wrong = (np.array(found) - known) / 14 * [1.0, 2.0]
    np.testing.assert_allclose(with_term - without, 7.0 * np.mean(wrong**2), rtol=1e-9)


def test_errors_of_excess_electrons(made_up, copper, copper_network):
    frames = [made_up[0], made_up[1], _with_info(made_up[2], excess_electrons=None)]
    start = network()
    samples = prepare(frames, start).samples
    found = residuals(start, samples)
    expected = [
        p.excess_electrons - atoms.info["excess_electrons"]
        for p, atoms in zip(predict(start, frames[:2]), frames[:2], strict=True)
    ]
    np.testing.assert_allclose(found["excess_electrons"], [*expected, np.nan], rtol=1e-9)
    summary = errors(found)
    np.testing.assert_allclose(summary.excess_electrons_mae, np.mean(np.abs(expected)), rtol=1e-9)
    np.testing.assert_allclose(
        summary.excess_electrons_rmse, np.sqrt(np.mean(np.square(expected))), rtol=1e-9
    )
    assert "excess_electrons_rmse" in summary.as_dict()
    other = errors(residuals(copper_network, prepare(copper[:1], 3.5).samples))
    assert not any("electrons" in name for name in other.as_dict())
    swapped = replace(samples[0], labels=samples[0].labels.replace(excess_electrons=None))
    assert np.isnan(residuals(start, [swapped])["excess_electrons"]).all()


def test_training_learns_energies_forces_and_charges(folder):
    """On other geometries of the made-up system, whose excess electrons have a spread of 0.29 e."""
    training = list(read_frames(folder / "made_up_train.extxyz", "::2"))
    test = list(read_frames(folder / "made_up_test.extxyz", "::5"))
    start = network(hidden=((12,),) * 3, dtype="float32")
    settings = {"epochs": 40, "batch_size": 8, "learning_rate": 1e-2, "energy_weight": 25.0}
    fit = train(start, training, 0, progress=False, **settings)
    found = errors(residuals(fit.potential, prepare(test, fit.potential).samples))
    assert found.excess_electrons_rmse < 0.08
    assert found.energy_rmse < 0.009
    assert found.forces_rmse < 0.22
