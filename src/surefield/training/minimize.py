"""Minimisers of scipy, or like those of scipy, behind one call.

`minimize` keeps the best point, counts evaluations and survives bad steps; `run_minimizer` is the call alone.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
import scipy.optimize
from jaxtyping import Float

from surefield.errors import ConfigError, DataError, nearest

__all__ = [
    "ENDLESS",
    "METHODS",
    "Minimum",
    "Objective",
    "check_method",
    "endless_options",
    "minimize",
    "run_minimizer",
]

Vector = Float[np.ndarray, " n_free"]


class MethodTraits(NamedTuple):
    """What a method needs and honours.

    Attributes:
        needs: 'gradient', only the 'loss', or the 'rows' whose squares are summed.
        bounds: whether it keeps to bounds.
        options: that are used unless told otherwise; scipy's own stop far from the last digits.
    """

    needs: Literal["gradient", "loss", "rows"]
    bounds: bool
    options: Mapping[str, Any] = {}


METHODS: Final = {
    "L-BFGS-B": MethodTraits("gradient", True, {"ftol": 1e-13, "gtol": 1e-9, "maxls": 40}),
    "TNC": MethodTraits("gradient", True, {"ftol": 1e-13, "gtol": 1e-9}),
    "SLSQP": MethodTraits("gradient", True, {"ftol": 1e-13}),
    "trust-constr": MethodTraits("gradient", True, {"gtol": 1e-9, "xtol": 1e-12}),
    "BFGS": MethodTraits("gradient", False, {"gtol": 1e-8}),
    "CG": MethodTraits("gradient", False, {"gtol": 1e-8}),
    "Newton-CG": MethodTraits("gradient", False, {"xtol": 1e-9}),
    "Nelder-Mead": MethodTraits("loss", True, {"xatol": 1e-8, "fatol": 1e-12}),
    "Powell": MethodTraits("loss", True, {"xtol": 1e-9, "ftol": 1e-12}),
    # COBYLA takes bounds, but steps over them on its way.
    "COBYLA": MethodTraits("loss", False, {"tol": 1e-10}),
    "COBYQA": MethodTraits("loss", True, {"final_tr_radius": 1e-8}),
    "lm": MethodTraits("rows", False, {"ftol": 1e-11, "xtol": 1e-12, "gtol": 1e-12}),
    "trf": MethodTraits("rows", True, {"ftol": 1e-13, "xtol": 1e-12, "gtol": 1e-12}),
    "dogbox": MethodTraits("rows", True, {"ftol": 1e-13, "xtol": 1e-12, "gtol": 1e-12}),
}
#: Method of `scipy.optimize.minimize` by name, and options under which only the loss function ends the work.
ENDLESS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "TNC": ("TNC", {"maxfun": 10**9}),
    "Newton-CG": ("Newton-CG", {"maxiter": 10**9}),
    "NCG": ("Newton-CG", {"maxiter": 10**9}),
    "Nelder-Mead": ("Nelder-Mead", {"maxiter": 10**9, "maxfev": 10**9, "adaptive": True}),
}
#: A loss that is not finite counts as this many times the largest finite one, so that steps there fail.
_WORSE: Final = 1e3


class Objective(Protocol):
    """A loss of few parameters; `rows` and `jacobian` are asked for by least-squares methods only."""

    def loss(self, x: Vector) -> float:
        """Loss at a point."""
        ...

    def gradient(self, x: Vector) -> tuple[float, Vector]:
        """Loss and its derivatives."""
        ...

    def rows(self, x: Vector) -> Float[np.ndarray, " n_rows"]:
        """Residuals whose squares add up to the loss."""
        ...

    def jacobian(self, x: Vector) -> Float[np.ndarray, "n_rows n_free"]:
        """Derivatives of the rows."""
        ...


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where a minimisation ended.

    Attributes:
        x: the best point of all that were evaluated.
        loss: there.
        success: whether the method converged.
        message: of the method.
        history: number, loss and best loss of every evaluation.
    """

    x: Vector
    loss: float
    success: bool
    message: str
    history: tuple[Mapping[str, float], ...]


class _Stop(Exception):
    """The evaluations are used up."""


@dataclass
class _Evaluations:
    """Counts evaluations and remembers the best of them."""

    limit: int
    improved: Callable[[Vector], None]
    x: Vector = field(default_factory=lambda: np.zeros(0))
    best: float = np.inf
    largest: float = -np.inf
    history: list[Mapping[str, float]] = field(default_factory=list)

    def before(self) -> None:
        if len(self.history) >= self.limit:
            raise _Stop

    def seen(self, x: Vector, loss: float) -> float:
        """Note a loss; returns what the method is told."""
        finite = bool(np.isfinite(loss))
        if not self.history and not finite:
            raise DataError(f"the loss at the start is {loss}; check the start values and the structures")
        self.largest = max(self.largest, loss) if finite else self.largest
        better = finite and loss < self.best
        if better:
            self.x, self.best = np.array(x), float(loss)
        self.history.append({"evaluation": len(self.history) + 1, "loss": float(loss), "best": self.best})
        if better:
            self.improved(self.x)
        return float(loss) if finite else _WORSE * max(self.largest, 1.0)


def minimize(
    objective: Objective,
    start: Vector,
    bounds: tuple[Vector, Vector],
    method: str,
    *,
    max_evals: int,
    options: Mapping[str, Any] | None = None,
    accepted: Callable[[Vector], None] | None = None,
) -> Minimum:
    """Minimise a loss.

    Args:
        objective: to be minimised.
        start: first point.
        bounds: lower and upper, infinite where there is none.
        method: name in `METHODS`.
        max_evals: largest number of evaluations of the loss (with gradient) or of the rows.
        options: of the scipy method.
        accepted: called with the point after every iteration; for least squares, with every point that is
            better than all before.

    Raises:
        ConfigError: an unknown method or option, or bounds for a method that has none.
        DataError: the loss at the start is not finite.
    """
    kind = check_method(method, bool(np.isfinite(bounds[0]).any() or np.isfinite(bounds[1]).any()))
    note = accepted or (lambda x: None)
    seen = _Evaluations(max_evals, note if kind.needs == "rows" else lambda x: None)
    settings = {**kind.options, **(options or {})}
    call = _least_squares if kind.needs == "rows" else _minimize
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", scipy.optimize.OptimizeWarning)
            end = call(objective, start, bounds, method, settings, seen, note)
        success, message = bool(end.success), str(end.message)
    except _Stop:
        success, message = False, f"stopped after max_evals = {max_evals} evaluations"
    except (scipy.optimize.OptimizeWarning, TypeError) as error:
        if seen.history:
            raise
        raise ConfigError(f"options of {method}: {error}") from None
    return Minimum(seen.x, seen.best, success, message, tuple(seen.history))


def check_method(method: str, bounded: bool) -> MethodTraits:
    """What a method needs.

    Raises:
        ConfigError: an unknown method, or bounds for a method that has none.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown optimization_method {method!r}, {nearest(method, METHODS)}")
    if bounded and not METHODS[method].bounds:
        able = ", ".join(name for name, kind in METHODS.items() if kind.bounds)
        raise ConfigError(f"{method} does not honour bounds: leave them out, or use one of {able}")
    return METHODS[method]


def _minimize(
    objective: Objective,
    start: Vector,
    bounds: tuple[Vector, Vector],
    method: str,
    settings: Mapping[str, Any],
    seen: _Evaluations,
    accepted: Callable[[Vector], None],
) -> Any:
    def with_gradient(x: Vector) -> tuple[float, Vector]:
        seen.before()
        loss, gradient = objective.gradient(x)
        told = seen.seen(x, loss)
        return told, gradient if told == loss else np.zeros_like(x)

    def alone(x: Vector) -> float:
        seen.before()
        return seen.seen(x, objective.loss(x))

    # A method stops at the limit of this call, not at one of its own.
    own = {"L-BFGS-B": ("maxiter", "maxfun"), "TNC": ("maxfun",), "Nelder-Mead": ("maxiter", "maxfev")}
    limits = dict.fromkeys(own.get(method, ("maxiter",)), 10 * seen.limit + 10)
    limited = any(np.isfinite(bound).any() for bound in bounds)
    arguments = {
        "method": method,
        "bounds": scipy.optimize.Bounds(*bounds) if limited else None,  # type: ignore[arg-type]
        "callback": lambda x, *_: accepted(np.array(x)),
        "options": {**limits, **settings},
    }
    gradient = METHODS[method].needs == "gradient"
    return run_minimizer(scipy.optimize.minimize, start, with_gradient, alone, arguments, gradient=gradient)


def _least_squares(
    objective: Objective,
    start: Vector,
    bounds: tuple[Vector, Vector],
    method: str,
    settings: Mapping[str, Any],
    seen: _Evaluations,
    accepted: Callable[[Vector], None],
) -> Any:
    def rows(x: Vector) -> np.ndarray:
        seen.before()
        residuals = objective.rows(x)
        loss = float(residuals @ residuals)
        told = seen.seen(x, loss)
        return residuals if told == loss else np.full(len(residuals), np.sqrt(told / len(residuals)))

    return scipy.optimize.least_squares(
        rows,
        start,
        objective.jacobian,  # type: ignore[arg-type]
        bounds=bounds,
        method=method,  # type: ignore[arg-type]
        x_scale="jac",
        max_nfev=10 * seen.limit + 10,
        **settings,
    )


def endless_options(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `scipy.optimize.minimize` for one of its methods.

    Args:
        name: of `ENDLESS`.
        settings: options over the defaults; `tol` and `callback` are arguments of `minimize` itself.
    """
    method, defaults = ENDLESS[name]
    own = {key: value for key, value in settings.items() if key in ("tol", "callback")}
    options = {key: value for key, value in settings.items() if key not in own}
    return {"method": method, "options": {**defaults, **options}, **own}


def run_minimizer(
    minimizer: Callable[..., Any],
    start: Vector,
    evaluate: Callable[[Vector], tuple[float, Vector]],
    value: Callable[[Vector], float],
    settings: Mapping[str, Any],
    *,
    gradient: bool,
) -> Any:
    """Call a minimiser and return what it returns.

    Args:
        minimizer: called as minimizer(fun, start, jac=..., **settings), with `fprime` where it has no `jac`,
            and with neither without gradients.
        start: start vector.
        evaluate: loss and gradient; called once where both are asked for at one point.
        value: loss.
        settings: keyword arguments.
        gradient: whether gradients are passed.
    """
    if not gradient:
        return minimizer(value, start, **settings)
    latest: list[tuple[bytes, tuple[float, Vector]]] = []

    def both(x: Vector) -> tuple[float, Vector]:
        x = np.array(x, np.float64)
        if not latest or latest[0][0] != x.tobytes():
            latest[:] = [(x.tobytes(), evaluate(x))]
        return latest[0][1]

    arguments = {_gradient_argument(minimizer): lambda x: both(x)[1].copy(), **settings}
    return minimizer(lambda x: both(x)[0], start, **arguments)


def _gradient_argument(minimizer: Callable[..., Any]) -> str:
    try:
        names = inspect.signature(minimizer).parameters
    except (TypeError, ValueError):
        return "jac"
    return "fprime" if "fprime" in names and "jac" not in names else "jac"
