from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from surefield.report import load_run
from surefield.report.headline import _loop, _loop_cards


@pytest.mark.parametrize(
    ("per_seed", "expected"),
    [([0.58, 0.62, 0.66], "seeds: 58 to 66 %"), ([0.58, None, 0.66, None], "seeds: 58 to 66 %, 2 never")],
)
def test_seeds_that_never_reached_the_goal_are_counted(
    per_seed: list, expected: str, run_folder: Path
) -> None:
    run = load_run(run_folder)
    found = {"labels_to_match_random": {"fraction": 0.62, "per_seed": per_seed}}
    run = dataclasses.replace(run, summary={**run.summary, **found})
    card = next(card for card in _loop_cards(run) if card.label.startswith("Labels for random's"))
    assert card.label == "Labels for random's force MAE"
    assert card.aside == expected


def test_every_method_of_a_comparison_has_its_share(run_folder: Path) -> None:
    run = load_run(run_folder)
    more = [dataclasses.replace(c, method="bait_f") for c in run.curves if c.method == "lcmd"]
    shares = {
        "lcmd": {"fraction": 0.62, "per_seed": [0.58, 0.66]},
        "bait_f": {"fraction": None, "per_seed": [None, None]},
    }
    summary = {**run.summary, "labels_to_match_random": shares["lcmd"], "per_method": shares}
    run = dataclasses.replace(run, curves=[*run.curves, *more], summary=summary)
    assert _loop(run).endswith("of its labels: bait_f never reached it, lcmd 62 %.")
    labels = [card.label for card in _loop_cards(run) if card.label.startswith("Labels for random's")]
    assert labels == ["Labels for random's force MAE: lcmd"]


def test_the_error_in_which_most_was_gained_and_the_mae_have_a_card(run_folder: Path) -> None:
    run = load_run(run_folder)
    mae = {"fraction": 0.97, "per_seed": [0.9, None, 1.0], "interval": [0.9, None]}
    worst = {"fraction": 0.4, "per_seed": [0.3, 0.4, 0.5], "interval": [0.31, 0.52]}
    match = {**mae, "most": "worst", "by_error": {"mae": mae, "worst": worst}}
    run = dataclasses.replace(run, summary={**run.summary, "labels_to_match_random": match, "per_method": {}})
    first, second = _loop_cards(run)[:2]
    assert (first.label, first.value) == ("Labels for random's force RMSE of the worst structure", "40")
    assert first.aside == "95 % interval: 31 to 52 %"
    assert (second.label, second.value) == ("Labels for random's force MAE", "97")
    assert second.aside == "95 % interval: 90 to never"
