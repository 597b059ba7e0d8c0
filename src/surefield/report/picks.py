"""The section on picks: what was chosen, why, what a gain is, and where picks lie among all structures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any, Final

import numpy as np

from surefield.report import figures
from surefield.report.panels import Section, panel
from surefield.report.reasons import GAINS
from surefield.report.run import Pick, Run
from surefield.report.tables import table

__all__ = ["gain_words", "picks_section"]

#: More rows than this per table are cut, with a line that says so.
MAX_ROWS: Final = 500


def picks_section(run: Run) -> Section | None:
    """Picks of a selection or of the rounds of a loop."""
    if not run.picks:
        return None
    words = gain_words(run)
    caption = (
        f"The gain is the {words}. " if words else ""
    ) + "A high gain means that much is to be learnt; once the lines stay low, the pool has little new."
    if len({pick.seed for pick in run.picks}) > 1:
        caption += " Every seed has its own marker."
    panels = panel("Gain of the picks", figures.gains(run.picks), caption)
    caption = (
        "Every point is a structure, by the two principal components of its features; picks should lie where "
        "the pool is and the training set is not. Numbers are the order of the picks."
    )
    compared = any(name.startswith("picks_") for name in run.map)
    if run.curves and not compared:
        caption += " Of the last batch, by features of the potential that picked it."
    if compared:
        caption += (
            " Of the first seed, by features of the final potential; each method has its colour, and the "
            "training set is what all began with."
        )
    panels += panel("Training set, pool and picks", figures.feature_map(run.map), caption)
    order = sorted(run.picks, key=lambda pick: (pick.method == "random", pick.method, pick.seed or 0))
    html = []
    for (method, seed), group in groupby(order, key=lambda pick: (pick.method, pick.seed)):
        picks, of = list(group), "" if seed is None else f", seed {seed}"
        title, opened = f"{method or 'selection'}{of}: {len(picks)} picks", "" if html else " open"
        html.append(f"<details{opened}><summary>{escape(title)}</summary>{_pick_table(picks)}</details>")
    lead = "The structures that were chosen for labelling, in order, and why."
    notes = "".join(f'<p class="lead">{escape(str(note))}</p>' for note in run.selection.get("notes") or ())
    return Section("picks", "Picks", lead, tuple(panels), notes + "".join(html))


def gain_words(run: Run) -> str:
    """What the gains of the picks are, if all methods but `random` have the same."""
    words = {GAINS.get(pick.method, "") for pick in run.picks if pick.method != "random"}
    weighted = any("weighted by" in pick.reason for pick in run.picks)
    text = words.pop() if len(words) == 1 else ""
    return f"{text}, times the relative expected squared error" if text and weighted else text


def _pick_table(picks: Sequence[Pick]) -> str:
    in_loop = any(pick.seed is not None for pick in picks)
    formulas, gains = any(pick.formula for pick in picks), any(np.isfinite(pick.gain) for pick in picks)
    columns = ["Round" if in_loop else "Pick", "Structure"]
    columns += ["Formula"] * formulas + ["Gain"] * gains + ["Reason"]
    rows = []
    for pick in picks[:MAX_ROWS]:
        row: list[Any] = [str(pick.round if in_loop else pick.order + 1), str(pick.index)]
        row += [pick.formula] * formulas + [pick.gain if np.isfinite(pick.gain) else "–"] * gains
        rows.append([*row, pick.reason])
    cut = f'<p class="lead">The first {MAX_ROWS} of {len(picks)} are shown.</p>'
    return table(columns, rows) + (cut if len(picks) > MAX_ROWS else "")
