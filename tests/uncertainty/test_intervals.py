"""Conformal intervals cover what they state, for each group and each element, on real molecules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import surefield as sf
from surefield.errors import ConfigError, DataError
from surefield.uncertainty import ConformalIntervals, ConstantUncertainty
from surefield.uncertainty.intervals import Widening

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


def test_intervals_widen_where_few_structures_are_as_uncertain():
    """Errors of whole structures vary: q of the most uncertain one stands on itself alone."""
    rng = np.random.default_rng(0)
    structures = np.repeat(np.arange(400), 30)
    levels = rng.permutation(np.linspace(1.0, 2.0, 400))
    scale = np.exp(0.2 * rng.standard_normal(400))
    sigma = levels[structures]
    residuals = sigma * scale[structures] * rng.standard_normal(len(sigma))
    widening = Widening.of(residuals, sigma, structures)
    assert widening is not None
    # Half the relative spread of mean squares: lognormal ones, and what 30 values of each leave unknown.
    assert widening.spread == pytest.approx(0.5 * np.sqrt(np.exp(0.16) * (1 + 2 / 30) - 1), rel=0.1)
    # Structures whose errors are next to nothing do not add to it.
    tiny = np.where(structures < 40, 1e-6, 1.0) * residuals
    more = Widening.of(tiny, sigma, structures)
    assert more is not None
    assert more.spread < 1.5 * widening.spread
    asked = np.array([1.0, 1.0, 1.75, 5.0])
    factors = widening.factors(asked, np.array([0, 0, 1, 2]))
    errors = 1 / np.sqrt([400, 400, 100, 1]) - 1 / 20
    np.testing.assert_allclose(factors, np.exp(widening.spread * errors), rtol=2e-3)
    # A value that symmetry fixes does not count for the level of its structure.
    np.testing.assert_allclose(widening.factors(np.array([5.0, 0.0]), np.zeros(2, int))[0], factors[3])


def test_intervals_of_atoms_alone_are_widened(constant, ethanol):
    """One value a structure has the guarantee as it is; and equal sigmas leave nothing to widen by."""
    fitted = ConformalIntervals.fit(constant, ethanol[90:230], coverage=COVERAGE)
    assert set(fitted.widenings) == {"forces"}
    few = Widening(np.log(2.0), np.r_[np.zeros(99), 1e9])
    intervals = replace(fitted, widenings={"forces": few})
    (prediction,), (bounds,) = constant.predict(ethanol[:1], forces=True), intervals.predict(ethanol[:1])
    (usual,) = fitted.predict(ethanol[:1])
    q = {name: dict(intervals.maps[name].quantiles)[""] for name in ("energy", "forces")}
    assert bounds["energy"].high - prediction.energy == pytest.approx(
        q["energy"] * prediction.energy_uncertainty
    )
    half = (usual["forces"].high - prediction.forces) / prediction.forces_uncertainty
    np.testing.assert_allclose(half, q["forces"])
    wide = (bounds["forces"].high - prediction.forces) / prediction.forces_uncertainty
    np.testing.assert_allclose(wide, q["forces"] * 2**0.9)
    shares = [i.covered(ethanol[230:260])["forces"]["all"].share for i in (fitted, intervals)]
    assert shares[1] > shares[0] + 0.05


def test_one_calibration_structure_tells_no_spread():
    assert Widening.of(np.ones(3), np.ones(3), np.zeros(3, int)) is None
