"""Loss of a physics model and its exact gradient, over configurations whose geometry is prepared once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from surefield.execution.executor import usable_cores
from surefield.potentials.parametric.edges import BondPotential, Edges, edges_of
from surefield.structures.batching import chunks, plan_shapes
from surefield.structures.graph import collate
from surefield.structures.neighbors import Neighborhood
from surefield.structures.tensors import VOIGT_COLUMNS, VOIGT_ROWS, row_slices
from surefield.training.dataset import Sample
from surefield.training.problem import ResidualWeights

__all__ = ["BondBlock", "force_errors", "jacobian", "loss_and_gradient", "prepare_blocks", "residual_rows"]

T = TypeVar("T")

#: Atoms a block is filled up to, about: its arrays stay in the cache of a processor core.
_ATOMS: Final = 1000


class BondRows(NamedTuple):
    """Energies, forces and stresses of a block, or residuals, or factors of residuals.

    Attributes:
        energy: of each structure, eV.
        forces: eV/Å.
        stress: Voigt, eV/Å^3; None where no stress counts, so that it is not computed.
    """

    energy: Float[Array, " n_structures"]
    forces: Float[Array, "3 n_atoms"]
    stress: Float[Array, "6 n_structures"] | None


class BondBlock(eqx.Module):
    """Some configurations in one padded batch, with labels; a factor of zero stands for a missing label.

    Attributes:
        edges: bonds of all atoms.
        neighbors: the atom at the other end.
        reverse: flat place (neighbour * n_atoms + atom) of the same bond seen from there.
        structure: of each atom.
        volume: Å^3, 1 without a stress.
        labels: energies, forces, stresses.
        factors: what each residual is multiplied by; in the loss 'mse' before it is squared.
    """

    edges: Edges
    neighbors: Int[Array, "n_neighbors n_atoms"]
    reverse: Int[Array, "n_neighbors n_atoms"]
    structure: Int[Array, " n_atoms"]
    volume: Float[Array, " n_structures"]
    labels: BondRows
    factors: BondRows


def prepare_blocks(
    configurations: Sequence[Sample],
    structures: Sequence[Neighborhood],
    weights: Callable[[Sample], ResidualWeights],
    symbols: Sequence[str],
    *,
    method: Literal["mse", "mae"],
    energy_per_atom: bool,
) -> list[tuple[list[int], BondBlock]]:
    """Configurations in blocks of few shapes, on the device, with their indices.

    Args:
        configurations: with labels.
        structures: their neighbours, at least as far as the model reaches.
        weights: weights of the residuals of a configuration.
        symbols: species in the order of the model.
        method: squares or absolute values.
        energy_per_atom: whether energies count per atom.
    """
    stress = any(_has_stress(c) and np.any(weights(c).stress > 0) for c in configurations)
    mean = float(np.mean([s.n_atoms for s in structures]))
    size = max(1, round(_ATOMS / mean))
    blocks = []
    for shape, members in plan_shapes(structures, size):
        for chunk in chunks(structures, members, shape):
            graph = collate(
                [structures[i] for i in chunk],
                n_atoms=shape.n_atoms,
                n_neighbors=shape.n_neighbors,
                n_structures=shape.n_structures,
            )
            n, k = graph.mask.shape
            labels, factors = (_empty(shape.n_structures, n, stress) for _ in range(2))
            places = row_slices(structures[i].n_atoms for i in chunk)
            for place, (index, rows) in enumerate(zip(chunk, places, strict=True)):
                c = configurations[index]
                _fill(labels, factors, place, rows, c, _factors(c, weights(c), method, energy_per_atom))
            reverse = np.asarray(graph.reverse).T
            block = BondBlock(
                _edges(graph, tuple(symbols)),
                np.asarray(graph.neighbors).T,  # type: ignore[arg-type]
                (reverse % k) * n + reverse // k,  # type: ignore[arg-type]
                graph.structure,
                graph.volume,
                labels,
                factors,
            )
            blocks.append((chunk, jax.tree.map(jnp.asarray, block)))
    return blocks


_edges = jax.jit(edges_of, static_argnums=1)


def loss_and_gradient(
    model: BondPotential, blocks: Sequence[BondBlock], method: Literal["mse", "mae"]
) -> tuple[float, Float[np.ndarray, " n_free"]]:
    """Sum of the loss over all blocks, and its derivative by the free parameters."""
    parts = _each(lambda block: _loss_and_gradient(model, block, method), blocks)
    return sum(float(loss) for loss, _ in parts), np.sum([np.asarray(g) for _, g in parts], axis=0)


def residual_rows(model: BondPotential, blocks: Sequence[BondBlock]) -> Float[np.ndarray, " n_rows"]:
    """All weighted residuals, those without label left out; their squares add up to the loss 'mse'."""
    parts = _each(lambda block: _weighted_rows(model, block), blocks)
    return np.concatenate([np.asarray(_flat(rows))[_used(b)] for b, rows in zip(blocks, parts, strict=True)])


def jacobian(model: BondPotential, blocks: Sequence[BondBlock]) -> Float[np.ndarray, "n_rows n_free"]:
    """Derivatives of `residual_rows` by the free parameters."""
    parts = _each(lambda block: _row_jacobian(model, block), blocks)
    return np.concatenate([np.asarray(rows).T[_used(b)] for b, rows in zip(blocks, parts, strict=True)])


def force_errors(model: BondPotential, blocks: Sequence[BondBlock]) -> list[Float[np.ndarray, " n_atoms"]]:
    """Norms of predicted minus reference forces of all atoms of each block, padding included."""
    parts = _each(lambda block: _force_errors(model, block), blocks)
    return [np.asarray(part) for part in parts]


def _each(call: Callable[[BondBlock], T], blocks: Sequence[BondBlock]) -> list[T]:
    """Call for every block, on all processors of this process; results in order."""
    workers = min(usable_cores(), len(blocks))

    def share(first: int) -> list[T]:
        return jax.block_until_ready([call(block) for block in blocks[first::workers]])

    if workers <= 1:
        return share(0)
    results: list[Any] = [None] * len(blocks)
    with ThreadPoolExecutor(workers) as pool:
        for first, part in enumerate(pool.map(share, range(workers))):
            results[first::workers] = part
    return results


def _results(model: BondPotential, block: BondBlock) -> BondRows:
    """Energies, forces and stresses; forces from derivatives by lengths and directions of bonds."""
    edges = block.edges

    def total(r: Array, log_r: Array, directions: tuple[Array, ...]) -> tuple[Array, Array]:
        energies = model.edge_energies(_moved(edges, r, log_r, directions))
        return jnp.sum(energies), energies

    slopes, energies = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(
        edges.r, edges.log_r, edges.directions
    )
    by_r, by_log, by_directions = slopes
    along = sum(g * n for g, n in zip(by_directions, edges.directions, strict=True))
    radial = by_r + (by_log - along) / edges.r
    gradient = [
        jnp.where(edges.mask, radial * n + g / edges.r, 0.0)
        for g, n in zip(by_directions, edges.directions, strict=True)
    ]
    reverse = block.reverse.reshape(-1)
    forces = [jnp.sum(g - g.reshape(-1)[reverse].reshape(g.shape), axis=0) for g in gradient]
    energy = _of_structures(energies, block)
    if block.labels.stress is None:
        return BondRows(energy, jnp.stack(forces), None)
    strain = [
        jnp.sum(gradient[a] * edges.directions[b] * edges.r, axis=0)
        for a, b in zip(VOIGT_ROWS, VOIGT_COLUMNS, strict=True)
    ]
    stress = _of_structures(jnp.stack(strain, axis=1), block).T / block.volume
    return BondRows(energy, jnp.stack(forces), stress)


def _of_structures(values: Array, block: BondBlock) -> Array:
    return jax.ops.segment_sum(values, block.structure, len(block.volume), indices_are_sorted=True)


def _moved(edges: Edges, r: Array, log_r: Array, directions: tuple[Array, ...]) -> Edges:
    return eqx.tree_at(lambda e: (e.r, e.log_r, e.directions), edges, (r, log_r, directions))


def _residuals(model: BondPotential, block: BondBlock) -> BondRows:
    """Weighted residuals."""
    results = _results(model, block)
    return jax.tree.map(lambda f, t, w: (f - t) * w, results, block.labels, block.factors)


_weighted_rows = jax.jit(_residuals)


@partial(jax.jit, static_argnums=2)
def _loss_and_gradient(
    model: BondPotential, block: BondBlock, method: Literal["mse", "mae"]
) -> tuple[Array, Array]:
    """Loss of a block and its gradient.

    With the derivative q of the loss by each energy, force and stress held fixed, the gradient is that of
    sum q E + sum q·F + sum q·stress, and the last two are the slope of the energy along one displacement of
    all bonds: one forward and one backward pass, instead of differentiating the forces backwards.
    """
    rows = _residuals(model, block)
    if method == "mse":
        loss = sum(jnp.sum(r**2) for r in jax.tree.leaves(rows))
        by = jax.tree.map(lambda r, w: 2 * r * w, rows, block.factors)
    else:
        loss = sum(jnp.sum(jnp.abs(r)) for r in jax.tree.leaves(rows))
        by = jax.tree.map(lambda r, w: jnp.sign(r) * w, rows, block.factors)
    edges = block.edges
    geometry = (edges.r, edges.log_r, edges.directions)
    tangents = _bond_tangents(block, _displacements(block, by))

    def weighted(vector: Array) -> Array:
        moved = model.with_vector(vector)
        energies, slopes = jax.jvp(lambda *g: moved.edge_energies(_moved(edges, *g)), geometry, tangents)
        return jnp.sum(energies * by.energy[block.structure] + slopes)

    return jnp.asarray(loss), jax.grad(weighted)(model.vector)


def _displacements(block: BondBlock, by: BondRows) -> list[Float[Array, "n_neighbors n_atoms"]]:
    """Displacement of every bond along which the slope of the energy is sum q·F + sum q·stress."""
    edges = block.edges
    moves = [q[None] - q[block.neighbors] for q in by.forces]
    if by.stress is not None:
        # Off-diagonal components of the strain appear twice in the tensor.
        strain = by.stress / block.volume * np.array([1, 1, 1, 0.5, 0.5, 0.5])[:, None]
        xx, yy, zz, yz, xz, xy = strain[:, block.structure]
        tensor = ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))
        stretched = [sum(t * n for t, n in zip(row, edges.directions, strict=True)) for row in tensor]
        moves = [m + edges.r * s for m, s in zip(moves, stretched, strict=True)]
    return [jnp.where(edges.mask, m, 0.0) for m in moves]


def _bond_tangents(block: BondBlock, moves: Sequence[Array]) -> tuple[Array, Array, tuple[Array, ...]]:
    """Changes of length, logarithm of the length and direction that go with changes of bond vectors."""
    edges = block.edges
    longer = sum(m * n for m, n in zip(moves, edges.directions, strict=True))
    turned = tuple((m - longer * n) / edges.r for m, n in zip(moves, edges.directions, strict=True))
    return jnp.asarray(longer), longer / edges.r, turned


@jax.jit
def _row_jacobian(model: BondPotential, block: BondBlock) -> Float[Array, "n_free n_rows"]:
    def rows(vector: Array) -> Array:
        return _flat(_residuals(model.with_vector(vector), block))

    _, push = jax.linearize(rows, model.vector)
    # One column after the other: side by side their arrays fall out of the cache.
    return jax.lax.map(push, jnp.eye(len(model.free)))


@jax.jit
def _force_errors(model: BondPotential, block: BondBlock) -> Float[Array, " n_atoms"]:
    return jnp.linalg.norm(_results(model, block).forces - block.labels.forces, axis=0)


def _flat(rows: BondRows) -> Float[Array, " n_rows"]:
    return jnp.concatenate([row.reshape(-1) for row in jax.tree.leaves(rows)])


def _used(block: BondBlock) -> Bool[np.ndarray, " n_rows"]:
    return np.asarray(_flat(block.factors)) != 0


def _has_stress(c: Sample) -> bool:
    return c.labels.stress is not None and c.structure.periodic


def _empty(n_structures: int, n_atoms: int, stress: bool) -> Any:
    return BondRows(
        np.zeros(n_structures),  # type: ignore[arg-type]
        np.zeros((3, n_atoms)),  # type: ignore[arg-type]
        np.zeros((6, n_structures)) if stress else None,  # type: ignore[arg-type]
    )


def _factors(c: Sample, w: ResidualWeights, method: str, energy_per_atom: bool) -> ResidualWeights:
    """Factors of the bracket: forces are divided by 3n and stresses by 6, under the square for 'mse'."""
    root = 0.5 if method == "mse" else 1.0
    energy = w.energy / (c.n_atoms if energy_per_atom else 1)
    return ResidualWeights(energy, w.forces / (3 * c.n_atoms) ** root, w.stress / 6**root)


def _fill(labels: Any, factors: Any, place: int, rows: slice, c: Sample, factor: ResidualWeights) -> None:
    if c.labels.energy is not None:
        labels.energy[place], factors.energy[place] = c.labels.energy, factor.energy
    if c.labels.forces is not None:
        labels.forces[:, rows], factors.forces[:, rows] = c.label("forces").T, factor.forces
    if labels.stress is not None and _has_stress(c):
        labels.stress[:, place], factors.stress[:, place] = c.label("stress"), factor.stress
