"""The first lines of a report: one sentence and the key numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surefield.report.run import Run
from surefield.report.tables import number

__all__ = ["Card", "cards", "verdict"]


@dataclass(frozen=True)
class Card:
    """A key number: what it is, the number, its unit and a few words below it."""

    label: str
    value: str
    unit: str = ""
    aside: str = ""


def verdict(run: Run) -> str:
    """One sentence on the outcome: the recorded one, or one put together from the recorded numbers."""
    if run.error:
        return f"This run failed: {run.error}"
    if run.summary.get("verdict"):
        return str(run.summary["verdict"])
    sentences = {"loop": _loop, "select": _select, "doctor": _doctor}
    return sentences.get(run.verb, _errors)(run)


def cards(run: Run) -> list[Card]:
    """The key numbers that are recorded, at most eight."""
    cards = _loop_cards(run) + _error_cards(run) + _calibration_cards(run)
    if run.verb == "select":
        cards.append(
            Card("Structures picked", str(len(run.picks)), aside=f"by {run.selection.get('method', '')}")
        )
    return cards[:8]


def _loop(run: Run) -> str:
    if not run.curves:
        return "The loop has not finished its first round."
    methods = sorted({curve.method for curve in run.curves} - {"random"})
    fraction = _value(run.summary.get("labels_to_match_random"), "fraction")
    if fraction is not None and methods:
        return (
            f"{' and '.join(methods)} needed {100 * fraction:.0f} % of the labels "
            "that random selection needed for the same force error."
        )
    state = "finished" if all(curve.finished for curve in run.curves) else "is under way"
    most = max(int(curve.n_labels.max()) for curve in run.curves)
    return f"The loop {state} with up to {most} labels. {_errors(run)}".strip()


def _select(run: Run) -> str:
    method = run.selection.get("method", "the selector")
    return f"{len(run.picks)} structures were picked for labelling by {method}."


def _doctor(run: Run) -> str:
    findings = run.doctor.get("findings") or []
    severities = [str(_mapping(finding).get("severity", "warning")) for finding in findings]
    counts = {name: severities.count(name) for name in ("error", "warning", "note")}
    counted = [f"{n} {name}{'s' if n != 1 else ''}" for name, n in counts.items() if n]
    if not counted:
        return "The data doctor found nothing wrong with the data."
    advice = "do not train on this data as it is." if counts["error"] else "see below what each means."
    return f"The data doctor has {' and '.join(counted)}: {advice}"


def _errors(run: Run) -> str:
    test = _mapping(run.summary.get("test"))
    parts = []
    for kind, unit in (("forces", "meV/Å"), ("energy", "meV/atom")):
        value = _value(test, f"{kind}_mae")
        if value is not None:
            parts.append(f"the {'force' if kind == 'forces' else kind} error is {number(1e3 * value)} {unit}")
    if not parts:
        return "The run has no final numbers yet."
    return "On the test set " + " and ".join(parts) + " (mean absolute error)."


def _loop_cards(run: Run) -> list[Card]:
    match = _mapping(run.summary.get("labels_to_match_random"))
    fraction = _value(match, "fraction")
    cards = []
    if fraction is not None:
        seeds = match.get("per_seed") or []
        per_seed = [100 * value for value in seeds if isinstance(value, int | float)]
        missed = f", {len(seeds) - len(per_seed)} never" if len(per_seed) < len(seeds) else ""
        spread = f"seeds: {min(per_seed):.0f} to {max(per_seed):.0f} %{missed}" if len(per_seed) > 1 else ""
        cards.append(Card("Labels needed, random = 100", f"{100 * fraction:.0f}", "%", spread))
    if run.curves:
        most = max(int(curve.n_labels.max()) for curve in run.curves)
        pool = run.start.get("n_pool")
        cards.append(Card("Labels used", str(most), aside=f"of a pool of {pool}" if pool else ""))
    return cards


def _error_cards(run: Run) -> list[Card]:
    test = _mapping(run.summary.get("test"))
    cards = []
    for key, label, unit in (
        ("forces_mae", "Force MAE", "meV/Å"),
        ("forces_rmse", "Force RMSE", "meV/Å"),
        ("energy_mae", "Energy MAE", "meV/atom"),
        ("energy_rmse", "Energy RMSE", "meV/atom"),
    ):
        value = _value(test, key)
        if value is not None:
            cards.append(Card(label, number(1e3 * value), unit, "test set"))
    return cards


def _calibration_cards(run: Run) -> list[Card]:
    cards = []
    for kind, scores in _mapping(run.summary.get("calibration")).items():
        covered = _value(scores, "coverage_68")
        if covered is not None:
            name = "force" if kind == "forces" else kind
            cards.append(
                Card(f"{name.capitalize()} errors within 1 σ", f"{100 * covered:.0f}", "%", "ideal: 68 %")
            )
    return cards


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _value(mapping: Any, key: str) -> float | None:
    value = _mapping(mapping).get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)
