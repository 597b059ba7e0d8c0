"""Potentials whose parameters have names, units and one value per species, pair or triplet."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, PotentialError, nearest
from surefield.potentials.abilities import HasLastLayer, HasVector, Prepared, Saved, TrainingData
from surefield.potentials.potential import LastLayerPotential, Potential

__all__ = ["Entry", "FormulaPotential", "ParameterForm", "ParametricPotential"]

#: Which combinations of species a parameter has a value for.
Per = Literal["model", "species", "pair", "ordered pair", "triplet"]


@dataclass(frozen=True)
class ParameterForm:
    """What one named parameter of a model is.

    Attributes:
        unit: as printed; empty for a plain number.
        per: combinations of species with a value each: 'pair' counts 11, 12, .., 22, .. without repeats,
            'ordered pair' and 'triplet' count all, the last species running fastest.
        integer: an exponent or the like, which is never free.
        usually_free: whether it is free unless told otherwise; ranges of interaction are not.
    """

    unit: str
    per: Per = "pair"
    integer: bool = False
    usually_free: bool = True

    def extent(self, n_species: int) -> int:
        """Number of combinations of species."""
        n = n_species
        counts = {"model": 1, "species": n, "pair": n * (n + 1) // 2, "ordered pair": n**2, "triplet": n**3}
        return counts[self.per]


class Entry(NamedTuple):
    """One number among the parameters: name, and place in its flat list of values."""

    name: str
    place: int


class ParametricPotential(Potential, Saved, Prepared, HasVector, HasLastLayer):
    """A physics model: a closed formula with named parameters, float64.

    Parameters are float64 arrays of one number per combination of species. Those in `free` are what
    training changes, and what uncertainty sees as last layer (`Linearized`).

    Args:
        values: numbers of every parameter; a single number serves all combinations of species.
        species: chemical symbols, in the order that the parameters count them.
        free: numbers that may change; None: all but ranges and integers.

    Attributes:
        symbols: species in the order of the parameters; `species` are their atomic numbers, ascending.

    Raises:
        ConfigError: a name that is unknown or missing, a wrong number of values, a value that is not finite.
        PotentialError: a species that is no chemical symbol, or twice the same.
    """

    FIXED: ClassVar[tuple[str, ...]] = ("values_without_free",)

    values: dict[str, Float[Array, "*shape"]]
    symbols: tuple[str, ...] = eqx.field(static=True)
    species: tuple[int, ...] = eqx.field(static=True)
    free: tuple[Entry, ...] = eqx.field(static=True)

    def __init__(
        self,
        values: Mapping[str, ArrayLike],
        species: Sequence[str],
        *,
        free: Iterable[Entry | tuple[str, int]] | None = None,
    ) -> None:
        self.symbols, self.species = checked_symbols(species)
        self.values = self.checked_values(values, len(self.symbols))
        self.free = self.usually_free() if free is None else self._checked_free(free)

    @property
    @abc.abstractmethod
    def forms(self) -> Mapping[str, ParameterForm]:
        """What each parameter is, in the order of the model."""

    @abc.abstractmethod
    def checked_values(
        self, values: Mapping[str, ArrayLike], n_species: int
    ) -> dict[str, Float[Array, "*shape"]]:
        """Float64 arrays of all parameters.

        Raises:
            ConfigError: see the class.
        """

    @abc.abstractmethod
    def ranges(self) -> Float[Array, " n_ranges"]:
        """Ranges of the interactions, Å (traceable)."""

    @abc.abstractmethod
    def options(self) -> dict[str, Any]:
        """Further constructor arguments, JSON-able."""

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """Largest range of all interactions, Å; not traceable."""
        return float(np.max(np.asarray(self.ranges())))

    @property
    def offsets(self) -> Float[Array, " n_species"]:  # type: ignore[override]
        """No element offsets: a physics model knows its own zero of energy."""
        return jnp.zeros(len(self.species))

    def prepared_from(self, data: TrainingData) -> Self:
        """This potential itself: it takes no offsets from the training set."""
        return self

    @property
    def values_without_free(self) -> tuple[object, ...]:
        """Parameters without a free number."""
        free = {entry.name for entry in self.free}
        return tuple(value for name, value in self.values.items() if name not in free)

    def linear_part(self) -> LastLayerPotential:
        """The linear model around the present parameters."""
        from surefield.potentials.linearized import Linearized

        return Linearized(self)

    def arguments(self) -> dict[str, Any]:
        """Species, shapes of the parameters, which are free, and the options."""
        shapes = {name: list(np.shape(value)) for name, value in self.values.items()}
        free = [list(entry) for entry in self.free]
        return {"species": list(self.symbols), "shapes": shapes, "free": free, **self.options()}

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Potential of the configuration in a file; its parameters are ones until they are read."""
        options = {k: v for k, v in arguments.items() if k not in ("species", "shapes")}
        ones = {name: np.ones(shape) for name, shape in arguments["shapes"].items()}
        return cls(ones, arguments["species"], **options)

    def with_values(self, changes: Mapping[str, ArrayLike]) -> Self:
        """Copy with other values of some parameters, all numbers of each (traceable).

        Raises:
            ConfigError: an unknown name or a wrong number of values.
        """
        values = dict(self.values)
        for name, value in changes.items():
            self.check_name(name)
            array = jnp.asarray(value, jnp.float64)
            if array.shape != self.values[name].shape:
                raise ConfigError(
                    f"{type(self).__name__}: wrong number of values of {name}",
                    got=array.shape,
                    expected=self.values[name].shape,
                )
            values[name] = array
        return eqx.tree_at(lambda p: p.values, self, values)

    def with_free(self, entries: Iterable[Entry | tuple[str, int]]) -> Self:
        """Copy in which these numbers are free, in the order given.

        Raises:
            ConfigError: an unknown name or place, an integer parameter, or the same number twice.
        """
        return type(self)(self.values, self.symbols, free=entries, **self.options())

    def parameter_vector(self) -> Float[Array, " n_free"]:
        """The free numbers, in the order of `free` (traceable)."""
        return self._flat()[self._free_places()]

    def of_parameter_vector(self, vector: Float[Array, " n_free"]) -> Self:
        """Copy with other free numbers (traceable)."""
        flat = self._flat().at[self._free_places()].set(vector)
        values, start = {}, 0
        for name, value in self.values.items():
            values[name] = flat[start : start + value.size].reshape(value.shape)
            start += value.size
        return eqx.tree_at(lambda p: p.values, self, values)

    def _flat(self) -> Float[Array, " n_numbers"]:
        return jnp.concatenate([value.reshape(-1) for value in self.values.values()])

    def _free_places(self) -> Int[np.ndarray, " n_free"]:
        """Places of the free numbers among all numbers."""
        sizes = [value.size for value in self.values.values()]
        starts = dict(zip(self.values, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
        return np.array([starts[name] + place for name, place in self.free], int)

    def check_name(self, name: str) -> None:
        """Raise `ConfigError` unless there is a parameter of this name."""
        if name not in self.forms:
            raise ConfigError(f"{type(self).__name__} has no parameter {name!r}, {nearest(name, self.forms)}")

    def usually_free(self) -> tuple[Entry, ...]:
        """All numbers of the parameters that are free unless told otherwise."""
        names = [name for name, form in self.forms.items() if form.usually_free and not form.integer]
        return tuple(Entry(name, place) for name in names for place in range(self.values[name].size))

    def _checked_free(self, entries: Iterable[Entry | tuple[str, int]]) -> tuple[Entry, ...]:
        chosen = tuple(Entry(*entry) for entry in entries)
        for name, place in chosen:
            self.check_name(name)
            if self.forms[name].integer:
                raise ConfigError(f"{type(self).__name__}: {name} is an integer and cannot be free")
            size = self.values[name].size
            if not 0 <= place < size:
                raise ConfigError(f"{type(self).__name__}: {name} has {size} values, no number {place}")
        if len(set(chosen)) != len(chosen):
            raise ConfigError(f"{type(self).__name__}: a free parameter was given twice")
        return chosen


class FormulaPotential(ParametricPotential):
    """A physics model whose parameters are the same whatever their values are.

    Attributes:
        FORMS: what each parameter is, in the order of the model.
    """

    FORMS: ClassVar[Mapping[str, ParameterForm]]

    @property
    def forms(self) -> Mapping[str, ParameterForm]:
        """Those of the class."""
        return self.FORMS

    def checked_values(
        self, values: Mapping[str, ArrayLike], n_species: int
    ) -> dict[str, Float[Array, "*shape"]]:
        """Float64 arrays of all parameters; a single number serves all combinations of species.

        Raises:
            ConfigError: see the class.
        """
        for name in values:
            self.check_name(name)
        missing = [name for name in self.forms if name not in values]
        if missing:
            raise ConfigError(f"{type(self).__name__} needs values of {', '.join(missing)}")
        arrays = {}
        for name, form in self.forms.items():
            extent = form.extent(n_species)
            array = np.asarray(values[name], np.float64)
            if array.ndim == 0:
                array = np.full(extent, float(array))
            if array.shape != (extent,) or not np.isfinite(array).all():
                got = f"{np.asarray(values[name]).tolist()!r:.80}"
                expected = f"{extent} finite numbers for {n_species} species"
                raise ConfigError(f"{type(self).__name__}: {name}", got=got, expected=expected)
            if form.integer and (array != np.round(array)).any():
                raise ConfigError(f"{type(self).__name__}: {name} must be an integer, got {array.tolist()}")
            arrays[name] = jnp.asarray(array)
        return arrays


def checked_symbols(species: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Symbols in their order, and their atomic numbers ascending.

    Raises:
        PotentialError: not a chemical symbol, or the same twice.
    """
    symbols = (species,) if isinstance(species, str) else tuple(species)
    unknown = [s for s in symbols if s not in chemical_symbols[1:]]
    if unknown or not symbols or len(set(symbols)) != len(symbols):
        raise PotentialError(f"species must be different chemical symbols, got {list(symbols)}")
    return symbols, tuple(sorted(chemical_symbols.index(s) for s in symbols))
