from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import DataError
from surefield.structures.batching import Shape, plan_shapes
from surefield.training import dataset
from surefield.training.breakdown import LossForm, breakdown
from surefield.training.dataset import batches, make_batch, prepare
from surefield.training.problem import Weights
from surefield.training.train import train
from surefield.uncertainty.llpr import LLPR


@pytest.fixture(scope="module")
def data(copper):
    return prepare(copper, 3.5)


def test_prepared_labels(copper, data):
    assert len(data) == 8
    assert data.species == (29,)
    for atoms, sample in zip(copper, data.samples, strict=True):
        assert sample.labels.energy == atoms.get_potential_energy()
        np.testing.assert_array_equal(sample.labels.forces, atoms.get_forces())
        np.testing.assert_array_equal(sample.labels.stress, atoms.get_stress())
    part = data[[5, 2]]
    assert part.samples == (data.samples[5], data.samples[2])
    np.testing.assert_array_equal(part.frames[1].positions, copper[2].positions)


def test_isolated_atoms_are_set_aside(copper):
    atom = Atoms("Cu", cell=[20, 20, 20])
    atom.calc = SinglePointCalculator(atom, energy=-1.5, forces=np.zeros((1, 3)))
    atom.info["config_type"] = "IsolatedAtom"
    found = prepare([atom, *copper], 3.5)
    assert len(found) == 8
    assert found.isolated_atoms == {29: -1.5}


def test_nothing_to_use():
    with pytest.raises(DataError, match="no structures"):
        prepare([], 3.5)


@pytest.mark.parametrize(
    ("place", "value"),
    [("info", -1.0), ("info", np.nan), ("arrays", np.array([1.0, -1.0])), ("arrays", np.ones((2, 3)))],
)
def test_bad_weights(copper, place, value):
    atoms = copper[1].copy()
    atoms.calc = copper[1].calc
    getattr(atoms, place)["structure_weight" if place == "info" else "atomic_weights"] = value
    with pytest.raises(DataError, match=r"unusable .* in frame 1"):
        prepare([copper[0], atoms], 3.5)


def test_batches_hold_every_sample_once_in_an_order_of_seed_and_epoch(data):
    shapes = plan_shapes(data.structures, 3)

    def energies(seed, epoch):
        found = [
            b.labels["energy"][b.weights["energy"] > 0]
            for b in batches(data.samples, shapes, seed=seed, epoch=epoch, dtype=np.float64)
        ]
        return np.concatenate(found).tolist()

    assert sorted(energies(0, 0)) == sorted(s.labels.energy for s in data.samples)
    assert energies(0, 0) == energies(0, 0)
    assert energies(0, 0) != energies(0, 1)
    assert energies(0, 0) != energies(1, 0)


def test_labels_and_weights_in_a_batch(copper):
    weighted = copper[0].copy()
    weighted.calc = copper[0].calc
    weighted.info["structure_weight"] = 2.0
    weighted.arrays["atomic_weights"] = np.array([0.5, 0.0])
    found = prepare([weighted, copper[1]], 3.5)
    ((shape, _),) = plan_shapes(found.structures, 2)
    batch = make_batch(found.samples, shape, np.float32)
    assert batch.labels["energy"].dtype == np.float64
    assert batch.labels["forces"].dtype == np.float32
    assert batch.weights["energy"][:2].tolist() == [2.0, 1.0]
    assert batch.weights["forces"][:4].tolist() == [[w] * 3 for w in (1.0, 0.0, 1.0, 1.0)]
    assert not batch.weights["forces"][4:].any()
    xx, yy, zz, yz, xz, xy = copper[1].get_stress()
    np.testing.assert_allclose(
        batch.labels["stress"][1], [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], rtol=1e-6
    )


def _with_diagonal_stress(atoms, rest):
    copy = atoms.copy()
    stress = np.append(atoms.get_stress()[:3], np.full(3, rest))
    copy.calc = SinglePointCalculator(copy, **{**atoms.calc.results, "stress": stress})
    copy.info["stress_is_diagonal"] = True
    return copy


def test_components_without_a_label_count_nowhere(copper, copper_network):
    """A stress of three components has three rows, whatever the file holds for the others."""
    weights = {"stress_weight": 100.0, "epochs": 1, "batch_size": 4, "progress": False}
    results = []
    for rest in (0.0, 1e3):
        frames = [_with_diagonal_stress(atoms, rest) for atoms in copper]
        sample = prepare(frames[:1], copper_network).samples[0]
        assert sample.known("stress").tolist() == [True] * 3 + [False] * 3
        batch = make_batch([sample], Shape(2, 60, 1), np.float64)
        np.testing.assert_array_equal(batch.weights["stress"][0], np.eye(3))
        fit = train(copper_network, frames, validation=frames[:3], **weights)
        llpr = LLPR.fit(fit.potential, frames, calibration=frames[:3], progress=False)
        assert llpr.statistics["rows"]["stress"] == 3 * len(frames)
        assert llpr.statistics["calibration_rows"]["stress"] == 9
        table = breakdown(fit.potential, fit.train_set.samples, Weights(), LossForm())
        assert table.errors["stress", "train", "unweighted"].count == 3 * len(frames)
        results.append((fit.train_errors.as_dict(), llpr.maps["stress"].to_dict(), table.total))
    assert results[0] == results[1]


@pytest.mark.parametrize("key", ["E", "dft_energy"])
def test_free_atoms_whose_energy_has_another_name_are_refused(key):
    # A bare E is in hartree as often as not; another name may be another level of theory.
    free = Atoms("H", info={key: -0.4998})
    molecule = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], info={"REF_energy": -31.0})
    with pytest.raises(
        DataError, match=rf"called 'REF_energy' in 1 structures but '{key}' in frame 0.*or units"
    ):
        prepare([free, molecule], 4.0, require=["energy"])
    free.info["REF_energy"] = -13.6
    assert prepare([free, molecule], 4.0, require=["energy"]).isolated_atoms == {1: -13.6}


@pytest.mark.parametrize("num_workers", [1, 3, None])
def test_workers_change_nothing(copper, num_workers, monkeypatch):
    """Neighbours of all structures in order, whoever finds them."""
    monkeypatch.setattr(dataset, "_A_THREAD", 2)
    alone, shared = (prepare(copper, 3.5, num_workers=n) for n in (0, num_workers))
    for one, other in zip(alone.structures, shared.structures, strict=True):
        np.testing.assert_array_equal(one.vectors, other.vectors)
        np.testing.assert_array_equal(one.neighbors, other.neighbors)
