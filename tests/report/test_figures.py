from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from surefield.calibration.metrics import binned_rmv_rmse
from surefield.report import Pick, load_run, write_report
from surefield.report import figures as drawn
from surefield.report.scales import MAX_POINTS, WORST_POINTS, axis, sample


def trace(figure: drawn.Figure, name: str):
    return next(entry for entry in figure.data if entry.name and entry.name.startswith(name))


def test_the_learning_curve_is_the_mean_over_seeds_in_milli_electronvolt(run_folder: Path) -> None:
    curves = load_run(run_folder).curves
    figure = drawn.learning_curve(curves, "forces_mae")
    assert figure is not None
    seeds = np.array([curve.test["forces_mae"] for curve in curves if curve.method == "random"])
    mean = trace(figure, "random (3 seeds)")
    np.testing.assert_allclose(mean.y, 1e3 * seeds.mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(mean.x, curves[0].n_labels)
    assert "meV/Å" in figure.layout.yaxis.title.text
    assert figure.layout.yaxis.type == figure.layout.xaxis.type == "log"
    band = next(entry for entry in figure.data if entry.fill == "toself" and entry.legendgroup == "random")
    np.testing.assert_allclose(band.y[:8], 1e3 * seeds.max(axis=0))


def test_the_mean_ends_where_a_seed_ends(run_folder: Path) -> None:
    curves = [curve for curve in load_run(run_folder).curves if curve.method == "lcmd"]
    short = curves[1]
    short.test["forces_mae"][3:] = np.nan
    figure = drawn.learning_curve(curves, "forces_mae")
    assert figure is not None
    assert trace(figure, "lcmd").x.tolist() == [20, 40, 60]


def test_error_against_sigma_has_quantile_lines_and_the_bins_of_the_metrics() -> None:
    rng = np.random.default_rng(1)
    sigma = np.exp(rng.standard_normal(500))
    residuals = sigma * rng.standard_normal(500)
    residuals[0] = np.nan
    figure = drawn.error_against_sigma(residuals, sigma, "force component", "eV/Å")
    assert figure is not None
    for name, slope in (("50 %", 0.674490), ("68.3 %", 1.0), ("95 %", 1.959964)):
        np.testing.assert_allclose(np.divide(trace(figure, name).y, trace(figure, name).x), slope, rtol=1e-5)
    rmv, rmse = binned_rmv_rmse(1e3 * residuals, 1e3 * sigma)
    np.testing.assert_allclose(trace(figure, "RMSE per bin").x, rmv)
    np.testing.assert_allclose(trace(figure, "RMSE per bin").y, rmse)
    assert len(trace(figure, "errors").x) == 499


def test_the_map_of_a_comparison_has_the_picks_of_every_method() -> None:
    pool = np.random.default_rng(0).normal(size=(20, 2))
    arrays = {"train": pool[:3], "pool": pool, "shares": np.array([0.6, 0.2]), "picks": np.array([4, 5])}
    alone = drawn.feature_map(arrays)
    assert alone is not None
    np.testing.assert_array_equal(trace(alone, "picks").x, pool[[4, 5], 0])
    several = {"picks_lcmd": [4, 5], "picks_max_dist": [5, 6], "picks_random": [7]}
    figure = drawn.feature_map({**arrays, **{name: np.array(places) for name, places in several.items()}})
    assert figure is not None
    colors = drawn.method_colors(["lcmd", "max_dist", "random"])
    for name, places in several.items():
        entry = trace(figure, name.removeprefix("picks_"))
        np.testing.assert_array_equal(entry.y, pool[places, 1])
        assert entry.marker.color == colors[name.removeprefix("picks_")]
    assert len(set(colors.values())) == 3


def test_the_gain_line_is_parted_between_rounds() -> None:
    picks = [Pick("lcmd", 0, r, k, 7, 10 * r, 1.0 / (k + r), "") for r in (1, 2) for k in range(2)]
    picks.append(Pick("random", 0, 1, 0, 3, 10, math.nan, ""))
    figure = drawn.gains(picks)
    assert figure is not None
    assert figure.layout.xaxis.dtick == 1  # of 11 to 22 labels
    assert list(figure.data[0].x) == [11, 12, None, 21, 22, None]
    assert [entry.name for entry in figure.data] == ["lcmd"]


def test_nothing_to_draw_is_none() -> None:
    nan = np.full(3, np.nan)
    assert drawn.learning_curve([], "forces_mae") is None
    assert drawn.coverage_history([], "forces") is None
    assert drawn.training_curve({"step": np.arange(3.0), "loss": nan}, "loss") is None
    assert drawn.parity(nan, np.ones(3), "energy", "eV") is None
    assert drawn.error_against_sigma(np.ones(3), np.zeros(3), "energy", "eV") is None
    assert drawn.calibration({}) is None
    assert drawn.gains([]) is None


def test_one_point_is_enough_for_every_figure() -> None:
    one = np.array([0.5])
    assert drawn.parity(one, one, "energy", "eV") is not None
    assert drawn.error_against_sigma(0 * one, one, "energy", "eV") is not None
    assert drawn.calibration({"energy": (one, one)}) is not None
    assert drawn.training_curve({"step": one, "loss": one}, "loss") is not None


def test_large_errors_survive_the_sampling() -> None:
    weight = np.random.default_rng(2).permutation(20_000).astype(float)
    shown = sample(weight)
    assert len(np.unique(shown)) == MAX_POINTS
    assert set(np.argsort(weight)[-WORST_POINTS:]) <= set(shown)
    np.testing.assert_array_equal(shown, sample(weight))


def test_axes_are_logarithmic_only_for_positive_values_with_a_spread() -> None:
    wide = axis(np.array([3.0, 40.0, np.nan]), log=True)
    assert wide["type"] == "log"
    assert wide["ticktext"] == ["5", "10", "20"]
    assert axis(np.array([10.0, 11.0]), log=True) == {"rangemode": "tozero"}
    assert axis(np.array([-1.0, 100.0]), log=True) == {}


def test_without_plotly_the_message_names_the_extra(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "plotly"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "surefield.report.figures")
    monkeypatch.delitem(sys.modules, "surefield.report.sections", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'surefield\[report\]'"):
        importlib.import_module("surefield.report.figures")
    with pytest.raises(ImportError, match=r"pip install 'surefield\[report\]'"):
        write_report(run_folder)
    assert load_run(run_folder).verb == "loop"
