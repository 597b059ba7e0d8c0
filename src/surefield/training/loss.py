"""The training loss, and residuals and errors of potentials on labelled structures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import stdtrit

from surefield.potentials.evaluate import Results, evaluate, predict
from surefield.potentials.potential import Potential
from surefield.quantities import fitted, names, quantity
from surefield.structures.graph import Graph
from surefield.training.dataset import Batch, Sample

__all__ = [
    "Errors",
    "LossWeights",
    "Residuals",
    "balanced_stress_weight",
    "batch_values",
    "error_intervals",
    "errors",
    "loss",
    "mean_and_half_width",
    "residuals",
]

#: What stresses count beside forces of the same relative error, where their weight follows from the data.
STRESS_SHARE: Final = 0.1


@final
class LossWeights:
    """Weights of the mean squared residuals of quantities, hashable.

    Args:
        weights: quantity to weight; others have the weight of the table of quantities.
    """

    def __init__(self, **weights: float) -> None:
        self._weights = {name: quantity(name).weight for name in fitted(names())}
        self._weights |= {quantity(name).name: float(weight) for name, weight in weights.items()}

    def __getitem__(self, name: str) -> float:
        return self._weights.get(name, 0.0)

    def __iter__(self) -> Iterator[str]:
        return (name for name, weight in self._weights.items() if weight > 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LossWeights) and self._weights == other._weights

    def __hash__(self) -> int:
        return hash(tuple(self._weights.items()))


def loss(potential: Potential, batch: Batch, weights: LossWeights) -> Float[Array, ""]:
    """Weighted mean squared residuals of a batch; a weight of a frame or atom multiplies its residual.

    Residuals of extensive quantities are divided by the number of atoms.
    """
    results = evaluate(potential, batch.graph)
    dtype = results.forces.dtype
    total = jnp.zeros((), dtype)
    for name in weights:
        if name not in batch.labels:
            continue
        residual = batch_values(results, batch.graph, name) - batch.labels[name]
        if quantity(name).extensive:
            residual = residual / jnp.maximum(batch.graph.n_atoms, 1)
        known = batch.weights[name] > 0
        residual = residual.astype(dtype) * batch.weights[name]
        total += (
            weights[name] * jnp.sum(jnp.where(known, residual, 0.0) ** 2) / jnp.maximum(jnp.sum(known), 1)
        )
    return total


def batch_values(results: Results, graph: Graph, name: str) -> Any:
    """Values of a quantity for all structures or atoms of a batch; of stress whole tensors (traceable)."""
    source = quantity(name).source
    if source == "strain":
        return results.virial / graph.volume[:, None, None]
    return results.outputs[name] if source == "output" else getattr(results, name)


@dataclass(frozen=True, eq=False)
class Residuals:
    """Prediction minus label by quantity, in the order of the structures; NaN where there is no label.

    Attributes:
        values: quantity to one array a structure, () or (n_atoms, *components); energies in eV/atom.
    """

    values: Mapping[str, tuple[np.ndarray, ...]]

    def __getitem__(self, name: str) -> tuple[np.ndarray, ...]:
        return self.values[name]

    def flat(self, name: str) -> Float[np.ndarray, " n_values"]:
        """All components of a quantity that have a label."""
        every = np.concatenate([np.ravel(x) for x in self.values.get(name, ())] or [np.zeros(0)])
        return every[~np.isnan(every)]


@final
class Errors:
    """Mean absolute and root mean square errors as `<name>_mae`, `<name>_rmse`; NaN without labels.

    In eV/atom, eV/Å and eV/Å^3 per component, and in the unit of any further quantity.

    Args:
        values: of the quantities that were compared.
        residuals: that they are of.
    """

    def __init__(self, values: Mapping[str, float], residuals: Residuals) -> None:
        self._values, self._residuals = dict(values), residuals
        self.n_structures = max((len(column) for column in residuals.values.values()), default=0)

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % interval of each, see `error_intervals`; computed when first asked for."""
        intervals: dict[str, tuple[float, float]] = {}
        for name, column in self._residuals.values.items():
            if self._residuals.flat(name).size:
                whole = np.concatenate([np.ravel(x) for x in column])
                structures = np.repeat(np.arange(len(column)), [np.size(x) for x in column])
                within = error_intervals(whole, structures)
                intervals |= {f"{name}_{what}": interval for what, interval in within.items()}
        return intervals

    def __getattr__(self, name: str) -> float:
        stem, _, what = name.rpartition("_")
        if name.startswith("_") or what not in ("mae", "rmse") or stem not in names():
            raise AttributeError(f"there is no error {name!r}; they are <quantity>_mae and <quantity>_rmse")
        return self._values.get(name, np.nan)

    def as_dict(self) -> dict[str, float]:
        """Plain dictionary, for JSON; what does not follow from energies only where it has labels."""
        shown = {
            name: value
            for name, value in self._values.items()
            if quantity(name.rpartition("_")[0]).source != "output" or not np.isnan(value)
        }
        return shown | {"n_structures": self.n_structures}


def residuals(potential: Potential, samples: Sequence[Sample], batch_size: int = 16) -> Residuals:
    """Evaluate a potential on labelled samples, in padded batches; what has weight zero is left out."""
    kinds = fitted(potential.supplies)
    predictions = predict(
        potential,
        [sample.atoms for sample in samples],
        batch_size=batch_size,
        neighborhoods=[sample.structure for sample in samples],
    )
    values: dict[str, list[np.ndarray]] = {name: [] for name in kinds}
    for sample, p in zip(samples, predictions, strict=True):
        for name in kinds:
            entry = quantity(name)
            difference = np.full(entry.shape(sample.n_atoms), np.nan)
            if name in p and name in sample.labels:
                counts = sample.component_weights(name) > 0
                difference = np.where(counts, p[name] - sample.labels[name], np.nan)
            values[name].append(difference / sample.n_atoms if entry.per_atom else difference)
    return Residuals({name: tuple(column) for name, column in values.items()})


def errors(residuals: Residuals) -> Errors:
    """Summarise residuals; a quantity without labels gives NaN."""
    values: dict[str, float] = {}
    for name in residuals.values:
        known = residuals.flat(name)
        values[f"{name}_mae"] = float(np.abs(known).mean()) if known.size else np.nan
        values[f"{name}_rmse"] = float(np.sqrt((known**2).mean())) if known.size else np.nan
    return Errors(values, residuals)


def error_intervals(
    residuals: Float[np.ndarray, " n_values"], structures: Int[np.ndarray, " n_values"]
) -> dict[str, tuple[float, float]]:
    """95 % intervals of `mae` and `rmse`; logarithms are taken as normal. None for fewer than two structures.

    Args:
        residuals: NaN where there is no label.
        structures: of each value, numbered from 0.
    """
    intervals = {}
    for name, sizes, power in (("mae", np.abs(residuals), 1.0), ("rmse", residuals**2, 0.5)):
        mean, half = mean_and_half_width(sizes, structures)
        if np.isfinite(half) and mean > 0:
            factor = float(np.exp(half / mean))
            intervals[name] = (float((mean / factor) ** power), float((mean * factor) ** power))
    return intervals


def mean_and_half_width(
    values: Float[np.ndarray, " n_values"], structures: Int[np.ndarray, " n_values"]
) -> tuple[float, float]:
    """Mean of values and half of its 95 % interval: structures are independent, the values of one are not.

    The mean is a ratio of two sums over structures, to first order (Cochran, Sampling Techniques, 1977, eq.
    6.13), with the quantile of Student's distribution; the half is NaN for fewer than two structures.
    """
    known = np.isfinite(values)
    counts = np.bincount(structures[known])
    counted = counts > 0
    n = int(counted.sum())
    if n == 0:
        return float("nan"), float("nan")
    totals = np.bincount(structures[known], weights=values[known])[counted]
    mean = totals.sum() / counts.sum()
    if n == 1:
        return float(mean), float("nan")
    spread = np.sqrt(n / (n - 1) * np.sum((totals - mean * counts[counted]) ** 2)) / counts.sum()
    return float(mean), float(stdtrit(n - 1, 0.975) * spread)


def balanced_stress_weight(samples: Sequence[Sample], forces_weight: float) -> float:
    """Weight with which stresses count a tenth of forces of the same relative error; 0 without either."""
    size = {}
    for name in ("forces", "stress"):
        values = [s.label(name)[s.component_weights(name) > 0] for s in samples if name in s.labels]
        size[name] = float(np.mean(np.concatenate(values) ** 2)) if sum(map(len, values)) else 0.0
    share = STRESS_SHARE * forces_weight * size["forces"]
    return float(f"{share / size['stress']:.3g}") if size["stress"] else 0.0
