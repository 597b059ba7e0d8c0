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
    from surefield.scores.learned_descriptors import with_site_features
    from surefield.scores.pruning import (
        Pruning,
        prune,
        prune_by_determinant,
        prune_by_entropy,
        prune_by_information,
    )
    from surefield.scores.quests.classes import (
        QUESTSDeltaEntropyScore,
        QUESTSDiversityScore,
        QUESTSEfficiencyScore,
    )
    from surefield.scores.quests.entropy import (
        delta_entropy,
        diversity,
        efficiency,
        entropy,
        suggest_bandwidth,
    )
    from surefield.scoring import ScoreQuantity
    from surefield.uncertainty.ltau_score import LTAUForcesUQScore

__all__ = [
    "AffineTransform",
    "AtanhTransform",
    "ComposedTransform",
    "FIMMatchingScore",
    "FIMPropertyScore",
    "FIMTrainingSetScore",
    "LTAUForcesUQScore",
    "LogTransform",
    "MatchingResult",
    "Pruning",
    "QUESTSDeltaEntropyScore",
    "QUESTSDiversityScore",
    "QUESTSEfficiencyScore",
    "ScoreQuantity",
    "SplitTransform",
    "delta_entropy",
    "diversity",
    "efficiency",
    "entropy",
    "fim_match",
    "prune",
    "prune_by_determinant",
    "prune_by_entropy",
    "prune_by_information",
    "suggest_bandwidth",
    "with_site_features",
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
        "surefield.scores.learned_descriptors": ("with_site_features",),
        "surefield.scores.pruning": (
            "Pruning",
            "prune",
            "prune_by_determinant",
            "prune_by_entropy",
            "prune_by_information",
        ),
        "surefield.scores.quests.classes": (
            "QUESTSDeltaEntropyScore",
            "QUESTSDiversityScore",
            "QUESTSEfficiencyScore",
        ),
        "surefield.scores.quests.entropy": (
            "delta_entropy",
            "diversity",
            "efficiency",
            "entropy",
            "suggest_bandwidth",
        ),
        "surefield.scoring": ("ScoreQuantity",),
        "surefield.uncertainty.ltau_score": ("LTAUForcesUQScore",),
    },
)
