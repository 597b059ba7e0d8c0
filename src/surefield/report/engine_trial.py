"""The section on the potential of a loop beside the engine, and beside one from labels of plain dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Final

import numpy as np

from surefield.errors import DataError
from surefield.files import read_json
from surefield.report.panels import Section
from surefield.report.run import Run
from surefield.report.scales import BLUE, GREY, VERMILION
from surefield.report.scores import mapping, value_of
from surefield.report.svg import WIDTH, Line, chart
from surefield.report.tables import number, table

__all__ = ["engine_trial_section"]

_NAMES: Final = {"loop": "labels of the loop", "plain": "labels of plain dynamics", "engine": "engine"}
_COLORS: Final = {"engine": GREY, "loop": BLUE, "plain": VERMILION}
_MILLI: Final = 1e3


def engine_trial_section(run: Run) -> Section | None:
    """Errors, dynamics and distances; None where there was no trial."""
    try:
        trial = mapping(read_json(run.folder / "engine_trial.json"))
    except DataError:
        return None
    potentials = mapping(trial.get("potentials"))
    if not potentials:
        return None
    columns = [
        "Fitted to",
        "Force MAE (meV/Å)",
        "Force RMSE (meV/Å)",
        "Worst structure (RMSE, meV/Å)",
        "Energy MAE (meV/atom)",
        "Dynamics",
        "Force MAE on its own way (meV/Å)",
        "Distances shared with the engine's (%)",
    ]
    rows = [_row(name, mapping(entry), trial) for name, entry in potentials.items()]
    note = (
        f"Each potential has {trial.get('n_labels')} labels. Errors are on {trial.get('n_test')} structures "
        f"of dynamics that {escape(str(trial.get('engine')))} ran itself; on its own way a potential is "
        "judged by what the engine says of structures that its own dynamics went through."
    )
    html = table(columns, rows) + f'<p class="lead">{note}</p>' + _distances(trial)
    return Section("trial", "Beside the engine", str(trial.get("verdict", "")), (), html)


def _row(name: str, entry: Mapping[str, Any], trial: Mapping[str, Any]) -> list[Any]:
    errors = [
        _thousandths(value_of(entry.get("test"), "forces_mae")),
        _thousandths(value_of(entry.get("test"), "forces_rmse")),
        _thousandths(value_of(entry, "worst_rmse")),
        _thousandths(value_of(entry.get("test"), "energy_mae")),
    ]
    ran = f"{number(trial.get('picoseconds'))} ps at {number(trial.get('temperature_K'))} K"
    if entry.get("fault"):
        ran = f"broke after {number(value_of(entry, 'picoseconds'))} ps: {entry['fault']}"
    own = _thousandths(value_of(entry.get("on_its_way"), "forces_mae"))
    shared = value_of(entry, "overlap")
    return [_NAMES.get(name, name), *errors, ran, own, "–" if shared is None else round(100 * shared, 1)]


def _thousandths(value: float | None) -> Any:
    return "–" if value is None else _MILLI * value


def _distances(trial: Mapping[str, Any]) -> str:
    """Histograms of interatomic distances: a reaction or a fold shows as a peak of its own."""
    told = mapping(trial.get("distances"))
    width = value_of(told, "bin")
    if width is None:
        return ""
    lines = []
    for name, color in _COLORS.items():
        counts = np.asarray(told.get(name) or [], dtype=float)
        if counts.sum() > 0:
            middle = (np.arange(len(counts)) + 0.5) * width
            shares = 100 * counts / counts.sum()
            lines.append(Line(middle.tolist(), shares.tolist(), _NAMES[name], color, "none"))
    if not lines:
        return ""
    drawn = chart(lines, "Interatomic distance (Å)", "Share of distances (%)", width=2 * WIDTH)
    caption = "All interatomic distances on the way: where the lines agree, so does what the dynamics do."
    words = f"<h3>Distances</h3>{drawn}<figcaption>{caption}</figcaption>"
    return f'<div class="panels"><figure class="panel">{words}</figure></div>'
