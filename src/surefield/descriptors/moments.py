"""Moment tensors of the neighbour density, rank 0 to 3, and their rotational invariants.

A_c^(l) = sum_j R_c(r_ij) u_ij ⊗ ... ⊗ u_ij (l factors, u the unit vector), after
Shapeev, Multiscale Model. Simul. 14, 1153 (2016). Symmetric tensors are kept packed, each component
once, times the root of how often it occurs, so that dot products of packed tensors are full contractions.
"""

from __future__ import annotations

import functools
import itertools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surefield.descriptors.small_products import small_product

__all__ = [
    "MAX_RANK",
    "N_COMPONENTS",
    "angular_basis",
    "invariants",
    "moments",
    "packed_indices",
    "packed_roots",
    "symmetric_products",
]

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
#: Of each rank in turn.
N_COMPONENTS = tuple(len(indices) for indices in _INDICES)


def packed_indices(rank: int) -> list[tuple[int, ...]]:
    """Sorted indices of each packed component of a rank."""
    return _INDICES[rank]


def packed_roots(rank: int) -> Float[np.ndarray, " n_components"]:
    """Factors that packed components carry: roots of how often each occurs in the full tensor."""
    return _ROOTS[rank]


def angular_basis(unit: Float[Array, "*shape 3 n"]) -> Float[Array, "*shape 20 n"]:
    """Packed tensors 1, u, u⊗u, u⊗u⊗u of unit vectors; the long axis is last."""
    x = [unit[..., axis, :] for axis in range(3)]
    parts = [jnp.ones_like(x[0])]
    for rank in range(1, MAX_RANK + 1):
        for root, index in zip(_ROOTS[rank], _INDICES[rank], strict=True):
            product = x[index[0]]
            for axis in index[1:]:
                product = product * x[axis]
            parts.append(product * product.dtype.type(root))
    return jnp.stack(parts, axis=-2)


@functools.cache
def _outer_product(rank: int) -> np.ndarray:
    """Matrix from (component of rank - 1, axis) to the components of the symmetric part, both packed."""
    places = {index: place for place, index in enumerate(_INDICES[rank - 1])}
    matrix = np.zeros((N_COMPONENTS[rank], N_COMPONENTS[rank - 1], 3))
    for row, (root, index) in enumerate(zip(_ROOTS[rank], _INDICES[rank], strict=True)):
        for k, axis in enumerate(index):
            place = places[index[:k] + index[k + 1 :]]
            matrix[row, place, axis] += root / rank / _ROOTS[rank - 1][place]
    return matrix.reshape(len(matrix), -1)


def symmetric_products(rank: int, products: Float[Array, " n_products *shape"]) -> Float[Array, " n *shape"]:
    """Packed symmetric part of T ⊗ v, of a rank from 1 to 3.

    Args:
        rank: of the product.
        products: T_i v_a for packed component i of the tensor T of rank - 1, and axis a, the axis fastest.
    """
    matrix = jnp.asarray(_outer_product(rank), products.dtype)
    return (matrix @ products.reshape(len(products), -1)).reshape(-1, *products.shape[1:])


def moments(
    radial: Float[Array, "n_atoms n_channels n_neighbors"],
    angular: Float[Array, "n_atoms 20 n_neighbors"],
) -> Float[Array, "n_atoms n_channels 20"]:
    """Sum radial times angular functions over the neighbours: one batched matrix product."""
    return radial @ jnp.swapaxes(angular, 1, 2)


def invariants(
    tensors: Float[Array, "n_atoms n_channels 20"], n_triple: int
) -> Float[Array, "n_atoms n_invariants"]:
    """All complete contractions of one and two tensors, and four families of three.

    A0_a; Al_a·Al_b (l = 0..3); and of the first `n_triple` channels A1_a·A2_b·A1_c,
    tr(A2_a A2_b A2_c), A1_a·(A3_b:A2_c), A2_c:(A3_a:A3_b), each set of indices once.

    Every step is a product of matrices, also the choice of one of several equal entries: look-ups would
    be scatters in the derivatives, which cost more than the products.
    """
    n, n_channels, _ = tensors.shape
    dtype = tensors.dtype
    last = jnp.transpose(tensors, (2, 1, 0))  # component, channel, atom
    squares = [small_product(last[rank], last[rank], swap_a=True) for rank in _RANKS]
    products = jnp.stack(squares, axis=2).reshape(n_channels**2, -1)
    parts = [last[0], (_upper(n_channels, dtype) @ products).reshape(-1, n)]
    if n_triple:
        parts += _triples(last[:, :n_triple])
    return jnp.concatenate(parts).T


def _triples(tensors: Float[Array, "20 t n_atoms"]) -> list[Float[Array, "n_invariants n_atoms"]]:
    """Contractions of three tensors; products that share a factor are stacked into one."""
    _, t, n = tensors.shape
    dtype = tensors.dtype
    pairs = _upper(t, dtype)
    full = (_unpacking(dtype) @ tensors.reshape(-1, t * n)).reshape(-1, t, n)
    vector, columns = full[:3], full[3:12]
    matrix = columns.reshape(3, 3, t, n).transpose(2, 0, 1, 3).reshape(t * 3, 3, n)  # (a i, j)
    cube = full[12:].reshape(3, 9, t, n).transpose(2, 0, 1, 3).reshape(t * 3, 9, n)  # (a i, j k)

    def pairs_first(product: Array) -> Array:
        """(a i, b j) to (a b, i j)."""
        return product.reshape(t, 3, t, 3, n).transpose(0, 2, 1, 3, 4).reshape(t * t, 9, n)

    by_vector = small_product(matrix, vector).reshape(t, 3, t, n)  # (b i c)
    by_matrix = small_product(cube, columns).reshape(t, 3, t, n)
    both = jnp.concatenate([by_vector, by_matrix]).transpose(1, 0, 2, 3).reshape(3, -1, n)
    both = small_product(vector, both, swap_a=True).reshape(t, 2, t, t, n)
    squares = [pairs_first(small_product(m, m, swap_b=True)) for m in (matrix, cube)]
    cubes = small_product(jnp.concatenate(squares), columns).reshape(2, -1, n)
    symmetric = both[:, 0].transpose(0, 2, 1, 3)  # (a c b), symmetric in a and c
    return [
        (pairs @ symmetric.reshape(t * t, t * n)).reshape(-1, n),
        _ordered_triples(t, dtype) @ cubes[0],
        both[:, 1].reshape(-1, n),
        (pairs @ cubes[1].reshape(t * t, t * n)).reshape(-1, n),
    ]


def _upper(n: int, dtype: np.dtype) -> Array:
    """Matrix that picks the entries a <= b of a flattened symmetric (n, n) matrix."""
    first, second = np.triu_indices(n)
    return jnp.asarray(np.eye(n * n, dtype=dtype)[first * n + second])


def _ordered_triples(n: int, dtype: np.dtype) -> Array:
    """Matrix that picks the entries a <= b <= c of a flattened symmetric (n, n, n) tensor."""
    places = [(a * n + b) * n + c for a, b, c in itertools.combinations_with_replacement(range(n), 3)]
    return jnp.asarray(np.eye(n**3, dtype=dtype)[places])


def _unpacking(dtype: np.dtype) -> Array:
    """Matrix from the packed components to the full tensors of rank 1, 2 and 3, flattened."""
    rows = [index for rank in (1, 2, 3) for index in itertools.product(range(3), repeat=rank)]
    matrix = np.zeros((len(rows), int(_ENDS[-1])), dtype=dtype)
    for row, index in enumerate(rows):
        rank = len(index)
        place = _INDICES[rank].index(tuple(sorted(index)))
        matrix[row, _RANKS[rank].start + place] = 1.0 / _ROOTS[rank][place]
    return jnp.asarray(matrix)
