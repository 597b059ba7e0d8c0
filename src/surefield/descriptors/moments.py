"""Moment tensors of the neighbour density, rank 0 to 3, and their rotational invariants.

A_c^(l) = sum_j R_c(r_ij) u_ij ⊗ ... ⊗ u_ij (l factors, u the unit vector), after
Shapeev, Multiscale Model. Simul. 14, 1153 (2016); the invariants are all complete contractions of
two of these tensors, and of three, as listed in `invariants`.
"""

from __future__ import annotations

import itertools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ["MAX_RANK", "angular_basis", "invariants", "moments", "n_invariants"]

MAX_RANK = 3
_INDICES = [list(itertools.combinations_with_replacement(range(3), rank)) for rank in range(MAX_RANK + 1)]
#: How many index orders a packed component stands for; its root makes packed dot products full contractions.
_ROOTS = [
    np.sqrt([math.factorial(rank) / math.prod(math.factorial(c.count(a)) for a in range(3)) for c in index])
    for rank, index in enumerate(_INDICES)
]
_SLICES = [slice(sum(map(len, _INDICES[:rank])), sum(map(len, _INDICES[: rank + 1]))) for rank in range(4)]


def angular_basis(unit: Float[Array, "*shape 3"]) -> Float[Array, "*shape 20"]:
    """Packed symmetric tensors u, u⊗u, u⊗u⊗u of unit vectors, each component times root(multiplicity)."""
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
    radial: Float[Array, "n_atoms n_neighbors n_channels"], angular: Float[Array, "n_atoms n_neighbors 20"]
) -> Float[Array, "n_atoms n_channels 20"]:
    """Sum radial times angular functions over the neighbours: one batched matrix product."""
    return jnp.swapaxes(radial, 1, 2) @ angular


def unpack(packed: Float[Array, "*shape 20"], rank: int) -> Float[Array, "*shape full"]:
    """Full tensor (3,)*rank of a packed rank."""
    index = [_INDICES[rank].index(tuple(sorted(full))) for full in itertools.product(range(3), repeat=rank)]
    part = packed[..., _SLICES[rank]] / packed.dtype.type(1) / jnp.asarray(_ROOTS[rank], packed.dtype)
    return part[..., np.array(index)].reshape(*packed.shape[:-1], *(3,) * rank)


def _pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(n)


def n_invariants(n_channels: int, n_triple: int) -> int:
    """Number of invariants for `n_channels` radial channels, `n_triple` of which enter triple products."""
    pairs = n_triple * (n_triple + 1) // 2
    triples = n_triple * (n_triple + 1) * (n_triple + 2) // 6
    return n_channels + 4 * n_channels * (n_channels + 1) // 2 + 2 * pairs * n_triple + n_triple**3 + triples*1


def invariants(tensor: Float[Array, "n_atoms n_channels 20"], n_triple: int) -> Float[Array, "n_atoms d"]:
    """Complete contractions: A0; Al·Al (l = 0..3); and of the first `n_triple` channels
    A1·A2·A1, tr(A2 A2 A2), A1·(A3:A2), A2:(A3:A3).
    """
    n_atoms, n_channels, _ = tensor.shape
    parts = [tensor[..., 0]]
    first, second = _pairs(n_channels)
    for rank in range(MAX_RANK + 1):
        part = tensor[..., _SLICES[rank]]
        gram = part @ jnp.swapaxes(part, 1, 2)
        parts.append(gram[:, first, second])
    few = tensor[:, :n_triple]
    t = n_triple
    vector, matrix, cube = unpack(few, 1), unpack(few, 2), unpack(few, 3)
    first, second = _pairs(t)
    # V_a . M_b . V_c
    mv = jnp.einsum("nbij,ncj->nbci", matrix, vector)
    vmv = jnp.einsum("nai,nbci->nabc", vector, mv)
    parts.append(jnp.swapaxes(vmv, 2, 3)[:, first, second].reshape(n_atoms, -1))
    # tr(M_a M_b M_c)
    mm = jnp.einsum("naij,nbjk->nabik", matrix, matrix)
    a, b, c = (np.array(x) for x in zip(*itertools.combinations_with_replacement(range(t), 3)))
    mmm = jnp.einsum("nabik,ncki->nabc", mm, matrix)
    parts.append(mmm[:, a, b, c])
    # V_a . (T_b : M_c)
    tm = jnp.einsum("nbijk,ncjk->nbci", cube, matrix)
    parts.append(jnp.einsum("nai,nbci->nabc", vector, tm).reshape(n_atoms, -1))
    # M_c : (T_a : T_b)
    flat = cube.reshape(n_atoms, t, 3, 9)
    tt = jnp.einsum("naik,nbjk->nabij", flat, flat)
    ttm = jnp.einsum("nabij,ncij->nabc", tt, matrix)
    parts.append(ttm[:, first, second].reshape(n_atoms, -1))
    return jnp.concatenate(parts, axis=-1)
