"""The section on properties, and the rows of their table, which page and terminal share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from surefield.report.panels import Section
from surefield.report.run import Run
from surefield.report.scores import mapping
from surefield.report.tables import table

__all__ = ["properties_section", "property_rows"]

_COLUMNS: Final = ("property", "crystal", "value of", "value", "±", "unit", "note")


def property_rows(run: Run) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table, numbers to the digits that their sigma leaves."""
    entries = run.properties.get("rows")
    if not isinstance(entries, list) or not entries:
        return [], []
    return list(_COLUMNS), [_row(mapping(entry)) for entry in entries]


def _row(entry: Mapping[str, object]) -> list[str]:
    value, sigma = entry.get("value"), entry.get("sigma")
    note = str(entry.get("message", ""))
    words = [str(entry.get(key, "")) for key in ("property", "crystal", "name")]
    words[0] = words[0].replace("_", " ")
    if not isinstance(value, float | int):
        return [*words, "–", "–", "", f"not computed: {note}"]
    unit = str(entry.get("unit", "")).replace("^3", "³").replace("^2", "²").replace("/A", "/Å")
    if not isinstance(sigma, float | int) or not sigma > 0:
        return [*words, f"{value:.6g}", "–", unit, note]
    digits = max(0, 1 - int(np.floor(np.log10(sigma))))
    return [*words, f"{value:.{digits}f}", f"{sigma:.{digits}f}", unit, note]


def properties_section(run: Run) -> Section | None:
    """What `surefield properties` computed; None where it was not run."""
    columns, rows = property_rows(run)
    if not rows:
        return None
    lead = (
        "Properties of relaxed crystals with one standard deviation: what the training data leave open "
        "within the model, carried through the relaxation. Errors of the labels are not part of it."
    )
    return Section("properties", "Properties", lead, (), table(columns, rows))
