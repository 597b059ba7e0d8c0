"""Numerical derivatives of any function of parameters: named stencils, and an estimate of their error."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, ExecutionError, nearest

__all__ = ["ERROR_LIMIT", "STENCILS", "NumericalJacobian", "Stencil", "numerical_jacobian", "step_sizes"]

#: Relative error of a column of J above which a warning is given.
ERROR_LIMIT: Final = 1e-3
_NAMES_IN_A_WARNING: Final = 6


@dataclass(frozen=True)
class Stencil:
    """df/dphi = sum_k weights[k] f(phi + places[k] h) / h.

    Attributes:
        places: in units of the step h.
        weights: of the function there.
        order: of the error in h; polynomials up to this degree come out exactly.
    """

    places: tuple[int, ...]
    weights: tuple[float, ...]
    order: int


STENCILS: Final[dict[str, Stencil]] = {
    "FD": Stencil((0, 1), (-1.0, 1.0), 1),
    "FD2": Stencil((0, 1, 2), (-3 / 2, 4 / 2, -1 / 2), 2),
    "FD3": Stencil((0, 1, 2, 4), (-21 / 12, 32 / 12, -12 / 12, 1 / 12), 3),
    "FD4": Stencil((0, 1, 2, 4, 8), (-315 / 168, 512 / 168, -224 / 168, 28 / 168, -1 / 168), 4),
    "CD": Stencil((-1, 1), (-1 / 2, 1 / 2), 2),
    "CD4": Stencil((-2, -1, 1, 2), (1 / 12, -8 / 12, 8 / 12, -1 / 12), 4),
    "backward": Stencil((-1, 0), (-1.0, 1.0), 1),
}
#: Words for the same.
_WORDS: Final = {"central": "CD", "forward": "FD"}


@dataclass(frozen=True, eq=False)
class NumericalJacobian:
    """J by finite differences.

    Attributes:
        values: df/dphi, of the stated step.
        steps: absolute step of each parameter.
        errors: estimated error of each column, relative to its norm, from half the step.
        n_evaluations: calls of the function.
    """

    values: Float[np.ndarray, "n_outputs n_parameters"]
    steps: Float[np.ndarray, " n_parameters"]
    errors: Float[np.ndarray, " n_parameters"]
    n_evaluations: int


def step_sizes(
    phi: Float[np.ndarray, " n_parameters"],
    step: ArrayLike | None,
    relative: float,
    *,
    name: str = "derivative_kwargs: step",
) -> Float[np.ndarray, " n_parameters"]:
    """Absolute steps.

    Args:
        phi: where derivatives are taken.
        step: absolute, a number or one per parameter; None: `relative` times |phi_j|, of 1 where phi_j = 0.
        relative: see `step`.
        name: of the argument, for messages.

    Raises:
        ConfigError: steps that are not positive, or a wrong number of them.
    """
    phi = np.asarray(phi, np.float64)
    if step is None:
        return relative * np.where(phi == 0, 1.0, np.abs(phi))
    try:
        steps = np.asarray(step, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(name, got=repr(step), expected="a positive number, or one per parameter") from None
    if steps.shape not in ((), (1,), phi.shape):
        raise ConfigError(name, got=f"{steps.size} values", expected=f"one, or {len(phi)}: one per parameter")
    if not (np.isfinite(steps) & (steps > 0)).all():
        raise ConfigError(
            name,
            got=np.asarray(step).tolist(),
            expected="positive, finite numbers",
            fix="leave it out for the default, which is never zero",
        )
    return np.broadcast_to(steps.reshape(-1) if steps.ndim else steps, phi.shape).copy()


def stencil(method: str) -> Stencil:
    """Stencil of a name: FD, FD2, FD3, FD4, CD, CD4, or 'forward', 'central', 'backward'.

    Raises:
        ConfigError: an unknown name.
    """
    known = [*STENCILS, *_WORDS]
    name = _WORDS.get(str(method), str(method))
    if name not in STENCILS:
        raise ConfigError(f"derivative_kwargs: method {method!r} is not known, {nearest(str(method), known)}")
    return STENCILS[name]


def numerical_jacobian(
    function: Callable[[Float[np.ndarray, " n_parameters"]], ArrayLike],
    phi: Float[np.ndarray, " n_parameters"],
    steps: Float[np.ndarray, " n_parameters"],
    *,
    method: str = "CD",
    names: Sequence[str] = (),
    mapped: Callable[..., Iterable[Any]] = map,
    warn: bool = True,
) -> NumericalJacobian:
    """J of a function by finite differences, with the error of every column.

    A second J of half the step gives the error: for a stencil of order p the difference of both is that of
    the first, but for a factor of 1 - 2^-p.

    Args:
        function: (n_parameters,) to any array of fixed shape; flattened.
        phi: where.
        steps: absolute, see `step_sizes`.
        method: see `stencil`.
        names: of the parameters, for messages.
        mapped: how all points are evaluated: `map`, or that of an executor.
        warn: warn of columns whose relative error is above 1e-3.

    Raises:
        ConfigError: an unknown method.
        ExecutionError: a value that is not finite, or of another shape than the others.
        Exception: whatever the function raises.
    """
    phi, rule = np.asarray(phi, np.float64), stencil(method)
    places = sorted({place * scale for place in rule.places for scale in (1.0, 0.5)})
    points = {(j, place): None for j in range(len(phi)) for place in places if place != 0}
    if 0.0 in places:
        points[(-1, 0.0)] = None
    moved = [_moved(phi, steps, j, place) for j, place in points]
    outputs = [np.asarray(value, np.float64).reshape(-1) for value in mapped(function, moved)]
    labels = [*names] or [f"parameter {j}" for j in range(len(phi))]
    _check(outputs, list(points), labels)
    at = dict(zip(points, outputs, strict=True))

    def column(j: int, scale: float) -> np.ndarray:
        terms = zip(rule.places, rule.weights, strict=True)
        total = sum(w * at[(j, p * scale) if p else (-1, 0.0)] for p, w in terms)
        return np.asarray(total) / (scale * steps[j])

    n_outputs = len(outputs[0]) if outputs else 0
    values, errors = np.zeros((n_outputs, len(phi))), np.zeros(len(phi))
    for j in range(len(phi)):
        values[:, j], finer = column(j, 1.0), column(j, 0.5)
        size = max(np.linalg.norm(values[:, j]), np.linalg.norm(finer))
        difference = float(np.linalg.norm(values[:, j] - finer)) / (1 - 0.5**rule.order)
        errors[j] = difference / size if size > 0 else 0.0
    if warn:
        warn_of_errors(errors, labels, method)
    return NumericalJacobian(values, np.asarray(steps), errors, len(moved))


def warn_of_errors(errors: Float[np.ndarray, " n_parameters"], names: Sequence[str], method: str) -> None:
    """Warn of parameters whose derivatives have a relative error above 1e-3."""
    bad = [f"{name} {error:.1e}" for name, error in zip(names, errors, strict=True) if error > ERROR_LIMIT]
    if bad:
        more = f" and {len(bad) - _NAMES_IN_A_WARNING} more" if len(bad) > _NAMES_IN_A_WARNING else ""
        warnings.warn(
            f"numerical derivatives ({method}) have a relative error above {ERROR_LIMIT:g}: "
            f"{', '.join(bad[:_NAMES_IN_A_WARNING])}{more}; take a smaller step, a method of higher order, "
            "or 'autodiff' where the potential allows it",
            stacklevel=2,
        )


def _moved(phi: np.ndarray, steps: np.ndarray, j: int, place: float) -> np.ndarray:
    point = phi.copy()
    if j >= 0:
        point[j] += place * steps[j]
    return point


def _check(outputs: list[np.ndarray], points: list[tuple[int, float]], names: Sequence[str]) -> None:
    for value, (j, place) in zip(outputs, points, strict=True):
        where = "the parameters" if j < 0 else f"{names[j]} changed by {place:g} steps"
        if value.shape != outputs[0].shape:
            raise ExecutionError(
                f"the function gives another number of values at {where}",
                got=len(value),
                expected=len(outputs[0]),
            )
        if not np.isfinite(value).all():
            raise ExecutionError(
                f"a value is not finite at {where}",
                fix="take a smaller step, or a transform that keeps parameters in their domain",
            )
