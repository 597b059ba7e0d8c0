"""Fisher information: of training sets, of target properties, and which configurations a target needs."""

from typing import TYPE_CHECKING

from surefield.lazy import import_on_first_use

if TYPE_CHECKING:
    from surefield.scores.fim.matching import MatchingResult, fim_match
    from surefield.scores.fim.matching_score import FIMMatchingScore
    from surefield.scores.fim.property_score import FIMPropertyScore
    from surefield.scores.fim.training_set import FIMTrainingSetScore
    from surefield.scores.fim.transforms import (
        AffineTransform,
        AtanhTransform,
        ComposedTransform,
        LogTransform,
        SplitTransform,
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
        "surefield.scores.fim.property_score": ("FIMPropertyScore",),
        "surefield.scores.fim.matching": ("MatchingResult", "fim_match"),
        "surefield.scores.fim.matching_score": ("FIMMatchingScore",),
        "surefield.scores.fim.training_set": ("FIMTrainingSetScore",),
        "surefield.scores.fim.transforms": (
            "AffineTransform",
            "AtanhTransform",
            "ComposedTransform",
            "LogTransform",
            "SplitTransform",
        ),
    },
)
