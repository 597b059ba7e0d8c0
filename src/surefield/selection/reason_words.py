"""Selections in words: why a structure was picked, and why there are no more."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

__all__ = ["ENDINGS", "in_words"]

#: Why a selection has fewer picks than were asked for.
ENDINGS: Final = MappingProxyType(
    {
        "exhausted": "the pool has no more structures",
        "duplicates": "all that are left are copies of train or picked structures",
        "zero_scores": "all that are left have the score 0 or are copies",
        "rank_exhausted": "the features of all that are left are combinations of those of train and picks",
        "zero_features": "the features of all that are left are 0",
        "quota": "the groups of all that are left are full",
        "min_distance": "all that are left are closer than min_distance to train or picked structures",
        "budget": "none of those that are left fits into the budget",
    }
)

_RULES: Final = MappingProxyType(
    {
        "max_dist": "farthest from all that is labelled or picked before",
        "lcmd": "farthest member of the largest cluster around a structure that is labelled or picked before",
        "kmeanspp": "drawn by its squared distance from all that is labelled or picked before",
        "max_det": "largest variance given all that is labelled or picked before",
        "bait_f": "lowers the variance of all structures most",
        "bait_fb": "lowers the variance of all structures most, and was kept among more picks",
        "frank_wolfe": "nearest to the direction that the mean of the features lacks",
        "max_diag": "largest norm of the features",
        "random": "drawn at random",
    }
)
_SCORES: Final = MappingProxyType(
    {
        "forces_variance": "expected squared force error of {} (eV/Å)²",
        "energy_variance": "expected squared energy error of {} (eV/atom)²",
    }
)


def in_words(rule: str, score: str | None = None, score_value: str = "") -> str:
    """A sentence on a pick.

    Args:
        rule: name of the method.
        score: name of the score that was used, if any.
        score_value: its value, as it is to be read.
    """
    words = _RULES.get(rule, rule)
    if score is None:
        return words
    name = _SCORES.get(score, f"{score} of {{}}").format(score_value)
    return f"largest {name}" if rule == "max_diag" else f"{words}, weighted by its {name}"
