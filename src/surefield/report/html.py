"""One self-contained page per run folder: no network, no other files, to be read in a browser or printed."""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from surefield.files import write_atomic
from surefield.report.headline import Card, cards, verdict
from surefield.report.loop_sections import loop_cards
from surefield.report.loop_state import LoopState, loop_of
from surefield.report.run import Run, load_run
from surefield.report.scores import cautions
from surefield.report.structures_page import write_structures_page
from surefield.report.viewer import viewer_script

if TYPE_CHECKING:
    from surefield.report.sections import Panel, Section

__all__ = ["card_html", "page", "section_html", "write_report"]


def write_report(folder: str | Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    Nothing is recomputed but what a figure shows of the recorded predictions. An older report is
    replaced in one step.

    Raises:
        DataError: the folder is no run.
        ImportError: plotly is not installed (extra `report`).
    """
    run = load_run(folder)
    path = run.folder / "report.html"
    state = loop_of(run)
    if state is not None:
        write_structures_page(state)
    write_atomic(path, _page(run, state))
    return path


def _page(run: Run, state: LoopState | None) -> str:
    # plotly is an extra: runs can be read without it, pages cannot be written
    from surefield.report.figures import plotly_source
    from surefield.report.sections import sections

    shown = sections(run, state)
    panels = [panel for section in shown for panel in section.panels]
    names = {id(panel): f"figure-{k}" for k, panel in enumerate(panels, start=1)}
    drawn = [{"id": names[id(panel)], **json.loads(str(panel.figure.to_json()))} for panel in panels]
    version = run.versions.get("surefield", "")
    return page(
        f"{run.name} · surefield {run.verb}",
        _header(run, state, shown),
        "\n".join(section_html(section, names) for section in shown),
        f"Written by surefield {version}".strip() + f" from the run folder {run.name}.",
        plotly_source() if panels else "",
        # a "</script>" within a label would end the element early
        json.dumps(drawn, ensure_ascii=False).replace("</", "<\\/"),
        "" if state is None else viewer_script(),
    )


def page(
    title: str,
    header: str,
    sections: str,
    footer: str,
    plotly: str = "",
    figures: str = "[]",
    scripts: str = "",
) -> str:
    """A whole page; title and footer are text, figures JSON, scripts JavaScript, the other parts HTML."""
    template = resources.files("surefield.report").joinpath("template.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(title),
        header=header,
        sections=sections,
        footer=escape(footer),
        plotly=plotly,
        figures=figures,
        scripts=scripts,
    )


def _header(run: Run, state: LoopState | None, shown: list[Section]) -> str:
    failed = " failed" if run.error else ""
    parts = [
        f'<p class="kicker"><b>surefield {escape(run.verb)}</b></p>',
        f"<h1>{escape(run.name)}</h1>",
        f'<p class="verdict{failed}">{escape(verdict(run))}</p>',
    ]
    notes = [*run.notes, *cautions(run)]
    if notes:
        parts.append('<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>")
    numbers = cards(run) if state is None else loop_cards(state)
    if numbers:
        parts.append('<dl class="cards">' + "".join(map(card_html, numbers)) + "</dl>")
    links = " ".join(f'<a href="#{section.key}">{escape(section.title)}</a>' for section in shown)
    return "\n".join([*parts, f'<nav aria-label="Sections">{links}</nav>'])


def card_html(card: Card) -> str:
    """A key number as HTML."""
    unit = f" <small>{escape(card.unit)}</small>" if card.unit else ""
    aside = f'<div class="aside">{escape(card.aside)}</div>' if card.aside else ""
    return f'<div class="card"><dt>{escape(card.label)}</dt><dd>{escape(card.value)}{unit}{aside}</dd></div>'


def section_html(section: Section, names: dict[int, str]) -> str:
    """A section as HTML; its figures have these names, by the identity of their panels."""
    lead = f'<p class="lead">{escape(section.lead)}</p>' if section.lead else ""
    figures = "".join(_figure(panel, names[id(panel)]) for panel in section.panels)
    panels = f'<div class="panels">{figures}</div>' if figures else ""
    return (
        f'<section id="{section.key}"><h2>{escape(section.title)}</h2>'
        f"{lead}{section.head}{panels}{section.html}</section>"
    )


def _figure(panel: Panel, name: str) -> str:
    title, caption = escape(panel.title), escape(panel.caption)
    plot = f'<div id="{name}" class="plot" role="img" aria-label="{title}"></div>'
    return f'<figure class="panel"><h3>{title}</h3>{plot}<figcaption>{caption}</figcaption></figure>'
