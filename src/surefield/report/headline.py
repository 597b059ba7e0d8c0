"""The first lines of a report: one sentence and the key numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surefield.report.run import Run
from surefield.report.scores import ONE_SIGMA, SETS, mapping, noun, trust, value_of
from surefield.report.tables import number, percent
from surefield.selection.label_share import ERROR_NAMES

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
    sentences = {"loop": _loop, "select": _select, "doctor": _doctor, "uq": _uq}
    return sentences.get(run.verb, _errors)(run)


def cards(run: Run) -> list[Card]:
    """The key numbers that are recorded, at most eight."""
    cards = _loop_cards(run) + _error_cards(run) + _calibration_cards(run)
    if run.verb == "select":
        cards.append(Card("Structures picked", str(len(run.picks)), aside=_picked_by(run.selection)))
    return cards[:8]


def _picked_by(selection: Mapping[str, Any]) -> str:
    of = f"of {selection['n_pool']}, " if "n_pool" in selection else ""
    kinds = [str(mapping(entry).get("kind")) for entry in selection.get("transforms") or ()]
    on = " on " + ", ".join([str(selection["features"]), *kinds]) if "features" in selection else ""
    return f"{of}by {selection.get('method', '')}{on}"


def _uq(run: Run) -> str:
    """Whether sigma can be trusted, the forces first."""
    calibration = mapping(run.summary.get("calibration"))
    order = [name for name in ("forces", "energy") if name in calibration]
    order += [name for name in calibration if name not in order]
    sentences = [text for name in order if (text := trust(name, mapping(calibration[name])))]
    return " ".join(sentences) or _errors(run)


def _loop(run: Run) -> str:
    if not run.curves:
        return "The loop has not finished its first round."
    shares = _fractions(run)
    if any(share is not None for share in shares.values()):
        told = ", ".join(
            f"{method} {'never reached it' if share is None else f'{100 * share:.0f} %'}"
            for method, share in shares.items()
        )
        return f"Labels needed for the final force error of random selection, of its labels: {told}."
    state = "finished" if all(curve.finished for curve in run.curves) else "is under way"
    most = max(int(curve.n_labels.max()) for curve in run.curves)
    return f"The loop {state} with up to {most} labels. {_errors(run)}".strip()


def _fractions(run: Run) -> dict[str, float | None]:
    """Share of random selection's labels that each method needed for its force error; None: never."""
    methods = sorted({curve.method for curve in run.curves} - {"random"})
    per_method = mapping(run.summary.get("per_method"))
    if not per_method and len(methods) == 1:  # loops of version 0.1 had one
        per_method = {methods[0]: run.summary.get("labels_to_match_random")}
    return {name: value_of(per_method[name], "fraction") for name in methods if name in per_method}


def _select(run: Run) -> str:
    method = run.selection.get("method", "the selector")
    return f"{len(run.picks)} structures were picked for labelling by {method}."


def _doctor(run: Run) -> str:
    findings = run.doctor.get("findings") or []
    severities = [str(mapping(finding).get("severity", "warning")) for finding in findings]
    counts = {name: severities.count(name) for name in ("error", "warning", "note")}
    counted = [f"{n} {name}{'s' if n != 1 else ''}" for name, n in counts.items() if n]
    if not counted:
        return "The data doctor found nothing wrong with the data."
    advice = "do not train on this data as it is." if counts["error"] else "see below what each means."
    return f"The data doctor has {' and '.join(counted)}: {advice}"


def _errors(run: Run) -> str:
    evaluated = _evaluated(run)
    errors = mapping(run.summary.get(evaluated))
    parts = []
    for kind, unit in (("forces", "meV/Å"), ("energy", "meV/atom")):
        value = value_of(errors, f"{kind}_mae")
        if value is not None:
            parts.append(f"the {noun(kind)} error is {number(1e3 * value)} {unit}")
    if not parts:
        return "The run has no final numbers yet."
    sets = {
        "test": "the test set",
        "validation": "the validation structures",
        "train": "the training structures",
    }
    return f"On {sets[evaluated]} " + " and ".join(parts) + " (mean absolute error)."


def _evaluated(run: Run) -> str:
    """The set whose errors count: the test set, and where there is none what comes nearest to it."""
    recorded = str(run.summary.get("evaluated", ""))
    usual = next((name for name in reversed(SETS) if mapping(run.summary.get(name))), "test")
    return recorded if recorded in SETS else usual


def _loop_cards(run: Run) -> list[Card]:
    matches = mapping(run.summary.get("per_method")) or {
        "": mapping(run.summary.get("labels_to_match_random"))
    }
    cards = []
    for method, match in matches.items():
        by_error = mapping(mapping(match).get("by_error")) or {"mae": match}
        for error in dict.fromkeys((str(mapping(match).get("most", "mae")), "mae")):
            shares = mapping(by_error.get(error))
            fraction = value_of(shares, "fraction")
            if fraction is not None:
                label = f"Labels for random's force {ERROR_NAMES[error]}"
                label += f": {method}" if len(matches) > 1 else ""
                cards.append(Card(label, f"{100 * fraction:.0f}", "%", _spread(shares)))
    if run.curves:
        most = max(int(curve.n_labels.max()) for curve in run.curves)
        pool = run.start.get("n_pool")
        cards.append(Card("Labels used", str(most), aside=f"of a pool of {pool}" if pool else ""))
    return cards


def _spread(shares: Mapping[str, Any]) -> str:
    """How sure a share of labels is: its interval, or else the seeds alone."""
    interval = shares.get("interval")
    if interval:
        low, high = ("never" if end is None else f"{100 * end:.0f}" for end in interval)
        return f"95 % interval: {low} to {high}" + ("" if high == "never" else " %")
    seeds = shares.get("per_seed") or []
    reached = [100 * value for value in seeds if isinstance(value, int | float)]
    missed = f", {len(seeds) - len(reached)} never" if len(reached) < len(seeds) else ""
    return f"seeds: {min(reached):.0f} to {max(reached):.0f} %{missed}" if len(reached) > 1 else ""


def _error_cards(run: Run) -> list[Card]:
    evaluated = _evaluated(run)
    cards = []
    for key, label, unit in (
        ("forces_mae", "Force MAE", "meV/Å"),
        ("forces_rmse", "Force RMSE", "meV/Å"),
        ("energy_mae", "Energy MAE", "meV/atom"),
        ("energy_rmse", "Energy RMSE", "meV/atom"),
    ):
        value = value_of(run.summary.get(evaluated), key)
        if value is not None:
            cards.append(Card(label, number(1e3 * value), unit, f"{evaluated} set"))
    return cards


def _calibration_cards(run: Run) -> list[Card]:
    cards = []
    for kind, scores in mapping(run.summary.get("calibration")).items():
        covered = value_of(scores, "coverage_68")
        if covered is not None:
            share, unit = percent(covered).split()
            label = f"{noun(kind).capitalize()} errors within 1 σ"
            cards.append(Card(label, share, unit, f"ideal: {percent(ONE_SIGMA)}"))
    return cards
