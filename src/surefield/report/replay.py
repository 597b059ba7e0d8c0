"""The section on a replay: error curves of selection methods on labelled data, and the verdict on each."""

from __future__ import annotations

from html import escape
from typing import Any, Final

import numpy as np

from surefield.report import figures
from surefield.report.panels import KINDS, Panel, Section, panel
from surefield.report.run import Run
from surefield.report.tables import number, table, titled

__all__ = ["replay_section"]

_ERRORS: Final = {
    "mae": "MAE",
    "rmse": "RMSE",
    "q95": "95 % quantile",
    "q99": "99 % quantile",
    "max": "largest error",
}
#: Errors that are drawn.
_DRAWN: Final = ("rmse", "max")


def replay_section(run: Run) -> Section | None:
    """What `select --replay` found; None where it was not run."""
    errors = run.replay.get("errors")
    if not errors:
        return None
    panels: list[Panel] = []
    html = ""
    labels = {method: np.array(rows) for method, rows in run.replay["labels"].items()}
    for kind in errors:
        name, unit = KINDS.get(kind, (kind, ""))
        for error in _DRAWN:
            curves = {method: np.array(rows) for method, rows in errors[kind][error].items()}
            caption = "Lower and further left is better; all methods of a seed have the same test structures."
            title = f"{_ERRORS[error]} of the {name}"
            figure = figures.replay_curve(labels, curves, f"{title} ({unit})" if unit else title)
            panels += panel(title, figure, caption)
        own = [entry for entry in run.replay["verdicts"] if entry["quantity"] == kind]
        html += titled(f"{name} ({unit})" if unit else name, _table(own))
    lead = (
        "What selection would have saved on structures that are labelled already. A method is better than "
        "random selection where the 95 % interval of the difference, from draws of the seeds, lies below 0."
    )
    notes = "".join(f'<p class="lead">{escape(str(note))}</p>' for note in run.replay.get("notes") or ())
    return Section("replay", "Replay", lead, tuple(panels), html + notes)


def _table(verdicts: list[dict[str, Any]]) -> str:
    columns = ["Method", "Error", "After the last round", "To random (%)", "95 % interval (%)", "Labels"]
    columns += ["Labels of random for the same", "Verdict"]
    rows = []
    for entry in verdicts:
        change = 100 * np.expm1([entry["difference"], *entry["interval"]])
        needed = entry["labels_of_random"]
        rows.append(
            [
                entry["method"],
                _ERRORS.get(entry["error"], entry["error"]),
                number(entry["final"]),
                f"{change[0]:+.1f}",
                f"{change[1]:+.1f} to {change[2]:+.1f}",
                f"{entry['labels']:.0f}",
                "more than it had" if needed is None else f"{needed:.0f}",
                entry["words"],
            ]
        )
    return table(columns, rows)
