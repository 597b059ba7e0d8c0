"""Residuals of configurations, their weighted loss, and tables of errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import repeat
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from surefield.keys import CONFIG_TYPE
from surefield.potentials.evaluate import predict
from surefield.potentials.potential import Potential
from surefield.training.dataset import AT_ONCE, Sample, without_baseline
from surefield.training.problem import Weights, residual_weights

__all__ = [
    "GROUP_KEYS",
    "ErrorRow",
    "ErrorTable",
    "LossBreakdown",
    "LossForm",
    "Pairs",
    "breakdown",
    "compared",
    "errors_text",
    "group_of",
]

KINDS = Weights._fields
UNITS = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å^3"}
#: Name of the table of all configurations, which no group has.
_ALL = ""
#: Entries of `info` that name the group of a configuration.
GROUP_KEYS = (CONFIG_TYPE, "group")
#: Prediction and label of the rows of each kind.
Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]


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


def compared(
    potential: Potential, samples: Sequence[Sample]
) -> Iterator[dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Prediction and label of each kind of each sample, as rows: eV/atom, (3 n_atoms,) eV/Å, (6,) eV/Å^3.

    Components without a label are NaN.

    What a fixed baseline has of them is taken off both: the spread of the labels, to which R2 refers, is
    that of what was fitted.
    """
    for start in range(0, len(samples), AT_ONCE):
        fitted, block = without_baseline(potential, samples[start : start + AT_ONCE])
        predictions = predict(
            fitted,
            [sample.atoms for sample in block],
            stress=any("stress" in sample.labels for sample in block),
            neighborhoods=[sample.structure for sample in block],
        )
        for sample, p in zip(block, predictions, strict=True):
            size = {"energy": sample.n_atoms}
            yield {
                kind: (
                    np.ravel(p[kind]) / size.get(kind, 1),
                    np.ravel(sample.labels[kind]) / size.get(kind, 1),
                )
                for kind in KINDS
                if kind in sample.labels and kind in p
            }


@dataclass(frozen=True)
class ErrorRow:
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

    def errors(self) -> ErrorRow:
        r2 = 1 - self.square / self.spread if self.spread > 0 else np.nan
        return ErrorRow(self.count, self.absolute / self.count, float(np.sqrt(self.square / self.count)), r2)


class ErrorTable(Mapping[tuple[str, str, str], ErrorRow]):
    """Errors by (kind, part, weighting): energy, forces, stress; train, validation; weighted, unweighted.

    Weighted rows are prediction and label both times the weight of the row. What has no rows is absent.
    """

    def __init__(self, entries: Mapping[tuple[str, str, str], ErrorRow]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, key: tuple[str, str, str]) -> ErrorRow:
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
                (r["kind"], r["part"], r["weighting"]): ErrorRow(
                    r["count"], *(np.nan if r[name] is None else r[name] for name in numbers)
                )
                for r in records
            }
        )

    def __str__(self) -> str:
        """The table in Markdown."""
        return errors_text({"": self})


def errors_text(tables: Mapping[str, ErrorTable], weighted_unit: str = "") -> str:
    """Tables in Markdown, as one, with units and a column of their names if they have any.

    Args:
        tables: by name.
        weighted_unit: of weighted errors; without one it is that of the weights times that of the errors.
    """
    first = "| " if list(tables) == [""] else "| group | "
    lines = [
        f"{first}kind | part | weighting | count | mae | rmse | r2 | unit of mae and rmse |",
        "|---" * (first.count("|") + 2) + "|---:" * 4 + "|---|",
    ]
    for name, table in tables.items():
        for (kind, part, weighting), e in table.items():
            unit = UNITS[kind] if weighting == "unweighted" else weighted_unit or "weighted"
            numbers = " | ".join(f"{x:.8g}" for x in (e.mae, e.rmse, e.r2))
            start = f"| {name} | " if name or len(tables) > 1 else "| "
            lines.append(f"{start}{kind} | {part} | {weighting} | {e.count} | {numbers} | {unit} |")
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
        groups: errors of each group of configurations; empty where none is named.
    """

    total: float
    energy: float
    forces: float
    stress: float
    per_configuration: Float[np.ndarray, "n_configurations 3"]
    errors: ErrorTable
    groups: Mapping[str, ErrorTable] = field(default_factory=dict)


def group_of(sample: Sample) -> str | None:
    """Group that a configuration states in `info`, by `GROUP_KEYS`."""
    info = sample.atoms.info
    return next((str(info[key]) for key in GROUP_KEYS if key in info), None)


def breakdown(
    potential: Potential,
    samples: Sequence[Sample],
    weights: Weights,
    form: LossForm,
    part: str = "train",
    rows: Iterable[Pairs] | None = None,
) -> LossBreakdown:
    """Loss and errors of a potential on configurations, in all and by group.

    Args:
        potential: at its present parameters.
        samples: with labels and weights.
        weights: of the residuals.
        form: which loss.
        part: name of these configurations in the table of errors.
        rows: weighted rows of each configuration as they were minimised, where these are not the errors times
            their weights.
    """
    sums: dict[str, dict[tuple[str, str, str], _Sums]] = {}
    parts = np.zeros((len(samples), 3))
    minimised = repeat(None, len(samples)) if rows is None else rows
    for i, (sample, pairs, own) in enumerate(
        zip(samples, compared(potential, samples), minimised, strict=True)
    ):
        weighted = _weighted(pairs, sample, weights) if own is None else own
        group = group_of(sample)
        for name in (_ALL,) if group is None else (_ALL, group):
            table = sums.setdefault(name, {})
            for weighting, of in (("unweighted", pairs), ("weighted", weighted)):
                for kind, (predicted, label) in of.items():
                    known = ~np.isnan(label)
                    if known.any():
                        rows_of_kind = table.setdefault((kind, part, weighting), _Sums())
                        rows_of_kind.add(predicted[known], label[known])
        for kind, (predicted, label) in weighted.items():
            parts[i, KINDS.index(kind)] = _penalty(predicted - label, kind, sample.n_atoms, form)
    scale = 1 / max(len(samples), 1) if form.bracket == "mean" else 1.0
    energy, forces, stress = (parts.sum(axis=0) * scale).tolist()
    order = [(kind, part, w) for kind in KINDS for w in ("unweighted", "weighted")]
    tables = {
        name: ErrorTable({key: table[key].errors() for key in order if key in table})
        for name, table in sums.items()
    }
    errors = tables.pop(_ALL, ErrorTable({}))
    return LossBreakdown(energy + forces + stress, energy, forces, stress, parts * scale, errors, tables)


def _weighted(pairs: Pairs, sample: Sample, weights: Weights) -> Pairs:
    """Predictions and labels times the weights of their rows."""
    w = residual_weights(sample, weights)
    factors = {"energy": w.energy, "forces": np.repeat(w.forces, 3), "stress": w.stress}
    return {
        kind: (predicted * factors[kind], label * factors[kind]) for kind, (predicted, label) in pairs.items()
    }


def _penalty(weighted: Float[np.ndarray, " n"], kind: str, n_atoms: int, form: LossForm) -> float:
    if kind == "energy" and not form.energy_per_atom:
        weighted = weighted * n_atoms
    values = np.abs(weighted) if form.method == "mae" else weighted**2
    divisor = 1 if form.bracket == "rows" or kind == "energy" else len(weighted)
    return float(np.nansum(values) / divisor)
