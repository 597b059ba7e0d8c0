"""Steps for matrices of weights: their momentum, orthogonalised (Muon)."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from surefield.potentials.potential import Potential

__all__ = ["adam_and_orthogonal", "clip_outliers"]

_NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)
#: Root mean square of the entries of a step with a rate of one: near Adam's, so that one rate serves both.
_SIZE: Final = 0.2


class UsualNorm(NamedTuple):
    """What gradients have been like.

    Attributes:
        log_norm: mean logarithm of their global norm.
        n_seen: gradients so far.
    """

    log_norm: Float[Array, ""]
    n_seen: Int[Array, ""]


def clip_outliers(largest: float = 2.0, memory: int = 100) -> optax.GradientTransformation:
    """Clip gradients to a multiple of their usual global norm, the geometric mean of the last ones.

    Orthogonalised momentum has one size whatever the gradients: a single large one would set the direction of
    some twenty steps. Wide networks left their minimum that way, with every step as long as before.

    Args:
        largest: times the usual norm.
        memory: steps that the mean goes back, about; so many pass before anything is clipped.
    """

    def begin(params: Any) -> UsualNorm:
        del params
        return UsualNorm(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))

    def clip(updates: Any, state: Any, params: Any = None) -> tuple[Any, UsualNorm]:
        del params
        squares = [jnp.sum(update.astype(jnp.float32) ** 2) for update in jax.tree.leaves(updates)]
        square = jnp.sum(jnp.stack(squares))
        norm = jnp.sqrt(jnp.maximum(square, jnp.finfo(jnp.float32).tiny))
        limit = jnp.where(state.n_seen < memory, jnp.inf, largest * jnp.exp(state.log_norm))
        kept = jnp.minimum(norm, limit)
        # A batch without a label that counts has no gradient, and says nothing of what is usual.
        some = square > 0
        n_seen = state.n_seen + some.astype(state.n_seen.dtype)
        step = (jnp.log(kept) - state.log_norm) / jnp.clip(n_seen, 1, memory)
        change = jnp.where(some, step, 0.0)
        clipped = jax.tree.map(lambda update: update * (kept / norm).astype(update.dtype), updates)
        return clipped, UsualNorm(state.log_norm + change, n_seen)

    return optax.GradientTransformation(begin, clip)


def adam_and_orthogonal(potential: Potential, moving: Any) -> optax.GradientTransformation:
    """Adam with a rate of one; for `Potential.matrices` orthogonalised momentum of the same size.

    Jordan et al., Muon (2024); the size after Liu et al., arXiv:2502.16982, equation 4. The last axis of a
    matrix is that of what comes out, all others are of what goes in.

    Args:
        potential: with all arrays.
        moving: booleans in its structure, False or None for what is not trained.
    """
    adam = optax.adam(1.0)
    matrices = {id(array) for array in potential.matrices()}
    if not matrices:
        return adam
    labels = jax.tree.map(
        lambda array, moves: ("matrix" if id(array) in matrices else "other") if moves else None,
        potential,
        moving,
    )
    dtype = potential.dtype
    coefficients: Any = np.asarray(_NEWTON_SCHULZ, dtype)  # Python's floats would make it float64
    orthogonal = optax.chain(
        scale_by_muon(
            coefficients,
            weight_dimension_numbers=lambda updates: jax.tree.map(
                lambda update: MuonDimensionNumbers(tuple(range(update.ndim - 1)), -1), updates
            ),
        ),
        optax.stateless(lambda updates, _: jax.tree.map(_sized, updates)),
    )
    return optax.chain(clip_outliers(), optax.partition({"matrix": orthogonal, "other": adam}, labels))


def _sized(step: jax.Array) -> jax.Array:
    width = max(math.prod(step.shape[:-1]), step.shape[-1])
    return jnp.asarray(-_SIZE * math.sqrt(width), step.dtype) * step
