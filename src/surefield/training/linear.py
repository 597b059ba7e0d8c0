"""Weighted rows of linear potentials, configuration by configuration, and coefficients put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from surefield.potentials.potential import LastLayerPotential, Potential, SumPotential
from surefield.sensitivity.rows import structure_rows
from surefield.training.dataset import AT_ONCE, Sample, without_baseline
from surefield.training.problem import ResidualWeights

__all__ = ["LinearRows", "linear_rows", "with_coefficients"]

P = TypeVar("P", bound=Potential)


class LinearRows(NamedTuple):
    """Rows of one configuration times their weights; rows of weight 0 are left out.

    Attributes:
        sample: whose rows these are, its labels without those of a baseline.
        a: (n_rows, n_features + n_biases): energy per atom, forces, stress.
        b: (n_rows,) labels less what the potential has besides its coefficients.
    """

    sample: Sample
    a: Float[np.ndarray, "n_rows n_columns"]
    b: Float[np.ndarray, " n_rows"]


def linear_rows(
    model: Potential,
    samples: Sequence[Sample],
    weights: Callable[[Sample], ResidualWeights],
    *,
    fit_bias: bool = True,
) -> Iterator[LinearRows]:
    """Yield the weighted rows of each configuration; never more than one configuration's rows are held.

    Args:
        model: a linear potential, or its sum with a baseline, which is subtracted from the labels.
        samples: labelled.
        weights: of the residuals, such as `Problem.residual_weights`.
        fit_bias: whether there are columns for the biases, behind those of the readout.
    """
    layer = model.last_layer()
    for start in range(0, len(samples), AT_ONCE):
        _, block = without_baseline(model, samples[start : start + AT_ONCE])
        factors = [weights(sample) for sample in block]
        asked = {
            "energy": True,
            "forces": any(np.any(w.forces > 0) for w in factors),
            "stress": any(np.any(w.stress > 0) for w in factors),
        }
        names = [name for name, wanted in asked.items() if wanted]
        structures = [sample.structure for sample in block]
        every = structure_rows(layer, structures, names)
        for sample, w, rows in zip(block, factors, every, strict=True):
            a, b = [], []
            n, numbers, labels = sample.n_atoms, sample.structure.numbers, sample.labels
            bias = layer.bias_row(numbers) if fit_bias else np.zeros(0)
            if w.energy > 0 and labels.energy is not None:
                target = (labels.energy - layer.constant_energy(numbers)) / n
                a.append(w.energy * np.concatenate([rows.energy, bias])[None] / n)
                b.append([w.energy * target])
            if rows.forces is not None and labels.forces is not None and np.any(w.forces > 0):
                factor = np.repeat(w.forces, 3)
                used = factor > 0
                a.append(_widened(rows.forces[used] * factor[used, None], len(bias)))
                b.append(labels.forces.ravel()[used] * factor[used])
            if rows.stress is not None and labels.stress is not None and np.any(w.stress > 0):
                used = w.stress > 0
                a.append(_widened(rows.stress[used] * w.stress[used, None], len(bias)))
                b.append(labels.stress[used] * w.stress[used])
            empty = np.zeros((0, layer.n_features + len(bias)))
            yield LinearRows(sample, np.concatenate([empty, *a]), np.concatenate([np.zeros(0), *b]))


def _widened(rows: Float[np.ndarray, "n n_features"], n_biases: int) -> np.ndarray:
    return np.hstack([rows, np.zeros((len(rows), n_biases))]) if n_biases else rows


def with_coefficients(model: P, x: Float[np.ndarray, " n_columns"]) -> P:
    """Copy of a linear potential, or of a sum with one, with other coefficients: readout, then biases."""
    if isinstance(model, SumPotential):
        return eqx.tree_at(lambda p: p.learned, model, with_coefficients(model.learned, x))
    layer = model.last_layer()
    assert isinstance(layer, LastLayerPotential)
    size = layer.readout.size
    readout = jnp.asarray(x[:size]).reshape(layer.readout.shape)
    if len(x) == size:
        return eqx.tree_at(lambda p: p.readout, model, readout)
    bias = jnp.asarray(x[size:]).reshape(layer.bias.shape)
    return eqx.tree_at(lambda p: (p.readout, p.bias), model, (readout, bias))
