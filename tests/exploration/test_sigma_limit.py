from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import units
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from surefield.errors import ConfigError
from surefield.exploration.sampling import set_velocities
from surefield.exploration.sigma_limit import SigmaLimit
from surefield.structures.read import read_frames, write_frames
from surefield.uncertainty import LLPR, SigmaWarning


@pytest.fixture(scope="module")
def llpr(copper_network, copper):
    return LLPR.fit(copper_network, copper[:4], copper[4:], progress=False)


def dynamics_of(llpr, copper):
    """A run that presses the structure together, so that it leaves its data."""
    atoms = copper[0].copy()
    atoms.calc = llpr.calculator(extrapolation="ignore", on_uncertain=lambda *_: None)
    set_velocities(atoms, 300.0, np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, 1.0 * units.fs)

    def press():
        atoms.set_cell(0.97 * atoms.cell.array, scale_atoms=True)

    dynamics.attach(press)
    return dynamics


def largest(atoms, llpr):
    return float(llpr.predict([atoms], per_atom=True)[0].energies_uncertainty.max())


def test_stops_at_the_first_structure_beyond(llpr, copper):
    dynamics = dynamics_of(llpr, copper)
    limit = SigmaLimit(dynamics, action="stop")
    dynamics.attach(limit)
    dynamics.run(100)
    assert 0 < dynamics.nsteps < 100
    (frame,) = limit.frames
    assert frame.info["step"] == dynamics.nsteps
    assert largest(frame, llpr) > limit.limits["energies"]
    np.testing.assert_allclose(frame.arrays["surefield_energies_uncertainty"].max(), limit.found[0].value)
    assert "beyond" in frame.info["uncertain"]
    assert frame.calc is None


def test_collects_and_goes_on(llpr, copper, tmp_path):
    dynamics = dynamics_of(llpr, copper)
    limit = SigmaLimit(dynamics, action="collect", n_frames=3, spacing=2)
    dynamics.attach(limit)
    dynamics.run(100)
    steps = [frame.info["step"] for frame in limit.frames]
    assert len(steps) == 3
    assert min(np.diff(steps)) >= 2
    assert dynamics.nsteps == steps[-1]
    assert limit.n_exceeded > 3
    write_frames(tmp_path / "pool.xyz", limit.frames)
    back = read_frames(tmp_path / "pool.xyz")
    np.testing.assert_allclose(
        back[0].arrays["surefield_energies_uncertainty"],
        limit.frames[0].arrays["surefield_energies_uncertainty"],
    )


def test_warns_once(llpr, copper):
    dynamics = dynamics_of(llpr, copper)
    limit = SigmaLimit(dynamics, action="warn", max_sigma=1e-9, n_frames=2)
    dynamics.attach(limit)
    with pytest.warns(SigmaWarning, match="step 0: sigma of the energy of the atom") as record:
        dynamics.run(5)
    assert len(record) == 1
    assert dynamics.nsteps == 5
    assert (limit.n_exceeded, len(limit.frames)) == (6, 2)


def test_quiet_within_the_limit(llpr, copper):
    dynamics = dynamics_of(llpr, copper)
    limit = SigmaLimit(dynamics, max_sigma=1e9)
    dynamics.attach(limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dynamics.run(3)
    assert (dynamics.nsteps, limit.frames) == (3, [])


def test_stops_a_relaxation(llpr, copper):
    atoms = copper[0].copy()
    atoms.calc = llpr.calculator(extrapolation="ignore")
    relaxation = BFGS(atoms, logfile=None)
    relaxation.attach(SigmaLimit(relaxation, max_sigma=1e-9))
    relaxation.run(fmax=1e-8, steps=20)
    assert relaxation.nsteps == 0


def test_mistakes(llpr, copper):
    dynamics = dynamics_of(llpr, copper)
    with pytest.raises(ConfigError, match="did you mean 'stop'"):
        SigmaLimit(dynamics, action="stopp")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="n_frames"):
        SigmaLimit(dynamics, n_frames=0)
    dynamics.atoms.calc = EMT()
    with pytest.raises(ConfigError, match="gives no sigmas to limit; got EMT"):
        SigmaLimit(dynamics)
