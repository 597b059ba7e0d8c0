"""The table of scores, and the contract that each of them keeps."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from tests.conftest import SW

import surefield as sf
from surefield.potentials.parametric import StillingerWeber
from surefield.scores.classes import SCORES, score_class
from surefield.scoring import AtomCenteredScore, ConfigurationScore, DatasetScore, ModelScore
from surefield.testing import check_score

#: Base, quantity, key and packages of every score, as documented.
TABLE = {
    "LTAUForcesUQScore": (AtomCenteredScore, "UNCERTAINTY", "ltau_forces_uq_score", "uncertainty"),
    "QUESTSDeltaEntropyScore": (AtomCenteredScore, "DELTA_ENTROPY", "quests_delta_entropy_score", "scores"),
    "QUESTSEfficiencyScore": (DatasetScore, "EFFICIENCY", "quests_efficiency_score", "scores"),
    "QUESTSDiversityScore": (DatasetScore, "DIVERSITY", "quests_diversity_score", "scores"),
    "FIMTrainingSetScore": (ConfigurationScore, "SENSITIVITY", "fim_training_set_score", "scores.fim"),
    "FIMMatchingScore": (ConfigurationScore, "IMPORTANCE", "fim_matching_weight_score", "scores.fim"),
    "FIMPropertyScore": (ModelScore, "SENSITIVITY", "fim_property_score", "scores.fim"),
}
SILICON = StillingerWeber(SW, ["Si"])


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name: str) -> None:
    base, quantity, key, package = TABLE[name]
    kind: Any = getattr(sf, name)
    assert kind is score_class(name)
    assert kind is getattr(importlib.import_module(f"surefield.{package}"), name)
    assert kind is getattr(importlib.import_module("surefield.scores"), name)
    assert issubclass(kind, base)
    assert (kind.quantity.name, kind.key) == (quantity, key)
    assert kind.__final__
    assert not getattr(base, "__final__", False)
    assert base.__abstractmethods__


def test_the_table_is_whole() -> None:
    assert {*TABLE} == {*SCORES}


@pytest.fixture
def frames() -> list[Atoms]:
    rng = np.random.default_rng(0)
    frames = []
    for i in range(3):
        atoms = bulk("Si", a=5.43) * (1, 1, 1 + i)
        atoms.rattle(0.1, seed=i)
        atoms.calc = SinglePointCalculator(
            atoms, energy=-1.0 / 3, forces=rng.standard_normal((len(atoms), 3))
        )
        atoms.info |= {"config_type": "rattled", "fim_training_set_score": np.diag([1.0 + i, 0.5])}
        atoms.arrays["descriptors"] = rng.standard_normal((len(atoms), 4))
        frames.append(atoms)
    return frames


@pytest.mark.filterwarnings("ignore:.*unlike all training atoms|the bandwidth is too small")
@pytest.mark.parametrize("name", TABLE)
def test_the_contract(name: str, frames: list[Atoms]) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((30, 4))
    crystal = {"lattice_param": 5.43, "lattice_type": "diamond", "elements": ["Si"]}
    target = {"init_args": {"target_property_type": "CohesiveEnergy", "target_property_args": crystal}}
    information = {"potential": SILICON, "parameters_optimize": {"A": [["default"]], "B": [["default"]]}}
    masks = [None, *(rng.integers(0, 2, 3 * len(atoms)) for atoms in frames[1:])]
    arguments: dict[str, dict[str, Any]] = {
        "LTAUForcesUQScore": {"num_nearest_neighbors": 2},
        "QUESTSDeltaEntropyScore": {"reference_set": rows, "bandwidth": 0.5},
        "QUESTSEfficiencyScore": {"bandwidth": 0.5},
        "QUESTSDiversityScore": {"bandwidth": 0.5},
        "FIMTrainingSetScore": {**information, "list_of_mask": masks},
        "FIMMatchingScore": {"fim_property": np.diag([3.0, 0.0])},
        "FIMPropertyScore": {**information, "cov": np.eye(1), "derivative_kwargs": {"method": "autodiff"}},
    }
    kind: Any = score_class(name)
    logs = rng.lognormal(-2.0, 1.0, (9, 30))
    score = kind(rows, logs, from_error_logs=True) if name == "LTAUForcesUQScore" else kind()
    check_score(score, [target] if name == "FIMPropertyScore" else frames, arguments[name])
