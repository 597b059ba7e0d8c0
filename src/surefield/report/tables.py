"""HTML tables and the way numbers are written in a report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["entries", "number", "percent", "records", "table", "titled"]


def number(value: Any, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent where it can be read; a dash for none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    if not math.isfinite(value):
        return "–"
    text = str(value) if isinstance(value, int) else f"{value:.{digits}g}"
    if "e+" in text and abs(value) < 1e7:
        text = f"{value:.0f}"
    return text.replace("-", "−")


def percent(share: float) -> str:
    """A share in per cent, everywhere with one decimal."""
    return f"{100 * share:.1f} %"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], digits: int = 3) -> str:
    """A table; cells that are numbers are set to the right, everything is escaped."""
    body = [list(row) for row in rows]
    right = [
        bool(body) and all(isinstance(row[k], int | float) or row[k] in ("", "–") for row in body)
        for k in range(len(columns))
    ]
    head = "".join(f"<th{_cls(right[k])}>{_title(str(name))}</th>" for k, name in enumerate(columns))
    lines = [
        "<tr>"
        + "".join(f"<td{_cls(right[k])}>{escape(_cell(cell, digits))}</td>" for k, cell in enumerate(row))
        + "</tr>"
        for row in body
    ]
    body_html = "".join(lines)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body_html}</tbody></table></div>'
    )


def titled(title: str, html: str) -> str:
    """A part of a section with its title."""
    return f"<h3>{escape(title)}</h3>{html}" if html else ""


def records(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of mappings; its columns are their keys in the order of appearance, without the empty ones."""
    columns = [
        key
        for key in dict.fromkeys(key for row in rows for key in row)
        if any(row.get(key) not in (None, "", [], {}) for row in rows)
    ]
    return table(
        [column.replace("_", " ") for column in columns],
        [[row.get(key, "") for key in columns] for row in rows],
        digits=5,
    )


def entries(values: Mapping[str, Any]) -> str:
    """A table of keys and values."""
    return table(["", ""], [[key.replace("_", " "), _cell(value)] for key, value in values.items()]).replace(
        "<thead><tr><th></th><th></th></tr></thead>", ""
    )


def _title(name: str) -> str:
    """A column title whose unit in parentheses is not broken over lines."""
    return re.sub(r"\([^)]*\)", r"<span>\g<0></span>", escape(name))


def _cls(right: bool) -> str:
    return ' class="number"' if right else ""


def _cell(value: Any, digits: int = 5) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value, digits)
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        shown = ", ".join(_cell(item, digits) for item in value[:20])
        return shown + (f", … ({len(value)} in all)" if len(value) > 20 else "")
    return json.dumps(value, ensure_ascii=False)
