"""Features of many structures at once: dense arrays of values and derivatives, and ranges of values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surefield.descriptors.atomic_descriptor import AtomicDescriptor, product
from surefield.structures.batching import padded_batches, plan_shapes
from surefield.structures.graph import Graph, collate
from surefield.structures.neighbors import Neighborhood

__all__ = ["STORED_BYTES", "atomic_features", "dense_derivatives", "feature_ranges"]

#: Derivatives of features are stored up to this size, for all structures together; beyond it they are made
#: again at every evaluation.
STORED_BYTES: Final = 2**30
#: Structures per batch where only features are wanted.
_BATCH = 16


def dense_derivatives(
    descriptor: AtomicDescriptor, structures: Sequence[Neighborhood], *, compiled: bool = True
) -> tuple[Float[np.ndarray, "n_structures n width"], Float[np.ndarray, "n_structures n 3 n width"]]:
    """Features of all structures and their derivatives by the positions of the atoms.

    Args:
        descriptor: atomic descriptor.
        structures: neighbours within the descriptor's cutoff; n is the largest number of atoms.
        compiled: False evaluates operation by operation, for debugging.

    Returns:
        Features (n_structures, n, width), and derivatives (n_structures, n moved, 3, n centres, width) per Å;
        periodic copies of an atom count as the atom itself, and what is padded is zero. The forces of a
        model with energies E(G) are F[m, x] = -sum_ng dE/dG[n, g] primes[m, x, n, g].
    """
    n, width = max((s.n_atoms for s in structures), default=0), descriptor.width
    features = np.zeros((len(structures), n, width))
    primes = np.zeros((len(structures), n, 3, n, width))
    evaluate = _dense_jit if compiled else _dense
    for shape, members in plan_shapes(structures, 1):
        for index in members:
            graph = collate(
                [structures[index]], n_atoms=shape.n_atoms, n_neighbors=shape.n_neighbors, dtype=np.float64
            )
            values, slopes = evaluate(descriptor, graph)
            m = structures[index].n_atoms
            features[index, :m] = np.asarray(values)[:m]
            primes[index, :m, :, :m] = np.asarray(slopes)[:m, :, :m]
    return features, primes


def atomic_features(
    descriptor: AtomicDescriptor, structures: Sequence[Neighborhood], *, compiled: bool = True
) -> list[Float[np.ndarray, "n_atoms width"]]:
    """Features of each structure, from padded batches of few shapes; float64."""
    features: list[np.ndarray] = [np.zeros((0, descriptor.width))] * len(structures)
    evaluate = _features_jit if compiled else _features
    for chunk, graph in padded_batches(structures, _BATCH, np.float64):
        values = np.asarray(evaluate(descriptor, graph))
        start = 0
        for index in chunk:
            features[index] = values[start : start + structures[index].n_atoms]
            start += structures[index].n_atoms
    return features


def feature_ranges(
    descriptor: AtomicDescriptor, structures: Sequence[Neighborhood]
) -> dict[str, Float[np.ndarray, "n_features 2"]]:
    """Smallest and largest value of each function of each element that occurs in the structures."""
    if not structures:
        return {}
    numbers = np.concatenate([s.numbers for s in structures])
    features = np.concatenate(atomic_features(descriptor, structures))
    ranges = {}
    for symbol, z, n in zip(descriptor.symbols, descriptor.species, descriptor.n_features, strict=True):
        own = features[numbers == z, :n]
        if len(own):
            ranges[symbol] = np.stack([own.min(axis=0), own.max(axis=0)], axis=1)
    return ranges


def _dense(
    descriptor: AtomicDescriptor, graph: Graph
) -> tuple[Float[Array, "n width"], Float[Array, "n 3 n width"]]:
    by_edge = descriptor.jacobian(graph)
    n, k, _, width = by_edge.shape
    by_edge = by_edge.reshape(n, k, 3 * width)
    # Each edge belongs to its neighbour; moving the centre moves all edges the other way.
    neighbor = jnp.asarray(graph.neighbors)[:, None] == jnp.arange(n)[:, None]
    primes = product(neighbor.astype(by_edge.dtype), by_edge)
    own = jnp.eye(n, dtype=by_edge.dtype)[..., None]
    primes -= own * jnp.sum(by_edge, axis=1)[:, None]
    return descriptor.features(graph), primes.reshape(n, n, 3, width).transpose(1, 2, 0, 3)


def _features(descriptor: AtomicDescriptor, graph: Graph) -> Float[Array, "n_atoms width"]:
    return descriptor.features(graph)


def _compiled(function: Callable) -> Callable:
    return functools.wraps(function)(jax.jit(function, static_argnums=0))


_dense_jit = _compiled(_dense)
_features_jit = _compiled(_features)
