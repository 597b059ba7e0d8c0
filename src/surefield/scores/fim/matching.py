"""Information matching: the smallest weights of candidates whose information covers that of a target.

minimise sum_m w_m subject to w_m >= 0, w_m <= upper_m, sum_m w_m I_m - J positive semidefinite. Source:
Kurniawan et al., arXiv:2411.02740 (2024).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int

from surefield.errors import ConfigError, ExecutionError, check_known
from surefield.scores.fim.convex_program import DEFAULT_SOLVERS, Answer, check_solver, solve_program
from surefield.scores.fim.matching_problem import (
    MatchingProblem,
    Scales,
    candidate_scales,
    checked_bounds,
    checked_candidates,
    checked_target,
    matching_problem,
    weighted_sum,
)

__all__ = ["MatchingResult", "fim_match"]

#: Smallest eigenvalue of sum w I - J, relative to |J|: of an answer, and after small weights are dropped.
_FEASIBLE: Final = 1e-7
_FEASIBLE_KEPT: Final = 1e-5
#: Rank of a matrix, and coverage of the first columns, relative to the largest eigenvalue.
_RANK: Final = 1e-10
_COVERED: Final = 1e-6
#: Gap between the objective and its dual, relative, and excess of tr(Z I_m) over 1, of an answer.
_OPTIMAL: Final = 1e-5
#: Excess of tr(Z I_m) over 1 at which a column is added.
_PRICED_IN: Final = 1e-6
#: Columns to start with, and columns that are added at once, per parameter.
_FIRST_COLUMNS: Final = 2
_MORE_COLUMNS: Final = 1
#: Solver of programs of this many parameters, where it is there: Clarabel takes times that grow with P^6.
_OF_MANY: Final = "CVXOPT"
_MANY_PARAMETERS: Final = 40
CLOSED_FORM: Final = "closed form"
_TOLERANCES: Final = {"zero_tol": 1e-4, "zero_tol_dual": 1e-4}


@dataclass(frozen=True, eq=False)
class MatchingResult:
    """Weights of the candidates and what proves them.

    Attributes:
        weights: one per candidate, exactly 0 where it is not needed; 1/sqrt(w) is the precision with which a
            configuration must be known.
        status: 'optimal'; 'optimal_restored' where small weights could not be dropped.
        objective: sum of the weights.
        duals: of w >= 0 in the scaled problem: 1 - tr(Z I_m), 0 of weights that are needed.
        min_eigenvalue: smallest of sum w I - J, in the units of the matrices.
        kept: indices of the weights that are not zero.
        solver: which answered; 'closed form' for one candidate.
        scales: factors of the preconditioned problem.
        gap: relative difference of the objective and its dual.
        n_columns: candidates that the solver has seen.
    """

    weights: Float[np.ndarray, " n_candidates"]
    status: str
    objective: float
    duals: Float[np.ndarray, " n_candidates"]
    min_eigenvalue: float
    kept: Int[np.ndarray, " n_kept"]
    solver: str
    scales: Scales
    gap: float
    n_columns: int


@dataclass(frozen=True, eq=False)
class _Optimum:
    """Solution of the well-conditioned problem."""

    y: np.ndarray
    duals: np.ndarray
    gap: float
    solver: str
    n_columns: int


def fim_match(
    fim_property: Any,
    candidates: Sequence[Any],
    *,
    convexopt_init_kwargs: Mapping[str, Any] | None = None,
    fim_preconditioning_kwargs: Mapping[str, Any] | None = None,
    solver_kwargs: Mapping[str, Any] | None = None,
    weight_tolerance: Mapping[str, float] | None = None,
    names: Sequence[str] | None = None,
) -> MatchingResult:
    """Weights of candidates whose information covers that of a target.

    Args:
        fim_property: J, (P, P): information that the target needs.
        candidates: I_m, (P, P) each.
        convexopt_init_kwargs: `weight_upper_bound`: None, a number, or one per candidate.
        fim_preconditioning_kwargs: see `candidate_scales`.
        solver_kwargs: `solver` and what is passed on to it; the default is Clarabel, then CVXOPT; from 40
            parameters on CVXOPT, where it is installed, then Clarabel.
        weight_tolerance: a weight is kept if it is above `zero_tol` (1e-4) of the largest and its dual below
            `zero_tol_dual` (1e-4).
        names: of the parameters, for messages.

    Raises:
        DataError: matrices that are no Fisher information, with their index; a target that no weights cover,
            with the direction that is missing.
        ConfigError: unknown arguments, or a solver that is not installed.
        ExecutionError: no solver gives an answer that holds.
    """
    matrices = checked_candidates(candidates)
    target = checked_target(fim_property, matrices.shape[1])
    upper = checked_bounds(convexopt_init_kwargs, len(matrices))
    tolerances = _tolerances(weight_tolerance)
    solvers, options = _solvers(solver_kwargs, matrices.shape[1])
    if not target.any():
        return _nothing_needed(len(matrices))
    usable = np.flatnonzero((matrices != 0).any(axis=(1, 2)) & (upper > 0))
    if not len(usable):
        nothing = np.zeros((1, *target.shape))
        matching_problem(nothing, target, np.full(1, np.inf), Scales("none", np.ones(1), 1.0), names)
    chosen = matrices[usable]
    scales = candidate_scales(fim_preconditioning_kwargs, chosen, target)
    problem = matching_problem(chosen, target, upper[usable], scales, names)
    optimum = _optimum(problem, solvers, options)
    weights, status, solver = _kept(problem, optimum, tolerances, solvers)
    weights = weights * problem.units
    lowest = float(np.linalg.eigvalsh(weighted_sum(chosen, weights) - target)[0])
    if lowest < -_FEASIBLE_KEPT * np.linalg.norm(target):
        raise ExecutionError(
            "the weights do not cover the target in its own units",
            got=f"a smallest eigenvalue of {lowest:.3g}, beside a norm of {np.linalg.norm(target):.3g}",
            fix="state the Fisher information in comparable units, such as those of a LogTransform",
        )
    every, duals = np.zeros(len(matrices)), np.ones(len(matrices))
    every[usable], duals[usable] = weights, optimum.duals
    return MatchingResult(
        weights=every,
        status=status,
        objective=float(every.sum()),
        duals=duals,
        min_eigenvalue=lowest,
        kept=np.flatnonzero(every),
        solver=solver,
        scales=scales,
        gap=optimum.gap,
        n_columns=optimum.n_columns,
    )


def _nothing_needed(n: int) -> MatchingResult:
    scales = Scales("none", np.ones(n), 1.0)
    none = np.zeros(0, int)
    return MatchingResult(np.zeros(n), "optimal", 0.0, np.ones(n), 0.0, none, CLOSED_FORM, scales, 0.0, 0)


def _tolerances(asked: Mapping[str, float] | None) -> dict[str, float]:
    check_known(asked or {}, _TOLERANCES, "weight_tolerance has no entry {}")
    tolerances = {**_TOLERANCES, **(asked or {})}
    for name, value in tolerances.items():
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not (number and 0 <= value < np.inf):
            raise ConfigError(
                f"weight_tolerance: {name}", got=repr(value), expected="a number not below zero"
            )
    return {name: float(value) for name, value in tolerances.items()}


def _solvers(asked: Mapping[str, Any] | None, p: int) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Solvers in the order in which they are asked for P parameters, and options of the first."""
    options = dict(asked or {})
    if not options and p >= _MANY_PARAMETERS:
        with suppress(ConfigError):
            return (check_solver(_OF_MANY), *(name for name in DEFAULT_SOLVERS if name != _OF_MANY)), {}
    first = check_solver(options.pop("solver", None) or DEFAULT_SOLVERS[0])
    return (first, *(name for name in DEFAULT_SOLVERS if name != first)), options


def _optimum(problem: MatchingProblem, solvers: Sequence[str], options: Mapping[str, Any]) -> _Optimum:
    """Column generation: the program on few candidates, to which those are added that its dual asks for."""
    matrices, target = problem.matrices, problem.target
    n, p, _ = matrices.shape
    if n == 1:
        return _Optimum(np.array([_boundary(matrices[0], target)]), np.zeros(1), 0.0, CLOSED_FORM, 1)
    columns = _first_columns(problem)
    while True:
        answer = _solved(problem, columns, solvers, options)
        if answer.solver != solvers[0]:  # the others have had their chance
            solvers, options = solvers[list(solvers).index(answer.solver) :], {}
        assert answer.weights is not None
        assert answer.matrix_dual is not None
        prices = matrices.reshape(n, p * p) @ answer.matrix_dual.reshape(-1)
        excess = prices - 1
        excess[columns] = -np.inf
        missing = np.flatnonzero(excess > _PRICED_IN)
        if not len(missing):
            break
        most = missing[np.argsort(-excess[missing], kind="stable")[: max(_MORE_COLUMNS * p, 20)]]
        columns = np.concatenate([columns, most])
    y, bounds = np.zeros(n), np.zeros(n)
    y[columns], bounds[columns] = answer.weights, answer.bound_duals
    return _Optimum(y, 1 - prices + bounds, _gap(problem, columns, answer), answer.solver, len(columns))


def _first_columns(problem: MatchingProblem) -> Int[np.ndarray, " n_columns"]:
    """Candidates that know most of the target, and cover it within their bounds."""
    matrices, target = problem.matrices, problem.target
    n, p, _ = matrices.shape
    if n <= 2 * _FIRST_COLUMNS * p:
        return np.arange(n)
    values, vectors = np.linalg.eigh(target)
    needed = vectors[:, values > 1e-10 * values[-1]]
    inverse = (needed / values[values > 1e-10 * values[-1]]) @ needed.T
    knowledge = matrices.reshape(n, p * p) @ inverse.reshape(-1)
    order = np.argsort(-knowledge, kind="stable")
    columns = list(order[: _FIRST_COLUMNS * p])
    while len(columns) < n:
        total = matrices[columns].sum(axis=0)
        values, vectors = np.linalg.eigh(total)
        silent = vectors[:, values < _COVERED * values[-1]]
        inner, directions = np.linalg.eigh(silent.T @ target @ silent) if silent.shape[1] else ([0.0], None)
        if directions is None or inner[-1] <= _COVERED**2:
            break
        direction = silent @ directions[:, -1]
        known = np.einsum("i,mij,j->m", direction, matrices, direction)
        known[columns] = -np.inf
        columns.append(int(np.argmax(known)))
    bounded = np.minimum(problem.upper, 1e12)
    while len(columns) < n and np.isfinite(problem.upper).any():
        if np.linalg.eigvalsh(weighted_sum(matrices[columns], bounded[columns]) - target)[0] > 0:
            break
        columns = list(order[: 2 * len(columns)])
    return np.array(columns, int)


def _solved(
    problem: MatchingProblem,
    columns: Int[np.ndarray, " n"],
    solvers: Sequence[str],
    options: Mapping[str, Any],
) -> Answer:
    """The first answer that holds."""
    reasons = []
    for i, solver in enumerate(solvers):
        if i > 0:
            try:
                check_solver(solver)
            except ConfigError as error:
                reasons.append(str(error))
                continue
        answer = solve_program(
            problem.matrices[columns], problem.target, problem.upper[columns], solver, {} if i else options
        )
        reason = _refusal(problem, columns, answer)
        if reason is None:
            if i > 0:
                warnings.warn(f"{'; '.join(reasons)}: {solver} was asked instead", stacklevel=2)
            return answer
        reasons.append(f"{solver} says {answer.status!r}, but {reason}")
    raise ExecutionError(f"no solver gives weights that hold: {'; '.join(reasons)}")


def _refusal(problem: MatchingProblem, columns: Int[np.ndarray, " n"], answer: Answer) -> str | None:
    """Why an answer does not hold; None: it does."""
    if answer.weights is None or answer.matrix_dual is None:
        return "gives no weights"
    matrices = problem.matrices[columns]
    lowest = np.linalg.eigvalsh(weighted_sum(matrices, answer.weights) - problem.target)[0]
    if not lowest >= -_FEASIBLE:
        return (
            f"its weights violate the constraint: smallest eigenvalue {lowest:.1e} of the norm of the target"
        )
    if (answer.weights > problem.upper[columns] * (1 + _FEASIBLE) + _FEASIBLE).any():
        return "its weights are above their bounds"
    gap = _gap(problem, columns, answer)
    prices = np.einsum("mij,ij->m", matrices, answer.matrix_dual) - answer.bound_duals
    if gap > _OPTIMAL or prices.max() > 1 + _OPTIMAL:
        return f"its weights are not the smallest: gap {gap:.1e}"
    return None


def _gap(problem: MatchingProblem, columns: Int[np.ndarray, " n"], answer: Answer) -> float:
    """Relative difference of the objective and its dual."""
    assert answer.weights is not None
    assert answer.matrix_dual is not None
    upper = np.where(answer.bound_duals > 0, problem.upper[columns], 0.0)
    dual = float(np.sum(answer.matrix_dual * problem.target) - np.sum(answer.bound_duals * upper))
    objective = float(answer.weights.sum())
    return abs(objective - dual) / max(abs(objective), 1e-300)


def _kept(
    problem: MatchingProblem, optimum: _Optimum, tolerances: Mapping[str, float], solvers: Sequence[str]
) -> tuple[np.ndarray, str, str]:
    """Scaled weights of which the small ones are dropped, the status, and the solver."""
    y, n = optimum.y, len(optimum.y)
    weights = y * problem.units
    small = weights <= tolerances["zero_tol"] * weights.max()
    kept = np.flatnonzero(~small & (optimum.duals < tolerances["zero_tol_dual"]))
    only = np.zeros(n)
    only[kept] = y[kept]
    exact = _on_boundary(problem, only)
    if exact is not None:
        return exact, "optimal", CLOSED_FORM if len(kept) == 1 else optimum.solver
    again = _on_support(problem, kept, solvers)
    if again is not None:
        return again[0], "optimal", again[1]
    warnings.warn(
        f"{int((y > 0).sum()) - len(kept)} small weights could not be dropped without violating the "
        "constraint, and were restored; lower zero_tol or raise zero_tol_dual",
        stacklevel=3,
    )
    whole = _on_boundary(problem, y)
    return (y if whole is None else whole), "optimal_restored", optimum.solver


def _on_support(
    problem: MatchingProblem, kept: Int[np.ndarray, " n_kept"], solvers: Sequence[str]
) -> tuple[np.ndarray, str] | None:
    """Solution with these weights only, and its solver; None: there is none."""
    y = np.zeros(len(problem.units))
    if len(kept) == 1:
        y[kept] = _boundary(problem.matrices[kept[0]], problem.target)
        return (y, CLOSED_FORM) if y[kept[0]] <= problem.upper[kept[0]] and np.isfinite(y).all() else None
    try:
        answer = _solved(problem, kept, solvers, {}) if len(kept) else None
    except ExecutionError:
        return None
    if answer is None:
        return None
    assert answer.weights is not None
    y[kept] = answer.weights
    exact = _on_boundary(problem, y)
    return (y if exact is None else exact), answer.solver


def _on_boundary(problem: MatchingProblem, y: np.ndarray) -> np.ndarray | None:
    """Weights times the factor that takes them onto the boundary of the constraint; None: it is not near 1.

    Solvers stop near the boundary, on either side. Of one weight this is its closed form.
    """
    if not y.any():
        return None
    factor = _boundary(weighted_sum(problem.matrices, y), problem.target)
    if not abs(factor - 1) <= _OPTIMAL:
        return None
    return np.minimum(y * factor, problem.upper)


def _boundary(matrix: np.ndarray, target: np.ndarray) -> float:
    """Smallest factor with factor * matrix - target positive semidefinite: a generalised eigenvalue."""
    values, vectors = np.linalg.eigh(matrix)
    informed = values > _RANK * values[-1]
    silent = vectors[:, ~informed]
    if silent.shape[1] and np.linalg.eigvalsh(silent.T @ target @ silent)[-1] > _RANK:
        return np.inf
    white = vectors[:, informed] / np.sqrt(values[informed])
    return float(np.linalg.eigvalsh(white.T @ target @ white)[-1])
