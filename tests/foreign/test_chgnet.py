"""CHGNet 0.3.0 with the weights of its wheel, against reference numbers and its own calculator."""

from __future__ import annotations

import contextlib
import importlib
import io
import json

import numpy as np
import pytest
from ase import Atoms
from scipy.stats import spearmanr

import surefield as sf
from surefield.cli.jobs import run_verb
from surefield.errors import ConfigError, DataError
from surefield.foreign import chgnet
from surefield.potentials.potential import TrainingData
from surefield.sensitivity import energy_features

pytestmark = [
    pytest.mark.slow,
    # Of packages that we do not maintain.
    pytest.mark.filterwarnings("default"),
]
pytest.importorskip(
    "chgnet",
    reason="CHGNet is missing: pip install 'surefield[torch]', or pip install torch, then chgnet",
    exc_type=ImportError,
)


@pytest.fixture(scope="module")
def model():
    return chgnet()


@pytest.fixture(scope="module")
def reference(shared):
    folder = shared / "reference" / "uncertainty"
    expected = json.loads((folder / "default_mode.json").read_text())["chgnet_si"]
    return dict(np.load(folder / "chgnet_si.npz")), expected


def structures(arrays, split):
    bounds = np.concatenate([[0], np.cumsum(arrays[f"{split}_natoms"])])
    frames = []
    for k, cell in enumerate(arrays[f"{split}_cell"]):
        rows = slice(bounds[k], bounds[k + 1])
        atoms = Atoms(
            arrays[f"{split}_numbers"][rows], arrays[f"{split}_positions"][rows], cell=cell, pbc=True
        )
        atoms.info["REF_energy"] = float(arrays[f"{split}_Eref"][k])
        frames.append(atoms)
    return frames


def test_results_are_those_of_its_calculator(model, reference):
    dynamics = importlib.import_module("chgnet.model.dynamics")
    atoms = structures(reference[0], "test")[0]
    (prediction,) = model.predict([atoms])
    with contextlib.redirect_stdout(io.StringIO()):
        atoms.calc = dynamics.CHGNetCalculator(use_device="cpu")
    assert prediction.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(prediction.forces, atoms.get_forces(), atol=1e-3)
    np.testing.assert_allclose(prediction.stress, atoms.get_stress(), atol=1e-5)
    with pytest.raises(DataError, match="three periodic directions"):
        model.predict([Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])])
    with pytest.raises(ConfigError, match=r"no version '9\.9'"):
        chgnet("9.9")


def test_energy_sigmas_rank_errors_as_the_reference_does(model, reference):
    arrays, expected = reference
    test = structures(arrays, "test")
    features = energy_features(model, [model.neighborhood(atoms) for atoms in test])
    np.testing.assert_allclose(features, arrays["test_F_sum"], atol=1e-4 * np.abs(arrays["test_F_sum"]).max())
    # A third of the training structures, for time; the reference took all of them.
    train, valid = structures(arrays, "train")[::3], structures(arrays, "val")[::2]
    offset = -expected["energy_rows"]["offset_per_atom"]
    aligned = model.prepared(TrainingData([], [], {14: offset}))
    sure = sf.LLPR.fit(aligned, train, valid, row_kinds=("energy",), progress=False)
    predictions = sure.predict(test, forces=False, stress=False)
    n_atoms = arrays["test_natoms"]
    error = (np.array([p.energy for p in predictions]) - arrays["test_Eref"]) / n_atoms
    sigma = np.array([p.energy_uncertainty for p in predictions]) / n_atoms
    rank, _ = spearmanr(np.abs(error), sigma)
    assert np.asarray(rank) >= 0.8
    np.testing.assert_allclose(
        np.array([p.energy for p in predictions]) - offset * n_atoms, arrays["test_E"], atol=1e-3
    )


def test_last_layer_is_solved_on_a_few_frames_and_saved(model, shared, tmp_path):
    frames = [a for a in sf.read_frames(shared / "data" / "mlearn" / "Si_train.xyz.xz") if len(a) <= 24]
    fit = sf.train(model, frames[:4], validation=frames[4:6], progress=False)
    before, after = (
        np.sqrt(
            np.mean([np.mean((p.forces - a.get_forces()) ** 2) for p, a in zip(q, frames[:4], strict=True)])
        )
        for q in (model.predict(frames[:4]), fit.potential.predict(frames[:4]))
    )
    assert after < before
    sf.save_potential(tmp_path / "si.npz", fit.potential)
    loaded = sf.load(tmp_path / "si.npz")
    (here,), (there,) = (p.predict(frames[6:7]) for p in (fit.potential, loaded))
    np.testing.assert_array_equal(here.forces, there.forces)


def test_command_line_trains_and_reports_sigmas(shared, tmp_path):
    frames = [a for a in sf.read_frames(shared / "data" / "mlearn" / "Si_train.xyz.xz") if len(a) <= 24]
    sf.write_frames(tmp_path / "train.xyz", frames[:6])
    sf.write_frames(tmp_path / "test.xyz", frames[6:8])
    (tmp_path / "run.yaml").write_text(
        f"name: si\nroot: {tmp_path}\nstability: false\n"
        "data: {train: train.xyz, validation: 0.34, test: test.xyz}\n"
        "potential: {kind: foreign, model: chgnet}\n"
    )
    assert run_verb("train", tmp_path / "run.yaml", (), dry_run=True, overwrite=False) is None
    report = run_verb("train", tmp_path / "run.yaml", (), dry_run=False, overwrite=False)
    assert report is not None
    potential = sf.load(tmp_path / "si-train" / "potential.npz")
    assert not np.array_equal(potential.readout[0], potential.reference)
    assert isinstance(sf.load(tmp_path / "si-train" / "llpr.npz"), sf.LLPR)
