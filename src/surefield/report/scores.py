"""What the recorded numbers of a run say, in words and rows; page and terminal show the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from surefield.quantities import names, quantity
from surefield.report.run import Run
from surefield.report.tables import number, percent

__all__ = [
    "ONE_SIGMA",
    "SETS",
    "cautions",
    "coverage_sentence",
    "error_rows",
    "mapping",
    "noun",
    "trust",
    "unit_of",
    "value_of",
]

#: Sets of structures whose errors a run may record.
SETS: Final = ("train", "validation", "test")
#: Share of a normal distribution within one standard deviation; how far off is still called right.
ONE_SIGMA, TOLERANCE = math.erf(math.sqrt(0.5)), 0.05
#: Fewer structures than this say nothing about a coverage; fewer labels fix no scale.
FEW_STRUCTURES: Final = 10
FEW_LABELS: Final = 20
#: Validation errors this many times those of training are overfitted.
FIVEFOLD: Final = 5.0


def noun(name: str) -> str:
    """A quantity as the first part of a compound: force errors."""
    return "force" if name == "forces" else name.replace("_", " ")


def unit_of(name: str) -> str:
    """Unit of the errors of a quantity, in thousandths."""
    entry = quantity(name) if name in names() else None
    unit = (entry.unit if entry else "").replace("^3", "³")
    return f"m{unit}/atom" if entry and entry.per_atom else f"m{unit}"


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping, empty if it is none."""
    return value if isinstance(value, Mapping) else {}


def value_of(source: Any, key: str) -> float | None:
    """A finite number, None if there is none."""
    value = mapping(source).get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def error_rows(run: Run) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the errors of all sets, with 95 % intervals, and of no model at all."""
    summary = run.summary
    sets = [name for name in SETS if mapping(summary.get(name))]
    baselines = mapping(summary.get("baselines"))
    keys = [key for name in names() for what in ("mae", "rmse") if (key := f"{name}_{what}")]
    keys = [key for key in keys if any(value_of(summary[name], key) is not None for name in sets)]
    rows = []
    for key in keys:
        name, _, what = key.rpartition("_")
        cells = [
            _with_interval(
                value_of(summary[s], key), mapping(mapping(summary.get("intervals")).get(s)).get(key)
            )
            for s in sets
        ]
        alone = value_of(baselines, key)
        rows.append(
            [
                f"{noun(name).capitalize()} {what.upper()} ({unit_of(name)})",
                *cells,
                *([number(1e3 * alone) if alone is not None else ""] if baselines else []),
            ]
        )
    if rows and any(value_of(summary[s], "n_structures") for s in sets):
        counts = [value_of(summary[s], "n_structures") for s in sets]
        rows.insert(
            0,
            ["Structures", *("" if n is None else f"{n:.0f}" for n in counts), *([""] if baselines else [])],
        )
    return ["", *sets, *(["no model"] if baselines else [])], rows


def _with_interval(value: float | None, interval: Any) -> str:
    if value is None:
        return "–"
    text = number(1e3 * value)
    if isinstance(interval, Sequence) and len(interval) == 2 and None not in interval:
        text += f" ({number(1e3 * interval[0])} to {number(1e3 * interval[1])})"
    return text


def coverage_sentence(name: str, scores: Mapping[str, Any]) -> str:
    """Coverage of one quantity beside what is ideal; empty if it was not recorded."""
    inside, wide = value_of(scores, "coverage_68"), value_of(scores, "coverage_95")
    if inside is None:
        return ""
    tail = "" if wide is None else f", {percent(wide)} within 1.96 σ (ideal 95 %)"
    return f"{percent(inside)} of the {noun(name)} errors are within one σ (ideal {percent(ONE_SIGMA)}){tail}"


def trust(name: str, scores: Mapping[str, Any]) -> str:
    """Whether the sigma of a quantity can be trusted, in one sentence."""
    inside, wide = value_of(scores, "coverage_68"), value_of(scores, "coverage_95")
    if inside is None:
        return ""
    low, high = scores.get("coverage_68_interval") or (inside, inside)
    n = value_of(scores, "n_structures")
    of = f"σ of the {name.replace('_', ' ')}"
    facts = coverage_sentence(name, scores)
    if n is not None and n < FEW_STRUCTURES:
        return f"{of} cannot be judged by {n:.0f} structures: {facts}."
    if high < ONE_SIGMA - TOLERANCE:
        return f"{of} is too small (overconfident): {facts}."
    if low > ONE_SIGMA + TOLERANCE:
        return f"{of} is too large (cautious): {facts}."
    if wide is not None and wide < 0.95 - TOLERANCE:
        return f"{of} misses large errors: {facts}."
    ours, constant = value_of(scores, "nll"), value_of(scores, "nll_constant")
    if ours is not None and constant is not None and ours >= constant:
        return f"{of} has the right size, but tells structures apart no better than one constant σ: {facts}."
    return f"{of} can be trusted: {facts}."


def cautions(run: Run) -> list[str]:
    """Sentences on what a reader should not overlook."""
    return [*_of_the_sets(run), *_of_the_training(run), *_of_the_calibration(run)]


def _of_the_sets(run: Run) -> Iterator[str]:
    summary = run.summary
    shown = {
        "validation": "validation structures, which chose the weights and calibrated σ",
        "train": "training structures, to which the potential was fitted",
    }.get(str(summary.get("evaluated")))
    if shown:
        yield (f"There is no test set (data.test): the figures show the {shown}, so new ones will do worse.")
    for name, valid in _rmse(summary, "validation"):
        train = value_of(summary.get("train"), f"{name}_rmse")
        if train and valid > FIVEFOLD * train:
            ratio = "more than 1000" if valid > 1000 * train else f"{valid / train:.0f}"
            yield (
                f"The {noun(name)} error of validation is {ratio} times that of training: the "
                "potential is overfitted; more structures, or a smaller potential, will help."
            )
    evaluated = str(summary.get("evaluated", "test"))
    for name, error in _rmse(summary, evaluated):
        alone = value_of(summary.get("baselines"), f"{name}_rmse")
        if alone and error > 0.9 * alone:
            yield (
                f"The {noun(name)} error is no smaller than without a model ({number(1e3 * alone)} "
                f"{unit_of(name)}): nothing was learned about it."
            )


def _rmse(summary: Mapping[str, Any], of: str) -> Iterator[tuple[str, float]]:
    for name in names():
        value = value_of(summary.get(of), f"{name}_rmse")
        if value is not None:
            yield name, value


def _of_the_training(run: Run) -> Iterator[str]:
    for name in ("forces", "energy"):
        column = run.metrics.get(f"valid_{name}_rmse", np.zeros(0))
        known = column[np.isfinite(column)]
        if len(known) >= 5 and known.min() > 0.98 * known[0]:
            first, last = (number(1e3 * float(known[k])) for k in (0, -1))
            gained = (
                "beyond the exact solution the training gained nothing; training.epochs: 0 gives the same "
                "sooner."
                if run.summary.get("exact_start", True)
                else "the training has learned nothing of it yet; give it more training.epochs."
            )
            yield (
                f"The {noun(name)} error of validation never fell in {len(known)} epochs "
                f"({first} to {last} {unit_of(name)}): {gained}"
            )
            return


def _of_the_calibration(run: Run) -> Iterator[str]:
    for name, scores in mapping(run.summary.get("calibration")).items():
        rows = value_of(scores, "calibration_rows")
        if rows == 0:
            yield f"No label calibrates σ of the {name.replace('_', ' ')}: its size is a guess."
        elif rows and rows < FEW_LABELS:
            labels = "label calibrates" if rows == 1 else "labels calibrate"
            yield (
                f"Only {rows:.0f} {labels} σ of the {name.replace('_', ' ')}: its scale is known to "
                f"about {100 / math.sqrt(2 * rows):.0f} %; more validation structures make it certain."
            )
