"""How good sigmas are on labelled structures: by quantity, element and group, beside constant ones."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from ase.data import chemical_symbols

from surefield.calibration.metrics import uq_metrics
from surefield.errors import DataError
from surefield.quantities import quantity
from surefield.structures.labels import Mapped
from surefield.structures.read import Source
from surefield.training.dataset import LabelledSet, as_labelled
from surefield.uncertainty.evaluation import Comparison, evaluate_uncertainty
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["QualityReport", "quality_report"]

#: Fewer rows say little.
ENOUGH_ROWS: Final = 50
_SHOWN: Final = ("n", "rmse", "sharpness", "nll", "crps", "miscalibration_area", "ence", "spearman")


@dataclass(frozen=True, eq=False)
class QualityReport:
    """The table of `quality_report`.

    Attributes:
        rows: one per quantity and part of the data: `quantity`, `part` ("all", an element, or a group such as
            `config_type=md_300K`), `estimator` (its name or "constant"), `n`, `rmse`, and what `uq_metrics`
            gives.
        verdicts: quantity to a line in words.
    """

    rows: tuple[dict[str, Any], ...]
    verdicts: dict[str, str]

    def __getitem__(self, quantity: str) -> dict[str, Any]:
        """The row of the estimator over all of the data."""
        return next(r for r in self.rows if r["quantity"] == quantity and r["part"] == "all")

    def to_json(self) -> str:
        """Rows and verdicts."""
        return json.dumps({"rows": self.rows, "verdicts": self.verdicts}, indent=1)

    def to_csv(self) -> str:
        """The rows, coverage in columns of its own."""
        flat = [_flat(row) for row in self.rows]
        file = io.StringIO()
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in flat for name in row)))
        writer.writeheader()
        writer.writerows(flat)
        return file.getvalue()

    def __str__(self) -> str:
        head = f"{'quantity':<10}{'part':<22}{'sigma':<18}" + "".join(f"{name[:11]:>12}" for name in _SHOWN)
        lines = [head]
        for row in self.rows:
            numbers = "".join(f"{row.get(name, float('nan')):>12.4g}" for name in _SHOWN)
            lines.append(f"{row['quantity']:<10}{row['part']:<22}{row['estimator']:<18}{numbers}")
        return "\n".join([*lines, *self.verdicts.values()])


def quality_report(
    uncertainty: Uncertainty, test: Source | LabelledSet, *, labels: Mapped | None = None
) -> QualityReport:
    """Metrics of the sigmas on structures that neither training nor calibration has seen.

    By quantity, element (of the atoms of forces; of structures that hold one element alone) and
    `config_type`, for the estimator and for the best constant sigma, the RMSE. Energies are per atom.

    Raises:
        DataError: no label of a quantity that has sigmas.
    """
    data = as_labelled(test, uncertainty.potential, labels, require=())
    comparison = evaluate_uncertainty(uncertainty, data, uncertainty.maps)
    rows, verdicts = [], {}
    for name in comparison.quantities:
        if f"{name}_uncertainty" not in comparison.arrays or not comparison.scored(name).any():
            continue
        for part, chosen in _parts(comparison, name):
            both = _scores(comparison, name, chosen, type(uncertainty).__name__)
            rows += [{"quantity": name, "part": part, **row} for row in both]
            if part == "all":
                verdicts[name] = _verdict(name, *both)
    if not rows:
        raise DataError("no structure of the report has a label of a quantity with sigmas")
    return QualityReport(tuple(rows), verdicts)


def _parts(comparison: Comparison, name: str) -> list[tuple[str, np.ndarray]]:
    """Names of parts of the data, and which values of a quantity belong to each."""
    structures = comparison.structures(name)
    parts = [("all", np.ones(len(structures), bool))]
    species, n_atoms = comparison.arrays["species"], comparison.arrays["n_atoms"]
    if quantity(name).per == "atom":
        of_values = np.repeat(species, len(structures) // len(species))
    else:
        ends = np.cumsum(n_atoms)
        pure = np.array(
            [len(set(species[e - n : e].tolist())) == 1 for e, n in zip(ends, n_atoms, strict=True)]
        )
        of_values = np.where(pure, species[ends - 1], 0)[structures]
    present = [z for z in np.unique(of_values).tolist() if z]
    if len(present) > 1:
        parts += [(chemical_symbols[z], of_values == z) for z in present]
    groups = comparison.arrays.get("group")
    if groups is not None and len(np.unique(groups)) > 1:
        parts += [(f"config_type={g}", (groups == g)[structures]) for g in np.unique(groups).tolist()]
    return parts


def _scores(
    comparison: Comparison, name: str, chosen: np.ndarray, estimator: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    r, sigma = comparison.residuals(name)
    inside = chosen[comparison.scored(name)]
    r, sigma = r[inside], sigma[inside]
    rmse = float(np.sqrt(np.mean(r**2))) if len(r) else float("nan")
    both: list[dict[str, Any]] = []
    for title, s in ((estimator, sigma), ("constant", np.full(len(r), rmse))):
        metrics = uq_metrics(r, s) if len(r) and rmse > 0 else {}
        both.append({"estimator": title, "n": len(r), "rmse": rmse, **metrics})
    return both[0], both[1]


def _verdict(name: str, own: dict[str, Any], constant: dict[str, Any]) -> str:
    worse = [m.upper() for m in ("nll", "crps") if not own.get(m, np.inf) < constant.get(m, np.inf)]
    text = "better than a constant sigma by NLL and CRPS"
    if worse:
        text = f"worse than a constant sigma by {' and '.join(worse)}"
    few = f"; {own['n']} values: indicative only" if own["n"] < ENOUGH_ROWS else ""
    return f"{name}: {text}{few}"


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    covered = row.get("coverage", {})
    rest: Sequence[tuple[str, Any]] = [(k, v) for k, v in row.items() if k != "coverage"]
    return dict(rest) | {f"coverage_{p}": share for p, share in covered.items()}
