"""Sigmas while a potential runs: what a calculator computes unasked, and their limit."""

from __future__ import annotations

import warnings

import ase.io
import numpy as np
import pytest
from ase import Atoms

from surefield.errors import ConfigError, PotentialError
from surefield.sensitivity import rows
from surefield.structures.read import read_frames, write_frames
from surefield.uncertainty import LLPR, SigmaWarning
from surefield.uncertainty.guard import LARGEST_SIGMA, WatchedModel


@pytest.fixture(scope="module")
def llpr(copper_network, copper):
    return LLPR.fit(copper_network, copper[:4], copper[4:], progress=False)


@pytest.fixture
def near(copper):
    return copper[0].copy()


@pytest.fixture
def far(copper):
    """The same structure pressed together, its first atom the most."""
    atoms = copper[0].copy()
    atoms.set_cell(0.75 * atoms.cell.array, scale_atoms=True)
    return atoms


def test_unasked_the_energy_alone(llpr, near, monkeypatch):
    """No derivative of a feature is taken, and the sigmas are those of `predict`."""

    def never(*args, **options):
        raise AssertionError("force rows though nobody asked")

    monkeypatch.setattr(rows, "_local_derivatives", never)
    near.calc = llpr.calculator()
    near.get_forces()
    (expected,) = llpr.predict([near], per_atom=True)
    results = near.calc.results
    assert "forces_uncertainty" not in results
    assert "max_force_uncertainty" not in results
    np.testing.assert_allclose(results["energy_uncertainty"], expected.energy_uncertainty, rtol=1e-12)
    np.testing.assert_allclose(results["energies_uncertainty"], expected.energies_uncertainty, rtol=1e-12)


def test_energy_sigma_of_atoms_is_that_beside_force_rows(llpr, copper):
    """One pass over the features gives what the pass with force rows gives."""
    cheap, full = (
        llpr.predict(copper[:2], per_atom=True),
        llpr.predict(copper[:2], per_atom=True, forces=True),
    )
    for a, b in zip(cheap, full, strict=True):
        np.testing.assert_allclose(a.energy_uncertainty, b.energy_uncertainty, rtol=1e-10)
        np.testing.assert_allclose(a.energies_uncertainty, b.energies_uncertainty, rtol=1e-10)


def test_force_sigma_of_every_third_structure(llpr, near):
    near.calc = llpr.calculator(forces_every=3)
    there = []
    for _ in range(5):
        near.positions[0, 0] += 0.01
        near.get_forces()
        there.append("max_force_uncertainty" in near.calc.results)
    assert there == [True, False, False, True, False]


def test_the_limit_is_that_of_the_calibration_set(llpr, copper, tmp_path):
    largest = max(p.energies_uncertainty.max() for p in llpr.predict(copper[4:], per_atom=True))
    assert llpr.statistics[LARGEST_SIGMA] == {"energies": pytest.approx(largest)}
    llpr.save(tmp_path / "llpr.npz")
    model = LLPR.load(tmp_path / "llpr.npz").calculator().model
    assert isinstance(model, WatchedModel)
    assert model.guard.limits == {"energies": pytest.approx(2 * largest)}
    recalibrated = llpr.calibrated(copper[:2])
    expected = max(p.energies_uncertainty.max() for p in recalibrated.predict(copper[:2], per_atom=True))
    assert recalibrated.statistics[LARGEST_SIGMA]["energies"] == pytest.approx(expected)


def test_quiet_on_the_calibration_set(llpr, copper):
    calculator = llpr.calculator(extrapolation="ignore")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for atoms in copper[4:]:
            calculator.calculate(atoms.copy())


def test_warns_once_and_names_the_atom(llpr, far):
    sigma = llpr.predict([far], per_atom=True)[0].energies_uncertainty
    far.calc = llpr.calculator(extrapolation="ignore")
    words = rf"of atom {np.argmax(sigma)} \(Cu\) is {sigma.max():.3g} eV, beyond"
    with pytest.warns(SigmaWarning, match=words):
        far.get_potential_energy()
    far.positions[0, 0] += 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        far.get_potential_energy()


def test_stops_every_time(llpr, far):
    far.calc = llpr.calculator(extrapolation="ignore", on_uncertain="stop")
    for _ in range(2):
        with pytest.raises(PotentialError, match="sigma of the energy of the atom"):
            far.get_potential_energy()


def test_calls_back_with_structure_and_value(llpr, near, far):
    seen = []
    calculator = llpr.calculator(
        extrapolation="ignore",
        forces=True,
        max_sigma={"forces": 1e-9},
        on_uncertain=lambda *found: seen.append(found),
    )
    near.calc = calculator
    near.get_forces()
    ((atoms, found),) = seen
    lengths = np.linalg.norm(near.calc.results["forces_uncertainty"], axis=1)
    assert (found.quantity, found.atom, found.symbol) == ("forces", int(lengths.argmax()), "Cu")
    assert found.value == pytest.approx(lengths.max())
    assert found.value == pytest.approx(near.calc.results["max_force_uncertainty"])
    assert len(atoms) == 2


def test_energy_limits_are_per_atom(llpr, near):
    sigma = llpr.predict([near])[0].energy_uncertainty / 2
    near.calc = llpr.calculator(max_sigma={"energy": 0.99 * sigma}, on_uncertain="stop")
    with pytest.raises(PotentialError, match=f"sigma of energy is {sigma:.3g} eV/atom"):
        near.get_potential_energy()
    near.calc = llpr.calculator(max_sigma={"energy": 1.01 * sigma}, on_uncertain="stop")
    near.get_potential_energy()


def test_no_limit(llpr, far):
    far.calc = llpr.calculator(extrapolation="ignore", max_sigma=None, on_uncertain="stop")
    far.get_potential_energy()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_uncertain": "warm"}, "did you mean 'warn'"),
        ({"max_sigma": -1.0}, "above 0"),
        ({"max_sigma": {"force": 1.0}}, "did you mean 'forces'"),
        ({"max_sigma": "calibraton"}, "did you mean 'calibration'"),
        ({"forces_every": 0}, "at least 1, got 0|forces_every"),
    ],
)
def test_mistakes(llpr, options, words):
    with pytest.raises(ConfigError, match=words):
        llpr.calculator(**options)


@pytest.mark.parametrize("suffix", ["extxyz", "traj", "db"])
def test_sigmas_survive_our_files(llpr, near, tmp_path, suffix):
    """ASE's own writers drop them without a word; ours keep them."""
    near.calc = llpr.calculator(forces=True)
    near.get_forces()
    results = near.calc.results
    write_frames(tmp_path / f"near.{suffix}", [near])
    (back,) = read_frames(tmp_path / f"near.{suffix}")
    kept = {**back.info, **back.arrays, **getattr(back.calc, "results", {})}
    for name in ("energy_uncertainty", "energies_uncertainty", "forces_uncertainty", "max_force_uncertainty"):
        np.testing.assert_allclose(kept[name], results[name], rtol=1e-12)
    ase.io.write(tmp_path / f"by-ase.{suffix}", near)
    dropped = ase.io.read(tmp_path / f"by-ase.{suffix}")
    assert isinstance(dropped, Atoms)
    assert not any("uncertainty" in name for name in {**dropped.info, **getattr(dropped.calc, "results", {})})
