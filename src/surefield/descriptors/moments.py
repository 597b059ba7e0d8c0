"""Moment tensors of the neighbour density, rank 0 to 3, and their rotational invariants.

A_c^(l) = sum_j R_c(r_ij) u_ij ⊗ ... ⊗ u_ij (l factors, u the unit vector), after
Shapeev, Multiscale Model. Simul. 14, 1153 (2016). Symmetric tensors are kept packed, each component
once, times the root of how often it occurs, so that dot products of packed tensors are full contractions.
"""

from __future__ import annotations

import itertools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ["MAX_RANK", "angular_basis", "invariants", "moments"]

MAX_RANK = 3
_INDICES = [list(itertools.combinations_with_replacement(range(3), rank)) for rank in range(MAX_RANK + 1)]
_ROOTS = [
    np.sqrt(
        [
            math.factorial(rank) / math.prod(math.factorial(index.count(axis)) for axis in range(3))
            for index in indices
        ]
    )
    for rank, indices in enumerate(_INDICES)
]
_ENDS = np.cumsum([len(indices) for indices in _INDICES])
_RANKS = [slice(int(end) - len(indices), int(end)) for end, indices in zip(_ENDS, _INDICES, strict=True)]


def angular_basis(unit: Float[Array, "*shape 3"]) -> Float[Array, "*shape 20"]:
    """Packed tensors 1, u, u⊗u, u⊗u⊗u of unit vectors."""
    x = [unit[..., axis] for axis in range(3)]
    parts = [jnp.ones_like(x[0])]
    for rank in range(1, MAX_RANK + 1):
        for root, index in zip(_ROOTS[rank], _INDICES[rank], strict=True):
            product = x[index[0]]
            for axis in index[1:]:
                product = product * x[axis]
            parts.append(product * product.dtype.type(root))
    return jnp.stack(parts, axis=-1)


def moments(
    radial: Float[Array, "n_atoms n_neighbors n_channels"],
    angular: Float[Array, "n_atoms n_neighbors 20"],
) -> Float[Array, "n_atoms n_channels 20"]:
    """Sum radial times angular functions over the neighbours: one batched matrix product."""
    return jnp.swapaxes(radial, 1, 2) @ angular


def invariants(
    tensors: Float[Array, "n_atoms n_channels 20"], n_triple: int
) -> Float[Array, "n_atoms n_invariants"]:
    """All complete contractions of one and two tensors, and four families of three.

    A0_a; Al_a·Al_b (l = 0..3); and of the first `n_triple` channels A1_a·A2_b·A1_c,
    tr(A2_a A2_b A2_c), A1_a·(A3_b:A2_c), A2_c:(A3_a:A3_b), each set of indices once.

    Every step is a matrix product, also the choice of one of several equal entries: look-ups would be
    scatters in the derivatives, which cost more than the products.
    """
    n, n_channels, _ = tensors.shape
    dtype = tensors.dtype
    pairs = _upper(n_channels, dtype)
    parts = [tensors[..., 0]]
    for rank in _RANKS:
        part = tensors[..., rank]
        parts.append((part @ jnp.swapaxes(part, 1, 2)).reshape(n, -1) @ pairs)
    if n_triple == 0:
        return jnp.concatenate(parts, axis=-1)
    t, few = n_triple, tensors[:, :n_triple]
    pairs = _upper(t, dtype)
    vector = few[..., _RANKS[1]]
    matrix = (few[..., _RANKS[2]].reshape(n * t, -1) @ _unpacking(2, dtype)).reshape(n, t, 9)
    cube = (few[..., _RANKS[3]].reshape(n * t, -1) @ _unpacking(3, dtype)).reshape(n, t * 3, 9)
    columns = jnp.swapaxes(matrix, 1, 2)
    rows = matrix.reshape(n, t * 3, 3)
    matrix_vector = (rows @ jnp.swapaxes(vector, 1, 2)).reshape(n, t, 3, t)
    parts.append(((vector[:, None] @ matrix_vector).reshape(n * t, -1) @ pairs).reshape(n, -1))
    squares = _outer(rows @ jnp.swapaxes(rows, 1, 2), t)
    parts.append((squares @ columns).reshape(n, -1) @ _ordered_triples(t, dtype))
    cube_matrix = (cube @ columns).reshape(n, t, 3, t)
    parts.append((vector[:, None] @ cube_matrix).reshape(n, -1))
    cubes = _outer(cube @ jnp.swapaxes(cube, 1, 2), t)
    by_matrix = jnp.swapaxes(cubes @ columns, 1, 2)
    parts.append((by_matrix.reshape(n * t, -1) @ pairs).reshape(n, -1))
    return jnp.concatenate(parts, axis=-1)


def _outer(product: Float[Array, "n_atoms ti tj"], t: int) -> Float[Array, "n_atoms tt 9"]:
    """(a i, b j) to (a b, i j)."""
    n = product.shape[0]
    return product.reshape(n, t, 3, t, 3).transpose(0, 1, 3, 2, 4).reshape(n, t * t, 9)


def _upper(n: int, dtype: np.dtype) -> np.ndarray:
    """Matrix that picks the entries a <= b of a flattened symmetric (n, n) matrix."""
    first, second = np.triu_indices(n)
    return np.eye(n * n, dtype=dtype)[:, first * n + second]


def _ordered_triples(n: int, dtype: np.dtype) -> np.ndarray:
    """Matrix that picks the entries a <= b <= c of a flattened symmetric (n, n, n) tensor."""
    places = [(a * n + b) * n + c for a, b, c in itertools.combinations_with_replacement(range(n), 3)]
    return np.eye(n**3, dtype=dtype)[:, places]


def _unpacking(rank: int, dtype: np.dtype) -> np.ndarray:
    """Matrix from the packed components of a rank to its full tensor, flattened."""
    matrix = np.zeros((len(_INDICES[rank]), 3**rank), dtype=dtype)
    for column, index in enumerate(itertools.product(range(3), repeat=rank)):
        row = _INDICES[rank].index(tuple(sorted(index)))
        matrix[row, column] = 1.0 / _ROOTS[rank][row]
    return matrix
