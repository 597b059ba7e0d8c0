"""Gradients of the energy with respect to all trainable parameters, sketched to a few numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from surefield.errors import ConfigError, nearest
from surefield.execution.callback import call_outside
from surefield.foreign.torch_potential import TorchPotential
from surefield.potentials.potential import Potential, trainable
from surefield.sensitivity.sketch import (
    GAUSSIAN_BYTES,
    SKETCH_BLOCK,
    SKETCHES,
    SketchKind,
    checked_width,
    count_sketch,
    gaussian_block,
)
from surefield.structures.graph import Graph, collate
from surefield.structures.neighbors import Neighborhood

__all__ = [
    "CountSketch",
    "GradientSketch",
    "energy_gradient",
    "gradient_features",
    "gradient_length",
    "gradient_rows",
    "gradient_sketch",
]


class GradientSketch(Protocol):
    """A linear map of gradients to a few numbers that keeps inner products on average."""

    def __call__(self, vector: Float[Array, " n_parameters"]) -> Float[Array, " width"]: ...  # noqa: D102


class CountSketch(eqx.Module):
    """Unbiased map of long vectors to `width` numbers: each entry is added to a random one, with random sign.

    See `surefield.sensitivity.sketch.count_sketch`, whose numbers do not depend on how the vector is cut.

    Args:
        n_parameters: length of the vectors.
        width: length of the sketches; the relative deviation of squared distances is about root(2/width).
        seed: of the map.
    """

    places: Int[np.ndarray, " n_parameters"]
    signs: Int[np.ndarray, " n_parameters"]
    width: int = eqx.field(static=True)

    def __init__(self, n_parameters: int, width: int = 512, seed: int = 0) -> None:
        self.width = checked_width(width)
        self.places, self.signs = count_sketch(n_parameters, width, seed)

    def __call__(self, vector: Float[Array, " n_parameters"]) -> Float[Array, " width"]:
        """Sketch one vector, in float64."""
        signed = vector.astype(jnp.float64) * self.signs
        return jax.ops.segment_sum(signed, self.places, self.width)


class GaussianSketch(eqx.Module):
    """A matrix of independent N(0, 1/width) numbers that is held in memory, in the vectors' precision."""

    matrix: Float[Array, "n_parameters width"]

    def __init__(self, n_parameters: int, width: int, seed: int, dtype: np.typing.DTypeLike) -> None:
        matrix = np.empty((n_parameters, checked_width(width)), dtype)
        for block, start in enumerate(range(0, n_parameters, SKETCH_BLOCK)):
            rows = min(SKETCH_BLOCK, n_parameters - start)
            matrix[start : start + rows] = gaussian_block(block, rows, width, seed)
        self.matrix = jnp.asarray(matrix)

    def __call__(self, vector: Float[Array, " n_parameters"]) -> Float[Array, " width"]:
        """Sketch one vector, in float64."""
        return (vector.astype(self.matrix.dtype) @ self.matrix).astype(jnp.float64)


class BlockwiseSketch(eqx.Module):
    """The map of `GaussianSketch`, whose matrix is made again, block by block, whenever it is used."""

    width: int = eqx.field(static=True)
    seed: int = eqx.field(static=True)

    def __call__(self, vector: Float[Array, " n_parameters"]) -> Float[Array, " width"]:
        """Sketch one vector, in float64."""
        n_blocks = -(-vector.size // SKETCH_BLOCK)
        rows = min(SKETCH_BLOCK, vector.size)
        padded = jnp.pad(vector, (0, n_blocks * rows - vector.size)).reshape(n_blocks, rows)
        shape = jax.ShapeDtypeStruct((rows, self.width), vector.dtype)

        def numbers(block: Any) -> np.ndarray:
            return gaussian_block(int(block), rows, self.width, self.seed).astype(vector.dtype)

        def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
            block, values = part
            return total + (values @ call_outside(numbers, shape, block)).astype(jnp.float64), None

        start = jnp.zeros(self.width, jnp.float64)
        return jax.lax.scan(add, start, (jnp.arange(n_blocks), padded))[0]


class Unsketched(eqx.Module):
    """The vectors themselves, in float64."""

    def __call__(self, vector: Float[Array, " n_parameters"]) -> Float[Array, " n_parameters"]:
        """The vector."""
        return vector.astype(jnp.float64)


def gradient_sketch(
    kind: SketchKind, n_parameters: int, width: int, seed: int, dtype: np.typing.DTypeLike
) -> tuple[GradientSketch, str]:
    """A sketch of gradients, and what was chosen, in words.

    Args:
        kind: `gaussian`: N(0, 1/width), held in memory up to 512 MB in float32, else made again block by
            block; `countsketch`: every parameter is added to a random place with a random sign; `auto`: the
            first where it can be held, else the second; `none`.
        n_parameters: length of the gradients.
        width: of the sketches.
        seed: of the random numbers.
        dtype: of the gradients.

    Raises:
        ConfigError: unknown kind, or a width outside 1..65536.
    """
    if kind not in SKETCHES:
        raise ConfigError(f"unknown sketch {kind!r}: {nearest(str(kind), SKETCHES)}")
    checked_width(width)
    held = 4 * n_parameters * width <= GAUSSIAN_BYTES
    of = f"gradients of {n_parameters} parameters"
    if kind == "none":
        return Unsketched(), f"{of}, not sketched"
    if kind == "countsketch" or (kind == "auto" and not held):
        return CountSketch(n_parameters, width, seed), f"{of}, sketched to {width} numbers (countsketch)"
    if held:
        return GaussianSketch(
            n_parameters, width, seed, dtype
        ), f"{of}, sketched to {width} numbers (gaussian)"
    return BlockwiseSketch(width, seed), f"{of}, sketched to {width} numbers (gaussian, block by block)"


def energy_gradient(
    potential: Potential, graph: Graph, *, averaged: bool = False
) -> Float[Array, " n_parameters"]:
    """dE/d(parameters) of a graph (traceable), parameters ordered by the sorted names of their arrays.

    Args:
        potential: any; of a `TorchPotential` all parameters of the model, as it came.
        graph: of one structure, or of several whose energies are added up.
        averaged: give the mean over the last axis of every array, as apax does, not the arrays.
    """
    if isinstance(potential, TorchPotential):
        arrays = potential.engine.parameter_shapes()
        flat = _outside_gradient(potential, graph, sum(size for *_, size in arrays))
        ends = np.cumsum([size for *_, size in arrays])[:-1].tolist()
        leaves = [p.reshape(shape) for p, (_, shape, _) in zip(jnp.split(flat, ends), arrays, strict=True)]
        return _joined(leaves, averaged)
    moving, fixed = eqx.partition(potential, trainable(potential))

    def energy(parameters: Potential) -> Array:
        energies = eqx.combine(parameters, fixed).site_energies(graph)
        return jnp.sum(jnp.where(graph.atom_mask, energies, 0.0))

    named = jax.tree_util.tree_leaves_with_path(jax.grad(energy)(moving))
    ordered = sorted(named, key=lambda leaf: jax.tree_util.keystr(leaf[0]))
    return _joined([leaf for _, leaf in ordered], averaged)


def gradient_length(potential: Potential, *, averaged: bool = False) -> int:
    """Length of `energy_gradient`."""
    if isinstance(potential, TorchPotential):
        shapes = [shape for _, shape, _ in potential.engine.parameter_shapes()]
    else:
        shapes = [leaf.shape for leaf in jax.tree.leaves(eqx.filter(potential, trainable(potential)))]
    return sum(int(np.prod(shape[:-1] if averaged else shape)) for shape in shapes)


def _joined(leaves: Sequence[Array], averaged: bool) -> Array:
    if averaged:
        leaves = [leaf.mean(axis=-1) if leaf.ndim else leaf for leaf in leaves]
    return jnp.concatenate([leaf.ravel() for leaf in leaves])


def _outside_gradient(potential: TorchPotential, graph: Graph, length: int) -> Array:
    """Gradient by the parameters of a torch model, which torch computes, structure by structure."""
    engine = potential.engine

    def gradient(numbers: Any, positions: Any, cell: Any, periodic: Any, structure: Any) -> np.ndarray:
        total = np.zeros(length)
        numbers, structure = np.asarray(numbers), np.asarray(structure)
        for index, is_periodic in enumerate(np.asarray(periodic)):
            real = (numbers > 0) & (structure == index)
            if real.any():
                box = np.asarray(cell)[index] if is_periodic else None
                total += engine.parameter_gradient(numbers[real], np.asarray(positions)[real], box)
        return total

    geometry = (graph.numbers, graph.positions, graph.cell, graph.periodic, graph.structure)
    return call_outside(gradient, jax.ShapeDtypeStruct((length,), jnp.float64), *map(jnp.asarray, geometry))


_gradient = eqx.filter_jit(energy_gradient)


def gradient_rows(
    potential: Potential, structures: Sequence[Neighborhood]
) -> Iterator[Float[np.ndarray, " n_parameters"]]:
    """dE/d(parameters) of each structure, parameters ordered by the sorted names of their arrays."""
    for structure in structures:
        yield np.asarray(_gradient(potential, collate([structure], dtype=potential.dtype)))


def gradient_features(
    potential: Potential, structures: Sequence[Neighborhood], *, width: int = 512, seed: int = 0
) -> Float[np.ndarray, "n_structures width"]:
    """Sketched full gradients of the energies, one row per structure, float64."""
    sketch: CountSketch | None = None
    rows = []
    for gradient in gradient_rows(potential, structures):
        if sketch is None:
            sketch = CountSketch(len(gradient), width, seed)
        rows.append(np.asarray(sketch(jnp.asarray(gradient))))
    return np.stack(rows) if rows else np.zeros((0, width))
