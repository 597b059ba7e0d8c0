"""Scores of candidates by name, one number a structure, with the potential and the labels that there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from ase import Atoms
from jaxtyping import Float64

from surefield.acquisition.candidate_score_config import CandidateScore, PerStructure, score_name
from surefield.acquisition.score_values import structure_scores
from surefield.acquisition.select import score_frames
from surefield.errors import ConfigError
from surefield.potentials.evaluate import neighborhoods_of
from surefield.potentials.parametric.parameters import ParametricPotential
from surefield.potentials.potential import as_potential
from surefield.scores.config import (
    FIMTrainingSetConfig,
    LTAUScoreConfig,
    QUESTSConfig,
    QUESTSDeltaEntropyConfig,
    QUESTSDiversityConfig,
    QUESTSEfficiencyConfig,
)
from surefield.scores.fim import FIMTrainingSetScore
from surefield.scores.fim.parameters import LAST_LAYER
from surefield.scores.learned_descriptors import with_descriptors
from surefield.scores.quests.classes import (
    QUESTSDeltaEntropyScore,
    QUESTSDiversityScore,
    QUESTSEfficiencyScore,
)
from surefield.structures.read import Source, read_frames
from surefield.uncertainty.ltau import LTAU
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["candidate_scores"]

#: Matrices of information that are held at once.
_HELD: Final = 16


def candidate_scores(
    score: CandidateScore,
    uncertainty: Uncertainty,
    candidates: Source,
    labelled: Source,
    per_structure: PerStructure = "max",
) -> dict[str, Float64[np.ndarray, " n_structures"]]:
    """One number of each candidate, for `scores` of the selectors.

    Of `forces_variance` and `energy_variance` see `score_frames`. `ltau`: expected force error (eV/Å) of its
    atoms, from the errors of similar training atoms. `quests_delta_entropy`: how new its atoms are to those
    of all labelled structures (nats, may be negative). `quests_efficiency`, `quests_diversity`: of its own
    environments. `fim_training_set`: trace of its Fisher information about the parameters; without
    `parameters_optimize` those of the last layer, or all of a potential with named ones.

    Args:
        score: which.
        uncertainty: around the potential of the round.
        candidates: structures to choose from.
        labelled: structures that have labels.
        per_structure: how scores of atoms become that of their structure.

    Returns:
        The name of the score, and (n_structures,) values.

    Raises:
        ConfigError: a score that the uncertainty does not have, or settings out of range.
        DataError: structures that cannot be computed or have no such descriptors.
    """
    frames = read_frames(candidates)
    if isinstance(score, str):
        return {score: score_frames(uncertainty, frames, score)}
    values = _COMPUTED[type(score)](score, uncertainty, list(frames), list(read_frames(labelled)))
    scores = structure_scores({score_name(score): values}, frames, per_structure)
    assert scores is not None
    return {name: np.asarray(column, np.float64) for name, column in scores.items()}


def _ltau(score: Any, uncertainty: Uncertainty, frames: list[Atoms], labelled: list[Atoms]) -> list[Any]:
    del score, labelled
    if not isinstance(uncertainty, LTAU):
        raise ConfigError(
            "the score ltau is that of an LTAU", got=uncertainty.kind, fix="uncertainty.kind: ltau"
        )
    structures = neighborhoods_of(uncertainty.potential, read_frames(frames))
    return [errors for _, errors in sorted(uncertainty.expected_errors(structures), key=lambda pair: pair[0])]


def _quests(
    score: QUESTSConfig, uncertainty: Uncertainty, frames: list[Atoms], labelled: list[Atoms]
) -> Sequence[Any]:
    potential = uncertainty.potential

    def described(structures: list[Atoms]) -> tuple[list[Atoms], str]:
        return with_descriptors(structures, score.descriptors, lambda: potential, score.descriptor_args)

    own, key = described(frames)
    settings: dict[str, Any] = {
        "descriptors_key": key,
        **score.model_dump(include={"bandwidth", "batch_size"}),
    }
    if isinstance(score, QUESTSDeltaEntropyConfig):
        novelty = QUESTSDeltaEntropyScore()
        settings |= score.model_dump(include={"approx", "num_nearest_neighbors"})
        settings["reference_set"] = described(labelled)[0]
        return novelty.compute_batch(own, novelty.quantity, **settings)
    efficiency = isinstance(score, QUESTSEfficiencyConfig)
    number = QUESTSEfficiencyScore() if efficiency else QUESTSDiversityScore()
    return [number.compute([atoms], number.quantity, **settings) for atoms in own]


def _fim(
    score: FIMTrainingSetConfig, uncertainty: Uncertainty, frames: list[Atoms], labelled: list[Atoms]
) -> list[float]:
    del labelled
    potential, information = as_potential(uncertainty), FIMTrainingSetScore()
    settings = score.model_dump(exclude={"kind", "structures", "jobs", "potential"})
    if settings["parameters_optimize"] is None and not isinstance(potential, ParametricPotential):
        settings["parameters_optimize"] = LAST_LAYER
    traces: list[float] = []
    for first in range(0, len(frames), _HELD):
        part = frames[first : first + _HELD]
        matrices = information.compute_batch(part, information.quantity, potential, **settings)
        traces += [float(np.trace(matrix)) for matrix in matrices]
    return traces


_COMPUTED: Final[dict[type, Callable[..., Sequence[Any]]]] = {
    LTAUScoreConfig: _ltau,
    QUESTSEfficiencyConfig: _quests,
    QUESTSDiversityConfig: _quests,
    QUESTSDeltaEntropyConfig: _quests,
    FIMTrainingSetConfig: _fim,
}
