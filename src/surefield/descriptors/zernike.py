"""Zernike descriptors: power spectrum of the neighbour density in three-dimensional Zernike functions.

Khorshidi and Peterson, Comput. Phys. Commun. 207, 310 (2016). For c_nlm = sum_j Z_j fc(r_j) conj(R_nl Y_lm)
the addition theorem gives sum_m |c_nlm|^2 = (2l+1)/(4 pi) sum_jk A_j A_k P_l(cos t_jk), A = Z fc R_nl, so
that no spherical harmonics are needed and derivatives have a short closed form.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Array, Float
from scipy.special import binom

from surefield.descriptors.angular_sums import by_rows
from surefield.descriptors.atomic_descriptor import (
    AtomicDescriptor,
    atomic_number,
    check_species,
    near_neighbors,
    product,
    species_column,
)
from surefield.descriptors.cutoffs import CutoffFunction, cutoff_function
from surefield.errors import ConfigError
from surefield.structures.graph import Graph

__all__ = ["ZernikeFunctions"]


@dataclass(frozen=True)
class ZernikeFunctions(AtomicDescriptor):
    """Power spectrum sum_m |c_nlm|^2 for n = 0..nmax and l = n mod 2, +2, ..., n; the same for each element.

    Args:
        species: atomic numbers, ascending.
        cutoff_function: cutoff function.
        nmax: largest radial order.
        weights: Z_j of a neighbour of each species (column), seen from an atom of each species (row).

    Raises:
        ConfigError: species not ascending, `nmax` negative, or weights of another shape.
    """

    species: tuple[int, ...]
    cutoff_function: CutoffFunction
    nmax: int
    weights: tuple[tuple[float, ...], ...]
    cutoff: float = field(init=False, compare=False)
    n_features: tuple[int, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        check_species(self.species)
        if isinstance(self.nmax, bool) or not isinstance(self.nmax, Integral) or self.nmax < 0:
            raise ConfigError(f"nmax must be a whole number, 0 or more, got {self.nmax!r}")
        n = len(self.species)
        if [len(row) for row in self.weights] != [n] * n:
            raise ConfigError(f"weights of {n} species must be {n} rows of {n} numbers, got {self.weights}")
        object.__setattr__(self, "cutoff", self.cutoff_function.Rc)
        object.__setattr__(self, "n_features", (len(list(self._orders())),) * n)

    @classmethod
    def from_weights(
        cls,
        symbols: Sequence[str],
        cutoff: CutoffFunction,
        nmax: int,
        weights: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Self:
        """Descriptor from weights per element and neighbouring element; atomic numbers if there are none.

        Raises:
            ConfigError: an unknown element, or a weight that is missing or not a number.
        """
        species = sorted({atomic_number(symbol, "the elements of the descriptor") for symbol in symbols})
        if weights is None:
            rows = [[float(z) for z in species] for _ in species]
        else:
            names = [chemical_symbols[z] for z in species]
            rows = [[_weight(weights, center, neighbor) for neighbor in names] for center in names]
        return cls(tuple(species), cutoff, nmax, tuple(map(tuple, rows)))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Descriptor from `config()`."""
        weights = config["weights"]
        return cls.from_weights(tuple(weights), cutoff_function(config["cutoff"]), config["nmax"], weights)

    def config(self) -> dict[str, Any]:
        """JSON-able description."""
        rows = zip(self.symbols, self.weights, strict=True)
        weights = {symbol: dict(zip(self.symbols, row, strict=True)) for symbol, row in rows}
        cutoff = self.cutoff_function.todict()
        return {"kind": "zernike", "cutoff": cutoff, "nmax": int(self.nmax), "weights": weights}

    def names(self, symbol: str) -> list[str]:
        """What each function is, such as "Zernike n=3 l=1"."""
        self.place(symbol)
        return [f"Zernike n={n} l={angular}" for n, angular in self._orders()]

    def features(self, graph: Graph) -> Float[Array, "n_atoms width"]:
        """Power spectrum of each atom; zero for padding atoms."""
        vectors, weights = self._neighbors(graph)
        return by_rows(self._spectrum, vectors, weights)

    def jacobian(self, graph: Graph) -> Float[Array, "n_atoms n_neighbors 3 width"]:
        """Derivatives of the spectrum of atom i by `graph.vectors[i, k]`, in closed form, per Å."""
        vectors, weights = self._neighbors(graph)
        return by_rows(self._spectrum_derivatives, vectors, weights)

    __hash__ = AtomicDescriptor.__hash__

    def _orders(self) -> Iterator[tuple[int, int]]:
        for n in range(self.nmax + 1):
            for angular in range(n % 2, n + 1, 2):
                yield n, angular

    @functools.cached_property
    def _columns(self) -> list[list[int]]:
        """Columns of the features of each l."""
        angular = [angular for _, angular in self._orders()]
        return [[i for i, value in enumerate(angular) if value == degree] for degree in range(self.nmax + 1)]

    def _neighbors(self, graph: Graph) -> tuple[Array, Array]:
        """Vectors, and the weight of each neighbour, 0 beyond the cutoff: (n, k, 1)."""
        vectors, elements = near_neighbors(graph, self.cutoff, self.species)
        weights = jnp.asarray(self.weights, vectors.dtype)[species_column(self.species, graph.numbers)]
        return vectors, product(elements, weights[..., None])

    def _amplitudes(self, square: Array, weights: Array) -> tuple[Array, Array]:
        """A of each neighbour and function (n, k, width), and its derivative by the distance."""
        r = jnp.sqrt(square)[..., None]
        powers = [jnp.ones_like(r)]
        for _ in range(self.nmax):
            powers.append(powers[-1] * (r / self.cutoff))
        radial, slope = (product(jnp.concatenate(powers, -1), c.astype(r.dtype)) for c in self._coefficients)
        cut = self.cutoff_function.of_square(square)[..., None]
        cut_slope = 2 * r * self.cutoff_function.slope_of_square(square)[..., None]
        return weights * cut * radial, weights * (cut_slope * radial + cut * slope / self.cutoff)

    @functools.cached_property
    def _coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients of the powers of p (rows) in R_nl (columns), and in its derivative."""
        values = np.zeros((self.nmax + 1, self.width))
        for column, (n, angular) in enumerate(self._orders()):
            half = (n - angular) // 2
            for s in range(half + 1):
                term = (-1) ** s * binom(half, s) * binom(n - s + 0.5, half)
                values[n - 2 * s, column] = math.sqrt(2 * n + 3) * term
        slopes = np.zeros_like(values)
        slopes[:-1] = np.arange(1, self.nmax + 1)[:, None] * values[1:]
        return values, slopes

    def _spectrum(self, vectors: Array, weights: Array) -> Array:
        square = jnp.sum(vectors**2, axis=-1)
        unit = vectors / jnp.sqrt(square)[..., None]
        amplitudes, _ = self._amplitudes(square, weights)
        legendre, _ = _legendre(product(unit, jnp.swapaxes(unit, 1, 2)), self.nmax)
        spectrum: list[Array] = [jnp.zeros(0)] * self.width
        for degree, columns in enumerate(self._columns):
            part = amplitudes[..., np.array(columns)]
            sums = (2 * degree + 1) / (4 * math.pi) * jnp.sum(part * product(legendre[degree], part), axis=1)
            for place, column in enumerate(columns):
                spectrum[column] = sums[:, place]
        return jnp.stack(spectrum, axis=-1)

    def _spectrum_derivatives(self, vectors: Array, weights: Array) -> Array:
        """dG/dv_j = (2l+1)/(2 pi) [A_j' u_j sum_k A_k P_l + A_j sum_k A_k P_l' (u_k - c u_j)/r_j]."""
        n, k, _ = vectors.shape
        square = jnp.sum(vectors**2, axis=-1)
        length = jnp.sqrt(square)[..., None]
        unit = vectors / length
        amplitudes, slopes = self._amplitudes(square, weights)
        legendre, legendre_slopes = _legendre(product(unit, jnp.swapaxes(unit, 1, 2)), self.nmax)
        derivatives: list[Array] = [jnp.zeros(0)] * self.width
        for degree, columns in enumerate(self._columns):
            part, slope = (x[..., np.array(columns)] for x in (amplitudes, slopes))
            total = slope * product(legendre[degree], part)
            turned = product(legendre_slopes[degree], (unit[..., None] * part[:, :, None]).reshape(n, k, -1))
            turned = turned.reshape(n, k, 3, len(columns))
            turned -= unit[..., None] * jnp.sum(unit[..., None] * turned, axis=2, keepdims=True)
            whole = unit[..., None] * total[:, :, None] + (part / length)[:, :, None] * turned
            whole *= (2 * degree + 1) / (2 * math.pi)
            for place, column in enumerate(columns):
                derivatives[column] = whole[..., place]
        return jnp.stack(derivatives, axis=-1)


def _legendre(x: Array, order: int) -> tuple[list[Array], list[Array]]:
    """Legendre polynomials up to an order, and their derivatives, by recurrence."""
    values, slopes = [jnp.ones_like(x), x], [jnp.zeros_like(x), jnp.ones_like(x)]
    for n in range(1, order):
        values.append(((2 * n + 1) * x * values[n] - n * values[n - 1]) / (n + 1))
        slopes.append(slopes[n - 1] + (2 * n + 1) * values[n])
    return values[: order + 1], slopes[: order + 1]


def _weight(weights: Mapping[str, Mapping[str, float]], center: str, neighbor: str) -> float:
    where = f"Gs[{center!r}][{neighbor!r}]"
    row = weights.get(center)
    value = row.get(neighbor) if isinstance(row, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(float(value)):
        fix = "Gs of Zernike is {element: {neighbour: weight}} for every pair of elements"
        raise ConfigError("no weight", where=where, got=repr(value), expected="a number", fix=fix)
    return float(value)
