"""Nequix MP-1 against its own calculator."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import jax
import numpy as np
import pytest
from ase.build import molecule

import surefield as sf
from surefield.foreign import nequix

pytestmark = [
    pytest.mark.slow,
    # Of packages that we do not maintain.
    pytest.mark.filterwarnings("default"),
]
pytest.importorskip(
    "nequix.model",
    reason="Nequix is missing: pip install --no-deps nequix==0.4.5, then pip install e3nn-jax==0.21.0 jraph "
    "cloudpickle h5py matscipy",
    exc_type=ImportError,
)


@pytest.fixture(scope="module")
def weights(shared):
    return shared / "data" / "models" / "nequix-mp-1.nqx"


@pytest.fixture
def own_calculator(weights, monkeypatch):
    """The calculator of the package, which imports what only its trainings use."""
    for name in ("wandb", "wandb_osh", "wandb_osh.hooks", "ase_db_backends"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["wandb_osh.hooks"], "TriggerWandbSyncHook", object, raising=False)
    monkeypatch.setenv("OEQ_NOTORCH", "1")
    calculator = importlib.import_module("nequix.calculator").NequixCalculator
    with jax.enable_x64(False):  # it is of single precision throughout
        return calculator(model_path=str(weights), use_kernel=False)


def own_results(atoms):
    with jax.enable_x64(False):
        return atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()


def test_results_are_those_of_its_calculator(weights, shared, own_calculator):
    """A small cell, one of 63 atoms around a vacancy, and one of 64: to what single precision resolves.

    Energies are 5.3 eV an atom, of which 2e-6 is four steps of its numbers.
    """
    model = nequix(weights)
    frames = sf.read_frames(shared / "data" / "mlearn" / "Si_test.xyz.xz")
    of_size = {len(atoms): atoms for atoms in frames}
    chosen = [of_size[n].copy() for n in (24, 63, 64)]
    largest = {}
    for atoms, ours in zip(chosen, model.predict(chosen), strict=True):
        atoms.calc = own_calculator
        energy, forces, stress = own_results(atoms)
        differences = {
            "energy": (ours.energy - energy) / len(atoms),
            "forces": ours.forces - forces,
            "stress": ours.stress - stress,
        }
        for name, difference in differences.items():
            largest[name] = max(largest.get(name, 0.0), float(np.abs(difference).max()))
    assert largest["energy"] < 2e-6
    assert largest["forces"] < 2e-5
    assert largest["stress"] < 1e-6
    water = molecule("H2O", vacuum=5)
    (ours,) = model.predict([water])
    water.calc = own_calculator
    with jax.enable_x64(False):
        energy, forces = water.get_potential_energy(), water.get_forces()
    assert ours.energy == pytest.approx(energy, abs=1e-5)
    np.testing.assert_allclose(ours.forces, forces, atol=2e-5)
