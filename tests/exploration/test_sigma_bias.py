from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet

from surefield.errors import ConfigError
from surefield.exploration.config import SigmaBiasConfig
from surefield.exploration.sampling import set_velocities
from surefield.exploration.sigma_bias import SigmaBiasedCalculator, biased_calculator
from surefield.potentials.zbl import ZBL
from surefield.uncertainty import LLPR, ConstantUncertainty

STRENGTH = 3.0


@pytest.fixture(scope="module")
def llpr(copper_network, copper):
    return LLPR.fit(copper_network, copper[:4], copper[4:], progress=False)


@pytest.fixture(scope="module")
def members(llpr):
    """The same, with sigmas that are the spread of members."""
    return llpr.with_ensemble(4, seed=1).answering("ensemble")


@pytest.fixture(scope="module")
def with_baseline(copper_network, copper):
    return LLPR.fit(copper_network + ZBL(["Cu"]), copper[:4], copper[4:], progress=False)


def biased(uncertainty, atoms, saturation):
    atoms = atoms.copy()
    atoms.calc = SigmaBiasedCalculator(uncertainty, STRENGTH, saturation, stress=True)
    return atoms


@pytest.mark.parametrize("kind", ["llpr", "members", "with_baseline"])
def test_formula_and_slopes(kind, copper, request):
    uncertainty = request.getfixturevalue(kind)
    (plain,) = uncertainty.predict([copper[5]])
    most = 2 * plain.energy_uncertainty
    saturation = most / len(copper[5])
    atoms = biased(uncertainty, copper[5], saturation)
    bias = -STRENGTH * most * (1 - np.exp(-plain.energy_uncertainty / most))
    assert atoms.get_potential_energy() == pytest.approx(plain.energy + bias, abs=1e-9)
    results = atoms.calc.results
    assert results["energy_uncertainty"] == pytest.approx(plain.energy_uncertainty)
    assert results["unbiased_energy"] == pytest.approx(plain.energy, abs=1e-9)
    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
    # The bias is no small part of the forces, or the test would say little.
    assert np.abs(forces - plain.forces).max() > 0.05 * np.abs(plain.forces).max()
    step = 1e-4
    for atom, axis in ((0, 0), (1, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(biased(uncertainty, moved, saturation).get_potential_energy())
        slope = (energies[0] - energies[1]) / (2 * step)
        assert forces[atom, axis] == pytest.approx(-slope, rel=1e-5, abs=1e-7)
    energies = []
    for sign in (1, -1):
        strained = atoms.copy()
        strain = np.eye(3)
        strain[0, 0] += sign * step
        strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        energies.append(biased(uncertainty, strained, saturation).get_potential_energy())
    slope = (energies[0] - energies[1]) / (2 * step * atoms.get_volume())
    assert stress[0, 0] == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_the_biased_energy_is_conserved(llpr, copper):
    drifts = []
    for timestep in (2.0, 1.0):
        atoms = biased(llpr, copper[5], llpr.predict([copper[5]])[0].energy_uncertainty)
        set_velocities(atoms, 300.0, np.random.default_rng(0))
        dynamics = VelocityVerlet(atoms, timestep * units.fs)
        totals: list[float] = []
        dynamics.attach(lambda atoms=atoms, totals=totals: totals.append(atoms.get_total_energy()))
        dynamics.run(int(40 / timestep))
        drifts.append(np.ptp(totals))
    # Fluctuations of a symplectic integrator fall with the square of the time step.
    assert drifts[1] < 0.4 * drifts[0]


def test_the_bias_is_bounded(llpr, copper):
    far = copper[5].copy()
    far.set_cell(0.8 * far.cell.array, scale_atoms=True)
    far.calc = SigmaBiasedCalculator(llpr, STRENGTH, 1e-6)
    gap = far.get_potential_energy() - far.calc.results["unbiased_energy"]
    assert far.calc.results["energy_uncertainty"] > 1e-4
    assert gap == pytest.approx(-STRENGTH * 1e-6 * len(far))


def test_saturation_comes_from_the_calibration_set(llpr, copper_network, copper):
    calculator = biased_calculator(llpr, SigmaBiasConfig())
    assert calculator.saturation == llpr.statistics["largest_sigma"]["energies"]
    assert biased_calculator(llpr, SigmaBiasConfig(saturation=0.3)).saturation == 0.3
    constant = ConstantUncertainty.fit(copper_network, copper[4:])
    with pytest.raises(ConfigError, match="use llpr or an ensemble"):
        biased_calculator(constant, SigmaBiasConfig())
