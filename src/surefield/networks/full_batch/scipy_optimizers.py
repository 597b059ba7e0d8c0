"""Optimizers of SciPy, and any callable like `scipy.optimize.minimize`: they cannot go on in the middle."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from surefield.networks.full_batch.optimizers import Evaluate, OptimizerEnd

__all__ = ["SCIPY_METHODS", "run_callable", "scipy_options"]

Vector = Float[np.ndarray, " n_parameters"]
#: Method of `scipy.optimize.minimize` by name, and options under which only the loss function ends the work.
SCIPY_METHODS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "TNC": ("TNC", {"maxfun": 10**9}),
    "Newton-CG": ("Newton-CG", {"maxiter": 10**9}),
    "NCG": ("Newton-CG", {"maxiter": 10**9}),
    "Nelder-Mead": ("Nelder-Mead", {"maxiter": 10**9, "maxfev": 10**9, "adaptive": True}),
}


def scipy_options(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `scipy.optimize.minimize` for one of its methods.

    Args:
        name: of `SCIPY_METHODS`.
        settings: options over the defaults; `tol` and `callback` are arguments of `minimize` itself.
    """
    method, defaults = SCIPY_METHODS[name]
    own = {key: value for key, value in settings.items() if key in ("tol", "callback")}
    options = {key: value for key, value in settings.items() if key not in own}
    return {"method": method, "options": {**defaults, **options}, **own}


def run_callable(
    optimizer: Callable[..., Any],
    x: Vector,
    evaluate: Evaluate,
    value: Callable[[Vector], float],
    settings: Mapping[str, Any],
    *,
    gradient: bool,
) -> str:
    """Call an optimizer and return the reason of its end.

    Args:
        optimizer: called as optimizer(fun, x, jac=..., **settings), with `fprime` where it has no `jac`, and
            with neither without gradients.
        x: start vector.
        evaluate: loss and gradient.
        value: loss.
        settings: keyword arguments.
        gradient: whether gradients are passed.

    Raises:
        OptimizerEnd: a gradient is not finite.
    """
    if not gradient:
        found = optimizer(lambda v: _finite(value(v)), x, **settings)
        return _reason(found)
    latest: list[tuple[bytes, float, Vector]] = []

    def both(v: Vector) -> tuple[float, Vector]:
        v = np.array(v, np.float64)
        if not latest or latest[0][0] != v.tobytes():
            found, slopes = evaluate(v)
            if not (np.isfinite(found) and np.all(np.isfinite(slopes))):
                raise OptimizerEnd("non-finite loss")
            latest[:] = [(v.tobytes(), found, slopes)]
        return latest[0][1:]

    name = _gradient_argument(optimizer)
    arguments = {name: lambda v: both(v)[1].copy(), **settings}
    return _reason(optimizer(lambda v: both(v)[0], x, **arguments))


def _finite(value: float) -> float:
    return value if np.isfinite(value) else np.inf


def _gradient_argument(optimizer: Callable[..., Any]) -> str:
    try:
        names = inspect.signature(optimizer).parameters
    except (TypeError, ValueError):
        return "jac"
    return "fprime" if "fprime" in names and "jac" not in names else "jac"


def _reason(found: Any) -> str:
    message = getattr(found, "message", None)
    if isinstance(message, list | tuple):
        message = "; ".join(map(str, message))
    return f"the optimizer has ended: {message}" if message else "the optimizer has ended"
