"""Information matching: reference problems, proofs of optimality, invariances, and what has no solution."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("cvxpy", reason="needs cvxpy: pip install 'surefield[matching]'")

from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.scores.fim import convex_program, matching
from surefield.scores.fim.convex_program import Answer
from surefield.scores.fim.matching import fim_match
from surefield.scores.fim.matching_problem import MatchingProblem

CASES = ("p2n20", "p7n50", "p7n200", "p20n100", "p30n500")


@pytest.fixture(scope="module")
def reference(shared):
    folder = shared / "reference" / "scores"
    with np.load(folder / "inputs" / "information_matching.npz") as arrays:
        inputs = dict(arrays)
    return inputs, json.loads((folder / "expected" / "information_matching.json").read_text())


def problem(reference, case: str) -> tuple[np.ndarray, np.ndarray]:
    target, upper = reference[0][f"{case}_target"], reference[0][f"{case}_candidates_upper"]
    rows, columns = np.triu_indices(len(target))
    candidates = np.zeros((len(upper), *target.shape))
    candidates[:, rows, columns] = candidates[:, columns, rows] = upper
    return target, candidates


def made_up(n: int, p: int, rank: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, rank, p)) * rng.uniform(0.1, 3, (n, 1, 1))
    need = rng.normal(size=(3, p))
    return need.T @ need, np.swapaxes(rows, 1, 2) @ rows


def check_optimal(result, target, candidates, tolerance=1e-5) -> None:
    """Feasible, dual feasible, complementary."""
    total = np.tensordot(result.weights, candidates, 1) - target
    assert np.linalg.eigvalsh(total)[0] >= -1e-7 * np.linalg.norm(target)
    assert result.gap < tolerance
    assert result.duals.min() > -tolerance
    assert result.duals[result.kept].max() < tolerance
    np.testing.assert_array_equal(np.flatnonzero(result.weights), result.kept)


@pytest.mark.parametrize("case", CASES)
def test_reference_problems(reference, case) -> None:
    target, candidates = problem(reference, case)
    expected = reference[1][case]
    result = fim_match(target, candidates)
    assert abs(result.objective / expected["objective"] - 1) < 1e-6
    assert result.kept.tolist() == expected["support"]
    size = max(expected["weights"])
    np.testing.assert_allclose(result.weights[result.kept], expected["weights"], rtol=0, atol=3e-4 * size)
    assert result.status == "optimal"
    check_optimal(result, target, candidates)


def test_columns_are_few_where_candidates_are_many(reference) -> None:
    target, candidates = problem(reference, "p30n500")
    assert fim_match(target, candidates).n_columns < 150


def test_columns_are_added_until_the_optimum_is_that_of_all(monkeypatch) -> None:
    target, candidates = made_up(60, 4)
    whole = fim_match(target, candidates[:15])
    all_at_once = fim_match(target, candidates)
    monkeypatch.setattr(matching, "_FIRST_COLUMNS", 1)
    by_columns = fim_match(target, candidates)
    assert by_columns.n_columns < 60
    assert by_columns.objective < whole.objective
    np.testing.assert_allclose(by_columns.objective, all_at_once.objective, rtol=1e-7)
    check_optimal(by_columns, target, candidates)


@pytest.mark.parametrize("case", ["p7n50", "p7n200"])
def test_weights_of_scs_that_violate_the_constraint_are_caught(reference, case) -> None:
    target, candidates = problem(reference, case)
    # As others ask it: without good coordinates.
    raw = MatchingProblem(
        candidates / np.linalg.norm(candidates, axis=(1, 2)).max(),
        target / np.linalg.norm(target),
        np.ones(len(candidates)),
        np.full(len(candidates), np.inf),
    )
    answer = convex_program.solve_program(raw.matrices, raw.target, None, "SCS", {})
    assert answer.status == "optimal"
    assert "violate the constraint" in str(matching._refusal(raw, np.arange(len(candidates)), answer))
    with pytest.warns(UserWarning, match="SCS says 'optimal', but its weights.*CLARABEL was asked instead"):
        result = fim_match(target, candidates, solver_kwargs={"solver": "SCS", "eps": 1e-2})
    assert result.solver == "CLARABEL"
    assert abs(result.objective / reference[1][case]["objective"] - 1) < 1e-6


def test_an_optimal_status_is_not_trusted(reference, monkeypatch) -> None:
    target, candidates = problem(reference, "p2n20")
    solve = convex_program.solve_program

    def wrong(matrices, needed, upper, solver, options):
        answer = solve(matrices, needed, upper, solver, options)
        return Answer(solver, "optimal", 0.999 * answer.weights, answer.matrix_dual, answer.bound_duals)

    monkeypatch.setattr(matching, "solve_program", wrong)
    with pytest.raises(ExecutionError, match=r"CLARABEL says 'optimal', but its weights violate.*CVXOPT"):
        fim_match(target, candidates)

    def failed(matrices, needed, upper, solver, options):
        return Answer(solver, "user_limit", None, None, np.zeros(len(matrices)))

    monkeypatch.setattr(matching, "solve_program", failed)
    with pytest.raises(ExecutionError, match="CLARABEL says 'user_limit', but gives no weights"):
        fim_match(target, candidates)


def test_cvxopt_comes_next(reference, monkeypatch) -> None:
    pytest.importorskip("cvxopt")
    target, candidates = problem(reference, "p7n50")
    result = fim_match(target, candidates, solver_kwargs={"solver": "cvxopt"})
    assert result.solver == "CVXOPT"
    assert abs(result.objective / reference[1]["p7n50"]["objective"] - 1) < 1e-6
    with pytest.warns(UserWarning, match="CVXOPT was asked instead"):
        stopped = fim_match(target, candidates, solver_kwargs={"max_iter": 2})
    np.testing.assert_allclose(stopped.objective, result.objective, rtol=1e-6)


def test_programs_of_many_parameters_go_to_cvxopt(monkeypatch) -> None:
    pytest.importorskip("cvxopt")
    target, candidates = made_up(90, 40)
    result = fim_match(target, candidates)
    assert result.solver == "CVXOPT"
    check_optimal(result, target, candidates)
    assert matching._solvers(None, 39)[0] == ("CLARABEL", "CVXOPT")
    assert matching._solvers({"max_iter": 99}, 40) == (("CLARABEL", "CVXOPT"), {"max_iter": 99})
    monkeypatch.setattr(convex_program, "_cvxpy", lambda: Cvxpy)
    assert matching._solvers(None, 40)[0][0] == "CLARABEL"


class Cvxpy:
    """Of an environment without CVXOPT."""

    class settings:
        SOLVERS = ("CLARABEL", "CVXOPT")

    @staticmethod
    def installed_solvers() -> list[str]:
        return ["CLARABEL"]


def test_one_candidate_in_closed_form() -> None:
    target, candidates = made_up(1, 3, rank=3)
    expected = np.linalg.eigvals(np.linalg.solve(candidates[0], target)).real.max()
    result = fim_match(target, candidates)
    assert result.solver == "closed form"
    np.testing.assert_allclose(result.weights, [expected], rtol=1e-12)
    # On the range of a singular candidate.
    v = np.array([1.0, 2.0, 0.0])
    np.testing.assert_allclose(fim_match(6 * np.outer(v, v), [2 * np.outer(v, v)]).weights, [3.0], rtol=1e-10)


def test_fim_matching_13(shared) -> None:
    from ase.io import read

    folder = shared / "reference" / "scores"
    candidates = [
        atoms.info["fim_training_set_score"]
        for atoms in read(folder / "inputs" / "fim_candidates.extxyz", ":")
    ]
    target = json.loads((folder / "inputs" / "fim_target.json").read_text())["fim_property_score"]
    expected = json.loads((folder / "expected" / "scalars.json").read_text())["fim_matching_13"]
    result = fim_match(target, candidates, weight_tolerance={"zero_tol": 1e-4, "zero_tol_dual": 1e-4})
    assert result.kept.tolist() == [expected["nonzero_index"]]
    np.testing.assert_allclose(result.weights[5], expected["exact_weight"], rtol=1e-12)
    published = np.load(folder / "expected" / "fim_matching_13_weights.npy")
    np.testing.assert_allclose(result.weights, published, rtol=1e-5)


def test_invariances(reference) -> None:
    target, candidates = problem(reference, "p7n50")
    weights = fim_match(target, candidates).weights
    rng = np.random.default_rng(3)
    t = rng.normal(size=(7, 7)) + 2 * np.eye(7)
    order = rng.permutation(50)
    for expected, result in (
        (weights, fim_match(t.T @ target @ t, t.T @ candidates @ t)),
        (1e9 * weights, fim_match(1e9 * target, candidates)),
        (1e7 * weights, fim_match(target, 1e-7 * candidates)),
        (weights[order], fim_match(target, candidates[order])),
        (weights, fim_match(target, candidates, fim_preconditioning_kwargs={})),
    ):
        np.testing.assert_allclose(result.weights, expected, rtol=0, atol=1e-4 * expected.max())
        np.testing.assert_allclose(result.objective, expected.sum(), rtol=1e-6)


def test_scaling_every_candidate_by_its_norm_changes_the_objective() -> None:
    target, candidates = made_up(20, 3)
    norms = np.linalg.norm(candidates, axis=(1, 2))
    plain = fim_match(target, candidates)
    scaled = fim_match(target, candidates, fim_preconditioning_kwargs={"scale_type": "frobenius"})
    unit = fim_match(target, candidates / norms[:, None, None])
    np.testing.assert_allclose(scaled.weights * norms, unit.weights, rtol=0, atol=1e-4 * unit.weights.max())
    assert scaled.weights @ norms < plain.weights @ norms
    np.testing.assert_allclose(scaled.scales.candidates, 1 / norms)
    np.testing.assert_allclose(plain.scales.candidates, 1 / norms.max())
    np.testing.assert_allclose(plain.scales.target, 1 / np.linalg.norm(target))


def test_upper_bounds() -> None:
    target, candidates = made_up(60, 3)
    free = fim_match(target, candidates)
    bound = 0.5 * free.weights.max()
    for asked in (bound, [bound] * 60, [bound if w else None for w in free.weights]):
        limited = fim_match(target, candidates, convexopt_init_kwargs={"weight_upper_bound": asked})
        assert limited.weights.max() <= (bound if asked is bound else np.inf) * (1 + 1e-7)
        assert limited.weights[free.kept].max() <= bound * (1 + 1e-7)
        assert limited.objective > free.objective * (1 + 1e-6)
        total = np.tensordot(limited.weights, candidates, 1) - target
        assert np.linalg.eigvalsh(total)[0] > -1e-6 * np.linalg.norm(target)
        assert limited.gap < 1e-5
    none = [0.0 if w else None for w in free.weights]
    assert (
        not fim_match(target, candidates, convexopt_init_kwargs={"weight_upper_bound": none})
        .weights[free.kept]
        .any()
    )
    loose = fim_match(target, candidates, convexopt_init_kwargs={"weight_upper_bound": 1e6})
    np.testing.assert_allclose(loose.objective, free.objective, rtol=1e-6)


def test_directions_that_no_candidate_knows_are_named() -> None:
    target, candidates = made_up(10, 4)
    candidates[:, 2] = candidates[:, :, 2] = 0
    with pytest.raises(
        DataError, match=r"no candidate depends on lambda; got .*information of .*add.*or fix lambda"
    ):
        fim_match(target, candidates, names=["A", "B", "lambda", "q"])
    with pytest.raises(DataError, match="no candidate depends on parameter 2"):
        fim_match(target, candidates)
    target[2] = target[:, 2] = 0
    check_optimal(fim_match(target, candidates), target, candidates)
    # A combination of parameters, in units that differ by far.
    t = np.diag([1.0, 1e5])
    same = t @ np.array([[1.0, 1.0], [1.0, 1.0]]) @ t
    with pytest.raises(DataError, match=r"no candidate depends on 1 A -1e-05 B; .*of 2 along"):
        fim_match(t @ (2 * np.eye(2)) @ t / 2, [same, 3 * same], names=["A", "B"])


def test_bounds_that_are_too_tight_are_explained() -> None:
    target, candidates = np.diag([1.0, 4.0]), [np.diag([1.0, 0.0]), np.diag([0.0, 1.0])]
    for bounds in (2.0, [None, 2.0]):
        with pytest.raises(DataError, match=r"do not know enough of B within weight_upper_bound; .*raise"):
            fim_match(
                target, candidates, convexopt_init_kwargs={"weight_upper_bound": bounds}, names=["A", "B"]
            )
    np.testing.assert_allclose(
        fim_match(target, candidates, convexopt_init_kwargs={"weight_upper_bound": [2.0, None]}).weights,
        [1, 4],
        rtol=1e-5,
    )


def test_zero_matrices() -> None:
    target, candidates = made_up(5, 3)
    candidates[1] = 0
    result = fim_match(target, candidates)
    assert result.weights[1] == 0
    check_optimal(result, target, candidates)
    nothing = fim_match(0 * target, candidates)
    assert not nothing.weights.any()
    assert nothing.objective == 0
    with pytest.raises(DataError, match="no solution"):
        fim_match(target, 0 * candidates)


def test_needed_weights_are_not_dropped() -> None:
    # The second candidate is needed with a weight of 1e-6 of the largest.
    target, candidates = np.diag([1.0, 1.0]), [np.diag([1.0, 0.0]), np.diag([0.0, 1e6])]
    with pytest.warns(UserWarning, match="1 small weights could not be dropped"):
        result = fim_match(target, candidates)
    assert result.status == "optimal_restored"
    # Solvers are as exact as the largest weight allows.
    np.testing.assert_allclose(result.weights, [1.0, 1e-6], rtol=1e-7, atol=1e-8)
    assert result.weights[1] >= 1e-6
    smaller = fim_match(target, candidates, weight_tolerance={"zero_tol": 1e-8})
    assert smaller.status == "optimal"
    assert smaller.weights[1] >= 1e-6


def test_what_is_left_after_dropping_is_solved_again() -> None:
    target, candidates = np.diag([1.0, 0.5]), [np.diag([1.0, 0.1]), np.diag([0.1, 1.0])]
    np.testing.assert_allclose(fim_match(target, candidates).weights, [0.95 / 0.99, 0.4 / 0.99], rtol=1e-6)
    alone = fim_match(target, candidates, weight_tolerance={"zero_tol": 0.5})
    np.testing.assert_allclose(alone.weights, [5.0, 0.0], rtol=1e-9)
    assert alone.status == "optimal"


def test_a_support_that_cannot_cover_the_target_is_not_kept() -> None:
    target, candidates = np.diag([1.0, 0.1]), [np.diag([1.0, 0.0]), np.diag([0.0, 1.0]), np.diag([0.0, 0.9])]
    with pytest.warns(UserWarning, match="could not be dropped"):
        result = fim_match(target, candidates, weight_tolerance={"zero_tol": 0.5})
    assert result.status == "optimal_restored"
    np.testing.assert_allclose(result.weights, [1.0, 0.1, 0.0], atol=1e-6)


def test_one_parameter() -> None:
    result = fim_match(3.0, [1.0, 2.0, [[1.5]]])
    np.testing.assert_allclose(result.weights, [0.0, 1.5, 0.0], rtol=1e-9)


@pytest.mark.parametrize(
    ("target", "candidates", "message"),
    [
        (np.eye(2), [], "needs candidates"),
        (np.eye(2), [np.eye(2), np.ones((2, 3))], r"square in candidate 1; got \(2, 3\)"),
        (np.eye(2), [np.eye(2), np.eye(3)], r"one size in candidate 1; got \(3, 3\)"),
        (np.eye(3), [np.eye(2)], r"fim_property and the candidates.*got \(3, 3\); expected \(2, 2\)"),
        (np.eye(2), [np.eye(2), [[1, 2], [1, 5]]], "symmetric in candidate 1"),
        ([[1, 0.1], [0, 1]], [np.eye(2)], "symmetric in fim_property"),
        (np.eye(2), [np.eye(2), np.diag([1, -1])], "no negative eigenvalues in candidate 1; got -1"),
        (-np.eye(2), [np.eye(2)], "no negative eigenvalues in fim_property"),
        (np.eye(2), [np.diag([1, np.nan])], r"finite in candidate 0, entry \(1, 1\)"),
        (np.eye(2), [np.eye(2), "fim"], "needed in candidate 1; got str"),
    ],
)
def test_what_is_no_information_is_refused(target, candidates, message) -> None:
    with pytest.raises(DataError, match=message):
        fim_match(target, candidates)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"convexopt_init_kwargs": {"bound": 1}}, ConfigError, "known: weight_upper_bound|did you mean"),
        ({"convexopt_init_kwargs": {"weight_upper_bound": -1}}, ConfigError, "not negative"),
        ({"convexopt_init_kwargs": {"weight_upper_bound": "one"}}, ConfigError, "not negative"),
        ({"convexopt_init_kwargs": {"weight_upper_bound": [1.0]}}, DataError, "got 1; expected 3"),
        ({"fim_preconditioning_kwargs": {"scale_type": "max"}}, ConfigError, "known: frobenius, max_frob"),
        ({"fim_preconditioning_kwargs": {"scale": 1}}, ConfigError, "scale_type"),
        ({"solver_kwargs": {"solver": "CLARABELL"}}, ConfigError, "did you mean 'CLARABEL'"),
        ({"solver_kwargs": {"solver": "SDPA"}}, ConfigError, "SDPA is not installed; pip install"),
        ({"solver_kwargs": {"no_such_option": 1}}, ConfigError, "CLARABEL does not take these options"),
        ({"weight_tolerance": {"tol": 1}}, ConfigError, "zero_tol"),
        ({"weight_tolerance": {"zero_tol": -1}}, ConfigError, "not below zero"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(kwargs, error, message) -> None:
    target, candidates = made_up(3, 2)
    with pytest.raises(error, match=message):
        fim_match(target, candidates, **kwargs)


def test_inputs_stay_as_they_are() -> None:
    target, candidates = made_up(6, 3)
    before = target.copy(), candidates.copy()
    options = {"solver": "CLARABEL", "max_iter": 100}
    fim_match(target, candidates, solver_kwargs=options)
    np.testing.assert_array_equal(target, before[0])
    np.testing.assert_array_equal(candidates, before[1])
    assert options == {"solver": "CLARABEL", "max_iter": 100}


def test_without_cvxpy_the_extra_is_named(monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cvxpy", None)
    convex_program._cvxpy.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'surefield\[matching\]'"):
        fim_match(np.eye(1), [np.eye(1), np.eye(1)])
    convex_program._cvxpy.cache_clear()
