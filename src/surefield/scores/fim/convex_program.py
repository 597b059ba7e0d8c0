"""The convex program of information matching, solved through cvxpy: the only module that needs it."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from surefield.errors import ConfigError, ExecutionError, nearest

__all__ = ["DEFAULT_SOLVERS", "Answer", "check_solver", "solve_program"]

#: In this order. SDPA is 20 to 250 times slower, and SCS calls weights optimal that violate the constraint.
DEFAULT_SOLVERS: Final = ("CLARABEL", "CVXOPT")
#: Clarabel gains two digits in two or three steps.
_OPTIONS: Final = {"CLARABEL": {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}}
INSTALL: Final = "pip install 'surefield[matching]'"


@dataclass(frozen=True, eq=False)
class Answer:
    """What a solver says; none of it is trusted.

    Attributes:
        solver: its name.
        status: in its words.
        weights: w; None: it has none.
        matrix_dual: Z, of the constraint on the matrices.
        bound_duals: of w <= upper; zero where there is no bound.
    """

    solver: str
    status: str
    weights: Float[np.ndarray, " n_candidates"] | None
    matrix_dual: Float[np.ndarray, "n_parameters n_parameters"] | None
    bound_duals: Float[np.ndarray, " n_candidates"]


@cache
def _cvxpy() -> Any:
    try:
        # Its stubs do not cover what is used of it.
        return importlib.import_module("cvxpy")
    except ImportError as error:
        raise ConfigError(f"information matching needs cvxpy: {INSTALL}") from error


def check_solver(name: str) -> str:
    """Name of a solver as cvxpy has it.

    Raises:
        ConfigError: cvxpy or the solver is not installed, or cvxpy knows no such solver.
    """
    cvxpy = _cvxpy()
    solver = str(name).upper()
    if solver in cvxpy.installed_solvers():
        return solver
    known = sorted(getattr(cvxpy.settings, "SOLVERS", DEFAULT_SOLVERS))
    if solver not in known:
        raise ConfigError(f"solver_kwargs: solver {name!r} is not known, {nearest(solver, known)}")
    hint = f"{INSTALL} brings {' and '.join(DEFAULT_SOLVERS)}"
    raise ConfigError(f"the solver {solver} is not installed; {hint}")


def solve_program(
    candidates: Float[np.ndarray, "n_candidates n_parameters n_parameters"],
    target: Float[np.ndarray, "n_parameters n_parameters"],
    upper: Float[np.ndarray, " n_candidates"] | None,
    solver: str,
    options: Mapping[str, Any],
) -> Answer:
    """Minimise sum w subject to w >= 0, w <= upper, and sum w_m candidates_m - target positive semidefinite.

    Args:
        candidates: symmetric matrices of about unit size.
        target: the same.
        upper: inf where there is no bound; None: nowhere.
        solver: see `check_solver`.
        options: passed on to `cvxpy.Problem.solve`.

    Raises:
        ConfigError: an option that the solver does not take.
    """
    cvxpy = _cvxpy()
    n, p = len(candidates), len(target)
    weights = cvxpy.Variable(n, nonneg=True)
    # One product for all entries: sums of matrix expressions take longer to compile than to solve.
    total = cvxpy.reshape(candidates.reshape(n, p * p).T @ weights, (p, p), order="C")
    informed = total - target >> 0
    constraints = [informed]
    bounded = np.flatnonzero(np.isfinite(upper)) if upper is not None else np.zeros(0, int)
    if len(bounded) and upper is not None:
        constraints.append(weights[bounded] <= upper[bounded])
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(weights)), constraints)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of inaccurate solutions: everything is checked afterwards
            problem.solve(solver=solver, **{**_OPTIONS.get(solver, {}), **options})
    except cvxpy.error.SolverError as error:
        return Answer(solver, f"failed: {error}", None, None, np.zeros(n))
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        if options:
            got = f"{', '.join(options)}: {error}"
            raise ConfigError(f"solver_kwargs: {solver} does not take these options", got=got) from error
        raise ExecutionError(f"the solver {solver} failed: {type(error).__name__}: {error}") from error
    dual = informed.dual_value
    by_bound = np.zeros(n)
    if len(bounded) and constraints[1].dual_value is not None:
        by_bound[bounded] = constraints[1].dual_value
    if weights.value is None or dual is None:
        return Answer(solver, str(problem.status), None, None, by_bound)
    dual = np.asarray(dual, np.float64)
    values = np.maximum(np.asarray(weights.value, np.float64), 0.0)
    return Answer(solver, str(problem.status), values, 0.5 * (dual + dual.T), by_bound)
