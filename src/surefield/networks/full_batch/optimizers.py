"""Optimizers as steppable functions: the whole state is arrays, so that a run can stop and go on anywhere.

BFGS and L-BFGS as in Nocedal and Wright, Numerical Optimization (2006), 6.1 and 7.2.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, final

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg.blas
from jaxtyping import Array, Float

from surefield.errors import ConfigError, nearest
from surefield.networks.full_batch.line_search import Point, wolfe_search
from surefield.potentials.saving import pack, unpack

__all__ = [
    "BFGS",
    "LBFGS",
    "Evaluate",
    "OptaxOptimizer",
    "OptimizerEnd",
    "SteppableOptimizer",
    "optax_names",
]

Vector = Float[np.ndarray, " n_parameters"]
# Compiled functions that type checkers cannot see: symmetric product, and update of rank two.
_symmetric_product: Any = getattr(scipy.linalg.blas, "dsymv")  # noqa: B009
_symmetric_update: Any = getattr(scipy.linalg.blas, "dsyr2")  # noqa: B009
Evaluate = Callable[[Vector], tuple[float, Vector]]
#: A pair (s, y) whose product is smaller, relative to the lengths, says nothing about the curvature.
_FLAT: Final = 1e-12


class OptimizerEnd(Exception):
    """An optimizer can do no more; the message is the reason."""


class SteppableOptimizer(abc.ABC):
    """Minimises a function step by step.

    `start` gives the state before the first evaluation, `step` makes one iteration. A state is never changed
    once `step` has returned another one, except that arrays of the old one may be reused.
    """

    @abc.abstractmethod
    def start(self, x: Vector) -> Any:
        """State at a start vector; nothing is evaluated."""

    @abc.abstractmethod
    def step(self, state: Any, evaluate: Evaluate) -> Any:
        """State after one more iteration.

        Raises:
            OptimizerEnd: there is no better point, or the changes are small enough.
        """

    @abc.abstractmethod
    def arrays(self, state: Any) -> dict[str, np.ndarray]:
        """A state as arrays."""

    @abc.abstractmethod
    def restored(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """State from what `arrays` gave."""


@dataclass(frozen=True, eq=False)
class _Curve:
    """State of a quasi-Newton method.

    Attributes:
        x: parameters.
        value: loss there; None before the first evaluation.
        slopes: gradient.
        before: loss of the iteration before; None in the first one.
        memory: what is known of the curvature; None: nothing.
    """

    x: Vector
    value: float | None = None
    slopes: Vector | None = None
    before: float | None = None
    memory: Any = None


class _QuasiNewton(SteppableOptimizer):
    """What BFGS and L-BFGS share: the line search, the fall-back to the gradient, the ends."""

    gtol: float
    ftol: float | None
    maxls: int

    @abc.abstractmethod
    def _direction(self, memory: Any, slopes: Vector) -> Vector:
        """Minus the inverse Hessian times the gradient."""

    @abc.abstractmethod
    def _updated(self, memory: Any, s: Vector, y: Vector, product: float) -> Any:
        """Memory with one more pair of steps s and changes of the gradient y; may reuse the arrays."""

    def start(self, x: Vector) -> _Curve:
        """State at a start vector."""
        return _Curve(np.array(x, np.float64))

    def step(self, state: _Curve, evaluate: Evaluate) -> _Curve:
        """One line search along the quasi-Newton direction, or once along the gradient."""
        if state.value is None or state.slopes is None:
            value, slopes = evaluate(state.x)
            if not (np.isfinite(value) and np.all(np.isfinite(slopes))):
                raise OptimizerEnd("non-finite loss at the start vector")
            return replace(state, value=value, slopes=slopes)
        self._check_end(state)
        before, point = state.slopes, None
        if state.memory is not None:
            point = self._search(state, self._direction(state.memory, before), evaluate)
        if point is None:
            state = replace(state, memory=None)
            point = self._search(state, -before, evaluate)
        if point is None:
            raise OptimizerEnd("the line search found no lower loss, not even along the gradient")
        x, slopes = point.payload
        s, y = x - state.x, slopes - before
        product = float(s @ y)
        memory = state.memory
        if product > _FLAT * float(np.linalg.norm(s) * np.linalg.norm(y)):
            memory = self._updated(memory, s, y, product)
        return _Curve(x, point.value, slopes, state.value, memory)

    def _check_end(self, state: _Curve) -> None:
        assert state.value is not None
        assert state.slopes is not None
        largest = float(np.max(np.abs(state.slopes), initial=0.0))
        if largest <= self.gtol:
            raise OptimizerEnd(f"the largest slope, {largest:.3g}, is below gtol = {self.gtol:g}")
        if self.ftol is None or state.before is None:
            return
        change = (state.before - state.value) / max(abs(state.before), abs(state.value), 1.0)
        if change <= self.ftol:
            raise OptimizerEnd(f"the loss changes by {change:.3g} of itself, below ftol = {self.ftol:g}")

    def _search(self, state: _Curve, direction: Vector, evaluate: Evaluate) -> Point | None:
        assert state.value is not None
        assert state.slopes is not None
        slope = float(state.slopes @ direction)
        if not slope < 0:
            return None
        first = 1.0 / float(np.linalg.norm(direction))
        if state.memory is not None and state.before is not None:
            # As long as would repeat the latest decrease (Nocedal and Wright, 3.60).
            first = 2.02 * (state.value - state.before) / slope
            first = first if 0 < first < 1 else 1.0

        def at(step: float) -> Point:
            x = state.x + step * direction
            value, slopes = evaluate(x)
            if not (np.isfinite(value) and np.all(np.isfinite(slopes))):
                return Point(step, np.inf, np.nan, None)
            return Point(step, value, float(slopes @ direction), (x, slopes))

        return wolfe_search(at, Point(0.0, state.value, slope, None), first, self.maxls)

    def arrays(self, state: _Curve) -> dict[str, np.ndarray]:
        """A state as arrays."""
        arrays = {"x": state.x, **self._memory_arrays(state.memory)}
        for name in ("value", "slopes", "before"):
            content = getattr(state, name)
            arrays |= {} if content is None else {name: np.asarray(content)}
        return arrays

    def restored(self, arrays: Mapping[str, np.ndarray]) -> _Curve:
        """State from what `arrays` gave."""
        value, before = (None if k not in arrays else float(arrays[k]) for k in ("value", "before"))
        memory = self._memory(arrays)
        return _Curve(arrays["x"], value, arrays.get("slopes"), before, memory)

    @abc.abstractmethod
    def _memory_arrays(self, memory: Any) -> dict[str, np.ndarray]:
        """Memory as arrays."""

    @abc.abstractmethod
    def _memory(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """Memory from these arrays."""


@final
class BFGS(_QuasiNewton):
    """Quasi-Newton method with the dense inverse Hessian, of which the lower triangle is kept.

    Args:
        gtol: ends where no slope is larger.
        maxls: evaluations per line search.
    """

    def __init__(self, gtol: float = 1e-15, maxls: int = 20) -> None:
        self.gtol, self.ftol, self.maxls = float(gtol), None, int(maxls)

    def _direction(self, memory: np.ndarray, slopes: Vector) -> Vector:
        return -_symmetric_product(1.0, memory, slopes, lower=1)

    def _updated(self, memory: np.ndarray | None, s: Vector, y: Vector, product: float) -> np.ndarray:
        if memory is None:
            memory = np.eye(len(s), order="F")
        moved = _symmetric_product(1.0, memory, y, lower=1)
        factor = (1.0 + float(y @ moved) / product) / product
        # (1 - s y'/sy) H (1 - y s'/sy) + s s'/sy as one symmetric update of rank two, in place.
        return _symmetric_update(1.0, s, 0.5 * factor * s - moved / product, a=memory, lower=1, overwrite_a=1)

    def _memory_arrays(self, memory: np.ndarray | None) -> dict[str, np.ndarray]:
        if memory is None:
            return {}
        return {"inverse_hessian": memory[np.tril_indices(len(memory))]}

    def _memory(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
        if "inverse_hessian" not in arrays:
            return None
        n = len(arrays["x"])
        memory = np.zeros((n, n), order="F")
        memory[np.tril_indices(n)] = arrays["inverse_hessian"]
        return memory


@final
class LBFGS(_QuasiNewton):
    """Quasi-Newton method that remembers few pairs of steps and changes of the gradient.

    Args:
        ftol: ends where the loss falls by less than this part of max(|loss|, 1) in one iteration.
        gtol: ends where no slope is larger.
        maxls: evaluations per line search.
        maxcor: pairs that are remembered.
    """

    def __init__(self, ftol: float = 1e-5, gtol: float = 1e-8, maxls: int = 2000, maxcor: int = 10) -> None:
        self.ftol, self.gtol, self.maxls, self.maxcor = float(ftol), float(gtol), int(maxls), int(maxcor)

    def _direction(self, memory: np.ndarray, slopes: Vector) -> Vector:
        steps, changes = memory
        products = np.einsum("kp,kp->k", steps, changes)
        direction = -slopes
        weights = np.zeros(len(products))
        for k in reversed(range(len(products))):
            weights[k] = steps[k] @ direction / products[k]
            direction = direction - weights[k] * changes[k]
        direction = direction * (products[-1] / float(changes[-1] @ changes[-1]))
        for k in range(len(products)):
            direction = direction + (weights[k] - changes[k] @ direction / products[k]) * steps[k]
        return direction

    def _updated(self, memory: np.ndarray | None, s: Vector, y: Vector, product: float) -> np.ndarray:
        pair = np.stack([s, y])[:, None]
        known = pair if memory is None else np.concatenate([memory, pair], axis=1)
        return known[:, -self.maxcor :]

    def _memory_arrays(self, memory: np.ndarray | None) -> dict[str, np.ndarray]:
        return {} if memory is None else {"pairs": memory}

    def _memory(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
        return arrays.get("pairs")


@final
class OptaxOptimizer(SteppableOptimizer):
    """An optimizer of optax; it never ends by itself.

    Args:
        name: of a function of optax that takes a learning rate, such as 'adam'.
        **settings: its arguments; `learning_rate` is 1e-3 unless given.

    Raises:
        ConfigError: unknown name, or arguments it does not take.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        if name not in optax_names():
            raise ConfigError(f"unknown optimizer {name!r} of optax; {nearest(name, optax_names())}")
        try:
            made = getattr(optax, name)(**{"learning_rate": 1e-3, **settings})
        except TypeError as error:
            raise ConfigError(f"optimizer_kwargs do not fit optax.{name}: {error}") from None
        self._rule = optax.with_extra_args_support(made)
        self._advance = jax.jit(self._advanced)

    def _advanced(self, x: Array, inner: Any, value: Array, slopes: Array) -> tuple[Array, Any]:
        updates, inner = self._rule.update(slopes, inner, x, value=value)
        return jnp.asarray(optax.apply_updates(x, updates)), inner

    def start(self, x: Vector) -> tuple[Array, Any]:
        """State at a start vector."""
        vector = jnp.asarray(x, jnp.float64)
        return vector, self._rule.init(vector)

    def step(self, state: tuple[Array, Any], evaluate: Evaluate) -> tuple[Array, Any]:
        """One evaluation and one update."""
        x, inner = state
        value, slopes = evaluate(np.asarray(x))
        if not (np.isfinite(value) and np.all(np.isfinite(slopes))):
            raise OptimizerEnd("non-finite loss; a smaller learning_rate may help")
        return self._advance(x, inner, value, slopes)

    def arrays(self, state: tuple[Array, Any]) -> dict[str, np.ndarray]:
        """A state as arrays."""
        return {"x": np.asarray(state[0]), **pack(_with_plain_keys(state[1]), "inner")}

    def restored(self, arrays: Mapping[str, np.ndarray]) -> tuple[Array, Any]:
        """State from what `arrays` gave."""
        x, inner = self.start(arrays["x"])
        plain = unpack(_with_plain_keys(inner), arrays, "inner")
        return x, jax.tree.map(
            lambda old, new: jax.random.wrap_key_data(new) if _is_key(old) else new, inner, plain
        )


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _with_plain_keys(tree: Any) -> Any:
    """Keys of random numbers as arrays of integers."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def optax_names() -> list[str]:
    """Optimizers of optax that work on a vector with its gradient."""
    names = []
    for name, function in vars(optax).items():
        # `lbfgs` evaluates the loss itself.
        if name.startswith(("_", "scale_by_", "lbfgs")) or not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters
        if next(iter(parameters), "") == "learning_rate":
            names.append(name)
    return names
