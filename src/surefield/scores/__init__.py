"""Scores: what structures, data sets and potentials say, under the names of Orchestrator."""

from typing import TYPE_CHECKING

from surefield.lazy import import_on_first_use

if TYPE_CHECKING:
    from surefield.scores.fim import (
        AffineTransform,
        AtanhTransform,
        ComposedTransform,
        FIMMatchingScore,
        FIMPropertyScore,
        FIMTrainingSetScore,
        LogTransform,
        MatchingResult,
        SplitTransform,
        fim_match,
    )

__all__ = [
    "AffineTransform",
    "AtanhTransform",
    "ComposedTransform",
    "FIMMatchingScore",
    "FIMPropertyScore",
    "FIMTrainingSetScore",
    "LogTransform",
    "MatchingResult",
    "SplitTransform",
    "fim_match",
]

import_on_first_use(
    __name__,
    {
        "surefield.scores.fim": (
            "AffineTransform",
            "AtanhTransform",
            "ComposedTransform",
            "FIMPropertyScore",
            "FIMMatchingScore",
            "FIMTrainingSetScore",
            "LogTransform",
            "MatchingResult",
            "SplitTransform",
            "fim_match",
        ),
    },
)
