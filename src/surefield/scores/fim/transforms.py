"""Coordinates of parameters in which Fisher information is stated: scaled, logarithmic, bounded, mixed.

The names and arguments are those of the package information-matching (Kurniawan et al., 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, final, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, nearest

__all__ = [
    "AffineTransform",
    "AtanhTransform",
    "ComposedTransform",
    "LogTransform",
    "ParameterTransform",
    "SplitTransform",
    "chain",
    "read_transform",
    "transform_as_data",
    "transform_description",
    "transformed",
]

#: Parameters that a transform does not give back are outside its domain.
_ROUND_TRIP = 1e-9
#: Relative step of the derivative of a transform that JAX cannot differentiate; sixth root of the precision.
_STEP = 1e-3


@runtime_checkable
class ParameterTransform(Protocol):
    """From parameters theta to coordinates phi and back; ours are traceable."""

    def transform(self, x: Any) -> Any:
        """phi of theta, both (n_parameters,)."""
        ...

    def inverse_transform(self, x: Any) -> Any:
        """theta of phi, both (n_parameters,)."""
        ...


@final
@dataclass(frozen=True)
class AffineTransform:
    """phi = a (theta - x0) + b.

    Args:
        a: a number, one per parameter, or a matrix.
        x0: shift of theta.
        b: shift of phi.
        ainv: inverse of `a`; None: computed.

    Raises:
        ConfigError: `a` has no inverse, or `ainv` is not its inverse.
    """

    a: ArrayLike = 1.0
    x0: ArrayLike = 0.0
    b: ArrayLike = 0.0
    ainv: ArrayLike | None = None

    def __post_init__(self) -> None:
        a = _numbers("AffineTransform: a", self.a, 2)
        _numbers("AffineTransform: x0", self.x0, 1)
        _numbers("AffineTransform: b", self.b, 1)
        if a.ndim == 2 and a.shape[0] != a.shape[1]:
            raise ConfigError("AffineTransform: a must be a square matrix", got=a.shape)
        singular = (a == 0).any() if a.ndim < 2 else np.linalg.matrix_rank(a) < len(a)
        if singular:
            raise ConfigError("AffineTransform: a has no inverse", got=np.asarray(a).tolist())
        if self.ainv is not None:
            inverse = _numbers("AffineTransform: ainv", self.ainv, 2)
            product = a @ inverse if a.ndim == inverse.ndim == 2 else a * inverse
            unit = np.eye(len(a)) if a.ndim == inverse.ndim == 2 else np.ones(product.shape)
            if not np.allclose(product, unit, rtol=0, atol=1e-8):
                raise ConfigError("AffineTransform: ainv is not the inverse of a", got=inverse.tolist())

    def transform(self, x: Any) -> Any:
        """phi of theta."""
        return _applied(self.a, jnp.asarray(x) - jnp.asarray(self.x0)) + jnp.asarray(self.b)

    def inverse_transform(self, x: Any) -> Any:
        """theta of phi."""
        moved = jnp.asarray(x) - jnp.asarray(self.b)
        a = np.asarray(self.a, np.float64)
        inverse = self.ainv if self.ainv is not None else 1.0 / a if a.ndim < 2 else np.linalg.inv(a)
        return _applied(inverse, moved) + jnp.asarray(self.x0)


@final
@dataclass(frozen=True)
class LogTransform:
    """phi = ln|theta|, theta = sign exp(phi).

    Args:
        sign: +1 or -1, of all parameters or one per parameter.

    Raises:
        ConfigError: another number.
    """

    sign: ArrayLike

    def __post_init__(self) -> None:
        sign = _numbers("LogTransform: sign", self.sign, 1)
        if (np.abs(sign) != 1).any():
            raise ConfigError("LogTransform: sign", got=sign.tolist(), expected="1 or -1")

    def transform(self, x: Any) -> Any:
        """phi of theta."""
        return jnp.log(jnp.abs(jnp.asarray(x)))

    def inverse_transform(self, x: Any) -> Any:
        """theta of phi."""
        return jnp.asarray(self.sign) * jnp.exp(jnp.asarray(x))


@final
@dataclass(frozen=True)
class AtanhTransform:
    """phi = artanh((2 theta - high - low)/(high - low)): no phi leaves the bounds.

    Args:
        low: lower bounds, one or one per parameter.
        high: upper bounds.

    Raises:
        ConfigError: a lower bound that is not below its upper bound.
    """

    low: ArrayLike
    high: ArrayLike

    def __post_init__(self) -> None:
        low, high = (
            _numbers("AtanhTransform: low", self.low, 1),
            _numbers("AtanhTransform: high", self.high, 1),
        )
        if not (low < high).all():
            raise ConfigError(
                "AtanhTransform: low must be below high", got=f"{low.tolist()}, {high.tolist()}"
            )

    def transform(self, x: Any) -> Any:
        """phi of theta."""
        low, high = jnp.asarray(self.low, jnp.float64), jnp.asarray(self.high, jnp.float64)
        return jnp.arctanh((2 * jnp.asarray(x) - high - low) / (high - low))

    def inverse_transform(self, x: Any) -> Any:
        """theta of phi."""
        low, high = jnp.asarray(self.low, jnp.float64), jnp.asarray(self.high, jnp.float64)
        return 0.5 * ((high - low) * jnp.tanh(jnp.asarray(x)) + high + low)


@final
@dataclass(frozen=True)
class SplitTransform:
    """Each transform on its parameters; parameters that no one names stay as they are.

    Args:
        transform_list: transforms, or their descriptions.
        param_idx: indices of the parameters of each.

    Raises:
        ConfigError: lists of unequal length, or a parameter named twice.
    """

    transform_list: Sequence[Any]
    param_idx: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        parts = tuple(_part(part) for part in self.transform_list)
        places = tuple(np.atleast_1d(np.asarray(index, int)) for index in self.param_idx)
        if len(parts) != len(places):
            raise ConfigError(
                "SplitTransform: transform_list and param_idx differ in length",
                got=f"{len(parts)} and {len(places)}",
            )
        flat = np.concatenate(places) if places else np.zeros(0, int)
        if len(np.unique(flat)) != len(flat) or (flat < 0).any():
            raise ConfigError(
                "SplitTransform: param_idx must name every parameter at most once, counted from 0",
                got=[p.tolist() for p in places],
            )
        object.__setattr__(self, "transform_list", parts)
        object.__setattr__(self, "param_idx", places)

    def transform(self, x: Any) -> Any:
        """phi of theta."""
        return self._each(x, "transform")

    def inverse_transform(self, x: Any) -> Any:
        """theta of phi."""
        return self._each(x, "inverse_transform")

    def _each(self, x: Any, way: str) -> Any:
        result = jnp.asarray(x)
        for part, places in zip(self.transform_list, self.param_idx, strict=True):
            if np.max(places, initial=-1) >= result.shape[0]:
                raise ConfigError(
                    "SplitTransform: param_idx names a parameter that is not there",
                    got=np.asarray(places).tolist(),
                    expected=f"indices below {result.shape[0]}",
                )
            result = result.at[places].set(getattr(part, way)(jnp.asarray(x)[places]))
        return result


@final
@dataclass(frozen=True)
class ComposedTransform:
    """One transform after the other.

    Args:
        transform_list: transforms, or their descriptions, the first to be applied first.
    """

    transform_list: Sequence[Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "transform_list", tuple(_part(part) for part in self.transform_list))

    def transform(self, x: Any) -> Any:
        """phi of theta."""
        for part in self.transform_list:
            x = part.transform(x)
        return x

    def inverse_transform(self, x: Any) -> Any:
        """theta of phi."""
        for part in reversed(self.transform_list):
            x = part.inverse_transform(x)
        return x


_KINDS: dict[str, Callable[..., Any]] = {
    kind.__name__: kind
    for kind in (AffineTransform, LogTransform, AtanhTransform, SplitTransform, ComposedTransform)
}


def read_transform(transform: Any) -> ParameterTransform | None:
    """The transform that an argument means.

    Args:
        transform: None, `{'transform_type': name, 'transform_args': {...}}`, or an object with `transform`
            and `inverse_transform`.

    Raises:
        ConfigError: anything else, an unknown type, or arguments that it does not take.
    """
    if transform is None:
        return None
    if not isinstance(transform, Mapping):
        ready = all(callable(getattr(transform, way, None)) for way in ("transform", "inverse_transform"))
        if ready and not isinstance(transform, type):
            return cast(ParameterTransform, transform)
        raise ConfigError(
            "transform",
            got=repr(transform),
            expected="None, {'transform_type': ..., 'transform_args': {...}}, or an object with transform "
            "and inverse_transform",
        )
    described = cast(Mapping[str, Any], transform)
    for key in described:
        if key not in ("transform_type", "transform_args"):
            raise ConfigError(
                f"transform has an unknown key {key!r}", expected="transform_type, transform_args"
            )
    name = str(described.get("transform_type"))
    by_name = {key.lower().removesuffix("transform"): kind for key, kind in _KINDS.items()}
    kind = by_name.get(name.lower().removesuffix("transform"))
    if kind is None:
        raise ConfigError(f"transform_type {name!r} is not known, {nearest(name, _KINDS)}")
    try:
        return kind(**(described.get("transform_args") or {}))
    except TypeError as error:
        raise ConfigError(f"transform_args of {name}: {error}") from error


def transformed(
    transform: ParameterTransform | None, theta: Float[np.ndarray, " n_parameters"], names: Sequence[str]
) -> Float[np.ndarray, " n_parameters"]:
    """phi of theta, float64.

    Args:
        transform: None leaves theta as it is.
        theta: parameters.
        names: of the parameters, for messages.

    Raises:
        ConfigError: a value outside the domain of the transform (the logarithm of zero, a bound, another
            sign), with the name of the parameter; or a transform that changes the number of parameters.
    """
    theta = np.asarray(theta, np.float64)
    if transform is None:
        return theta
    kind = type(transform).__name__
    with np.errstate(all="ignore"):
        try:
            phi = np.asarray(transform.transform(theta.copy()), np.float64)
            back = np.asarray(transform.inverse_transform(phi.copy()), np.float64)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{kind} does not take {len(theta)} parameters: {error}") from error
    if phi.shape != theta.shape or back.shape != theta.shape:
        raise ConfigError(f"{kind} changes the number of parameters", got=phi.shape, expected=theta.shape)
    wrong = ~np.isfinite(phi) | ~(np.abs(back - theta) <= _ROUND_TRIP * np.maximum(np.abs(theta), 1e-30))
    # A shift leaves digits behind: what is small beside the others may come back less exactly.
    wrong &= ~(np.isfinite(phi) & (np.abs(back - theta) <= 1e-12 * np.max(np.abs(theta), initial=0.0)))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ConfigError(
            f"{kind}: the parameter {names[first]} is outside its domain",
            got=float(theta[first]),
            expected="a value that the transform maps to a finite number and back",
        )
    return phi


def chain(
    transform: ParameterTransform | None, phi: Float[np.ndarray, " n_parameters"]
) -> Float[np.ndarray, "n_parameters n_parameters"]:
    """T = d(theta)/d(phi): rows J by theta become J T by phi, and I becomes T^T I T."""
    phi = np.asarray(phi, np.float64)
    if transform is None:
        return np.eye(len(phi))
    try:
        return np.asarray(jax.jacfwd(lambda x: jnp.asarray(transform.inverse_transform(x)))(jnp.asarray(phi)))
    except (jax.errors.JAXTypeError, TypeError):
        return _numerical_chain(transform, phi)


def _numerical_chain(transform: ParameterTransform, phi: np.ndarray) -> np.ndarray:
    """T of a transform that is not written in JAX: central differences of sixth order."""
    columns = []
    for j, value in enumerate(phi.tolist()):
        step = np.zeros(len(phi))
        step[j] = _STEP * max(abs(value), 1.0)
        column = np.zeros(len(phi))
        for k, weight in ((1, 45 / 60), (2, -9 / 60), (3, 1 / 60)):
            up, down = (np.asarray(transform.inverse_transform(phi + s * k * step)) for s in (1, -1))
            column += weight * (up - down)
        columns.append(column / step[j])
    return np.stack(columns, axis=1)


def _part(part: Any) -> ParameterTransform:
    transform = read_transform(part)
    if transform is None:
        raise ConfigError("transform_list holds None; leave a parameter out of param_idx to keep it as it is")
    return transform


def _applied(a: ArrayLike, x: Any) -> Any:
    matrix = jnp.asarray(a, jnp.float64)
    return matrix @ x if matrix.ndim == 2 else matrix * x


def _numbers(name: str, value: ArrayLike, most: int) -> np.ndarray:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(name, got=repr(value), expected="numbers") from None
    if array.ndim > most or not np.isfinite(array).all():
        raise ConfigError(name, got=repr(value), expected=f"finite numbers, at most {most}-dimensional")
    return array


def transform_description(transform: ParameterTransform | None) -> dict[str, Any] | None:
    """What metadata say of a transform: `transform_type`, and of ours `transform_args`."""
    if transform is None:
        return None
    kind = type(transform)
    if _KINDS.get(kind.__name__) is not kind:
        return {"transform_type": f"{kind.__module__}.{kind.__qualname__}"}
    values = {name: _described(value) for name, value in vars(transform).items() if value is not None}
    return {"transform_type": kind.__name__, "transform_args": values}


def transform_as_data(transform: Any) -> Any:
    """The dictionary from which a transform of ours is made again; anything else as it is."""
    ours = _KINDS.get(type(transform).__name__) is type(transform)
    return transform_description(transform) if ours else transform


def _described(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_described(entry) for entry in value]
    if isinstance(value, ParameterTransform):
        return transform_description(value)
    return np.asarray(value).tolist()
