"""Features and expected errors of candidates, shard by shard, as tasks of the executor of a loop."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from ase import Atoms

from surefield.acquisition.candidate_score_config import Score
from surefield.acquisition.config import FeatureMap
from surefield.acquisition.select import feature_rows, score_frames
from surefield.execution.executor import SerialExecutor
from surefield.execution.in_flight import map_ordered
from surefield.structures.read import Frames
from surefield.uncertainty.build import load_uncertainty
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["CandidateFeatures", "candidate_features"]

#: Structures of a shard, wherever it is computed, so that results do not depend on the executor.
_SHARD: Final = 64
#: Fewer shards are computed here: workers would spend more time on compiling.
_FEWEST: Final = 4


class CandidateFeatures(NamedTuple):
    """What a selection needs to know of candidates.

    Attributes:
        rows: (n, n_features) of `feature_rows`; (n, 0) of `ll_force`, which follow from the labels, too.
        scores: (n,) of `score_frames`; None: no score was asked for.
    """

    rows: np.ndarray
    scores: np.ndarray | None


def candidate_features(
    path: Path,
    content: str,
    uncertainty: Uncertainty,
    frames: Frames,
    features: FeatureMap,
    score: Score | None,
    *,
    seed: int = 0,
    executor: Executor | None = None,
) -> CandidateFeatures:
    """Features and scores of structures, the same wherever they are computed.

    Args:
        path: file of the potential, which workers load once.
        content: its hash.
        uncertainty: what is in the file.
        frames: candidates.
        features: see `feature_rows`.
        score: see `score_frames`; None: none.
        seed: of sketched features.
        executor: where shards are computed, if they are many; None: here.

    Raises:
        ExecutionError: a shard could not be computed.
    """
    starts = range(0, len(frames), _SHARD)
    here = executor is None or isinstance(executor, SerialExecutor) or len(starts) < _FEWEST
    model = uncertainty if here else (str(path.resolve()), content)
    shards = [_Shard(model, list(frames[begin : begin + _SHARD]), features, score, seed) for begin in starts]
    if here or executor is None:
        parts = [_features_of(shard) for shard in shards]
    else:
        parts = map_ordered(executor, _features_of, shards)
    rows = np.concatenate([part.rows for part in parts])
    scores = [part.scores for part in parts if part.scores is not None]
    return CandidateFeatures(rows, np.concatenate(scores) if score is not None else None)


@dataclass(frozen=True, eq=False)
class _Shard:
    """Structures, and the potential itself or where it is kept."""

    model: Uncertainty | tuple[str, str]
    frames: Sequence[Atoms]
    features: FeatureMap
    score: Score | None
    seed: int


def _features_of(shard: _Shard) -> CandidateFeatures:
    model = _loaded(*shard.model) if isinstance(shard.model, tuple) else shard.model
    rows = np.zeros((len(shard.frames), 0))
    if shard.features != "ll_force":
        rows = feature_rows(model, shard.frames, shard.features, seed=shard.seed)
    return CandidateFeatures(
        rows, None if shard.score is None else score_frames(model, shard.frames, shard.score)
    )


@lru_cache(maxsize=2)
def _loaded(path: str, content: str) -> Uncertainty:
    """Of a path that had another content before, if the loop was started anew."""
    del content
    return load_uncertainty(path)
