"""Reasons of picks as sentences, and what the gain of a method is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from surefield.report.tables import number
from surefield.selection.reason_words import in_words

__all__ = ["GAINS", "plain_number", "sentence"]

_DISTANCE: Final = "squared distance of features from what is labelled or picked before"
_DROP: Final = (
    "drop of the summed variance of all structures; with ll_force features, that of ln σ of all energies and "
    "forces on average"
)
#: What the gain of a method is.
GAINS: Final[Mapping[str, str]] = {
    "max_dist": _DISTANCE,
    "lcmd": _DISTANCE,
    "kmeanspp": _DISTANCE,
    "max_det": "half the logarithm of the variance over that of the noise",
    "bait_f": _DROP,
    "bait_fb": _DROP,
    "frank_wolfe": "length of the missing part of the sum of the features along this structure",
    "max_diag": "the score, or the squared norm of the features",
}


def plain_number(value: Any) -> float:
    """A float, NaN for an empty cell, null or anything else that is no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def sentence(entry: Any) -> str:
    """Words on a reason that was recorded as data, as words, or, before version 0.2, as Python shows it."""
    if isinstance(entry, str) and entry.startswith("Reason("):
        pairs = re.findall(r"(\w+)=(?:'([^']*)'|(?:np\.float64\()?([^,()]+))", entry)
        entry = {name: text or plain_number(plain) for name, text, plain in pairs if plain != "None"}
    if not isinstance(entry, Mapping):
        return str(entry)
    value = number(plain_number(entry.get("score_value")))
    words = in_words(str(entry.get("rule", "")), entry.get("score"), value)
    return "; ".join([words, *_details(entry)])


def _details(entry: Mapping[str, Any]) -> list[str]:
    parts, sigma = [], entry.get("sigma")
    if isinstance(sigma, Mapping):
        units = {"forces": "meV/Å", "energy": "meV/atom"}
        shown = {name: number(1e3 * plain_number(sigma[name])) for name in units if name in sigma}
        parts.append("σ " + " and ".join(f"{text} {units[name]} ({name})" for name, text in shown.items()))
    if entry.get("group"):
        parts.append(f"group {entry['group']}")
    if entry.get("nearest"):
        distance = number(plain_number(entry.get("distance")))
        parts.append(f"nearest training structure: {entry['nearest']}, at distance {distance}")
    return parts
