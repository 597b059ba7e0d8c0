"""Symmetry functions G2, G4 and G5 of Behler and Parrinello, PRL 98, 146401 (2007), in Amp's convention.

G2 = sum_j exp(-eta (r_ij - offset)^2/Rc^2) fc(r_ij)
G4 = 2^(1-zeta) sum_{j<k} (1 + gamma cos t)^zeta exp(-eta (r_ij^2 + r_ik^2 + r_jk^2)/Rc^2)
     fc(r_ij) fc(r_ik) fc(r_jk)
G5 = the same without r_jk (Khorshidi and Peterson, Comput. Phys. Commun. 207, 310 (2016))
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Array, Float, Int

from surefield.descriptors.angular_sums import AngularForm, angular_derivatives, angular_sums, by_rows
from surefield.descriptors.atomic_descriptor import (
    AtomicDescriptor,
    atomic_number,
    check_species,
    near_neighbors,
    product,
    species_column,
)
from surefield.descriptors.cutoffs import CutoffFunction, cutoff_function
from surefield.descriptors.function_lists import (
    Function,
    make_default_symmetry_functions,
    make_symmetry_functions,
)
from surefield.errors import ConfigError
from surefield.structures.graph import Graph

__all__ = ["Function", "SymmetryFunctions", "make_default_symmetry_functions", "make_symmetry_functions"]


class _Plan(NamedTuple):
    """The distinct functions of all elements and where each element has them.

    Attributes:
        neighbors: atomic numbers that occur in functions.
        radial: distinct (eta, offset).
        radial_columns: (2, n) element and radial function of each distinct G2.
        forms: distinct angular forms.
        angular_columns: (3, n) form, first and second element of each distinct G4 and G5.
        columns: (n_species, width) place of each function among the distinct ones; one past the end where
            an element has fewer functions.
        shared: whether all elements have the distinct functions as they are.
    """

    neighbors: tuple[int, ...]
    radial: Float[np.ndarray, "2 n"]
    radial_columns: Int[np.ndarray, "2 n"]
    forms: tuple[AngularForm, ...]
    angular_columns: Int[np.ndarray, "3 n"]
    columns: Int[np.ndarray, "n_species width"]
    shared: bool


@dataclass(frozen=True)
class SymmetryFunctions(AtomicDescriptor):
    """Radial and angular symmetry functions, a list of its own for each element.

    Args:
        species: atomic numbers, ascending.
        cutoff_function: cutoff function, shared by all functions.
        functions: functions of each species.

    Raises:
        ConfigError: species not ascending, or a species without functions.
    """

    species: tuple[int, ...]
    cutoff_function: CutoffFunction
    functions: tuple[tuple[Function, ...], ...]
    cutoff: float = field(init=False, compare=False)
    n_features: tuple[int, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        check_species(self.species)
        if len(self.functions) != len(self.species) or not all(self.functions):
            counts = [len(functions) for functions in self.functions]
            raise ConfigError(f"each of {len(self.species)} species needs functions, got {counts}")
        object.__setattr__(self, "cutoff", self.cutoff_function.Rc)
        object.__setattr__(self, "n_features", tuple(map(len, self.functions)))

    @classmethod
    def from_lists(
        cls,
        symbols: Sequence[str],
        cutoff: CutoffFunction,
        functions: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> Self:
        """Descriptor from one list of dicts per element, as users write them.

        Raises:
            ConfigError: an unusable function, or an element without functions.
        """
        species = sorted({atomic_number(symbol, "the elements of the descriptor") for symbol in symbols})
        lists = []
        for symbol in (chemical_symbols[z] for z in species):
            entries = functions.get(symbol, ())
            if len(entries) == 0:
                raise ConfigError(f"element {symbol} has no symmetry functions; Gs has {sorted(functions)}")
            lists.append(
                tuple(
                    Function.from_dict(entry, f"function {i} of {symbol}") for i, entry in enumerate(entries)
                )
            )
        return cls(tuple(species), cutoff, tuple(lists))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Descriptor from `config()`."""
        functions = config["functions"]
        return cls.from_lists(tuple(functions), cutoff_function(config["cutoff"]), functions)

    def config(self) -> dict[str, Any]:
        """JSON-able description."""
        functions = {
            symbol: [function.todict() for function in functions]
            for symbol, functions in zip(self.symbols, self.functions, strict=True)
        }
        return {"kind": "gaussian", "cutoff": self.cutoff_function.todict(), "functions": functions}

    def names(self, symbol: str) -> list[str]:
        """What each function of an element is, such as "G4 Cu-Pt eta=0.005 gamma=1 zeta=4"."""
        return [function.name for function in self.functions[self.place(symbol)]]

    def features(self, graph: Graph) -> Float[Array, "n_atoms width"]:
        """Symmetry functions of each atom; zeros in unused columns and for padding atoms."""
        plan = self._plan
        vectors, elements = near_neighbors(graph, self.cutoff, self._plan.neighbors)
        parts = []
        if plan.radial.size:
            _, values, _ = self._radial(vectors)
            sums = product(jnp.swapaxes(elements, 1, 2), values)
            parts.append(sums[:, plan.radial_columns[0], plan.radial_columns[1]])
        if plan.forms:
            sums = by_rows(
                lambda v, e: angular_sums(v, e, plan.forms, self.cutoff_function), vectors, elements
            )
            form, first, second = plan.angular_columns
            # Ordered pairs of two atoms of one element appear twice in the sum.
            once = np.where(first == second, 0.5, 1.0).astype(vectors.dtype)
            parts.append(sums[:, form, first, second] * once)
        return self._pick(jnp.concatenate(parts, axis=-1), graph)

    def jacobian(self, graph: Graph) -> Float[Array, "n_atoms n_neighbors 3 width"]:
        """Derivatives of the functions of atom i by `graph.vectors[i, k]`, in closed form, per Å."""
        plan = self._plan
        vectors, elements = near_neighbors(graph, self.cutoff, self._plan.neighbors)
        parts = []
        if plan.radial.size:
            unit, _, slopes = self._radial(vectors)
            element, radial = plan.radial_columns
            slopes = elements[..., element] * slopes[..., radial]
            parts.append(unit[..., None] * slopes[:, :, None])
        if plan.forms:
            found = by_rows(
                lambda v, e: angular_derivatives(v, e, plan.forms, self.cutoff_function), vectors, elements
            )
            form, first, second = plan.angular_columns
            part = elements[:, :, None, first] * found[..., form, second]
            other = elements[:, :, None, second] * found[..., form, first]
            parts.append(jnp.where(first == second, part, part + other))
        return self._pick(jnp.concatenate(parts, axis=-1), graph)

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.species, self.cutoff_function, self.functions))

    @functools.cached_property
    def _plan(self) -> _Plan:
        distinct = list(dict.fromkeys(f for functions in self.functions for f in functions))
        distinct.sort(key=lambda f: f.type != "G2")  # stable: radial ones first
        radial = [f for f in distinct if f.type == "G2"]
        angular = [f for f in distinct if f.type != "G2"]
        neighbors = tuple(sorted({z for f in distinct for z in f.elements}))
        shapes = list(dict.fromkeys((f.eta, f.offset) for f in radial))
        forms = list(dict.fromkeys(_form(f) for f in angular))
        places = {function: i for i, function in enumerate(distinct)}
        columns = np.full((len(self.species), self.width), len(distinct), np.int32)
        for row, functions in zip(columns, self.functions, strict=True):
            row[: len(functions)] = [places[f] for f in functions]
        return _Plan(
            neighbors,
            np.array(shapes).reshape(-1, 2).T,
            np.array([[neighbors.index(f.elements[0]), shapes.index((f.eta, f.offset))] for f in radial], int)
            .reshape(-1, 2)
            .T,
            tuple(forms),
            np.array([[forms.index(_form(f)), *map(neighbors.index, f.elements)] for f in angular], int)
            .reshape(-1, 3)
            .T,
            columns,
            all(np.array_equal(row, np.arange(len(distinct))) for row in columns),
        )

    def _radial(self, vectors: Float[Array, "n k 3"]) -> tuple[Array, Array, Array]:
        """Unit vectors, radial functions of each neighbour (n, k, n_radial) and their slopes."""
        eta, offset = (values.astype(vectors.dtype) for values in self._plan.radial)
        square = jnp.sum(vectors**2, axis=-1)[..., None]
        r = jnp.sqrt(square)
        factor = eta / self.cutoff**2
        gauss = jnp.exp(-factor * (r - offset) ** 2)
        cut = self.cutoff_function.of_square(square)
        slope = 2 * r * self.cutoff_function.slope_of_square(square)
        return vectors / r, gauss * cut, gauss * (slope - 2 * factor * (r - offset) * cut)

    def _pick(self, values: Array, graph: Graph) -> Array:
        """The functions of each atom's own element, out of all distinct ones in the last axis."""
        plan = self._plan
        if plan.shared:
            return values
        values = jnp.concatenate([values, jnp.zeros((*values.shape[:-1], 1), values.dtype)], axis=-1)
        columns = jnp.asarray(plan.columns)[species_column(self.species, graph.numbers)]
        columns = columns.reshape(len(columns), *[1] * (values.ndim - 2), -1)
        return jnp.take_along_axis(values, columns, axis=-1)


def _form(function: Function) -> AngularForm:
    return AngularForm(function.eta, function.gamma, function.zeta, closed=function.type == "G4")
