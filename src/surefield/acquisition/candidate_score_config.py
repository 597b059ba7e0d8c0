"""Scores of candidates by name: of sigmas, and those of `surefield.scores` that give a number a structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from surefield.config import Config
from surefield.errors import nearest
from surefield.scores.config import (
    FIMTrainingSetConfig,
    LTAUScoreConfig,
    QUESTSDeltaEntropyConfig,
    QUESTSDiversityConfig,
    QUESTSEfficiencyConfig,
    StructureScoreConfig,
)

__all__ = ["CandidateScore", "PerStructure", "Score", "may_be_negative", "score_name"]

Score = Literal["forces_variance", "energy_variance"]
PerStructure = Literal["max", "mean", "sum"]
_VARIANCES: Final = ("forces_variance", "energy_variance")
_ENVIRONMENTS: Final = ("descriptors", "descriptor_args", "bandwidth", "batch_size")
_PARAMETERS: Final = ("parameters_optimize", "transform", "derivative_kwargs", "evaluate_kwargs", "noise")
#: Kinds that are scores of candidates, and the settings that have a meaning there.
_KINDS: Final[Mapping[str, tuple[type[StructureScoreConfig], tuple[str, ...]]]] = {
    "ltau": (LTAUScoreConfig, ()),
    "quests_efficiency": (QUESTSEfficiencyConfig, _ENVIRONMENTS),
    "quests_diversity": (QUESTSDiversityConfig, _ENVIRONMENTS),
    "quests_delta_entropy": (
        QUESTSDeltaEntropyConfig,
        (*_ENVIRONMENTS, "approx", "num_nearest_neighbors"),
    ),
    "fim_training_set": (FIMTrainingSetConfig, _PARAMETERS),
}
#: Others, and what they need that candidates of a loop do not have.
_REFUSED: Final = {
    "fim_property": "a score of properties, with no number for a structure",
    "fim_matching": "a score of all structures at once, for the information that properties need of one "
    "potential; the potential of a loop is another one in every round",
}


def _read(value: Any) -> Any:
    """A kind by its name alone, and the refusal of what is no score of a candidate."""
    if isinstance(value, Config) or value is None or value in _VARIANCES:
        settings = value.model_dump(exclude_unset=True) if isinstance(value, Config) else {}
    elif isinstance(value, str):
        value = settings = {"kind": value}
    else:
        settings = value if isinstance(value, Mapping) else {}
    kind = value.model_dump()["kind"] if isinstance(value, Config) else settings.get("kind")
    if kind in _REFUSED:
        fix = "run 'surefield score' and select by its result"
        raise ValueError(f"{kind} is {_REFUSED[kind]}: {fix}")
    if isinstance(kind, str) and kind not in _KINDS:
        raise ValueError(f"there is no score {kind!r} of candidates; {nearest(kind, [*_KINDS, *_VARIANCES])}")
    if kind is None:
        return value
    model, names = _KINDS[kind]
    for name, given in settings.items():
        # A saved configuration has all settings of its class, those without a meaning with their defaults.
        known = model.model_fields.get(name)
        idle = known is not None and given == known.default
        if name != "kind" and name not in names and not idle:
            listed = ", ".join(names) or "none: it follows from uncertainty.kind: ltau"
            raise ValueError(f"{kind} of candidates has no setting {name!r}; it has {listed}")
    return value


CandidateScore = Annotated[
    Score
    | Annotated[
        LTAUScoreConfig
        | QUESTSEfficiencyConfig
        | QUESTSDiversityConfig
        | QUESTSDeltaEntropyConfig
        | FIMTrainingSetConfig,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_read),
]


def score_name(score: Any) -> str:
    """Name of a score, as the reasons of picks have it."""
    return score if isinstance(score, str) else str(score.kind)


def may_be_negative(score: Any) -> bool:
    """Whether a score can rank candidates but is no weight."""
    return isinstance(score, QUESTSDeltaEntropyConfig)
