"""Steps for matrices of weights: their momentum, orthogonalised (Muon)."""

from __future__ import annotations

import math
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from surefield.potentials.potential import Potential

__all__ = ["adam_and_orthogonal"]

_NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)
#: Root mean square of the entries of a step with a rate of one: near Adam's, so that one rate serves both.
_SIZE: Final = 0.2


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
    return optax.partition({"matrix": orthogonal, "other": adam}, labels)


def _sized(step: jax.Array) -> jax.Array:
    width = max(math.prod(step.shape[:-1]), step.shape[-1])
    return jnp.asarray(-_SIZE * math.sqrt(width), step.dtype) * step
