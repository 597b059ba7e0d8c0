"""Scores of atoms and structures rank and weigh candidates; name and value are in the reason of each pick."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms

import surefield as sf
from surefield.acquisition.score_values import structure_scores
from surefield.errors import ConfigError, DataError

NAME = "ltau_forces_uq_score"


@pytest.fixture
def frames() -> list[Atoms]:
    frames = [Atoms(f"Cu{n}", np.arange(3.0 * n).reshape(n, 3)) for n in (1, 2, 3)]
    for i, atoms in enumerate(frames):
        atoms.arrays[NAME] = np.linspace(0.1, 0.1 + i, len(atoms))
        atoms.info["fim_matching_weight_score"] = [0.0, 3.0, 1.0][i]
        atoms.info["fim_training_set_score"] = np.eye(2)
    return frames


def test_atoms_become_their_structure(frames: list[Atoms]) -> None:
    results = [atoms.arrays[NAME] for atoms in frames]
    for how, expected in (("max", [0.1, 1.1, 2.1]), ("mean", [0.1, 0.6, 1.1]), ("sum", [0.1, 1.2, 3.3])):
        for given in (NAME, {NAME: results}):
            values = structure_scores(given, frames, how)  # type: ignore[arg-type]
            assert values is not None
            np.testing.assert_allclose(values[NAME], expected, rtol=1e-12)
    weights = structure_scores("fim_matching_weight_score", frames)
    assert weights is not None
    assert list(weights["fim_matching_weight_score"]) == [0.0, 3.0, 1.0]
    assert structure_scores(None, frames) is None


def test_masked_atoms_do_not_count(frames: list[Atoms]) -> None:
    values = structure_scores(
        {"dH": [np.array([1.0]), np.array([np.nan, 2.0]), np.array([-1.0, np.nan, 0])]}, frames
    )
    assert values is not None
    assert values["dH"].tolist() == [1.0, 2.0, 0.0]


def test_refusals(frames: list[Atoms]) -> None:
    cases: list[tuple[Any, type, str]] = [
        (
            "quests_delta_entropy_score",
            DataError,
            "candidate 0; it has fim_matching_weight_score, fim_training",
        ),
        (
            "fim_training_set_score",
            DataError,
            r"candidate 0; got \(2, 2\); expected one number, or one for each",
        ),
        (
            {NAME: [np.ones(1), np.ones(3), np.ones(3)]},
            DataError,
            r"candidate 1; got \(3,\).*each of 2 atoms",
        ),
        ({NAME: [np.ones(1)]}, DataError, "one per structure; got 1; expected 3"),
        ({"a": [1.0] * 3, "b": [1.0] * 3}, ConfigError, "got 2 entries"),
        ([1.0] * 3, ConfigError, "got list"),
    ]
    for scores, error, message in cases:
        with pytest.raises(error, match=message):
            structure_scores(scores, frames)
    with pytest.raises(ConfigError, match=r"unknown per_structure 'median'.*mean"):
        structure_scores(NAME, frames, "median")  # type: ignore[arg-type]


def test_select_ranks_and_weighs_by_any_score(copper_network: Any, copper: list[Atoms]) -> None:
    pool = [atoms.copy() for atoms in copper[2:7]]
    values = np.random.default_rng(0).uniform(1, 2, (5, 2))
    for atoms, own in zip(pool, values, strict=True):
        atoms.arrays[NAME] = own[: len(atoms)]
    largest = [float(a.arrays[NAME].max()) for a in pool]
    picks = sf.select(copper_network, copper[:2], pool, "max_diag", 3, scores=NAME, features="ll_grad")
    assert list(picks) == np.argsort(largest)[::-1][:3].tolist()
    for pick, reason in zip(picks, picks.reasons, strict=True):
        assert (reason.score, reason.score_value) == (NAME, pytest.approx(largest[pick]))
        assert f"largest {NAME} of {largest[pick]:.4g}" in str(reason)
    one = np.zeros(5)
    one[3] = 1.0
    weighed = sf.select(
        copper_network,
        copper[:2],
        pool,
        "lcmd",
        1,
        scores={"fim_matching_weight_score": one},
        features="ll_grad",
    )
    assert list(weighed) == [3]
    assert weighed.reasons[0].score == "fim_matching_weight_score"
