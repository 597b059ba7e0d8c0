"""Sentences and rows that follow from the recorded numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surefield.report import Run
from surefield.report.headline import verdict
from surefield.report.scores import cautions, error_rows, trust

GOOD = {
    "coverage_68": 0.687,
    "coverage_68_interval": [0.65, 0.72],
    "coverage_95": 0.95,
    "nll": -2.0,
    "nll_constant": -1.5,
    "n_structures": 100,
}


def run(summary: dict, **more: object) -> Run:
    return Run(folder=Path("x-train"), verb="train", summary=summary, **more)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "σ of the forces can be trusted: 68.7 % of the force errors are within one σ (ideal 68.3 %), "),
        ({"coverage_68_interval": [0.5, 0.6]}, "is too small (overconfident)"),
        ({"coverage_68_interval": [0.8, 0.9]}, "is too large (cautious)"),
        ({"coverage_95": 0.85}, "misses large errors"),
        ({"nll": -1.4}, "tells structures apart no better than one constant σ"),
        ({"n_structures": 5}, "cannot be judged by 5 structures"),
    ],
)
def test_whether_sigma_can_be_trusted_is_said(change: dict, words: str) -> None:
    assert words in trust("forces", GOOD | change)


def test_without_a_test_set_the_validation_counts() -> None:
    known = run({"evaluated": "validation", "validation": {"forces_mae": 0.02}})
    assert verdict(known).startswith("On the validation structures the force error is 20 meV/Å")
    (caution,) = cautions(known)
    assert "no test set" in caution
    assert "the validation structures" in caution
    (caution,) = cautions(run({"evaluated": "train", "train": {"forces_mae": 0.02}}))
    assert "no test set" in caution
    assert "the training structures" in caution
    assert "validation" not in caution


def test_rows_have_intervals_and_no_model() -> None:
    summary = {
        "train": {"forces_rmse": 0.01, "n_structures": 80},
        "test": {"forces_rmse": 0.02, "n_structures": 20},
        "intervals": {"test": {"forces_rmse": [0.015, 0.03]}},
        "baselines": {"forces_rmse": 1.0},
    }
    assert error_rows(run(summary)) == (
        ["", "train", "test", "no model"],
        [
            ["Structures", "80", "20", ""],
            ["Force RMSE (meV/Å)", "10", "20 (15 to 30)", "1000"],
        ],
    )


def test_a_reader_is_warned() -> None:
    flat = {"valid_forces_rmse": np.full(60, 0.086)}
    summary = {
        "evaluated": "test",
        "train": {"energy_rmse": 0.001},
        "validation": {"energy_rmse": 0.006},
        "test": {"energy_rmse": 0.006, "forces_rmse": 0.95},
        "baselines": {"forces_rmse": 1.0, "energy_rmse": 0.1},
        "calibration": {"energy": {"calibration_rows": 5}, "forces": {"calibration_rows": 0}},
    }
    sentences = cautions(run(summary, metrics=flat))
    assert len(sentences) == 5
    for words, sentence in zip(
        (
            "energy error of validation is 6 times that of training",
            "force error is no smaller than without a model (1000 meV/Å)",
            "never fell in 60 epochs (86 to 86 meV/Å)",
            "Only 5 labels calibrate σ of the energy: its scale is known to about 32 %",
            "No label calibrates σ of the forces",
        ),
        sentences,
        strict=True,
    ):
        assert words in sentence
    assert "training.epochs: 0 gives the same sooner" in sentences[2]
    few = {"train": {"energy_rmse": 1e-9}, "validation": {"energy_rmse": 0.006}, "evaluated": "test"}
    assert "more than 1000 times that of training" in cautions(run(few))[0]
    one = {"calibration": {"energy": {"calibration_rows": 1}}, "evaluated": "test"}
    assert cautions(run(one))[0].startswith("Only 1 label calibrates σ of the energy")
    # Without an exact solution no epochs would leave a random potential.
    (from_random,) = (s for s in cautions(run(summary | {"exact_start": False}, metrics=flat)) if "fell" in s)
    assert "give it more training.epochs" in from_random
    assert "exact solution" not in from_random
    falling = {"valid_forces_rmse": np.linspace(0.086, 0.05, 60)}
    fine = {"evaluated": "test", "test": {"forces_rmse": 0.05}, "baselines": {"forces_rmse": 1.0}}
    assert cautions(run(fine, metrics=falling)) == []
