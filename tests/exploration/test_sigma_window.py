from __future__ import annotations

import numpy as np
import pytest

from surefield.errors import ConfigError
from surefield.exploration.config import SigmaWindowConfig
from surefield.exploration.sigma_window import SigmaWindow
from surefield.uncertainty import LLPR
from surefield.uncertainty.guard import LARGEST_FORCE, SIGMA_RANGE


@pytest.fixture(scope="module")
def llpr(copper_network, copper):
    return LLPR.fit(copper_network, copper[:4], copper[4:], progress=False)


def ranged(llpr, **ranges):
    return llpr._replaced(statistics={SIGMA_RANGE: ranges})


def test_the_limit_follows_the_calibration_set(llpr):
    known = ranged(llpr, forces=(0.1, 0.3), energies=(0.01, 0.5))
    assert SigmaWindow.of(known, SigmaWindowConfig()) == SigmaWindow("forces", 0.1, 0.6)
    energies = SigmaWindow.of(known, SigmaWindowConfig(quantity="energies"))
    # One structure far off does not open the window for all others.
    assert energies == SigmaWindow("energies", 0.01, 0.1)
    assert energies.unit == "eV"
    assert SigmaWindow.of(known, SigmaWindowConfig(limit=0.05)) == SigmaWindow("forces", 0.05, 0.05)
    assert SigmaWindow.of(known, SigmaWindowConfig(lower=0.2)).lower == 0.2


def test_sigmas_near_the_size_of_forces_end_a_walk(llpr, copper):
    lengths = [np.linalg.norm(atoms.get_forces(), axis=1).max() for atoms in copper[4:]]
    assert llpr.statistics[LARGEST_FORCE] == pytest.approx(np.median(lengths))
    bare = ranged(llpr, forces=(1.0, 5.0), energies=(0.01, 0.04))
    for force, limit in ((9.2, 2.3), (0.01, 2.0), (99.0, 10.0)):
        known = bare._replaced(statistics={**bare.statistics, LARGEST_FORCE: force})
        assert SigmaWindow.of(known, SigmaWindowConfig()) == SigmaWindow("forces", 1.0, limit)
    assert SigmaWindow.of(known, SigmaWindowConfig(limit=3.0)).limit == 3.0
    assert SigmaWindow.of(known, SigmaWindowConfig(quantity="energies")).limit == 0.08


def test_a_start_beyond_the_limit_is_left():
    window = SigmaWindow("forces", 0.1, 0.5)
    assert window.opened_for(0.4) is window
    assert window.opened_for(0.8) == SigmaWindow("forces", 0.1, 1.6)
    assert window.opened_for(np.nan) is window


def test_an_uncertainty_without_forces_has_energies(copper_network, copper):
    bare = LLPR.fit(copper_network, copper[:4], copper[4:], row_kinds=("energy",), progress=False)
    assert SigmaWindow.of(bare, SigmaWindowConfig()).quantity == "energies"
    with pytest.raises(ConfigError, match="no sigmas of forces"):
        SigmaWindow.of(bare, SigmaWindowConfig(quantity="forces"))


def test_the_largest_sigma_of_an_atom_counts(llpr, copper):
    for quantity in ("forces", "energies"):
        window = SigmaWindow.unbounded(llpr, quantity)
        value, prediction = window.look(llpr, copper[5])
        (expected,) = llpr.predict([copper[5]], forces=True, per_atom=True)
        sigma = (
            expected.forces_uncertainty if quantity == "forces" else expected.energies_uncertainty[:, None]
        )
        assert value == pytest.approx(np.linalg.norm(sigma, axis=1).max())
        assert value == window.value(prediction, len(copper[5]))


def test_the_range_of_a_calibration_is_kept_in_files(llpr, tmp_path):
    llpr.save(tmp_path / "llpr.npz")
    again = LLPR.load(tmp_path / "llpr.npz")
    assert SigmaWindow.of(again, SigmaWindowConfig()) == SigmaWindow.of(llpr, SigmaWindowConfig())
