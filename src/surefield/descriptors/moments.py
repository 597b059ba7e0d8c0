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
    """
    n_atoms, n_channels, _ = tensors.shape
    first, second = np.triu_indices(n_channels)
    parts = [tensors[..., 0]]
    for part in (tensors[..., rank] for rank in _RANKS):
        parts.append((part @ jnp.swapaxes(part, 1, 2))[:, first, second])
    if n_triple == 0:
        return jnp.concatenate(parts, axis=-1)
    few = tensors[:, :n_triple]
    vector, matrix, cube = (_unpack(few, rank) for rank in (1, 2, 3))
    first, second = np.triu_indices(n_triple)
    a, b, c = np.array(list(itertools.combinations_with_replacement(range(n_triple), 3))).T
    matrix_vector = jnp.einsum("nbij,ncj->nbci", matrix, vector)
    vmv = jnp.einsum("nai,nbci->nabc", vector, matrix_vector)
    parts.append(jnp.swapaxes(vmv, 2, 3)[:, first, second].reshape(n_atoms, -1))
    squares = jnp.einsum("naij,nbjk->nabik", matrix, matrix)
    parts.append(jnp.einsum("nabik,ncki->nabc", squares, matrix)[:, a, b, c])
    cube_matrix = jnp.einsum("nbijk,ncjk->nbci", cube, matrix)
    parts.append(jnp.einsum("nai,nbci->nabc", vector, cube_matrix).reshape(n_atoms, -1))
    flat = cube.reshape(n_atoms, n_triple, 3, 9)
    cubes = jnp.einsum("naik,nbjk->nabij", flat, flat)
    parts.append(jnp.einsum("nabij,ncij->nabc", cubes, matrix)[:, first, second].reshape(n_atoms, -1))
    return jnp.concatenate(parts, axis=-1)


def _unpack(packed: Float[Array, "*shape 20"], rank: int) -> Float[Array, "*shape full"]:
    """Full tensor, shape (3,)*rank, of one rank."""
    places = [
        _INDICES[rank].index(tuple(sorted(index))) for index in itertools.product(range(3), repeat=rank)
    ]
    part = packed[..., _RANKS[rank]] / jnp.asarray(_ROOTS[rank], packed.dtype)
    return part[..., np.array(places)].reshape(*packed.shape[:-1], *(3,) * rank)
