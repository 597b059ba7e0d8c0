"""Conformal intervals cover what they state, for each group and each element, on real molecules."""

from __future__ import annotations

import numpy as np
import pytest

import surefield as sf
from surefield.errors import ConfigError, DataError
from surefield.uncertainty import ConformalIntervals, ConstantUncertainty

COVERAGE = 0.8


@pytest.fixture(scope="module")
def ethanol(shared):
    return sf.read_frames(shared / "data" / "ethanol" / "train.xyz.xz")


@pytest.fixture(scope="module")
def constant(ethanol):
    """One sigma for all atoms, around a small network whose last layer alone is fitted."""
    network = sf.MomentNetwork(["H", "C", "O"], cutoff=4.0, n_basis=4, n_channels=4, n_triple=2, hidden=(8,))
    fit = sf.train(network, ethanol[:60], ethanol[60:90], epochs=0, progress=False)
    return ConstantUncertainty.fit(fit.potential, fit.validation_set)


def test_coverage_of_every_element(constant, ethanol):
    """Forces on carbon are harder than those on hydrogen, so one width for all serves neither."""
    calibration, test = ethanol[90:230], ethanol[230:370]
    shares = {}
    for by in (None, "element"):
        intervals = ConformalIntervals.fit(
            constant, calibration, coverage=COVERAGE, by=by, quantities=["forces"]
        )
        shares[by] = intervals.covered(test)["forces"]
    assert shares[None]["all"].share == pytest.approx(COVERAGE, abs=0.02)
    assert shares[None]["all"].n == 140 * 27
    for symbol in ("H", "C", "O"):
        own = shares["element"][symbol]
        assert own.share == pytest.approx(COVERAGE, abs=2 * own.half_width + 0.01)
        assert own.half_width < 0.05
    # The same widths for all elements would miss the coverage of single ones by far.
    intervals = ConformalIntervals.fit(constant, calibration, coverage=COVERAGE, quantities=["forces"])
    single = {}
    for symbol in ("H", "C"):
        inside = []
        for atoms, bounds in zip(test, intervals.predict(test), strict=True):
            rows = atoms.symbols == symbol
            label, (low, high) = atoms.get_forces()[rows], bounds["forces"]
            inside.append((low[rows] <= label) & (label <= high[rows]))
        single[symbol] = np.mean(inside)
    assert single["C"] < COVERAGE - 0.1
    assert single["H"] > COVERAGE + 0.03


def test_coverage_of_every_group(constant, ethanol):
    """Groups with other errors have other widths, of energies as of forces."""
    frames = [atoms.copy() for atoms in ethanol[90:370]]
    for atoms, labelled in zip(frames, ethanol[90:370], strict=True):
        large = np.abs(labelled.get_forces()).max() > 3.0
        atoms.calc, atoms.info["config_type"] = labelled.calc, "hot" if large else "cold"
    intervals = ConformalIntervals.fit(constant, frames[:140], coverage=COVERAGE, by="group")
    for name in ("energy", "forces"):
        widths = dict(intervals.maps[name].quantiles)
        assert set(widths) == {"hot", "cold"}
        covered = intervals.covered(frames[140:])[name]
        for group in widths:
            assert covered[group].share == pytest.approx(COVERAGE, abs=3 * covered[group].half_width + 0.02)
    widths = dict(intervals.maps["forces"].quantiles)
    assert widths["hot"] > widths["cold"]
    (bounds,) = intervals.predict(frames[:1])
    energy = constant.predict(frames[:1])[0].energy
    assert bounds["energy"].low < energy < bounds["energy"].high


def test_refusals(constant, ethanol):
    with pytest.raises(ConfigError, match="coverage of intervals"):
        ConformalIntervals.fit(constant, ethanol[90:100], coverage=1.0)
    with pytest.raises(ConfigError, match="unknown groups"):
        ConformalIntervals.fit(constant, ethanol[90:100], by="atom")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=r"too few validation rows.*at least 19"):
        ConformalIntervals.fit(constant, ethanol[90:100], coverage=0.95, quantities=["energy"])
    intervals = ConformalIntervals.fit(constant, ethanol[90:120], by="group")
    other = ethanol[0].copy()
    other.info["config_type"] = "new"
    with pytest.raises(DataError, match="group 'new' was not calibrated"):
        intervals.predict([other])
