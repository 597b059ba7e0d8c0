"""Scores of candidates by name are those of the classes, one number a structure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from tests.copper import copper

import surefield as sf
from surefield.acquisition.candidate_scores import candidate_scores
from surefield.acquisition.select import score_frames
from surefield.config import parse, to_yaml
from surefield.descriptors.quests import QUESTSDescriptor
from surefield.errors import ConfigError
from surefield.loop import LoopConfig
from surefield.potentials.snap.snap import Snap, SnapConfig
from surefield.scores import (
    FIMTrainingSetScore,
    QUESTSDeltaEntropyScore,
    QUESTSDiversityScore,
    QUESTSEfficiencyScore,
)
from surefield.scores.quests.entropy import delta_entropy
from surefield.sensitivity.rows import atom_features
from surefield.uncertainty.ltau import LTAU

LABELLED, CANDIDATES = copper(6, 0), copper(3, 9, rattle=0.3)
WIDE = {"bandwidth": 0.2}


@pytest.fixture(scope="module")
def llpr() -> sf.LLPR:
    potential = Snap.from_settings(SnapConfig(cutoff=3.6, twojmax=2), ["Cu"])
    fit = sf.train(potential, LABELLED, validation=0.34, progress=False)
    return sf.LLPR.fit(fit.potential, fit.train_set, fit.validation_set, progress=False)


def score_of(given: Any) -> Any:
    return LoopConfig(methods=("max_diag",), score=given).score


def values(given: Any, uncertainty: Any, **options: Any) -> np.ndarray:
    [(name, found)] = candidate_scores(score_of(given), uncertainty, CANDIDATES, LABELLED, **options).items()
    assert name == (given if isinstance(given, str) else given["kind"])
    assert found.shape == (3,)
    return found


def test_scores_of_environments(llpr: sf.LLPR) -> None:
    descriptor = QUESTSDescriptor()
    labelled, own = descriptor.described(LABELLED), descriptor.described(CANDIDATES)
    key = {"descriptors_key": descriptor.key, **WIDE}
    novelty = QUESTSDeltaEntropyScore().compute_batch(own, "DELTA_ENTROPY", labelled, **key)
    delta = {"kind": "quests_delta_entropy", **WIDE}
    assert np.array_equal(values(delta, llpr), [rows.max() for rows in novelty])
    assert np.array_equal(values(delta, llpr, per_structure="mean"), [rows.mean() for rows in novelty])
    for kind, score in (("efficiency", QUESTSEfficiencyScore()), ("diversity", QUESTSDiversityScore())):
        expected = [score.compute([atoms], score.quantity, **key) for atoms in own]
        assert np.array_equal(values({"kind": f"quests_{kind}", **WIDE}, llpr), expected)
        assert np.ptp(expected) > 0


def test_novelty_in_what_the_potential_has_learned(llpr: sf.LLPR) -> None:
    layer = llpr.potential.last_layer()
    rows = [[atom_features(layer, layer.neighborhood(a)) for a in of] for of in (CANDIDATES, LABELLED)]
    found = values({"kind": "quests_delta_entropy", "descriptors": "potential", "bandwidth": 5.0}, llpr)
    reference = np.concatenate(rows[1])
    assert found == pytest.approx([delta_entropy(own, reference, 5.0).max() for own in rows[0]], rel=1e-9)


def test_information_is_the_trace_about_the_last_layer(llpr: sf.LLPR) -> None:
    score = FIMTrainingSetScore()
    settings: dict[str, Any] = {"parameters_optimize": "last_layer", "noise": {"energy": 0.1, "forces": 0.5}}
    asked = {"compute_energy": True, "compute_forces": True}
    matrices = score.compute_batch(
        CANDIDATES, score.quantity, llpr.potential, evaluate_kwargs=asked, **settings
    )
    given = {"kind": "fim_training_set", "evaluate_kwargs": asked, "noise": settings["noise"]}
    assert values(given, llpr) == pytest.approx([np.trace(m) for m in matrices], rel=1e-12)
    assert np.array_equal(values("fim_training_set", llpr) > 0, [True] * 3)


def test_ltau_is_the_expected_force_error(llpr: sf.LLPR) -> None:
    errors = np.random.default_rng(0).uniform(0.01, 0.1, 24)
    ltau = LTAU.fit(llpr.potential, LABELLED, CANDIDATES, errors, k=1)
    layer = ltau.last_layer()
    known = np.concatenate([atom_features(layer, layer.neighborhood(a)) for a in LABELLED])
    own = np.stack([atom_features(layer, layer.neighborhood(a)) for a in CANDIDATES])
    nearest = np.argmin(((own[:, :, None] - known) ** 2).sum(axis=-1), axis=-1)
    assert values("ltau", ltau) == pytest.approx(errors[nearest].max(axis=1), rel=1e-12)
    with pytest.raises(ConfigError, match=r"ltau is that of an LTAU; got llpr; uncertainty\.kind: ltau"):
        values("ltau", llpr)


def test_sigmas_stay_what_they_were(llpr: sf.LLPR) -> None:
    assert np.array_equal(values("energy_variance", llpr), score_frames(llpr, CANDIDATES, "energy_variance"))


@pytest.mark.parametrize(
    ("score", "words"),
    [
        ("fim_property", "no number for a structure.*surefield score"),
        ({"kind": "fim_matching", "fim_property": "a.npy"}, "another one in every round"),
        ("quests_diversty", "did you mean 'quests_diversity'"),
        ({"kind": "quests_diversity", "structures": "a.xyz"}, "has no setting 'structures'; it has descr"),
        ({"kind": "ltau", "error_pdfs": "log.npy"}, "it follows from uncertainty.kind: ltau"),
        ({"bandwidth": 1.0}, "kind"),
    ],
)
def test_what_is_no_score_of_candidates(score: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        score_of(score)


@pytest.mark.parametrize("kind", ["ltau", "quests_diversity", "quests_delta_entropy", "fim_training_set"])
def test_a_saved_configuration_is_read_again(kind: str) -> None:
    config = LoopConfig(methods=("max_diag",), score={"kind": kind})
    assert parse(LoopConfig, yaml.safe_load(to_yaml(config))) == config


@pytest.mark.parametrize("methods", [(), ("lcmd",)])
def test_what_may_be_negative_is_no_weight(methods: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="no weight: methods: "):
        LoopConfig(methods=methods, score="quests_delta_entropy")
