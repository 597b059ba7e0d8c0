"""What a loop was begun with: what may change when it goes on, which the journal says, and what may not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from surefield.acquisition.config import FeatureMap
from surefield.acquisition.select import default_selection
from surefield.errors import ConfigError
from surefield.execution.identity import check_table, digest
from surefield.files import json_text
from surefield.loop.candidates import CandidateSource
from surefield.loop.config import LoopConfig
from surefield.loop.fit_plan import FitPlan
from surefield.loop.journal import Journal
from surefield.loop.oracles.oracle import Oracle
from surefield.potentials.potential import Potential
from surefield.scores.config import LTAUScoreConfig
from surefield.training.checkpoint import sample_contents
from surefield.training.dataset import LabelledSet
from surefield.uncertainty.config import DeepEnsembleConfig, LTAUConfig, UncertaintyConfig

__all__ = ["FIXED", "begin", "with_selection"]

#: Settings of a loop with one arm that stay as they were; what an oracle computes is compared by itself.
FIXED: Final = ("oracle", "pool", "seeds")
#: Settings that do not enter results, or are told by other events.
_UNTOLD: Final = ("executor", "registry", "labelled", "trial")
_FIX: Final = (
    "start another loop, with labelled: [labelled.xyz] of this one where the oracle is the same, or restore "
    "what changed"
)


def with_selection(
    config: LoopConfig, potential: Potential, uncertainty: UncertaintyConfig
) -> tuple[LoopConfig, FeatureMap]:
    """Configuration with methods and features as `select` takes them, where left open; and the features.

    Raises:
        ConfigError: a score that the uncertainty does not have.
    """
    # Members of an ensemble have no last layer in common, and `least_gain` compares distances of all rounds.
    plainly = bool(config.transforms) or config.stop.least_gain is not None
    plainly = plainly or isinstance(uncertainty, DeepEnsembleConfig)
    if isinstance(config.score, LTAUScoreConfig) and not isinstance(uncertainty, LTAUConfig):
        fix = "set uncertainty.kind to ltau, or loop.score to another one"
        raise ConfigError("the loop.score ltau is that of an LTAU uncertainty", got=uncertainty.kind, fix=fix)
    first = next(iter(config.methods), None)
    method, features = default_selection(potential, first, config.features, plainly=plainly)
    return config.model_copy(update={"methods": config.methods or (method,), "features": features}), features


def begin(
    journal: Journal,
    config: LoopConfig,
    plan: FitPlan,
    oracle: Oracle,
    candidates: CandidateSource,
    test: LabelledSet | None,
) -> None:
    """Write what a loop is made from; or compare it with what the journal says, and tell what has changed.

    Raises:
        ConfigError: the journal is that of a comparison, or of a loop with another oracle, potential, pool,
            test set or seed.
    """
    fitting = plan.inputs()
    settings = {
        "loop": config.model_dump(mode="json", exclude={*FIXED, *_UNTOLD})
        | {"starts": [Path(name).name for name in config.starts], "score": _told_score(config)},
        "training": fitting.pop("training"),
        "uncertainty": fitting.pop("uncertainty"),
        "attempts": dict(oracle.attempts),
    }
    told = {"name": oracle.name, **oracle.settings}
    labels = told.pop("labels", None)
    inputs = {
        "oracle": {key: v if isinstance(v, str | int | float) else digest(v) for key, v in told.items()},
        **fitting,
        **candidates.inputs(),
        "labels of the pool": labels,
        "test set": None if test is None else sample_contents(test.samples),
        "seed": {"seed": config.seeds[0]},
    }
    settings, inputs = json.loads(json_text([settings, inputs]))
    known = journal.last(event="start")
    if known is None:
        sizes = {"n_test": 0 if test is None else len(test), "oracle": oracle.name}
        sizes |= {"methods": list(config.methods), "seeds": list(config.seeds)}
        journal.append({"event": "start", "version": 2, **sizes, "settings": settings, "inputs": inputs})
        return
    if "settings" not in known:
        what = f"{journal.path} is the journal of a comparison of methods, which has labels for each of them"
        raise ConfigError(
            what, got="a loop with one method", fix=f"name its methods and seeds again, or {_FIX}"
        )
    check_table(f"{journal.path} is the journal of another loop", known["inputs"], inputs, _FIX)
    before = dict(_flat(known["settings"]))
    for event in journal.find(event="changed"):
        before |= {name: new for name, (_, new) in event["changes"].items()}
    # What an older version did not know is not told: it had its default.
    changes = {name: [before[name], new] for name, new in _flat(settings) if before.get(name, new) != new}
    if changes:
        journal.append({"event": "changed", "changes": changes})


def _told_score(config: LoopConfig) -> Any:
    """The score as one value of the journal, also where it has settings of its own."""
    return (
        config.score if config.score is None or isinstance(config.score, str) else [config.score.model_dump()]
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
