"""The section on a replay: error curves of selection methods on labelled data, and the verdict on each."""

from __future__ import annotations

from html import escape
from typing import Any, Final

import numpy as np

from surefield.report import figures
from surefield.report.panels import KINDS, Panel, Section, panel
from surefield.report.run import Run
from surefield.report.tables import number, table, titled
from surefield.selection.label_share import ERROR_NAMES

__all__ = ["replay_section"]

#: Errors that are drawn.
_DRAWN: Final = ("mae", "rmse", "q95", "worst")
#: What stands at their axes; the whole name is the title.
_SHORT: Final = {"mae": "MAE", "rmse": "RMSE", "q95": "95 % quantile", "worst": "RMSE, worst structure"}


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
        for error in (name for name in _DRAWN if name in errors[kind]):
            curves = {method: np.array(rows) for method, rows in errors[kind][error].items()}
            caption = "Lower and further left is better; all methods of a seed have the same test structures."
            title = f"{ERROR_NAMES[error]} of the {name}"
            figure = figures.replay_curve(labels, curves, _SHORT[error] + (f" ({unit})" if unit else ""))
            panels += panel(title, figure, caption)
        own = [entry for entry in run.replay["verdicts"] if entry["quantity"] == kind]
        html += titled(f"{name} ({unit})" if unit else name, _table(own))
        html += _by_group(kind, f"{name}, by group" + (f" ({unit})" if unit else ""), run)
    said, above = run.replay.get("headlines") or {}, str(run.summary.get("verdict", ""))
    others = [str(sentence) for sentence in said.values() if str(sentence) not in above]
    html = "".join(f"<p>{escape(sentence)}</p>" for sentence in others) + html
    lead = (
        "What selection would have saved on structures that are labelled already. A method is better than "
        "random selection where the 95 % interval of the difference, from draws of the seeds, lies below 0."
    )
    notes = "".join(f'<p class="lead">{escape(str(note))}</p>' for note in run.replay.get("notes") or ())
    return Section("replay", "Replay", lead, tuple(panels), html + notes)


def _by_group(kind: str, title: str, run: Run) -> str:
    """Errors of each group after the last round, averaged over the seeds that test it."""
    rows = []
    errors: list[str] = []
    for group, by_error in ((run.replay.get("group_errors") or {}).get(kind) or {}).items():
        errors = list(by_error)
        for method in run.replay["methods"]:
            seeds = [np.array(by_error[error][method], dtype=float) for error in errors]
            means = [float(np.nanmean(values)) if np.isfinite(values).any() else None for values in seeds]
            rows.append([group, method, *(number(mean) for mean in means)])
    columns = ["Group", "Method", *(ERROR_NAMES.get(error, error) for error in errors)]
    return titled(title, table(columns, rows)) if rows else ""


def _table(verdicts: list[dict[str, Any]]) -> str:
    columns = ["Method", "Error", "After the last round", "Beside random (%)", "95 % interval (%)", "Labels"]
    columns += ["Labels of random for the same", "Verdict"]
    rows = []
    for entry in verdicts:
        change = 100 * np.expm1([entry["difference"], *entry["interval"]])
        needed = entry["labels_of_random"]
        rows.append(
            [
                entry["method"],
                ERROR_NAMES.get(entry["error"], entry["error"]),
                number(entry["final"]),
                f"{change[0]:+.1f}",
                f"{change[1]:+.1f} to {change[2]:+.1f}",
                f"{entry['labels']:.0f}",
                "more than it had" if needed is None else f"{needed:.0f}",
                entry["words"],
            ]
        )
    return table(columns, rows)
