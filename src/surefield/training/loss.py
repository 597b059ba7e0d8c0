"""The training loss and the error metrics, on padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surefield.potentials.evaluate import evaluate, evaluate_jit
from surefield.potentials.potential import Potential
from surefield.structures.batching import padded_batches
from surefield.structures.graph import sum_atoms
from surefield.training.dataset import Batch, Sample

__all__ = ["Errors", "LossWeights", "Residuals", "errors", "loss", "residuals"]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the mean squared residuals: eV/atom, eV/Å, eV/Å^3, and excess electrons in e/atom."""

    energy: float = 100.0
    forces: float = 1.0
    stress: float = 0.0
    charge: float = 300.0


def loss(potential: Potential, batch: Batch, weights: LossWeights) -> Float[Array, ""]:
    """Weighted mean squared residuals of a batch; a weight of a frame or atom multiplies its residual."""
    results = evaluate(potential, batch.graph)
    graph = batch.graph
    dtype = results.forces.dtype
    n = jnp.maximum(graph.n_atoms, 1)
    energy = ((results.energy - batch.energy) / n).astype(dtype) * batch.energy_weight
    forces = (results.forces - batch.forces) * batch.forces_weight
    total = weights.energy * _mean_square(energy, batch.energy_weight > 0)
    total += weights.forces * _mean_square(forces, batch.forces_weight > 0)
    if weights.stress > 0:
        stress = results.virial / graph.volume[:, None, None] - batch.stress
        stress = stress * batch.stress_weight[:, None, None]
        known = jnp.broadcast_to((batch.stress_weight > 0)[:, None, None], stress.shape)
        total += weights.stress * _mean_square(stress, known)
    if weights.charge > 0 and results.charges is not None:
        electrons = (-sum_atoms(results.charges, graph) - batch.excess_electrons) / n
        known = batch.excess_electrons_weight > 0
        total += weights.charge * _mean_square(electrons * batch.excess_electrons_weight, known)
    return total


def _mean_square(residual: Array, known: Array) -> Array:
    return jnp.sum(jnp.where(known, residual, 0.0) ** 2) / jnp.maximum(jnp.sum(known), 1)


@dataclass(frozen=True, eq=False)
class Residuals:
    """Prediction minus label of every frame, NaN where there is no label.

    Attributes:
        energy: (n_structures,) eV/atom.
        forces: per structure (n_atoms, 3), eV/Å.
        stress: (n_structures, 6) eV/Å^3, Voigt.
        excess_electrons: (n_structures,) of electrodes.
    """

    energy: Float[np.ndarray, " n_structures"]
    forces: tuple[Float[np.ndarray, "n_atoms 3"], ...]
    stress: Float[np.ndarray, "n_structures 6"]
    excess_electrons: Float[np.ndarray, " n_structures"]


@dataclass(frozen=True)
class Errors:
    """Mean absolute and root mean square errors: eV/atom, eV/Å and eV/Å^3 per component, excess electrons."""

    energy_mae: float
    energy_rmse: float
    forces_mae: float
    forces_rmse: float
    stress_mae: float
    stress_rmse: float
    n_structures: int
    excess_electrons_mae: float = np.nan
    excess_electrons_rmse: float = np.nan

    def as_dict(self) -> dict[str, float]:
        """Plain dictionary, for JSON; excess electrons only where there are any."""
        found = asdict(self)
        return {k: v for k, v in found.items() if not (k.startswith("excess_electrons") and np.isnan(v))}


def residuals(potential: Potential, samples: Sequence[Sample], batch_size: int = 16) -> Residuals:
    """Evaluate a potential on labelled samples, in padded batches; what has weight zero is left out."""
    energy = np.full(len(samples), np.nan)
    stress = np.full((len(samples), 6), np.nan)
    electrons = np.full(len(samples), np.nan)
    forces: list[np.ndarray] = [np.zeros((0, 3))] * len(samples)
    structures = [sample.structure for sample in samples]
    for chunk, graph in padded_batches(structures, batch_size, potential.dtype):
        results = evaluate_jit(potential, graph)
        total, force, virial = (np.asarray(x, np.float64) for x in results[:3])
        charges = None if results.charges is None else np.asarray(results.charges, np.float64)
        start = 0
        for place, index in enumerate(chunk):
            sample = samples[index]
            n = sample.structure.n_atoms
            rows = slice(start, start + n)
            start = rows.stop
            if sample.trained_energy and sample.labels.energy is not None:
                energy[index] = (total[place] - sample.labels.energy) / n
            known = sample.labels.forces
            forces[index] = force[rows] - (np.nan if known is None else known)
            forces[index][~sample.trained_atoms] = np.nan
            if sample.labels.stress is not None and sample.structure.periodic:
                full = virial[place] / abs(np.linalg.det(sample.structure.cell))
                stress[index] = full[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] - sample.labels.stress
            if charges is not None and sample.labels.excess_electrons is not None:
                electrons[index] = -charges[rows].sum() - sample.labels.excess_electrons
    return Residuals(energy, tuple(forces), stress, electrons)


def errors(found: Residuals) -> Errors:
    """Summarise residuals; a kind without labels gives NaN."""
    parts: dict[str, float] = {}
    for name, values in (
        ("energy", found.energy),
        ("forces", np.concatenate([f.ravel() for f in found.forces])),
        ("stress", found.stress.ravel()),
        ("excess_electrons", found.excess_electrons),
    ):
        known = values[~np.isnan(values)]
        parts[f"{name}_mae"] = float(np.abs(known).mean()) if known.size else np.nan
        parts[f"{name}_rmse"] = float(np.sqrt((known**2).mean())) if known.size else np.nan
    return Errors(**parts, n_structures=len(found.energy))
