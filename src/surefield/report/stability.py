"""The stability check of a run: which short dynamics ran and which broke, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from surefield.report.panels import Section
from surefield.report.run import Run
from surefield.report.scores import mapping, value_of
from surefield.report.tables import number, table

__all__ = ["stability_cautions", "stability_rows", "stability_section"]


def stability_rows(run: Run) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table, a row per run; no rows where nothing was checked."""
    rows = []
    for trial in _trials(run):
        steps, planned = (value_of(trial, key) or 0 for key in ("steps", "planned"))
        rows.append(
            [
                f"{trial.get('structure')} ({trial.get('kind')})",
                *(number(value_of(trial, key)) for key in ("n_atoms", "temperature", "first_force")),
                f"{steps:.0f} of {planned:.0f}",
                str(trial.get("outcome", "")),
            ]
        )
    return ["Runs", "atoms", "K", "first force eV/Å", "steps", "outcome"], rows


def stability_section(run: Run) -> Section | None:
    """The table with its sentences; None where nothing was checked."""
    columns, rows = stability_rows(run)
    if not rows:
        return None
    lead = (
        "Whether the potential runs: short molecular dynamics of training structures, and of random alloys "
        "of its metals on perfect lattices. The first force is the largest on an atom before the first step; "
        "on the perfect lattice of a random alloy it is about 1 eV/Å in nature."
    )
    sentences = "".join(f'<p class="lead">{escape(text)}</p>' for text in stability_cautions(run))
    return Section("stability", "Stability", lead, (), table(columns, rows) + sentences)


def stability_cautions(run: Run) -> Iterator[str]:
    """A sentence where runs broke."""
    trials = list(_trials(run))
    broken = [trial for trial in trials if trial.get("fault")]
    if not broken:
        return
    first = min(broken, key=lambda trial: value_of(trial, "steps") or 0)
    where = "random alloys" if all(trial.get("kind") == "alloy" for trial in broken) else "them"
    kelvin, steps = (number(value_of(first, key)) for key in ("temperature", "steps"))
    yield (
        f"{len(broken)} of {len(trials)} short runs of molecular dynamics broke, {first.get('structure')} at "
        f"{kelvin} K after {steps} steps: do not run the potential there; label structures like {where} and "
        "train again."
    )


def _trials(run: Run) -> list[Mapping[str, Any]]:
    trials = mapping(run.summary.get("stability")).get("trials")
    return [mapping(trial) for trial in trials] if isinstance(trials, list) else []
