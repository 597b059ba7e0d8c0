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
from surefield.training.losses import AT_ONCE, residuals
from surefield.training.problem import Configuration, ResidualWeights

__all__ = ["LinearRows", "linear_rows", "with_coefficients"]

P = TypeVar("P", bound=Potential)


class LinearRows(NamedTuple):
    """Rows of one configuration times their weights; rows of weight 0 are left out.

    Attributes:
        configuration: whose rows these are.
        a: (n_rows, n_features + n_biases): energy per atom, forces, stress.
        b: (n_rows,) labels less what the potential has besides its coefficients.
    """

    configuration: Configuration
    a: Float[np.ndarray, "n_rows n_columns"]
    b: Float[np.ndarray, " n_rows"]


def linear_rows(
    model: Potential,
    configurations: Sequence[Configuration],
    weights: Callable[[Configuration], ResidualWeights],
    *,
    fit_bias: bool = True,
) -> Iterator[LinearRows]:
    """Yield the weighted rows of each configuration; never more than one configuration's rows are held.

    Args:
        model: a linear potential, or its sum with a baseline, which is subtracted from the labels.
        configurations: labelled.
        weights: of the residuals, such as `Problem.residual_weights`.
        fit_bias: whether there are columns for the biases, behind those of the readout.
    """
    layer = model.last_layer()
    baseline = model.baseline if isinstance(model, SumPotential) else None
    for start in range(0, len(configurations), AT_ONCE):
        block = configurations[start : start + AT_ONCE]
        fixed = [None] * len(block) if baseline is None else list(residuals(baseline, block))
        factors = [weights(c) for c in block]
        forces = any(np.any(w.forces > 0) for w in factors)
        stress = any(w.stress > 0 for w in factors)
        found = structure_rows(layer, [c.structure for c in block], forces=forces, stress=stress)
        for c, w, rows, other in zip(block, factors, found, fixed, strict=True):
            a, b = [], []
            n = c.n_atoms
            bias = layer.bias_row(c.structure.numbers) if fit_bias else np.zeros(0)
            if w.energy > 0 and c.energy is not None:
                target = (c.energy - layer.constant_energy(c.structure.numbers)) / n
                if other is not None and other.energy is not None:
                    target -= other.energy[0][0]
                a.append(w.energy * np.concatenate([rows.energy, bias])[None] / n)
                b.append([w.energy * target])
            if rows.forces is not None and c.forces is not None and np.any(w.forces > 0):
                target = c.forces.ravel().copy()
                if other is not None and other.forces is not None:
                    target -= other.forces[0]
                factor = np.repeat(w.forces, 3)
                used = factor > 0
                a.append(_widened(rows.forces[used] * factor[used, None], len(bias)))
                b.append((target * factor)[used])
            if rows.stress is not None and c.stress is not None and w.stress > 0:
                target = c.stress.copy()
                if other is not None and other.stress is not None:
                    target -= other.stress[0]
                a.append(_widened(rows.stress * w.stress, len(bias)))
                b.append(target * w.stress)
            if a:
                yield LinearRows(c, np.concatenate(a), np.concatenate(b))


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
