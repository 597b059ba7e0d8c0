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
    card = next(card for card in _loop_cards(run) if card.label.startswith("Labels needed"))
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
    labels = [card.label for card in _loop_cards(run) if card.label.startswith("Labels needed")]
    assert labels == ["Labels needed, random = 100: lcmd"]
