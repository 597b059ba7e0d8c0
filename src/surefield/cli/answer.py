"""What a verb says on the terminal: lines on the way, and in the end the numbers and what comes next."""

from __future__ import annotations

import io
import logging
import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from surefield.cli.config import RunConfig
from surefield.execution.progress import duration
from surefield.report import Run
from surefield.report.headline import verdict
from surefield.report.properties import property_rows
from surefield.report.scores import cautions, error_rows
from surefield.report.stability import stability_cautions, stability_rows

__all__ = ["answer", "say", "warnings_said"]

_log = logging.getLogger(__name__)
#: Columns where the output is no terminal.
_WIDTH = 120
#: Picks that are named.
_PICKS = 10


def say(text: str) -> None:
    """Print a line; it is in run.log, too."""
    print(text, flush=True)
    for line in text.splitlines():
        _log.info("%s", line)


@contextmanager
def warnings_said() -> Iterator[None]:
    """Warnings are lines of the terminal and of run.log, without the code that Python shows with them."""
    with warnings.catch_warnings():
        warnings.showwarning = _say_warning
        yield


def _say_warning(message: Warning | str, category: type[Warning], *where: object) -> None:
    say(f"warning: {message}")


def answer(
    run: Run, config: RunConfig, path: Path, overrides: Sequence[str], seconds: float, compiling: float
) -> None:
    """Outcome, table of errors, what to beware of, time, files, next command."""
    say(f"\n{verdict(run)}")
    columns, rows = error_rows(run)
    if rows:
        say(_table(columns, rows))
    for pick in run.picks[:_PICKS] if run.verb == "select" else ():
        say(f"  {pick.order + 1}. structure {pick.index} ({pick.formula}): {pick.reason}")
    columns, rows = property_rows(run)
    if rows:
        say(_table(columns[:-1], [row[:-1] for row in rows]))
    for note in dict.fromkeys(f"{row[0]} of {row[1]}: {row[-1]}" for row in rows if row[-1]):
        say(f"note: {note}")
    columns, rows = stability_rows(run)
    if rows:
        say(_table(columns, rows))
    for caution in [*cautions(run), *stability_cautions(run)]:
        say(f"note: {caution}")
    share = f", of these {duration(compiling)} compiling" if compiling >= 1 else ""
    say(f"time: {duration(seconds)}{share}")
    kept = ("potential.npz", "llpr.npz", "uncertainty.npz", "predictions.xyz", "picks.xyz", "doctor.json")
    kept += ("score_results.xyz", "score_results.json", "properties.csv")
    files = [name for name in kept if (run.folder / name).exists()]
    say(f"files: {_short(run.folder)}: {', '.join([*files, 'run.log'])}")
    if following := _next(run, config, path, overrides):
        say(f"next: {following}")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = Table(box=None, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=_WIDTH).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _short(path: Path) -> str:
    """Relative to the current folder where the path is inside it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _next(run: Run, config: RunConfig, path: Path, overrides: Sequence[str]) -> str:
    data, command = config.data, shlex.join([str(path), *overrides])
    if run.verb == "doctor" and data.train:
        return f"surefield train {command}"
    if run.verb in ("train", "eval") and data.test and data.validation != 0:
        return f"surefield uq {command}"
    if run.verb in ("train", "eval", "uq") and data.pool:
        return f"surefield select {command}"
    if run.verb == "score" and data.train and run.scored.get("values") is not None:
        scored = f"data.pool={_short(run.folder / 'score_results.xyz')}"
        return f"surefield select {command} {scored} selection.score={run.score['key']}"
    if run.verb == "select":
        return "label picks.xyz, add it to data.train, and train again under another name"
    if run.verb in ("train", "loop") and (run.folder / "potential.npz").exists():
        return f"atoms.calc = surefield.load('{_short(run.folder / 'potential.npz')}').calculator()"
    return ""
