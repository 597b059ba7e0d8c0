"""The usage examples of Orchestrator's page on scores, with the import changed, and the same as jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read
from tests.scoring.in_process import InProcess

from surefield import (
    LTAUForcesUQScore,
    QUESTSDeltaEntropyScore,
    QUESTSDiversityScore,
    QUESTSEfficiencyScore,
    ScoreQuantity,
)
from surefield.errors import ConfigError
from surefield.scores.fim import (
    AffineTransform,
    FIMMatchingScore,
    FIMPropertyScore,
    FIMTrainingSetScore,
    LogTransform,
    SplitTransform,
)

SW = "SW_StillingerWeber_1985_Si__MO_405512056662_006"
POTENTIAL = {
    "potential_type": "KIM",
    "potential_args": {"kim_id": SW, "kim_api": "kim-api-collections-management"},
}
PARAMETERS = {"A": [[15.2848479197914]], "B": [["default"]], "lambda": [[0.0, "fix"]]}


def target_property(simulator: str | None) -> dict[str, Any]:
    return {
        "init_args": {
            "target_property_type": "ElasticConstants",
            "target_property_args": {
                "lattice_param": 5.43,
                "lattice_type": "diamond",
                "deformation_mag": 0.0001,
                "simulator_path": simulator,
                "elements": ["Si"],
            },
        },
        "calculate_property_args": {"workflow": {"workflow_type": "LOCAL", "workflow_args": {}}},
    }


@pytest.fixture
def candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Atoms]:
    monkeypatch.chdir(tmp_path)
    frames = []
    for seed in range(3):
        atoms = bulk("Si", cubic=True)
        atoms.rattle(0.1, seed=seed)
        frames.append(atoms)
    ase.io.write("candidate_configurations.xyz", frames)
    return frames


@pytest.mark.filterwarnings("ignore:.*unlike all training atoms")
def test_ltau_example(shared: Path) -> None:
    inputs = shared / "reference" / "scores" / "inputs"
    descriptors, error_logs = np.load(inputs / "train_descriptors.npy"), np.load(inputs / "error_traj.npy")
    dataset = read(inputs / "query_configs.extxyz", ":")
    ltau_score = LTAUForcesUQScore(
        train_descriptors=descriptors,  # (num_atoms, num_dimensions)
        error_pdfs=error_logs,  # (num_epochs, num_atoms)
        index_type="IndexFlatL2",
        from_error_logs=True,
        nbins=100,
    )
    uncertainties = ltau_score.compute_batch(
        dataset,  # list of ASE Atoms
        ScoreQuantity.UNCERTAINTY,
        descriptors_key="descriptors",
        num_nearest_neighbors=5,
    )
    assert [len(u) for u in uncertainties] == [64] * 9
    assert all(np.all((u > 0) & (u < error_logs.max())) for u in uncertainties)


@pytest.mark.filterwarnings("ignore:the bandwidth is too small")
def test_quests_examples(shared: Path) -> None:
    inputs = shared / "reference" / "scores" / "inputs"
    descriptors, dataset = (
        np.load(inputs / "train_descriptors.npy"),
        read(inputs / "query_configs.extxyz", ":"),
    )
    efficiency_score = QUESTSEfficiencyScore()
    efficiency = efficiency_score.compute(
        dataset=dataset,  # list of ASE Atoms
        score_quantity=ScoreQuantity.EFFICIENCY,
        descriptors_key="descriptors",
        bandwidth=0.1,
    )
    delta_entropy_score = QUESTSDeltaEntropyScore()
    delta_entropies = delta_entropy_score.compute_batch(
        dataset,  # list of ASE Atoms
        ScoreQuantity.DELTA_ENTROPY,
        reference_set=descriptors,  # (num_atoms, num_dimensions)
        bandwidth=0.1,
        descriptors_key="descriptors",
    )
    diversity = QUESTSDiversityScore().compute(dataset, "diversity", bandwidth=0.1)
    n = sum(map(len, dataset))
    assert 0 < efficiency <= 1
    assert 0 < diversity <= np.log(n) + 1e-12
    assert [len(dH) for dH in delta_entropies] == [64] * 9


@pytest.mark.filterwarnings("ignore:numerical derivatives")  # the documented steps are large
@pytest.mark.parametrize("simulator", ["here", pytest.param("LAMMPS", marks=pytest.mark.slow)])
def test_information_matching_example(
    candidates: list[Atoms], simulator: str, request: pytest.FixtureRequest
) -> None:
    """The documented chain: information of candidates, of a property, and the weights that match them."""
    simulator_path = request.getfixturevalue("lmp") if simulator == "LAMMPS" else None
    pytest.importorskip("cvxpy")
    list_of_atoms = read("candidate_configurations.xyz", format="extxyz", index=":")
    nconfigs = len(list_of_atoms)
    myfim_training_set = FIMTrainingSetScore()
    fim_training_set = myfim_training_set.compute_batch(
        list_of_atoms=list_of_atoms,
        score_quantity="SENSITIVITY",
        potential=POTENTIAL,
        parameters_optimize=PARAMETERS,
        evaluate_kwargs={
            "compute_energy": [False] * nconfigs,
            "compute_forces": [True] * nconfigs,
            "compute_stress": [False] * nconfigs,
        },
        derivative_kwargs={"method": "central"},
    )
    assert myfim_training_set.fim_index_to_parameter == {
        0: {"parameter": "A", "extent": 0},
        1: {"parameter": "B", "extent": 0},
    }
    myfim_training_set.save_results(compute_results=fim_training_set, list_of_configs=list_of_atoms)

    myfim_property = FIMPropertyScore()
    fim_property = myfim_property.compute(
        list_of_target_property=[target_property(simulator_path)],
        score_quantity="SENSITIVITY",
        cov=np.eye(36),
        potential=POTENTIAL,
        parameters_optimize=PARAMETERS,
        derivative_kwargs={"h": 0.1, "method": "CD"},
    )
    myfim_property.save_results(compute_results=fim_property)

    list_of_atoms = read("score_results.xyz", format="extxyz", index=":")
    myfim_matching = FIMMatchingScore()
    fim_matching = myfim_matching.compute_batch(
        list_of_atoms=list_of_atoms,
        fim_property="score_results.json",
        score_quantity="IMPORTANCE",
        convexopt_init_kwargs={"weight_upper_bound": None},
        solver_kwargs={"solver": "CLARABEL", "verbose": False},
        weight_tolerance={"zero_tol": 1e-4, "zero_tol_dual": 1e-4},
    )
    myfim_matching.save_results(compute_results=fim_matching, list_of_configs=list_of_atoms)
    weighted = read("score_results.xyz", format="extxyz", index=":")
    assert [atoms.info["fim_matching_weight_score"] for atoms in weighted] == fim_matching
    total = sum(w * fim for w, fim in zip(fim_matching, fim_training_set, strict=True))
    assert np.linalg.eigvalsh(total - fim_property).min() >= -1e-5 * np.linalg.norm(fim_property)


def test_fisher_information_as_jobs(candidates: list[Atoms], tmp_path: Path) -> None:
    flow, score = InProcess(tmp_path / "runs"), FIMTrainingSetScore()
    masks = [None, np.ones(24), np.arange(24) % 2]
    arguments = {
        "score_quantity": "SENSITIVITY",
        "potential": POTENTIAL,
        "parameters_optimize": PARAMETERS,
        "list_of_mask": masks,
        "evaluate_kwargs": {"compute_forces": [True, False, True], "compute_energy": [False, True, False]},
        "transform": SplitTransform([AffineTransform(2.0), LogTransform(1)], [[0], [1]]),
    }
    masks[1] = np.ones(1)
    calc_ids = score.run("fim", candidates, arguments, flow, batch_size=2)
    labelled = score.data_from_calc_ids(calc_ids, flow)
    expected = score.labelled(score.compute_batch(candidates, **arguments), candidates)
    for got, wanted in zip(labelled, expected, strict=True):
        np.testing.assert_allclose(
            got.info["fim_training_set_score"], wanted.info["fim_training_set_score"], rtol=1e-12
        )
        assert got.info["_metadata"] == wanted.info["_metadata"]

    class Mine:
        def transform(self, x: Any) -> Any:
            return x

        inverse_transform = transform

    with pytest.raises(ConfigError, match="transform cannot be given to a job; got Mine"):
        score.run("fim", candidates, {**arguments, "transform": Mine()}, flow)


def test_information_of_a_property_as_a_job(tmp_path: Path) -> None:
    flow, score = InProcess(tmp_path / "runs"), FIMPropertyScore()
    lattice = {
        "init_args": {
            "target_property_type": "ElasticConstants",
            "target_property_args": {
                "lattice_param": 5.43,
                "lattice_type": "diamond",
                "elements": ["Si"],
                "components": ["C11", "C12"],
            },
        }
    }
    arguments = {
        "score_quantity": "SENSITIVITY",
        "cov": np.diag([1.0, 4.0]),
        "potential": POTENTIAL,
        "parameters_optimize": {"A": [["default"]]},
        "derivative_kwargs": {"h": 0.1, "method": "FD"},
    }
    expected = score.compute_batch([lattice], **arguments)
    (result,) = score.data_from_calc_ids(score.run("property", [lattice], arguments, flow), flow)
    np.testing.assert_allclose(result["fim_property_score"], expected, rtol=1e-12)
    named = {**arguments, "target_property": lattice}
    (result,) = score.data_from_calc_ids(score.run("property", None, named, flow), flow)
    np.testing.assert_allclose(result["fim_property_score"], expected, rtol=1e-12)


def test_matching_is_one_job(candidates: list[Atoms], tmp_path: Path) -> None:
    for i, atoms in enumerate(candidates):
        atoms.info["fim_training_set_score"] = np.diag([1.0 + i, 0.5])
    flow, score = InProcess(tmp_path / "runs"), FIMMatchingScore()
    arguments = {"fim_property": np.diag([4.0, 0.0]), "score_quantity": "importance"}
    calc_ids = score.run("matching", candidates, arguments, flow, batch_size=1)
    assert len(calc_ids) == 1
    labelled = score.data_from_calc_ids(calc_ids, flow)
    weights = [atoms.info["fim_matching_weight_score"] for atoms in labelled]
    np.testing.assert_allclose(weights, score.compute_batch(candidates, **arguments), rtol=1e-12)
    assert sum(weights) == pytest.approx(4 / 3, rel=1e-6)
