"""The page of a loop while it runs: a file that a browser shows and reads again, no server."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

from surefield.files import write_atomic
from surefield.report.html import card_html, page, section_html
from surefield.report.loop_sections import loop_cards, loop_sections
from surefield.report.loop_state import LoopState, load_loop, written_at
from surefield.report.structures_page import STRUCTURES, viewer_is_there, write_structures_page
from surefield.report.viewer import viewer_script

__all__ = ["write_loop_page"]

#: Seconds after which the browser reads the page again.
REFRESH: Final = 10
PAGE: Final = "report.html"


def write_loop_page(folder: str | Path) -> Path:
    """Write the page of a loop that is under way into its folder, `report.html`, and return its path.

    Reads journal, walkers and picks, and needs neither plotly nor a network; in a tenth of a second for a
    usual loop. A browser that shows the page reads it again every ten seconds while the loop runs. When the
    loop ends, `write_report` puts the whole report in its place.

    Raises:
        DataError: no such folder, or a damaged journal.
        ExecutionError: the page cannot be written.
    """
    state = load_loop(folder)
    path = state.folder / PAGE
    if _is_older(state.folder / STRUCTURES, state):
        write_structures_page(state)
    write_atomic(path, _page(state))
    return path


def _is_older(page: Path, state: LoopState) -> bool:
    """Whether structures were chosen since a page with all of them was written: that takes a moment."""
    if not viewer_is_there():
        return False
    chosen = [path.stat().st_mtime for path in state.folder.glob("rounds/*/picked.xyz")]
    return bool(chosen) and not (page.exists() and page.stat().st_mtime >= max(chosen))


def _page(state: LoopState) -> str:
    sections = loop_sections(state)
    running = not (state.ended or state.error)
    failed = " failed" if state.error else ""
    links = " ".join(f'<a href="#{section.key}">{escape(section.title)}</a>' for section in sections)
    log = '<a href="run.log">log</a>' if (state.folder / "run.log").exists() else ""
    lively = '<span class="live">running</span>' if running else ""
    now = written_at()
    header = "\n".join(
        [
            f'<p class="kicker"><b>surefield loop</b>{lively}</p>',
            f"<h1>{escape(state.folder.name)}</h1>",
            f'<p class="verdict{failed}">{escape(state.phase())}</p>',
            '<dl class="cards">' + "".join(map(card_html, loop_cards(state))) + "</dl>",
            f'<nav aria-label="Sections">{links} {log}</nav>',
        ]
    )
    body = "\n".join(section_html(section, {}) for section in sections)
    footer = f"Written {now}" + (f"; read again every {REFRESH} s while the loop runs." if running else ".")
    return page(
        f"{state.folder.name} · surefield loop",
        header,
        body,
        footer,
        scripts=viewer_script() + (_refresh() if running else ""),
    )


def _refresh() -> str:
    """Reads the page again, but not under the hands of a reader; it comes back where it was."""
    return f"""
(() => {{
  const place = "surefield-scroll:" + location.pathname;
  const was = sessionStorage.getItem(place);
  if (was !== null) window.scrollTo({{top: Number(was), behavior: "instant"}});
  let touched = 0;
  const touch = () => {{ touched = Date.now(); }};
  for (const kind of ["pointerdown", "pointermove", "keydown", "wheel"]) addEventListener(kind, touch);
  setInterval(() => {{
    if (document.hidden || Date.now() - touched < 4000) return;
    sessionStorage.setItem(place, String(window.scrollY));
    location.reload();
  }}, {1000 * REFRESH});
}})();
"""
