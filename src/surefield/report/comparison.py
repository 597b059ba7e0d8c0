"""The section on several uncertainties side by side: one table, and figures of each."""

from __future__ import annotations

from html import escape
from typing import Any, Final

import numpy as np

from surefield.calibration.metrics import coverage
from surefield.report import figures
from surefield.report.panels import KINDS, Panel, Section, panel
from surefield.report.run import Run
from surefield.report.scores import ONE_SIGMA
from surefield.report.tables import number, table, titled
from surefield.uncertainty.compare import METRICS

__all__ = ["comparison_section"]

#: Groups that a figure shows.
_GROUPS: Final = 12
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def comparison_section(run: Run) -> Section | None:
    """What `uq compare` found; None where it was not run."""
    rows = run.comparison.get("rows") or []
    if not rows:
        return None
    panels: list[Panel] = []
    html = ""
    for kind in dict.fromkeys(row["quantity"] for row in rows):
        name, unit = KINDS.get(kind, (kind, ""))
        pairs = _pairs(run, kind)
        caption = "The nearer to the dashed line, the more a σ can be taken at its word."
        panels += panel(f"Calibration: {name}", figures.calibration(pairs), caption)
        for estimator, pair in pairs.items():
            caption = "If σ is right, 68 % of the points lie below the solid line, the diamonds near it."
            figure = figures.error_against_sigma(*pair, name, unit)
            panels += panel(f"Error against σ: {name}, {estimator}", figure, caption)
        caption = f"Share of errors within one σ; the dashed line is where all bars should end ({kind})."
        shares = _shares(run, kind, pairs)
        panels += panel(f"Coverage by group: {name}", figures.coverage_by_group(shares, ONE_SIGMA), caption)
        own = [row for row in rows if row["quantity"] == kind]
        html += titled(f"{name} ({unit})" if unit else name, _table(own))
    lead = str(run.comparison.get("recommendation", ""))
    return Section("comparison", "Uncertainties compared", lead, tuple(panels), html)


def _table(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            row["estimator"],
            *(_score(row, metric) for metric in METRICS),
            number(row.get("fit_seconds")),
            number(1e6 * row["atom_seconds"]),
        ]
        for row in rows
    ]
    note = '<p class="lead">In brackets: 95 % intervals from draws of test structures.</p>'
    return table(["Estimator", *METRICS.values(), "Fit (s)", "Prediction (µs per atom)"], cells) + note


def _score(row: dict[str, Any], metric: str) -> str:
    value, low, high = (row.get(f"{metric}{end}") for end in ("", "_low", "_high"))
    return number(value) if low is None else f"{number(value)} [{number(low)}, {number(high)}]"


def _pairs(run: Run, kind: str) -> Pairs:
    """Residuals and σ by estimator."""
    estimators = dict.fromkeys(row["estimator"] for row in run.comparison["rows"])
    pairs = {}
    for estimator in estimators:
        residuals, sigma = (run.compared.get(f"{estimator}:{kind}:{what}") for what in ("residuals", "sigma"))
        if residuals is not None and sigma is not None:
            pairs[estimator] = residuals, sigma
    return pairs


def _shares(run: Run, kind: str, pairs: Pairs) -> dict[str, dict[str, float]]:
    """Share of errors within one σ, by estimator and group; of the largest groups."""
    shares: dict[str, dict[str, float]] = {}
    for estimator, (residuals, sigma) in pairs.items():
        groups = run.compared.get(f"{estimator}:{kind}:group")
        if groups is None:
            return {}
        names, counts = np.unique(groups, return_counts=True)
        largest = np.sort(names[np.argsort(-counts, kind="stable")[:_GROUPS]])
        shares[estimator] = {
            escape(str(name)) or "none": coverage(residuals[groups == name], sigma[groups == name], ONE_SIGMA)
            for name in largest
        }
    return shares
