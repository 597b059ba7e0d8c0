"""Scores by name: the one place that knows them all."""

from __future__ import annotations

import importlib
from typing import Any, Final

from surefield.errors import ExecutionError

__all__ = ["SCORES", "score_class"]

#: Module of every score: names in a job folder are looked up here, never imported as given.
SCORES: Final = {
    "FIMMatchingScore": "surefield.scores.fim.matching_score",
    "FIMPropertyScore": "surefield.scores.fim.property_score",
    "FIMTrainingSetScore": "surefield.scores.fim.training_set",
    "LTAUForcesUQScore": "surefield.uncertainty.ltau_score",
    "QUESTSDeltaEntropyScore": "surefield.scores.quests.classes",
    "QUESTSDiversityScore": "surefield.scores.quests.classes",
    "QUESTSEfficiencyScore": "surefield.scores.quests.classes",
}


def score_class(name: str) -> type[Any]:
    """Class of a score by its name.

    Raises:
        ExecutionError: a name that is not among them.
    """
    if name not in SCORES:
        raise ExecutionError(f"the job folder names {name!r}, which is no score that this version knows")
    return getattr(importlib.import_module(SCORES[name]), name)
