from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from ase.io import read

pytest.importorskip("cvxpy", reason="needs cvxpy: pip install 'surefield[matching]'")

from surefield.errors import ConfigError, DataError
from surefield.scores.fim import FIMMatchingScore
from surefield.scoring.results import read_labelled


@pytest.fixture(scope="module")
def candidates(shared):
    return read(shared / "reference" / "scores" / "inputs" / "fim_candidates.extxyz", ":")


@pytest.fixture(scope="module")
def target(shared):
    return shared / "reference" / "scores" / "inputs" / "fim_target.json"


def test_the_documented_call(candidates, target, tmp_path) -> None:
    before = [copy.deepcopy(atoms.info) for atoms in candidates]
    matrix = np.array(json.loads(target.read_text())["fim_property_score"])
    np.save(tmp_path / "target.npy", matrix)
    score = FIMMatchingScore()
    for fim_property in (target, str(target), matrix, tmp_path / "target.npy"):
        weights = score.compute_batch(
            candidates,
            fim_property,
            "IMPORTANCE",
            fim_preconditioning_kwargs={"scale_type": "max_frobenius"},
            solver_kwargs={"solver": "CLARABEL"},
            weight_tolerance={"zero_tol": 1e-4, "zero_tol_dual": 1e-4},
        )
        assert [i for i, w in enumerate(weights) if w] == [5]
        np.testing.assert_allclose(weights[5], 316.9842770218088, rtol=1e-9)
    assert all(a.info.keys() == b.keys() for a, b in zip(candidates, before, strict=True))
    assert score.result is not None
    score.save_results(weights, tmp_path, candidates)
    for atoms, weight in zip(read_labelled(tmp_path), weights, strict=True):
        assert atoms.info["fim_matching_weight_score"] == weight
        metadata = atoms.info["_metadata"]["fim_matching_weight_score"]
        assert metadata["result"]["kept"] == [5]
        assert metadata["result"]["status"] == "optimal"
        assert metadata["weight_tolerance"] == {"zero_tol": 1e-4, "zero_tol_dual": 1e-4}
        assert metadata["fim_property"]["shape"] == [2, 2]


def test_a_single_candidate_is_no_set(candidates, target) -> None:
    with pytest.raises(ConfigError, match="compute_batch with all candidates"):
        FIMMatchingScore().compute(candidates[0], target, "IMPORTANCE")
    with pytest.raises(ConfigError, match="compute_batch takes a list"):
        FIMMatchingScore().compute_batch(candidates[0], target, "IMPORTANCE")


def test_missing_and_unfit_information_is_named(candidates, target, tmp_path) -> None:
    bare = candidates[2].copy()
    del bare.info["fim_training_set_score"]
    with pytest.raises(DataError, match=r"no info\['fim_training_set_score'\] in configuration 1; got keys"):
        FIMMatchingScore().compute_batch([candidates[0], bare], target, "IMPORTANCE")
    with pytest.raises(DataError, match="no file for fim_property"):
        FIMMatchingScore().compute_batch(candidates, tmp_path / "no.json", "IMPORTANCE")
    (tmp_path / "other.json").write_text('{"fim": 1}')
    with pytest.raises(DataError, match="no 'fim_property_score'"):
        FIMMatchingScore().compute_batch(candidates, tmp_path / "other.json", "IMPORTANCE")
    with pytest.raises(ConfigError, match="expected IMPORTANCE"):
        FIMMatchingScore().compute_batch(candidates, target, "SENSITIVITY")


def test_parameters_are_named_and_must_agree(candidates, tmp_path) -> None:
    def known(name: str, matrix) -> object:
        atoms = candidates[0].copy()
        index = {"0": {"parameter": "A", "extent": 0}, "1": {"parameter": name, "extent": 0}}
        atoms.info["fim_training_set_score"] = np.array(matrix)
        atoms.info["_metadata"] = {"fim_training_set_score": {"fim_index_to_parameter": index}}
        return atoms

    silent = [known("lambda", [[1.0, 0.0], [0.0, 0.0]])] * 2
    with pytest.raises(DataError, match=r"no candidate depends on lambda.*or fix lambda"):
        FIMMatchingScore().compute_batch(silent, np.eye(2), "IMPORTANCE")
    with pytest.raises(DataError, match=r"different parameters in configuration 1; got A\[0\], B\[0\]"):
        FIMMatchingScore().compute_batch([*silent[:1], known("B", np.eye(2))], np.eye(2), "IMPORTANCE")
    index = {"0": {"parameter": "lambda", "extent": 0}, "1": {"parameter": "A", "extent": 0}}
    content = {"fim_property_score": [[1, 0], [0, 1]], "_metadata": {"fim_index_to_parameter": index}}
    (tmp_path / "target.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="different parameters in fim_property"):
        FIMMatchingScore().compute_batch(silent, tmp_path / "target.json", "IMPORTANCE")
