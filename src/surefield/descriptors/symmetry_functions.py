"""Symmetry functions G2, G4 and G5 of Behler and Parrinello, PRL 98, 146401 (2007), in Amp's convention.

G2 = sum_j exp(-eta (r_ij - offset)^2/Rc^2) fc(r_ij)
G4 = 2^(1-zeta) sum_{j<k} (1 + gamma cos t)^zeta exp(-eta (r_ij^2 + r_ik^2 + r_jk^2)/Rc^2)
     fc(r_ij) fc(r_ik) fc(r_jk)
G5 = the same without r_jk (Khorshidi and Peterson, Comput. Phys. Commun. 207, 310 (2016))

Exponents per Å^2, and a cutoff radius of its own for each pair of elements, serve other programs' functions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Array, Float, Int

from surefield.descriptors.angular_sums import (
    AngularForm,
    Stretch,
    angular_derivatives,
    angular_sums,
    by_rows,
)
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
        stretch: (Rc/rc)^2 of the pairs of an element (row) and a neighbour; None: all share one radius.
        stretch_neighbors: the same of pairs of neighbours.
    """

    neighbors: tuple[int, ...]
    radial: Float[np.ndarray, "2 n"]
    radial_columns: Int[np.ndarray, "2 n"]
    forms: tuple[AngularForm, ...]
    angular_columns: Int[np.ndarray, "3 n"]
    columns: Int[np.ndarray, "n_species width"]
    shared: bool
    stretch: Float[np.ndarray, "n_species n_neighbors"] | None
    stretch_neighbors: Float[np.ndarray, "n_neighbors n_neighbors"] | None


@dataclass(frozen=True)
class SymmetryFunctions(AtomicDescriptor):
    """Radial and angular symmetry functions, a list of its own for each element.

    Args:
        species: atomic numbers, ascending.
        cutoff_function: cutoff function, shared by all functions.
        functions: functions of each species.
        length: Å; exponents divided by its square are per Å^2. None: the cutoff radius.
        radii: cutoff radius of each pair of species, Å, row by row of the symmetric table; none larger than
            that of the cutoff function. None: all pairs have that one.

    Raises:
        ConfigError: species not ascending, a species without functions, or radii that do not fit.
    """

    species: tuple[int, ...]
    cutoff_function: CutoffFunction
    functions: tuple[tuple[Function, ...], ...]
    length: float | None = None
    radii: tuple[tuple[float, ...], ...] | None = None
    cutoff: float = field(init=False, compare=False)
    n_features: tuple[int, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        check_species(self.species)
        if len(self.functions) != len(self.species) or not all(self.functions):
            counts = [len(functions) for functions in self.functions]
            raise ConfigError(f"each of {len(self.species)} species needs functions, got {counts}")
        if self.length is not None and not 0 < self.length < math.inf:
            raise ConfigError(f"length must be a positive number of Å, got {self.length}")
        if self.radii is not None:
            self._check_radii(self.radii)
        object.__setattr__(self, "cutoff", self.cutoff_function.Rc)
        object.__setattr__(self, "n_features", tuple(map(len, self.functions)))

    @classmethod
    def from_lists(
        cls,
        symbols: Sequence[str],
        cutoff: CutoffFunction,
        functions: Mapping[str, Sequence[Mapping[str, Any]]],
        *,
        length: float | None = None,
        radii: Sequence[Sequence[float]] | None = None,
    ) -> Self:
        """Descriptor from one list of dicts per element, as users write them; `length`, `radii`: as above.

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
        table = None if radii is None else tuple(tuple(map(float, row)) for row in radii)
        return cls(tuple(species), cutoff, tuple(lists), length, table)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Descriptor from `config()`."""
        functions = config["functions"]
        more = {name: config.get(name) for name in ("length", "radii")}
        return cls.from_lists(tuple(functions), cutoff_function(config["cutoff"]), functions, **more)

    def config(self) -> dict[str, Any]:
        """JSON-able description."""
        functions = {
            symbol: [function.todict() for function in functions]
            for symbol, functions in zip(self.symbols, self.functions, strict=True)
        }
        config: dict[str, Any] = {"kind": "gaussian", "cutoff": self.cutoff_function.todict()}
        config["functions"] = functions
        if self.length is not None:
            config["length"] = self.length
        if self.radii is not None:
            config["radii"] = [list(row) for row in self.radii]
        return config

    def names(self, symbol: str) -> list[str]:
        """What each function of an element is, such as "G4 Cu-Pt eta=0.005 gamma=1 zeta=4"."""
        return [function.name for function in self.functions[self.place(symbol)]]

    def features(self, graph: Graph) -> Float[Array, "n_atoms width"]:
        """Symmetry functions of each atom; zeros in unused columns and for padding atoms."""
        plan = self._plan
        vectors, elements = near_neighbors(graph, self.cutoff, self._plan.neighbors)
        stretch = self._stretch(elements, graph)
        parts = []
        if plan.radial.size:
            _, values, _ = self._radial(vectors, *stretch)
            sums = product(jnp.swapaxes(elements, 1, 2), values)
            parts.append(sums[:, plan.radial_columns[0], plan.radial_columns[1]])
        if plan.forms:
            sums = by_rows(
                lambda v, e, *s: angular_sums(v, e, plan.forms, self.cutoff_function, self._table(*s)),
                *(vectors, elements, *stretch),
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
        stretch = self._stretch(elements, graph)
        parts = []
        if plan.radial.size:
            unit, _, slopes = self._radial(vectors, *stretch)
            element, radial = plan.radial_columns
            slopes = elements[..., element] * slopes[..., radial]
            parts.append(unit[..., None] * slopes[:, :, None])
        if plan.forms:
            slopes_by_form = by_rows(
                lambda v, e, *s: angular_derivatives(v, e, plan.forms, self.cutoff_function, self._table(*s)),
                *(vectors, elements, *stretch),
            )
            form, first, second = plan.angular_columns
            part = elements[:, :, None, first] * slopes_by_form[..., form, second]
            other = elements[:, :, None, second] * slopes_by_form[..., form, first]
            parts.append(jnp.where(first == second, part, part + other))
        return self._pick(jnp.concatenate(parts, axis=-1), graph)

    __hash__ = AtomicDescriptor.__hash__

    @functools.cached_property
    def _plan(self) -> _Plan:
        distinct = list(dict.fromkeys(f for functions in self.functions for f in functions))
        distinct.sort(key=lambda f: f.type != "G2")  # stable: radial ones first
        radial = [f for f in distinct if f.type == "G2"]
        angular = [f for f in distinct if f.type != "G2"]
        neighbors = tuple(sorted({z for f in distinct for z in f.elements}))
        shapes = list(dict.fromkeys((f.eta, f.offset) for f in radial))
        forms = list(dict.fromkeys(self._form(f) for f in angular))
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
            np.array([[forms.index(self._form(f)), *map(neighbors.index, f.elements)] for f in angular], int)
            .reshape(-1, 3)
            .T,
            columns,
            all(np.array_equal(row, np.arange(len(distinct))) for row in columns),
            *self._stretches(neighbors),
        )

    @property
    def exponent_length(self) -> float:
        """Å; exponents divided by its square are per Å^2."""
        return self.cutoff if self.length is None else self.length

    def _check_radii(self, radii: tuple[tuple[float, ...], ...]) -> None:
        table = np.array(radii, float)
        n = len(self.species)
        if table.shape != (n, n) or not np.array_equal(table, table.T):
            raise ConfigError(f"radii must be a symmetric table of {n} by {n} species, got {radii}")
        if not ((table > 0) & (table <= self.cutoff_function.Rc)).all():
            raise ConfigError(f"radii must be positive and at most {self.cutoff_function.Rc} Å, got {radii}")
        others = {z for functions in self.functions for f in functions for z in f.elements}
        if others - set(self.species):
            unknown = sorted(chemical_symbols[z] for z in others - set(self.species))
            raise ConfigError(f"there are no radii for neighbours of {', '.join(unknown)}")

    def _stretches(self, neighbors: Sequence[int]) -> tuple[np.ndarray | None, np.ndarray | None]:
        if self.radii is None:
            return None, None
        table = (self.cutoff_function.Rc / np.array(self.radii)) ** 2
        places = [self.species.index(z) for z in neighbors]
        return table[:, places], table[np.ix_(places, places)]

    def _stretch(self, elements: Float[Array, "n k s"], graph: Graph) -> tuple[Array, ...]:
        """Stretch of every edge, (n, k), 1 where there is no neighbour; nothing with a single radius."""
        if self._plan.stretch is None:
            return ()
        own = jnp.asarray(self._plan.stretch, elements.dtype)[species_column(self.species, graph.numbers)]
        stretch = jnp.sum(elements * own[:, None], axis=-1)
        return (jnp.where(stretch > 0, stretch, 1.0),)

    def _table(self, *edges: Array) -> Stretch | None:
        table = self._plan.stretch_neighbors
        return None if table is None else Stretch(edges[0], table)

    def _form(self, function: Function) -> AngularForm:
        eta = function.eta / self.exponent_length**2
        return AngularForm(eta, function.gamma, function.zeta, closed=function.type == "G4")

    def _radial(
        self, vectors: Float[Array, "n k 3"], stretch: Float[Array, "n k"] | float = 1.0
    ) -> tuple[Array, Array, Array]:
        """Unit vectors, radial functions of each neighbour (n, k, n_radial) and their slopes."""
        eta, offset = (values.astype(vectors.dtype) for values in self._plan.radial)
        square = jnp.sum(vectors**2, axis=-1)[..., None]
        r = jnp.sqrt(square)
        factor = eta / self.exponent_length**2
        stretch = jnp.asarray(stretch, vectors.dtype)[..., None]
        gauss = jnp.exp(-factor * (r - offset) ** 2)
        cut = self.cutoff_function.of_square(square * stretch)
        slope = 2 * r * stretch * self.cutoff_function.slope_of_square(square * stretch)
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
