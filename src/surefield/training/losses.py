"""Residuals of configurations, their weighted loss, and tables of errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from surefield.potentials.evaluate import predict
from surefield.potentials.potential import Potential, SumPotential
from surefield.potentials.prediction import Prediction
from surefield.training.problem import Configuration, Weights, residual_weights

__all__ = [
    "AT_ONCE",
    "ErrorTable",
    "Errors",
    "LossBreakdown",
    "LossForm",
    "Residuals",
    "breakdown",
    "residuals",
]

KINDS = ("energy", "forces", "stress")
#: Configurations that are predicted at once, so that memory does not grow with the data.
AT_ONCE = 512


class LossForm(NamedTuple):
    """Which loss a trainer minimises.

    Attributes:
        bracket: 'rows' sums all weighted rows; 'sum' and 'mean' go over configurations, forces divided by 3n
            and stress by 6.
        method: 'mse' for squares, 'mae' for absolute values.
        energy_per_atom: whether energies count per atom, or as total energies.
    """

    bracket: Literal["rows", "sum", "mean"] = "rows"
    method: str = "mse"
    energy_per_atom: bool = True


@dataclass(frozen=True, eq=False)
class Residuals:
    """Predictions and labels of one configuration, as rows; None without label.

    Attributes:
        energy: (predicted, label), eV/atom.
        forces: the same of (3 n_atoms,), eV/Å.
        stress: the same of (6,), eV/Å^3.
    """

    energy: tuple[np.ndarray, np.ndarray] | None
    forces: tuple[np.ndarray, np.ndarray] | None
    stress: tuple[np.ndarray, np.ndarray] | None


def residuals(potential: Potential, configurations: Sequence[Configuration]) -> Iterator[Residuals]:
    """Predict the configurations in turn, in blocks.

    What a fixed baseline has of them is taken off predictions and labels alike: the spread of the labels,
    to which R2 refers, is that of what was fitted.
    """
    fitted, baseline = potential, None
    if isinstance(potential, SumPotential):
        fitted, baseline = potential.learned, potential.baseline
    for start in range(0, len(configurations), AT_ONCE):
        block = configurations[start : start + AT_ONCE]
        frames, found = [c.atoms for c in block], [c.structure for c in block]
        stress = any(c.stress is not None for c in block)
        predictions = predict(fitted, frames, stress=stress, neighborhoods=found)
        fixed: Sequence[Prediction | None] = [None] * len(block)
        if baseline is not None:
            fixed = predict(baseline, frames, stress=stress, neighborhoods=found)
        for c, p, other in zip(block, predictions, fixed, strict=True):
            energy = forces = both = None
            if c.energy is not None:
                part = 0.0 if other is None else other.energy
                energy = np.array([p.energy / c.n_atoms]), np.array([(c.energy - part) / c.n_atoms])
            if c.forces is not None and p.forces is not None:
                part = 0.0 if other is None or other.forces is None else other.forces
                forces = p.forces.ravel(), (c.forces - part).ravel()
            if c.stress is not None and p.stress is not None:
                part = 0.0 if other is None or other.stress is None else other.stress
                both = p.stress, c.stress - part
            yield Residuals(energy, forces, both)


@dataclass(frozen=True)
class Errors:
    """Errors of one kind of label.

    Attributes:
        count: rows (components).
        mae: mean absolute error, eV/atom, eV/Å or eV/Å^3.
        rmse: root mean square error.
        r2: 1 - sum r^2 / sum (y - mean y)^2; NaN where the labels do not vary.
    """

    count: int
    mae: float
    rmse: float
    r2: float


class _Sums:
    """Sums from which the errors of one kind follow, without holding the rows."""

    def __init__(self) -> None:
        self.count, self.absolute, self.square = 0, 0.0, 0.0
        self.mean, self.spread = 0.0, 0.0

    def add(self, predicted: np.ndarray, label: np.ndarray) -> None:
        r = predicted - label
        self.absolute += float(np.abs(r).sum())
        self.square += float(r @ r)
        # Merged variances (Chan, Golub, LeVeque 1979): labels far from zero would cancel in a plain sum.
        n, mean = len(label), float(label.mean())
        total = self.count + n
        self.spread += float(((label - mean) ** 2).sum()) + (mean - self.mean) ** 2 * self.count * n / total
        self.mean += (mean - self.mean) * n / total
        self.count = total

    def errors(self) -> Errors:
        r2 = 1 - self.square / self.spread if self.spread > 0 else np.nan
        return Errors(self.count, self.absolute / self.count, float(np.sqrt(self.square / self.count)), r2)


class ErrorTable(Mapping[tuple[str, str, str], Errors]):
    """Errors by (kind, part, weighting): energy, forces, stress; train, validation; weighted, unweighted.

    Weighted rows are prediction and label both times the weight of the row. What has no rows is absent.
    """

    def __init__(self, entries: Mapping[tuple[str, str, str], Errors]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, key: tuple[str, str, str]) -> Errors:
        return self._entries[key]

    def __iter__(self) -> Iterator[tuple[str, str, str]]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def records(self) -> list[dict[str, Any]]:
        """One dictionary per row, for JSON and tables."""
        return [
            {"kind": kind, "part": part, "weighting": weighting, **asdict(errors)}
            for (kind, part, weighting), errors in self._entries.items()
        ]

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]]) -> ErrorTable:
        """Table of what `records` gave."""
        numbers = ("mae", "rmse", "r2")
        return cls(
            {
                (r["kind"], r["part"], r["weighting"]): Errors(
                    r["count"], *(np.nan if r[name] is None else r[name] for name in numbers)
                )
                for r in records
            }
        )

    def __str__(self) -> str:
        """The table in Markdown."""
        lines = ["| kind | part | weighting | count | mae | rmse | r2 |", "|---|---|---|---:|---:|---:|---:|"]
        for (kind, part, weighting), e in self._entries.items():
            numbers = " | ".join(f"{x:.8g}" for x in (e.mae, e.rmse, e.r2))
            lines.append(f"| {kind} | {part} | {weighting} | {e.count} | {numbers} |")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class LossBreakdown:
    """Loss of a potential on configurations, and its errors.

    Attributes:
        total: the loss.
        energy: its part that comes from energies.
        forces: from forces.
        stress: from stresses.
        per_configuration: (n_configurations, 3) contributions to these parts.
        errors: of the training part.
    """

    total: float
    energy: float
    forces: float
    stress: float
    per_configuration: Float[np.ndarray, "n_configurations 3"]
    errors: ErrorTable


def breakdown(
    potential: Potential,
    configurations: Sequence[Configuration],
    weights: Weights,
    form: LossForm,
    part: str = "train",
) -> LossBreakdown:
    """Loss and errors of a potential on configurations.

    Args:
        potential: at its present parameters.
        configurations: with labels and weights.
        weights: of the residuals.
        form: which loss.
        part: name of these configurations in the table of errors.
    """
    sums = {(kind, part, w): _Sums() for kind in KINDS for w in ("unweighted", "weighted")}
    parts = np.zeros((len(configurations), 3))
    for i, (c, r) in enumerate(zip(configurations, residuals(potential, configurations), strict=True)):
        w = residual_weights(c, weights)
        rows = (np.array([w.energy]), np.repeat(w.forces, 3), np.full(6, w.stress))
        for k, (kind, found, factor) in enumerate(
            zip(KINDS, (r.energy, r.forces, r.stress), rows, strict=True)
        ):
            if found is None:
                continue
            predicted, label = found
            sums[kind, part, "unweighted"].add(predicted, label)
            sums[kind, part, "weighted"].add(predicted * factor, label * factor)
            parts[i, k] = _penalty((predicted - label) * factor, kind, c.n_atoms, form)
    scale = 1 / max(len(configurations), 1) if form.bracket == "mean" else 1.0
    energy, forces, stress = (parts.sum(axis=0) * scale).tolist()
    entries = {key: s.errors() for key, s in sums.items() if s.count}
    return LossBreakdown(energy + forces + stress, energy, forces, stress, parts * scale, ErrorTable(entries))


def _penalty(weighted: Float[np.ndarray, " n"], kind: str, n_atoms: int, form: LossForm) -> float:
    if kind == "energy" and not form.energy_per_atom:
        weighted = weighted * n_atoms
    values = np.abs(weighted) if form.method == "mae" else weighted**2
    divisor = 1 if form.bracket == "rows" or kind == "energy" else len(weighted)
    return float(values.sum() / divisor)
