"""Rows J = d(energy, forces, stress)/d(chosen parameters) of any potential that JAX can differentiate.

By parameters (forward mode, several structures at once) or by rows (reverse mode, block by block), whichever
are fewer. Rows by last-layer weights, where nothing else is chosen, are those of `sensitivity.rows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from surefield.errors import ConfigError, PotentialError
from surefield.execution.cache import use_compilation_cache
from surefield.potentials.evaluate import evaluate
from surefield.potentials.learned_part import learned_part, with_learned_part
from surefield.potentials.potential import LastLayerPotential, Potential, trainable
from surefield.sensitivity.rows import structure_rows
from surefield.structures.batching import plan_shapes, streamed_batches
from surefield.structures.graph import Graph, bucket_size, collate
from surefield.structures.neighbors import Neighborhood
from surefield.structures.tensors import row_slices, to_voigt, volume

__all__ = ["QUANTITIES", "ChosenParameters", "RowBlock", "in_float64", "parameter_rows"]

P = TypeVar("P", bound=Potential)

#: Quantities that have rows, in the order in which they come.
QUANTITIES: Final = ("energy", "forces", "stress")
#: Atoms that share a batch in forward mode.
_ATOMS_AT_ONCE: Final = 512
#: Rows (reverse mode) of one block.
_ROWS_AT_ONCE: Final = 16
#: Structures that share a batch in reverse mode have so many atoms in all.
_ATOMS_IN_REVERSE: Final = 64
#: A pass back costs about as much as two forward.
_PASS_BACK: Final = 2
#: Numbers of a Jacobian that is held as a whole, which the forward mode needs.
_WHOLE_NUMBERS: Final = 2**26
#: Numbers of one block of rows, at most.
_BLOCK_NUMBERS: Final = 2**23


class ChosenParameters(eqx.Module):
    """Some numbers of a potential as one vector, by which derivatives are taken.

    Attributes:
        potential: any.
        places: which numbers of `Potential.vector`; None: all.
        last_layer: the weights of the last layer instead.
    """

    potential: Potential
    places: Int[np.ndarray, " n_parameters"] | None = None
    last_layer: bool = eqx.field(static=True, default=False)

    @property
    def vector(self) -> Float[Array, " n_parameters"]:
        """Their present values (traceable)."""
        if self.last_layer:
            return jnp.reshape(self.potential.last_layer().readout, -1)
        vector = self.potential.vector
        return vector if self.places is None else vector[self.places]

    def at(self, vector: Float[Array, " n_parameters"] | np.ndarray) -> Potential:
        """The potential at other values (traceable)."""
        if self.last_layer:
            return _with_readout(self.potential, jnp.asarray(vector))
        if self.places is None:
            return self.potential.with_vector(jnp.asarray(vector))
        return self.potential.with_vector(self.potential.vector.at[self.places].set(vector))


def _with_readout(potential: Potential, vector: Array) -> Potential:
    learned = learned_part(potential)
    if isinstance(learned, LastLayerPotential):
        return with_learned_part(potential, learned.with_readout(vector.reshape(learned.readout.shape)))
    raise PotentialError(f"the last layer of {type(potential).__name__} cannot be changed by itself")


class RowBlock(NamedTuple):
    """Some rows of one structure, float64.

    Attributes:
        structure: its index.
        quantity: energy (eV), forces (eV/Å, row 3i + a) or stress (eV/Å^3, Voigt).
        start: place of the first row among those of the quantity.
        rows: by the parameters, in their units.
    """

    structure: int
    quantity: str
    start: int
    rows: Float[np.ndarray, "n_rows n_parameters"]


def in_float64(potential: P) -> P:
    """Copy whose arrays are float64, so that derivatives are."""

    def widened(leaf: Any) -> Any:
        narrow = eqx.is_inexact_array(leaf) and np.issubdtype(leaf.dtype, np.floating)
        return jnp.asarray(leaf, jnp.float64) if narrow and leaf.dtype != np.float64 else leaf

    return jax.tree.map(widened, potential)


def parameter_rows(
    chosen: ChosenParameters, structures: Sequence[Neighborhood], quantities: Iterable[str] = ("forces",)
) -> Iterator[RowBlock]:
    """Yield all rows in blocks; blocks of one structure and quantity come in order, structures in any order.

    No more than one batch of small structures, or one block of a large Jacobian, is held at a time.

    Args:
        chosen: parameters that are the columns; see `in_float64` for networks in single precision.
        structures: as `Potential.neighborhood` gives them.
        quantities: of energy, forces, stress. A structure without a stress has no such rows.

    Raises:
        ConfigError: another quantity.
        PotentialError: a potential whose derivatives by parameters JAX cannot take.
    """
    use_compilation_cache()
    asked = tuple(quantities)
    unknown = [name for name in asked if name not in QUANTITIES]
    if unknown:
        raise ConfigError(f"no rows of {', '.join(unknown)}", expected=", ".join(QUANTITIES))
    wanted = tuple(name for name in QUANTITIES if name in asked)
    linear = _linear_part(chosen)
    if linear is not None:
        yield from _last_layer_rows(chosen, linear, structures, wanted)
        return
    if chosen.potential.numerical:
        raise PotentialError(
            f"{type(chosen.potential).__name__} has no exact derivatives by its parameters",
            fix="take numerical ones: derivative_kwargs={'method': 'central'}",
        )
    n_parameters, n_rows = int(chosen.vector.size), [_n_rows(s, wanted) for s in structures]
    few = [n_parameters <= _PASS_BACK * n and n_parameters * n <= _WHOLE_NUMBERS for n in n_rows]
    forward, reverse = ([i for i, f in enumerate(few) if f is way] for way in (True, False))
    yield from _forward_rows(chosen, structures, forward, wanted)
    yield from _reverse_rows(chosen, structures, reverse, wanted)


def _n_rows(structure: Neighborhood, wanted: Sequence[str]) -> int:
    sizes = {"energy": 1, "forces": 3 * structure.n_atoms, "stress": 6 if structure.periodic else 0}
    return sum(sizes[name] for name in wanted)


def _linear_part(chosen: ChosenParameters) -> LastLayerPotential | None:
    """The potential whose last layer (weights and biases) has all parameters, if there is one."""
    potential = chosen.potential
    if chosen.last_layer:
        return potential.last_layer()
    potential = learned_part(potential)
    if not isinstance(potential, LastLayerPotential):
        return None
    moving = jax.tree.leaves(eqx.filter(potential, trainable(potential)))
    known = {id(potential.readout), id(potential.bias)}
    return potential if all(id(leaf) in known for leaf in moving) else None


def _last_layer_rows(
    chosen: ChosenParameters,
    last: LastLayerPotential,
    structures: Sequence[Neighborhood],
    wanted: Sequence[str],
) -> Iterator[RowBlock]:
    for index, rows in enumerate(structure_rows(last, structures, wanted)):
        for name in wanted:
            if name not in rows:
                continue
            by_weights = np.atleast_2d(rows[name])
            if not chosen.last_layer:
                by_weights = _with_biases(last, by_weights, structures[index], name)
            if chosen.places is not None:
                by_weights = by_weights[:, chosen.places]
            yield RowBlock(index, name, 0, by_weights)


def _with_biases(
    last: LastLayerPotential, by_weights: np.ndarray, structure: Neighborhood, name: str
) -> np.ndarray:
    """Rows by all trained numbers of a last layer, in the order of `Potential.vector`."""
    parts = []
    for leaf in jax.tree.leaves(eqx.filter(last, trainable(last))):
        if leaf is last.readout:
            parts.append(by_weights)
        else:
            by_biases = last.bias_row(structure.numbers) if name == "energy" else np.zeros(last.bias.size)
            parts.append(np.broadcast_to(by_biases, (len(by_weights), last.bias.size)))
    return np.concatenate(parts, axis=1)


def _results(chosen: ChosenParameters, vector: Array, graph: Graph, derived: bool) -> dict[str, Array]:
    """Results by quantity, which do not depend on what exactly is asked for: so few programs are compiled."""
    results = evaluate(chosen.at(vector), graph)
    if not derived:
        return {"energy": results.energy}
    return {"energy": results.energy, "stress": to_voigt(results.virial), "forces": results.forces}


def _derived(wanted: Sequence[str]) -> bool:
    return bool({"forces", "stress"} & set(wanted))


@eqx.filter_jit
def _columns(chosen: ChosenParameters, graph: Graph, derived: bool) -> dict[str, Array]:
    """Derivatives of the results of a batch by every parameter, parameters first."""
    vector = chosen.vector
    _, push = jax.linearize(lambda v: _results(chosen, v, graph, derived), vector)
    # One after the other: side by side their arrays fall out of the cache.
    return jax.lax.map(push, jnp.eye(vector.size, dtype=vector.dtype))


def _forward_rows(
    chosen: ChosenParameters,
    structures: Sequence[Neighborhood],
    members: Sequence[int],
    wanted: tuple[str, ...],
) -> Iterator[RowBlock]:
    chunk = [structures[i] for i in members]
    for batch, graph in streamed_batches(chunk, _ATOMS_AT_ONCE, chosen.potential.dtype):
        columns = {k: np.asarray(v, np.float64) for k, v in _columns(chosen, graph, _derived(wanted)).items()}
        atoms = row_slices(chunk[i].n_atoms for i in batch)
        for place, (index, of_atoms) in enumerate(zip(batch, atoms, strict=True)):
            for name in wanted:
                of = columns[name][:, of_atoms] if name == "forces" else columns[name][:, place]
                rows = _in_rows(of, name, chunk[index])
                if rows is not None:
                    yield RowBlock(members[index], name, 0, rows)


def _in_rows(of: np.ndarray, name: str, structure: Neighborhood) -> np.ndarray | None:
    """(n_rows, n_parameters) of one structure from derivatives with the parameters first."""
    if name == "stress":
        return of.T / volume(structure.cell) if structure.periodic else None
    return of.reshape(len(of), -1).T


@eqx.filter_jit
def _some_rows(
    chosen: ChosenParameters, graphs: Graph, start: Array, n_rows: int, derived: bool
) -> Float[Array, "n_structures n_rows n_parameters"]:
    """Rows `start` and following of each of a stack of structures: energy, stress, forces, padding."""

    def flat(vector: Array, graph: Graph) -> Array:
        results = _results(chosen, vector, graph, derived)
        return jnp.concatenate([jnp.reshape(value, -1) for value in results.values()])

    def of_one(graph: Graph) -> Array:
        values, pull = jax.vjp(lambda v: flat(v, graph), chosen.vector)
        units = jax.nn.one_hot(start + jnp.arange(n_rows), values.size, dtype=values.dtype)
        return jax.lax.map(lambda unit: pull(unit)[0], units)

    return jax.lax.map(of_one, graphs)


def _ranges(structure: Neighborhood, wanted: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Where the rows that are wanted are among those of `_some_rows`."""
    ranges = {"energy": (0, 1), "stress": (1, 7 if structure.periodic else 1)}
    ranges["forces"] = (7, 7 + 3 * structure.n_atoms)
    return {name: ranges[name] for name in wanted}


def _reverse_rows(
    chosen: ChosenParameters,
    structures: Sequence[Neighborhood],
    members: Sequence[int],
    wanted: tuple[str, ...],
) -> Iterator[RowBlock]:
    chunk = [structures[i] for i in members]
    n_parameters, derived = int(chosen.vector.size), _derived(wanted)
    for shape, group in plan_shapes(chunk, 1, buckets=True):
        n_atoms = bucket_size(max(chunk[i].n_atoms for i in group))
        together = max(1, min(_ATOMS_IN_REVERSE // n_atoms, len(group)))
        at_once = max(1, min(_ROWS_AT_ONCE if derived else 1, _BLOCK_NUMBERS // (n_parameters * together)))
        for first in range(0, len(group), together):
            some = [int(i) for i in group[first : first + together]]
            filled = [chunk[i] for i in some] + [chunk[some[0]]] * (together - len(some))
            size = {"n_atoms": n_atoms, "n_neighbors": shape.n_neighbors, "n_structures": 1}
            graphs = [collate([s], **size, dtype=chosen.potential.dtype) for s in filled]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *graphs)
            ranges = [_ranges(chunk[i], wanted) for i in some]
            for start in _starts(ranges, at_once):
                block = np.asarray(_some_rows(chosen, stacked, jnp.asarray(start), at_once, derived))
                for place, index in enumerate(some):
                    yield from _cut(block[place], start, members[index], chunk[index], ranges[place])


def _starts(ranges: Sequence[dict[str, tuple[int, int]]], size: int) -> Iterator[int]:
    """First rows of blocks that hold all rows that are wanted of any structure."""
    wanted = sorted({row for of_one in ranges for span in of_one.values() for row in range(*span)})
    stop = -1
    for row in wanted:
        if row >= stop:
            yield row
            stop = row + size


def _cut(
    rows: np.ndarray, start: int, index: int, structure: Neighborhood, ranges: dict[str, tuple[int, int]]
) -> Iterator[RowBlock]:
    """Parts of a block of rows, by quantity."""
    for name, (begin, end) in ranges.items():
        low, high = max(start, begin), min(start + len(rows), end)
        if low < high:
            part = np.asarray(rows[low - start : high - start], np.float64)
            yield RowBlock(
                index, name, low - begin, part / volume(structure.cell) if name == "stress" else part
            )
