"""Order of all parameters of element networks in one flat vector, from and to the documented dictionaries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from surefield.errors import ConfigError
from surefield.potentials.network_parameters import check_elements_of, float_array

__all__ = ["PARTS", "Raveler"]


#: Parts of the parameters of charge networks; the first two are those of all.
PARTS = ("weights", "scalings", "charge_weights", "charge_scalings", "Ei", "Jii")


class Raveler:
    """Order of all parameters in one vector; it keeps shapes, no values.

    For element in sorted order, for layer 1, 2, ...: the weights row by row; then for element in sorted
    order: intercept, slope. Charge models append the same for the charge network, then Ei and Jii by sorted
    element. Image-centred models have no element level.

    Args:
        weights: element to {layer: (n_in + 1, n_out)}, or {layer: array}.
        scalings: element to {'intercept', 'slope'}, or one such dict.
        charge_weights: the same for the charge network; all four charge arguments or none.
        charge_scalings: the same for the charge network.
        Ei: element to energy in eV (a number without the element level).
        Jii: element to hardness in eV/e^2 (a number without the element level).

    Raises:
        ConfigError: elements or layers do not fit together, or some charge arguments are missing.
    """

    def __init__(
        self,
        weights: Mapping[Any, Any],
        scalings: Mapping[str, Any],
        charge_weights: Mapping[Any, Any] | None = None,
        charge_scalings: Mapping[str, Any] | None = None,
        Ei: Mapping[str, float] | float | None = None,
        Jii: Mapping[str, float] | float | None = None,
    ) -> None:
        parts = _present((weights, scalings, charge_weights, charge_scalings, Ei, Jii))
        elements = None if all(isinstance(key, int) for key in weights) else set(weights)
        for name, part in parts.items():
            if elements is None:
                _check_part(name, part)
                continue
            check_elements_of(name, part, elements)
            for element in elements:
                _check_part(name, part[element])
        self._shapes = {name: _shapes(part) for name, part in parts.items()}
        self._sizes = [len(leaf) for leaf in _leaves(parts, self._shapes, "")]

    @property
    def count(self) -> int:
        """Length of the vector."""
        return sum(self._sizes)

    def to_vector(
        self,
        weights: Mapping[Any, Any],
        scalings: Mapping[str, Any],
        charge_weights: Mapping[Any, Any] | None = None,
        charge_scalings: Mapping[str, Any] | None = None,
        Ei: Mapping[str, float] | float | None = None,
        Jii: Mapping[str, float] | float | None = None,
    ) -> Float[np.ndarray, " n_parameters"]:
        """Put parameters into one float64 vector.

        Raises:
            ConfigError: elements, layers or shapes are not those of the constructor's arguments.
        """
        parts = _present((weights, scalings, charge_weights, charge_scalings, Ei, Jii))
        return np.concatenate(list(_leaves(parts, self._shapes, "")))

    def to_dicts(self, vector: ArrayLike) -> tuple[Any, ...]:
        """Take a vector apart, exactly.

        Returns:
            (weights, scalings), for charge models all six in the order of the constructor's arguments.

        Raises:
            ConfigError: the vector has another length.
        """
        vector = np.array(vector, dtype=np.float64)
        if vector.shape != (self.count,):
            got = f"length {len(vector)}" if vector.ndim == 1 else f"shape {vector.shape}"
            raise ConfigError("wrong parameter vector", got=got, expected=f"length {self.count}")
        pieces = np.split(vector, np.cumsum(self._sizes)[:-1])
        return tuple(_filled(self._shapes, iter(pieces)).values())


def _present(values: Sequence[Any]) -> dict[str, Any]:
    """Names of the parameters that are not None."""
    parts = {name: value for name, value in zip(PARTS, values, strict=True) if value is not None}
    if tuple(parts) not in (PARTS, PARTS[:2]):
        expected = "weights and scalings, or with them all four charge parameters"
        raise ConfigError("unusable set of parameters", got=", ".join(parts), expected=expected)
    return parts


def _check_part(name: str, part: Any) -> None:
    """Check the parameters of one network: layers numbered from 1, both scalings, or one number."""
    if name in ("Ei", "Jii"):
        fits, expected = np.ndim(part) == 0 and not isinstance(part, Mapping), "one number per element"
    elif name.endswith("weights"):
        fits, expected = isinstance(part, Mapping), "{1: array, 2: array, ...}, each (n_in + 1, n_out)"
        fits = (
            fits and set(part) == set(range(1, len(part) + 1)) and all(np.ndim(w) == 2 for w in part.values())
        )
    else:
        fits, expected = isinstance(part, Mapping), "{'intercept': number, 'slope': number}"
        fits = fits and set(part) == {"intercept", "slope"} and not any(np.ndim(v) for v in part.values())
    if not fits:
        got = list(part) if isinstance(part, Mapping) else part
        raise ConfigError("unusable parameters", where=name, got=got, expected=expected)


def _shapes(tree: Any) -> Any:
    """The same nested dict in sorted order, shapes in place of the values."""
    return {key: _shapes(tree[key]) for key in sorted(tree)} if isinstance(tree, Mapping) else np.shape(tree)


def _leaves(tree: Any, shapes: Any, where: str) -> Iterator[Float[np.ndarray, " n"]]:
    """Flattened arrays of a nested dict, in the order of its shapes."""
    if not isinstance(shapes, Mapping):
        values = float_array(tree, where)
        if values.shape != shapes:
            raise ConfigError("wrong shape", where=where, got=values.shape, expected=shapes)
        yield values.reshape(-1)
        return
    if not isinstance(tree, Mapping) or set(tree) != set(shapes):
        got = list(tree) if isinstance(tree, Mapping) else type(tree).__name__
        raise ConfigError("wrong keys", where=where or "parameters", got=got, expected=list(shapes))
    for key, shape in shapes.items():
        yield from _leaves(tree[key], shape, f"{where}[{key!r}]" if where else str(key))


def _filled(shapes: Any, pieces: Iterator[Float[np.ndarray, " n"]]) -> Any:
    """Nested dict of arrays and floats of these shapes, from one flat piece after the other."""
    if isinstance(shapes, Mapping):
        return {key: _filled(shape, pieces) for key, shape in shapes.items()}
    values = next(pieces).reshape(shapes)
    return values if shapes else float(values)
