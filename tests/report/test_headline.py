from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from surefield.report import load_run
from surefield.report.headline import _loop_cards


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
