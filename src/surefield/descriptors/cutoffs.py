"""Cutoff functions of symmetry functions, as functions of the squared distance.

Khorshidi and Peterson, Comput. Phys. Commun. 207, 310 (2016). Squared distances keep values and derivatives
finite where two atoms coincide, and the cosine becomes a short power series, several times faster than a
call of the library function.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from surefield.errors import ConfigError, nearest

__all__ = ["Cosine", "CutoffFunction", "Polynomial", "cutoff_function"]

#: Powers of the series of cos(sqrt(x)); on [0, (pi/2)^2] the first that is left out is below 1e-23.
_TERMS: Final = 14
#: Squared distances below this count as this in fractional powers, Å^2.
_COINCIDENT: Final = 1e-20


@dataclass(frozen=True)
class Cosine:
    """fc(r) = (1 + cos(pi r/Rc))/2, and 0 beyond Rc.

    Args:
        Rc: cutoff radius, Å.

    Raises:
        ConfigError: a radius that is not a positive number.
    """

    Rc: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "Rc", _positive("Rc", self.Rc, "Cosine"))

    def __call__(self, r: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Value at the distances r (Å); derivatives of every order are finite."""
        r = jnp.asarray(r)
        return self.of_square(r * r)

    def of_square(self, square: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Value at squared distances, Å^2."""
        inside, x = self._inside(square)
        return jnp.where(inside, _cosine_of_root(x, 0) ** 2, 0.0)

    def slope_of_square(self, square: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Derivative of `of_square`, Å^-2."""
        inside, x = self._inside(square)
        slope = 2 * self._scale * _cosine_of_root(x, 0) * _cosine_of_root(x, 1)
        return jnp.where(inside, slope, 0.0)

    def todict(self) -> dict[str, Any]:
        """Name and arguments, as `cutoff_function` takes them."""
        return {"name": "Cosine", "kwargs": {"Rc": self.Rc}}

    @property
    def _scale(self) -> float:
        return (0.5 * math.pi / self.Rc) ** 2

    def _inside(self, square: Array) -> tuple[Array, Array]:
        inside = square < self.Rc**2
        return inside, self._scale * jnp.where(inside, square, 0.0)


@dataclass(frozen=True)
class Polynomial:
    """fc(r) = 1 + gamma (r/Rc)^(gamma+1) - (gamma+1) (r/Rc)^gamma, and 0 beyond Rc.

    Args:
        Rc: cutoff radius, Å.
        gamma: power; the larger, the longer fc stays near 1.

    Raises:
        ConfigError: a radius or power that is not a positive number.
    """

    Rc: float
    gamma: float = 4.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "Rc", _positive("Rc", self.Rc, "Polynomial"))
        object.__setattr__(self, "gamma", _positive("gamma", self.gamma, "Polynomial"))

    def __call__(self, r: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Value at the distances r (Å)."""
        r = jnp.asarray(r)
        return self.of_square(r * r)

    def of_square(self, square: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Value at squared distances, Å^2."""
        inside, x = self._inside(square)
        value = 1 + _power(x, self.gamma) * (self.gamma * x - (self.gamma + 1))
        return jnp.where(inside, value, 0.0)

    def slope_of_square(self, square: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Derivative of `of_square`, Å^-2."""
        inside, x = self._inside(square)
        factor = 0.5 * self.gamma * (self.gamma + 1) / self.Rc**2
        return jnp.where(inside, factor * _power(x, self.gamma - 2) * (x - 1), 0.0)

    def todict(self) -> dict[str, Any]:
        """Name and arguments, as `cutoff_function` takes them."""
        return {"name": "Polynomial", "kwargs": {"Rc": self.Rc, "gamma": self.gamma}}

    def _inside(self, square: Array) -> tuple[Array, Array]:
        inside = square < self.Rc**2
        safe = jnp.where(inside & (square > _COINCIDENT), square, _COINCIDENT)
        return inside, jnp.sqrt(safe) / self.Rc


CutoffFunction = Cosine | Polynomial
_KINDS: Final = {"Cosine": Cosine, "Polynomial": Polynomial}


def cutoff_function(value: float | Mapping[str, Any] | CutoffFunction) -> CutoffFunction:
    """Cutoff function from what users give.

    Args:
        value: a cutoff function, which stays as it is; a radius in Å, which means `Cosine`; or a dict as
            `todict` gives it.

    Raises:
        ConfigError: an unknown name or argument, or a value of another kind.
    """
    if isinstance(value, CutoffFunction):
        return value
    if isinstance(value, Real) and not isinstance(value, bool):
        return Cosine(float(value))
    expected = "a radius in Å, Cosine(Rc), Polynomial(Rc, gamma), or what their todict() gives"
    if not isinstance(value, Mapping) or "name" not in value or set(value) - {"name", "kwargs"}:
        raise ConfigError("unusable cutoff", got=repr(value), expected=expected)
    kind = _KINDS.get(value["name"])
    if kind is None:
        raise ConfigError(f"unknown cutoff function {value['name']!r}; {nearest(value['name'], _KINDS)}")
    arguments = dict(value.get("kwargs", {}))
    known = [field.name for field in fields(kind)]
    for name in arguments:
        if name not in known:
            raise ConfigError(f"unknown argument {name!r} of {kind.__name__}; {nearest(name, known)}")
    if "Rc" not in arguments:
        raise ConfigError(f"{kind.__name__} needs its radius Rc; got {arguments}")
    return kind(**arguments)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _cosine_of_root(x: Float[Array, "*shape"], order: int) -> Float[Array, "*shape"]:
    """Derivative of cos(sqrt(x)) of the given order, for 0 <= x <= (pi/2)^2, by its power series."""
    value = jnp.zeros_like(x)
    for m in reversed(range(order, _TERMS + order)):
        value = value * x + (-1) ** m * math.perm(m, order) / math.factorial(2 * m)
    return value


@_cosine_of_root.defjvp
def _cosine_of_root_jvp(order: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    return _cosine_of_root(x, order), _cosine_of_root(x, order + 1) * tangent


def _power(x: Array, exponent: float) -> Array:
    return x ** int(exponent) if exponent == int(exponent) else x**exponent


def _positive(name: str, value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise ConfigError(f"{name} of {where} must be a positive number, got {value!r}")
    return float(value)
