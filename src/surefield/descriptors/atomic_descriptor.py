"""What an atomic descriptor is: from the neighbours of each atom to its features, with derivatives."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Array, Float, Int

from surefield.errors import ConfigError, nearest
from surefield.structures.graph import Graph

__all__ = [
    "AtomicDescriptor",
    "atomic_number",
    "check_species",
    "near_neighbors",
    "product",
    "species_column",
]


class AtomicDescriptor(abc.ABC):
    """Features of every atom from the positions of its neighbours within a cutoff.

    Concrete classes are frozen dataclasses, compared and hashed by value, because a descriptor is a static
    part of the potentials that use it.

    Attributes:
        species: atomic numbers, ascending.
        cutoff: range of the neighbour list, Å.
        n_features: functions of each species, in the order of `species`.
    """

    species: tuple[int, ...]
    cutoff: float
    n_features: tuple[int, ...]

    @property
    def width(self) -> int:
        """Columns of the feature array: the largest number of functions of a species."""
        return max(self.n_features)

    @abc.abstractmethod
    def features(self, graph: Graph) -> Float[Array, "n_atoms width"]:
        """Features of each atom, zero in unused columns and for padding atoms (traceable)."""

    @abc.abstractmethod
    def jacobian(self, graph: Graph) -> Float[Array, "n_atoms n_neighbors 3 width"]:
        """Derivative of the features of atom i with respect to `graph.vectors[i, k]`, per Å (traceable)."""

    @abc.abstractmethod
    def names(self, symbol: str) -> list[str]:
        """What each feature of an element is, for messages and figures."""

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON-able description from which `descriptor_from_config` makes the same descriptor."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """Chemical symbols of `species`."""
        return tuple(chemical_symbols[z] for z in self.species)

    def place(self, symbol: str) -> int:
        """Place of an element in `species`.

        Raises:
            ConfigError: the descriptor does not know the element.
        """
        if symbol not in self.symbols:
            raise ConfigError(f"the descriptor has no element {symbol!r}; {nearest(symbol, self.symbols)}")
        return self.symbols.index(symbol)

    def __hash__(self) -> int:
        # Dataclasses make another one unless they name it.
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in dataclasses.fields(self) if field.init))  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        # Caches stay behind: hashes of texts differ from process to process.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]


def atomic_number(symbol: object, where: str) -> int:
    """Atomic number of a chemical symbol; anything else is a `ConfigError` that says where it stood."""
    if not isinstance(symbol, str) or atomic_numbers.get(symbol, 0) < 1:
        hint = nearest(str(symbol).capitalize(), chemical_symbols[1:]) if isinstance(symbol, str) else ""
        hint = hint if hint.startswith("did") else ""
        raise ConfigError(f"{symbol!r} is no chemical symbol", where=where, fix=hint)
    return atomic_numbers[symbol]


def species_column(species: Sequence[int], numbers: Int[Array, " n_atoms"]) -> Int[Array, " n_atoms"]:
    """Place of each atom's element among the species; 0 for padding and unknown elements."""
    table = np.zeros(len(chemical_symbols), np.int32)
    table[list(species)] = np.arange(len(species))
    return jnp.asarray(table)[numbers]


def near_neighbors(
    graph: Graph, cutoff: float, elements: Sequence[int]
) -> tuple[Float[Array, "n_atoms n_neighbors 3"], Float[Array, "n_atoms n_neighbors n_elements"]]:
    """Vectors to the neighbours and the one-hot element of each.

    Padding, and neighbours beyond the cutoff, have a constant vector of the cutoff's length (safe to divide
    by) and no element; neither has a neighbour of an element that is not asked for.
    """
    square = jnp.sum(graph.vectors**2, axis=-1)
    near = graph.mask & (square < cutoff**2)
    far = jnp.array([cutoff, 0.0, 0.0], graph.vectors.dtype)
    vectors = jnp.where(near[..., None], graph.vectors, far)
    numbers = jnp.where(near, jnp.asarray(graph.numbers)[graph.neighbors], 0)
    return vectors, (numbers[..., None] == np.array(elements, np.int32)).astype(vectors.dtype)


def check_species(species: Sequence[int]) -> None:
    """Raise `ConfigError` unless the species are ascending atomic numbers."""
    if not species or list(species) != sorted(set(species)):
        raise ConfigError(f"species must be ascending atomic numbers, at least one, got {species}")


def product(first: Array, second: Array | np.ndarray) -> Array:
    """Matrix product in the precision of its factors.

    Graphics processors otherwise round single precision to ten bits first, too coarse for distances that
    follow from angles.
    """
    return jnp.matmul(first, second, precision=jax.lax.Precision.HIGHEST)
