"""Derivatives of the invariants of moment tensors along many directions at once, in closed form.

An invariant is linear in each of its tensors, so its derivative is a sum over them: the direction of that
tensor, contracted with the product of the others. The products are made once per atom; all directions
then go through few matrix products per atom, where automatic differentiation repeats the whole
evaluation for every direction. No derivatives of these derivatives are meant to be taken.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surefield.descriptors.moments import MAX_RANK, N_COMPONENTS, packed_indices, packed_roots

__all__ = ["invariants_along"]


def invariants_along(
    tensors: Float[Array, "n_atoms n_channels 20"],
    directions: Float[Array, "n_atoms n_directions n_channels 20"],
    n_triple: int,
) -> Float[Array, "n_atoms n_directions n_invariants"]:
    """Derivatives of `moments.invariants` along directions of each atom's own tensors, in its order."""
    parts = [directions[..., 0], *_pairs(tensors, directions)]
    if n_triple:
        parts += _triples(tensors[:, :n_triple], directions[:, :, :n_triple])
    return jnp.concatenate(parts, axis=-1)


def _pairs(tensors: Array, directions: Array) -> list[Array]:
    n, n_directions, n_channels, _ = directions.shape
    rank_of = np.repeat(np.arange(MAX_RANK + 1), N_COMPONENTS)
    place = jnp.asarray(rank_of[:, None] == np.arange(MAX_RANK + 1), tensors.dtype)
    right = (jnp.swapaxes(tensors, 1, 2)[..., None] * place[:, None]).reshape(n, rank_of.size, -1)
    product = (directions.reshape(n, -1, rank_of.size) @ right).reshape(
        n, n_directions, n_channels, n_channels, -1
    )
    return _upper(product)


def _upper(product: Float[Array, "n v a b rest"]) -> list[Array]:
    """Entries a <= b of what is made symmetric in a and b: slices, as look-ups cost more."""
    sums = [product[:, :, a, a:] + product[:, :, a:, a] for a in range(product.shape[2])]
    return [part.reshape(*part.shape[:2], -1) for part in sums]


def _triples(tensors: Array, directions: Array) -> list[Array]:
    t = tensors.shape[1]
    along_1, along_2, along_3 = jnp.split(directions, np.cumsum(N_COMPONENTS)[:-1], axis=-1)[1:]
    vector, matrix, cube = (_full(tensors, rank) for rank in (1, 2, 3))
    first, second = np.triu_indices(t)
    matrix_vector = jnp.einsum("nbij,ncj->nicb", matrix, vector)
    cube_matrix = jnp.einsum("nbijk,ncjk->nibc", cube, matrix)
    vector_cube = jnp.einsum("nai,nbijk->njkab", vector, cube)
    vectors = jnp.einsum("npi,npj->nijp", vector[:, first], vector[:, second])
    cubes = jnp.einsum("npikl,npjkl->nijp", cube[:, first], cube[:, second])
    matrices = jnp.einsum("nbik,nckj->nijbc", matrix, matrix)
    vector_matrix = jnp.einsum("nai,ncjk->nijkac", vector, matrix)
    matrix_cube = jnp.einsum("ncij,nbjkl->niklbc", matrix, cube)

    of_vector = _contracted(along_1, 1, matrix_vector, cube_matrix)
    of_matrix = _contracted(along_2, 2, vectors, cubes, matrices, vector_cube)
    of_cube = _contracted(along_3, 3, vector_matrix, matrix_cube)

    # A1_a A2_b A1_c for a <= c, then b.
    by_vectors = jnp.concatenate(_upper(of_vector[0]), axis=-1)
    of_first = by_vectors + _last_two_swapped(of_matrix[0])
    # tr(A2_a A2_b A2_c) for a <= b <= c; each factor in turn is the one that moves.
    moved = of_matrix[2]
    of_second = [
        moved[:, :, a, b, b:] + moved[:, :, b, a, b:] + moved[:, :, b:, a, b]
        for a in range(t)
        for b in range(a, t)
    ]
    # A1_a (A3_b : A2_c) for all a, b, c.
    of_third = (
        of_vector[1]
        + jnp.transpose(of_cube[0], (0, 1, 3, 2, 4))  # moved b; a, c
        + jnp.transpose(of_matrix[3], (0, 1, 3, 4, 2))  # moved c; a, b
    )
    # A2_c : (A3_a : A3_b) for a <= b, then c.
    by_cubes = jnp.concatenate(_upper(of_cube[1]), axis=-1)
    of_fourth = by_cubes + _last_two_swapped(of_matrix[1])
    return [of_first, *of_second, of_third.reshape(*of_third.shape[:2], -1), of_fourth]


def _contracted(along: Float[Array, "n v t packed"], rank: int, *full: Array) -> list[Array]:
    """Directions of one rank contracted with full tensors (n, 3 ..., *rest), each (n, v, t, *rest)."""
    n, n_directions, t, n_packed = along.shape
    rest = [of.shape[1 + rank :] for of in full]
    stacked = jnp.concatenate([of.reshape(n, 3**rank, -1) for of in full], axis=-1)
    product = along.reshape(n, -1, n_packed) @ (_packing(rank, along.dtype).T @ stacked)
    ends = np.cumsum([int(np.prod(shape)) for shape in rest])[:-1]
    return [
        part.reshape(n, n_directions, t, *shape)
        for part, shape in zip(jnp.split(product, ends, axis=-1), rest, strict=True)
    ]


def _last_two_swapped(product: Float[Array, "n v t pairs"]) -> Float[Array, "n v pairs_t"]:
    swapped = jnp.swapaxes(product, -1, -2)
    return swapped.reshape(*swapped.shape[:2], -1)


def _packing(rank: int, dtype: np.dtype) -> Array:
    """Matrix from packed components of a rank to the full tensor, flattened."""
    indices = packed_indices(rank)
    places = np.ndindex(*(3,) * rank)
    matrix = np.zeros((3**rank, len(indices)))
    for row, index in enumerate(places):
        column = indices.index(tuple(sorted(index)))
        matrix[row, column] = 1.0 / packed_roots(rank)[column]
    return jnp.asarray(matrix, dtype)


def _full(tensors: Float[Array, "n t 20"], rank: int) -> Array:
    """Full symmetric tensors (n, t, 3, ..., 3) of one rank."""
    start = sum(N_COMPONENTS[:rank])
    packed = tensors[..., start : start + N_COMPONENTS[rank]]
    full = packed @ _packing(rank, tensors.dtype).T
    return full.reshape(*tensors.shape[:2], *(3,) * rank)
