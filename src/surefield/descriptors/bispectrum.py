"""Bispectrum components of the neighbour density on the four-dimensional sphere (SNAP).

Thompson, Swiler, Trott, Foiles, Tucker, J. Comput. Phys. 285, 316 (2015), in the conventions of LAMMPS
`compute snap`. Here B_{j1 j2 j} = (2j + 1) <h_j1 h_j2 h_j> is a mean over nodes on that sphere, see
`bispectrum_tables`; its derivatives along the sphere follow from generators of rotations.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from surefield.descriptors.atomic_descriptor import (
    AtomicDescriptor,
    atomic_number,
    check_species,
    product,
    species_column,
)
from surefield.descriptors.bispectrum_tables import (
    Plan,
    Tables,
    blocks,
    hyperspherical,
    plan,
    tables,
    triples,
)
from surefield.errors import ConfigError
from surefield.structures.graph import Graph

__all__ = ["Bispectrum", "Neighbors"]

#: Size of the intermediate arrays of a block of atoms; on a processor they should stay in its caches.
_BLOCK_BYTES = {"cpu": 2**24, "gpu": 2**30}


class Neighbors(NamedTuple):
    """Neighbours of some atoms, as the bispectrum reads them.

    Attributes:
        vectors: to the neighbours, Å.
        near: which of them are real.
        centre: place of each atom's element in `species`.
        element: place of each neighbour's element.
    """

    vectors: Float[Array, "n_atoms n_neighbors 3"]
    near: Bool[Array, "n_atoms n_neighbors"]
    centre: Int[Array, " n_atoms"]
    element: Int[Array, "n_atoms n_neighbors"]


class _Edges(NamedTuple):
    """Every neighbour on the sphere.

    Attributes:
        values: (n_atoms, n_neighbors, n_channels * n_coordinates) functions x_c, zero in other channels.
        weight: (n_atoms, n_neighbors) w f_c.
        motion: (n_atoms, n_neighbors, 4, 3) when the neighbour moves along x, y, z (last axis): change of the
            weight, and weight times the motion of the point along n i, n j, n k.
    """

    values: Array
    weight: Array
    motion: Array


@dataclass(frozen=True)
class Bispectrum(AtomicDescriptor):
    """Bispectrum components B_{j1 j2 j}, doubled indices j >= j1 >= j2 up to `twojmax`.

    Arguments have the names of LAMMPS `compute snap`; those with a value per element follow `species`.

    Args:
        species: atomic numbers, ascending.
        twojmax: largest doubled index.
        rcutfac: factor of the radii in the cutoff R_ij = rcutfac (radelem_i + radelem_j), Å.
        radelem: radius of each element.
        wj: weight of each element as a neighbour.
        rfac0: part of the sphere that distances up to R_ij cover.
        rmin0: distance that maps to its pole, Å.
        switchflag: whether neighbours fade out towards R_ij.
        sinner: centre of the inner switch of each element, Å; empty for none.
        dinner: its half width, Å; empty for none.
        bzeroflag: subtract the components of an isolated atom.
        bnormflag: divide each component by 2j + 1.
        chemflag: one density for each element, and components of all ordered triples of elements.
        wselfallflag: with `chemflag`, the atom itself is part of every density.

    Raises:
        ConfigError: species not ascending, or a value that is out of range.
    """

    species: tuple[int, ...]
    twojmax: int
    rcutfac: float
    radelem: tuple[float, ...]
    wj: tuple[float, ...]
    rfac0: float = 0.99363
    rmin0: float = 0.0
    switchflag: bool = True
    sinner: tuple[float, ...] = ()
    dinner: tuple[float, ...] = ()
    bzeroflag: bool = False
    bnormflag: bool = False
    chemflag: bool = False
    wselfallflag: bool = False
    cutoff: float = field(init=False, compare=False)
    n_features: tuple[int, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        check_species(self.species)
        n = len(self.species)
        for name in ("radelem", "wj", "sinner", "dinner"):
            allowed = (0, n) if name in ("sinner", "dinner") else (n,)
            if len(getattr(self, name)) not in allowed:
                raise ConfigError(f"{name} needs a value per element ({n}), got {getattr(self, name)}")
        if len(self.sinner) != len(self.dinner):
            raise ConfigError(f"sinner and dinner go together, got {self.sinner} and {self.dinner}")
        if isinstance(self.twojmax, bool) or not isinstance(self.twojmax, int) or self.twojmax < 0:
            raise ConfigError(f"twojmax must be a whole number, 0 or more, got {self.twojmax!r}")
        smallest = 2 * self.rcutfac * min(self.radelem)
        if not (self.rcutfac > 0 and min(self.radelem) > 0 and 0 <= self.rmin0 < smallest):
            raise ConfigError(
                "unusable cutoff of the bispectrum",
                got=f"rcutfac={self.rcutfac}, radelem={self.radelem}, rmin0={self.rmin0}",
                expected="rcutfac and radelem above 0, 0 <= rmin0 < cutoff",
            )
        if self.dinner and min(self.dinner) <= 0:
            raise ConfigError(f"dinner must be above 0, got {self.dinner}")
        object.__setattr__(self, "cutoff", 2 * self.rcutfac * max(self.radelem))
        count = len(triples(self.twojmax)) * self.n_channels**3
        object.__setattr__(self, "n_features", (count,) * n)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Descriptor from `config()`."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k != "kind"}
        species = tuple(atomic_number(s, "the elements of the bispectrum") for s in config["species"])
        return cls(**{**values, "species": species})

    def config(self) -> dict[str, Any]:
        """JSON-able description."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return {"kind": "bispectrum", **values, "species": list(self.symbols)}

    @property
    def n_channels(self) -> int:
        """Number of densities."""
        return len(self.species) if self.chemflag else 1

    @property
    def triples(self) -> Int[np.ndarray, "n_components 3"]:
        """The three factors of each component, as (twojmax + 1) times the density plus the level."""
        return self._plan.triples

    def names(self, symbol: str) -> list[str]:
        """What each component is: "B 3 1 2" (doubled indices), with `chemflag` "B Ta W W 3 1 2"."""
        self.place(symbol)
        levels = self.twojmax + 1
        names = []
        for items in self._plan.triples.tolist():
            channels, indices = zip(*(divmod(item, levels) for item in items), strict=True)
            elements = [self.symbols[e] for e in channels] if self.chemflag else []
            names.append(" ".join(["B", *elements, *map(str, indices)]))
        return names

    def features(self, graph: Graph) -> Float[Array, "n_atoms width"]:
        """Components of each atom, zero for padding atoms."""
        components = self._by_blocks(self.components, graph)
        return jnp.where(graph.atom_mask[:, None], components, 0.0)

    def jacobian(self, graph: Graph) -> Float[Array, "n_atoms n_neighbors 3 width"]:
        """Derivatives of the components of atom i by `graph.vectors[i, k]`, in closed form, per Å."""
        return self._by_blocks(lambda n: self.with_derivatives(n)[1], graph)

    def components(self, neighbors: Neighbors) -> Float[Array, "n_atoms width"]:
        """Components of atoms with these neighbours."""
        coefficients = _coefficients(self, *neighbors)
        return self._minus_zero(_components(self, self._at_nodes(coefficients)), neighbors.centre)

    def with_derivatives(
        self, neighbors: Neighbors
    ) -> tuple[Float[Array, "n_atoms width"], Float[Array, "n_atoms n_neighbors 3 width"]]:
        """Components and their derivatives by the vectors to the neighbours."""
        edges = self._edges(neighbors)
        coefficients = self._sums(edges, neighbors.centre)
        # (n_atoms, width, 4, n_coefficients): by the coefficients, and turned along the sphere.
        slopes = self._slopes(self._at_nodes(coefficients))
        n_atoms, width, _, size = slopes.shape
        # The components are cubic in the coefficients.
        components = jnp.einsum("akc,ac->ak", slopes[:, :, 0], coefficients) / 3
        flat = jnp.swapaxes(slopes, 1, 2).reshape(n_atoms, 4 * width, size)
        along = product(edges.values, jnp.swapaxes(flat, 1, 2)).reshape(*edges.weight.shape, 4, width)
        parts = (edges.motion[:, :, s, :, None] * along[:, :, s, None, :] for s in range(4))
        derivatives = sum(parts, start=jnp.zeros((), along.dtype))
        return self._minus_zero(components, neighbors.centre), derivatives

    def _edges(self, neighbors: Neighbors) -> _Edges:
        vectors, near, centre, element = neighbors
        dtype = vectors.dtype

        def pair(values: Sequence[float], factor: float) -> Array:
            table = factor * np.asarray(values)
            return jnp.asarray(table[:, None] + table, dtype)[centre[:, None], element]

        outer = pair(self.radelem, self.rcutfac)
        square = jnp.sum(vectors**2, axis=-1)
        near = near & (square < outer**2) & (square > 0)
        # Derivatives of padding must be zero and not NaN.
        half = jnp.array([0.0, 0.0, 0.5], dtype)
        vectors = jnp.where(near[..., None], vectors, half * outer[..., None])
        r = jnp.sqrt(jnp.sum(vectors**2, axis=-1))
        unit = vectors / r[..., None]
        weight = jnp.where(near, jnp.asarray(self.wj, dtype)[element], 0.0)
        cut, cut_slope = self._switch(r, outer, pair)
        rate = self.rfac0 * np.pi / (outer - self.rmin0)
        angle = (r - self.rmin0) * rate
        sine, cosine = jnp.sin(angle), jnp.cos(angle)
        # Both arguments of the square root in LAMMPS' r0 lose the sign of the sine.
        sign = jnp.where(sine < 0, -1.0, 1.0).astype(dtype)
        point = jnp.stack([sign * cosine, *(jnp.moveaxis(unit, -1, 0) * (sign * sine))])
        # XLA fuses no matrix product, so that sines are not computed anew for every value made of them.
        fenced = product(jnp.eye(4, dtype=dtype), point.reshape(4, -1))
        values = hyperspherical(fenced, self.twojmax, jnp).T.reshape(*r.shape, -1)
        if self.n_channels > 1:
            own = jax.nn.one_hot(element, self.n_channels, dtype=dtype)
            values = (own[..., None] * values[..., None, :]).reshape(*r.shape, -1)
        across = (sine * cosine / r)[..., None, None]
        radial = unit[..., :, None] * unit[..., None, :]
        curl = jnp.einsum("...b,abc->...ac", unit, _LEVI_CIVITA.astype(dtype))
        turn = (rate[..., None, None] - across) * radial + across * np.eye(3)
        turn = turn - (sine**2 / r)[..., None, None] * curl
        fading = (weight * cut_slope)[..., None, None] * unit[..., None, :]
        weight = weight * cut
        motion = jnp.concatenate([fading, weight[..., None, None] * turn], axis=-2)
        return _Edges(values, weight, motion)

    def _switch(self, r: Array, outer: Array, pair: Any) -> tuple[Array, Array]:
        """f_c and its slope."""
        cut, slope = jnp.ones_like(r), jnp.zeros_like(r)
        if self.switchflag:
            rate = np.pi / (outer - self.rmin0)
            angle = (r - self.rmin0) * rate
            beyond = r > self.rmin0
            cut = jnp.where(beyond, 0.5 * (jnp.cos(angle) + 1), 1.0)
            slope = jnp.where(beyond, -0.5 * rate * jnp.sin(angle), 0.0)
        if self.sinner:
            middle, width = pair(self.sinner, 0.5), pair(self.dinner, 0.5)
            rate = np.pi / (2 * width)
            angle = np.pi / 2 + (r - middle) * rate
            inside = jnp.abs(r - middle) < width
            inner = jnp.where(inside, 0.5 * (1 - jnp.cos(angle)), (r > middle).astype(r.dtype))
            inner_slope = jnp.where(inside, 0.5 * rate * jnp.sin(angle), 0.0)
            cut, slope = cut * inner, slope * inner + cut * inner_slope
        return cut, slope

    def _sums(self, edges: _Edges, centre: Array) -> Float[Array, "n_atoms n_coefficients"]:
        """u: the atom itself, and the sum over its neighbours."""
        sums = jnp.einsum("ak,akc->ac", edges.weight, edges.values)
        pole = hyperspherical(np.eye(4), self.twojmax)[:, 0]
        own = np.eye(len(self.species))[:, : self.n_channels]
        own = np.ones_like(own) if self._everywhere else own
        itself = (own[:, :, None] * pole).reshape(len(self.species), -1)
        return sums + jnp.asarray(itself, sums.dtype)[centre]

    def _at_nodes(self, coefficients: Array) -> Float[Array, "n_atoms n_items n_nodes"]:
        """h of every item at the nodes."""
        table = self._tables
        split = coefficients.reshape(len(coefficients), self.n_channels, -1)
        levels = [
            product(split[..., block], table.values[:, block].T.astype(split.dtype))
            for block in blocks(self.twojmax)
        ]
        return jnp.stack(levels, axis=2).reshape(len(coefficients), -1, len(table.weights))

    def _turned(self, moved: Float[Array, "n_atoms 3 n_coefficients"]) -> Array:
        """Change of the coefficients by motions along the three tangents."""
        turns = self._tables.generators.astype(moved.dtype)
        split = moved.reshape(len(moved), 3, self.n_channels, -1)
        turned = jnp.einsum("asec,dsc->aed", split, turns)
        return turned.reshape(len(moved), -1)

    def _along(self, items: Array, change: Array) -> Float[Array, "n_atoms width"]:
        """Change of the components when h changes."""
        plan, weights = self._plan, jnp.asarray(self._tables.weights, items.dtype)
        levels = np.arange(items.shape[1]) % (self.twojmax + 1)
        means = []
        for parity in (0, 1):
            first, second = plan.pairs[parity].T
            pairs = items[:, first] * items[:, second] * weights
            changes = product(pairs, jnp.swapaxes(change[:, levels % 2 == parity], 1, 2))
            means.append(changes.reshape(len(items), -1))
        flat = jnp.concatenate(means, axis=1)
        scale = jnp.asarray(plan.scale, items.dtype)
        return sum((flat[:, place] for place in plan.means.T), start=jnp.zeros((), items.dtype)) * scale

    def _slopes(self, items: Array) -> Float[Array, "n_atoms width 4 n_coefficients"]:
        """Derivatives of the components by the coefficients, and those turned by the three generators."""
        plan, table, dtype = self._plan, self._tables, items.dtype
        spans, levels = blocks(self.twojmax), self.twojmax + 1
        projected = []
        for parity in (0, 1):
            columns = np.concatenate(
                [np.arange(s.start, s.stop) for s in spans[parity::2]] or [np.zeros(0, int)]
            )
            values = (table.values[:, columns] * table.weights[:, None]).astype(dtype)
            turned = table.generators[columns][:, :, columns].reshape(len(columns), -1).astype(dtype)
            first, second = plan.pairs[parity].T
            slopes = product(items[:, first] * items[:, second], values)
            all_four = jnp.concatenate([slopes, product(slopes, turned)], axis=-1)
            projected.append(all_four.reshape(*slopes.shape[:2], 4, len(columns)))
        parts = []
        for item in range(self.n_channels * levels):
            level = item % levels
            start = sum((j + 1) ** 2 for j in range(level % 2, level, 2))
            used = plan.rows[:, item] >= 0
            rows = np.where(used, plan.rows[:, item], 0)
            part = projected[level % 2][:, rows, :, start : start + (level + 1) ** 2]
            parts.append(part * plan.factors[:, item, None, None].astype(dtype))
        return jnp.concatenate(parts, axis=-1)

    def _minus_zero(self, components: Array, centre: Array) -> Array:
        if not self.bzeroflag:
            return components
        channels = self._plan.triples // (self.twojmax + 1)
        own = (channels == np.arange(len(self.species))[:, None, None]).all(axis=-1)
        zero = (own | self._everywhere) * self._plan.scale
        return components - jnp.asarray(zero, components.dtype)[centre]

    def _by_blocks(self, function: Any, graph: Graph) -> Array:
        """A function of the neighbours of all atoms, a block of atoms at a time if there are many."""
        numbers = jnp.asarray(graph.numbers)
        element = species_column(self.species, numbers)
        everything = Neighbors(
            jnp.asarray(graph.vectors), jnp.asarray(graph.mask), element, element[graph.neighbors]
        )
        n, k = graph.mask.shape
        rows = self.block_size(k)
        if n <= 2 * rows:
            return function(everything)
        padding = -n % rows

        def split(x: Array) -> Array:
            return jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)).reshape(-1, rows, *x.shape[1:])

        blocks = jax.lax.map(jax.checkpoint(function), Neighbors(*map(split, everything)))
        return blocks.reshape(-1, *blocks.shape[2:])[:n]

    def block_size(self, n_neighbors: int) -> int:
        """Atoms that are best computed together."""
        table, plan = self._tables, self._plan
        size = self.n_channels * table.values.shape[1]
        pairs = sum(map(len, plan.pairs)) * len(table.weights)
        each = 8 * (pairs + 8 * self.width * size + n_neighbors * (size + 8 * self.width))
        return max(8, _BLOCK_BYTES.get(jax.default_backend(), 2**30) // each)

    @property
    def _tables(self) -> Tables:
        return tables(self.twojmax)

    __hash__ = AtomicDescriptor.__hash__

    @functools.cached_property
    def _plan(self) -> Plan:
        return plan(self.twojmax, self.n_channels, normed=self.bnormflag)

    @property
    def _everywhere(self) -> bool:
        """Whether an atom is part of all densities around it."""
        return not self.chemflag or self.wselfallflag


_LEVI_CIVITA = np.zeros((3, 3, 3))
for _a, _b, _c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    _LEVI_CIVITA[_a, _b, _c], _LEVI_CIVITA[_a, _c, _b] = 1.0, -1.0


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _coefficients(
    descriptor: Bispectrum, vectors: Array, near: Array, centre: Array, element: Array
) -> Float[Array, "n_atoms n_coefficients"]:
    """Expansion coefficients of the density around atoms."""
    return descriptor._sums(descriptor._edges(Neighbors(vectors, near, centre, element)), centre)


@_coefficients.defjvp
def _(descriptor: Bispectrum, primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # Matrix products both ways: differentiating the recursion would cost many times more.
    vectors, near, centre, element = primals
    edges = descriptor._edges(Neighbors(vectors, near, centre, element))
    motion = jnp.einsum("aksx,akx->ask", edges.motion, tangents[0])
    moved = product(motion, edges.values)
    return descriptor._sums(edges, centre), moved[:, 0] + descriptor._turned(moved[:, 1:])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _components(descriptor: Bispectrum, items: Array) -> Float[Array, "n_atoms width"]:
    """Components from h at the nodes."""
    return descriptor._along(items, items) / 3


@_components.defjvp
def _(descriptor: Bispectrum, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _components(descriptor, primals[0]), descriptor._along(primals[0], tangents[0])
