"""One page for all runs of a name: what each verb came to, with links to their reports."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path

from surefield.errors import DataError
from surefield.files import write_atomic
from surefield.report.headline import verdict
from surefield.report.html import page
from surefield.report.run import load_run
from surefield.report.scores import error_rows
from surefield.report.tables import table

__all__ = ["write_index"]


def write_index(root: str | Path, name: str) -> Path:
    """Write `root/name.html`, which lists the run folders `root/name-VERB`; return its path."""
    root = Path(root).resolve()
    parts = []
    for folder in sorted(root.glob(f"{name}-*"), key=lambda path: path.stat().st_mtime):
        try:
            run = load_run(folder)
        except DataError:  # another folder whose name begins in the same way
            continue
        if folder.name != f"{name}-{run.verb}":
            continue
        report, log = folder / "report.html", folder / "run.log"
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime(folder.stat().st_mtime))
        links = [
            f'<a href="{escape(folder.name)}/{file.name}">{words}</a>'
            for file, words in ((report, "report"), (log, "log"))
            if file.exists()
        ]
        columns, rows = error_rows(run)
        parts.append(
            f'<section id="{escape(run.verb)}"><h2>{escape(run.verb)}</h2>'
            f'<p class="lead">{escape(verdict(run))}</p>'
            f'<p class="lead">{" · ".join([*links, escape(folder.name), written])}</p>'
            f"{table(columns, rows) if rows else ''}</section>"
        )
    header = f'<p class="kicker"><b>surefield</b></p><h1>{escape(name)}</h1>'
    path = root / f"{name}.html"
    write_atomic(path, page(name, header, "\n".join(parts), f"All runs named {name}."))
    return path
