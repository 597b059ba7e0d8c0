"""The loss image by image, without padding, operation by operation: to check against.

Only the features and their derivatives are compiled; `jax.disable_jit()` switches that off too.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from surefield.networks.full_batch.loss_data import LossBatch
from surefield.networks.full_batch.loss_terms import Predictions, Sums, add_sums, predictions
from surefield.networks.full_batch.training_images import Terms
from surefield.potentials.potential import VectorPotential

__all__ = ["plain_sums"]


def plain_sums(
    batches: Sequence[LossBatch],
    potential: VectorPotential,
    terms: Terms,
    vector: Float[np.ndarray, " n_parameters"],
    factors: Float[np.ndarray, " 4"],
    gradient: bool,
) -> Sums:
    """Sums of the loss over images, one in each batch (`exact_batch`); see `Shard.sums`.

    Residuals and their slopes are plain NumPy; the gradient is their product with the derivatives of the
    predictions (reverse mode).
    """
    return add_sums(_one(batch, potential, terms, vector, factors, gradient) for batch in batches)


def _one(
    batch: LossBatch,
    potential: VectorPotential,
    terms: Terms,
    vector: Float[np.ndarray, " n_parameters"],
    factors: Float[np.ndarray, " 4"],
    gradient: bool,
) -> Sums:
    (number,), data = batch.images, batch.data

    def predict(v: jax.Array) -> Predictions:
        return predictions(potential.with_vector(v), data, terms)

    v = jnp.asarray(vector)
    found, pull_back = jax.vjp(predict, v) if gradient else (predict(v), None)
    n = int(data.graph.n_atoms[0])
    sums, largest, where = np.zeros(4), np.zeros(4), [(number, -1)] * 4
    slopes = [None if x is None else np.zeros(x.shape) for x in found]
    labels = (data.energy, data.forces, data.charge, data.stress)
    weights = (data.energy_weight, data.force_weight, data.charge_weight, data.stress_weight / 6)
    for k, (value, label, weight) in enumerate(zip(found, labels, weights, strict=True)):
        if value is None or not np.any(weight):
            continue
        divisor = n if k in (0, 2) else 1
        residual = (np.asarray(value) - np.asarray(label)) / divisor
        weight = np.asarray(weight).reshape(-1, *[1] * (residual.ndim - 1))
        residual = np.where(weight > 0, residual, 0.0)
        sums[k] = np.sum(weight * residual**2)
        largest[k] = np.abs(residual).max()
        if k == 1:
            where[k] = (number, int(np.argmax(np.abs(residual).max(axis=1))))
        slopes[k] = factors[k] * 2 * weight * residual / divisor
    if pull_back is None:
        return Sums(sums, largest, tuple(where), None)
    (slope,) = pull_back(Predictions(*(None if s is None else jnp.asarray(s) for s in slopes)))  # type: ignore[arg-type]
    return Sums(sums, largest, tuple(where), np.asarray(slope))
