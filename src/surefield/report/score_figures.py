"""The section on a score: how its values are spread, or how much each parameter is informed."""

from __future__ import annotations

from typing import Final

import numpy as np

from surefield.report import figures
from surefield.report.panels import Panel, Section, panel
from surefield.report.run import Run
from surefield.report.scores import mapping
from surefield.report.tables import number, table

__all__ = ["score_section"]

#: Name and unit of each score, and what a large value means.
_WORDS: Final = {
    "ltau_forces_uq_score": (
        "expected force error",
        "eV/Å",
        "Atoms on the right are like training atoms whose forces were badly learnt.",
    ),
    "quests_delta_entropy_score": (
        "novelty of the environment, ΔH",
        "nats",
        "Positive: unlike all of the reference; negative: well covered by it.",
    ),
    "quests_efficiency_score": ("efficiency", "", "1: no environment is redundant; 0: all are the same."),
    "quests_diversity_score": (
        "diversity",
        "nats",
        "The exponential of it is the number of distinct environments.",
    ),
    "fim_training_set_score": (
        "information of a structure, trace of its Fisher matrix",
        "",
        "Structures on the right say most about the parameters.",
    ),
    "fim_matching_weight_score": (
        "weight of a structure",
        "",
        "Weight 0: not needed; else 1/√weight is the precision with which it has to be known.",
    ),
    "fim_property_score": ("information that the property needs", "", ""),
}
#: Rows of the table of largest values.
_LARGEST: Final = 10


def score_section(run: Run) -> Section | None:
    """What `surefield score` computed; None where it was not run."""
    if not run.score:
        return None
    key = str(run.score.get("key", "score"))
    name, unit, caption = _WORDS.get(key, (key, "", ""))
    panels: list[Panel] = []
    html = ""
    values = run.scored.get("values")
    if values is not None:
        title = f"{name[0].upper()}{name[1:]}"
        panels += panel(title, figures.distribution(values, name, unit), caption)
        html += _largest(values, run.scored.get("structure"), f"{name} ({unit})" if unit else name)
    matrix = run.scored.get("matrix")
    if matrix is not None:
        labels = _parameters(run, len(matrix))
        text = (
            "Correlation of what the data say about two parameters, I_jk / √(I_jj I_kk): where it is near "
            "1 or -1 the data know only a combination of the two."
        )
        panels += panel("Fisher information", figures.correlation(matrix, labels), text)
        spectrum = np.maximum(np.linalg.eigvalsh(matrix), 0.0)[::-1]
        text = "How much is known along each direction of the parameters; directions near zero are free."
        panels += panel("Eigenvalues", figures.spectrum(spectrum), text)
    value = run.scored.get("value")
    if value is not None:
        figure = figures.bars({name: float(value)}, f"{name} ({unit})" if unit else name)
        panels += panel(f"{name[0].upper()}{name[1:]}", figure, caption)
    lead = f"{run.score.get('score', 'Score')}: {run.score.get('words', '')}."
    return Section("score", "Score", lead, tuple(panels), html)


def _parameters(run: Run, n: int) -> list[str]:
    """Names of the rows of a matrix, where they are recorded."""
    entries = mapping(run.score.get("parameters"))
    names = []
    for i in range(n):
        entry = mapping(entries.get(str(i)))
        extent = f"[{entry['extent']}]" if entry.get("extent") else ""
        names.append(f"{entry.get('parameter', i)}{extent}")
    return names


def _largest(values: np.ndarray, structure: np.ndarray | None, name: str) -> str:
    if structure is None:
        return ""
    known = np.where(np.isfinite(values), values, -np.inf)
    order = np.argsort(-known, kind="stable")[:_LARGEST]
    first = np.searchsorted(structure, structure)
    rows = [[int(structure[i]), int(i - first[i]), number(values[i])] for i in order]
    several = len(structure) > len(np.unique(structure))
    columns = ["Structure", "Atom", name] if several else ["Structure", name]
    return table(columns, rows if several else [[row[0], row[2]] for row in rows])
