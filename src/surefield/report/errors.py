"""The section on errors: all sets, parity, residuals, elements, groups, the worst structures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from ase.data import chemical_symbols

from surefield.report import figures
from surefield.report.panels import Section, kinds, panel, structures, values
from surefield.report.run import Run
from surefield.report.scores import error_rows, noun, unit_of
from surefield.report.tables import number, table, titled

__all__ = ["errors_section"]

#: Structures that are listed as the worst.
WORST: Final = 10


def errors_section(run: Run) -> Section | None:
    """Errors of all sets, and figures and tables of the predictions that are recorded."""
    panels = []
    for kind, (name, unit) in kinds(run).items():
        pair = values(run, kind)
        if pair is None:
            continue
        reference, predicted = pair
        title = f"{name.capitalize()}s" if kind == "forces" else name.capitalize()
        words = _error_words(predicted - reference, unit)
        caption = f"Points on the dashed line are predicted exactly; {words}."
        panels += panel(title, figures.parity(reference, predicted, name, unit), caption)
        caption = (
            "Prediction minus label, on the scale of the errors: a slope or a step here is an error that the "
            "potential always makes."
        )
        figure = figures.residuals(reference, predicted - reference, name, unit)
        panels += panel(f"Residuals: {name}", figure, caption)
    columns, rows = error_rows(run)
    overall = table(columns, rows) if rows and run.verb != "loop" else ""
    if not panels and not overall:
        return None
    lead = (
        "In parentheses: 95 % intervals, with structures as independent. 'No model' is the spread of the "
        "labels: energies about constants of the elements, stresses about their mean, forces about zero."
        if overall and "no model" in columns
        else ""
    )
    html = _by_element(run) + _by_group(run) + _worst(run)
    return Section("errors", "Errors", lead, tuple(panels), html, overall)


def _by_element(run: Run) -> str:
    pair, species = values(run, "forces"), run.predictions.get("species")
    if pair is None or species is None or 3 * len(species) != len(pair[0]):
        return ""
    residuals = (pair[1] - pair[0]).reshape(-1, 3)
    rows = []
    for z in np.unique(species):
        n, *errors = _errors(residuals[species == z])
        if n:
            rows.append([_symbol(int(z)), int(np.sum(species == z)), *errors])
    columns = ["Element", "Atoms", "Force MAE (meV/Å)", "Force RMSE (meV/Å)", "Largest error (meV/Å)"]
    return titled("Errors by element", table(columns, rows))


def _by_structure(run: Run) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Residuals of each quantity, and the structures they belong to."""
    found = {}
    for kind in kinds(run):
        pair = values(run, kind)
        rows = None if pair is None else structures(run, kind, len(pair[0]))
        if pair is not None and rows is not None:
            found[kind] = (pair[1] - pair[0], rows)
    return found


def _by_group(run: Run) -> str:
    groups, residuals = run.predictions.get("group"), _by_structure(run)
    if groups is None or not residuals:
        return ""
    rows = []
    for group in np.unique(groups):
        members = groups == group
        row: list[Any] = [str(group) or "(none)", int(members.sum())]
        for values_, owners in residuals.values():
            row += _errors(values_[members[owners]])[1:3]
        rows.append(row)
    columns = ["Group (config_type)", "Structures"]
    for kind in residuals:
        columns += [f"{noun(kind).capitalize()} {what} ({unit_of(kind)})" for what in ("MAE", "RMSE")]
    return titled("Errors by group", table(columns, rows))


def _worst(run: Run) -> str:
    residuals = _by_structure(run)
    origins, groups = run.predictions.get("origin"), run.predictions.get("group")
    ranked = next((kind for kind in ("forces", "energy") if kind in residuals), None)
    n_atoms = run.predictions.get("n_atoms", np.zeros(0))
    if ranked is None or origins is None or len(n_atoms) < 2:
        return ""
    rmse = {kind: _rmse_of_structures(*pair, len(n_atoms)) for kind, pair in residuals.items()}
    order = np.argsort(-np.nan_to_num(rmse[ranked], nan=-1.0), kind="stable")[:WORST]
    columns = ["Structure", *(["Group"] if groups is not None else []), "Atoms"]
    columns += [f"{noun(kind).capitalize()} RMSE ({unit_of(kind)})" for kind in rmse]
    rows: list[Sequence[Any]] = []
    for i in order:
        group = [str(groups[i])] if groups is not None else []
        errors = [float(values_[i]) if np.isfinite(values_[i]) else "–" for values_ in rmse.values()]
        rows.append([str(origins[i]), *group, int(n_atoms[i]), *errors])
    return titled(f"Worst structures, by the error of the {ranked}", table(columns, rows))


def _rmse_of_structures(residuals: np.ndarray, owners: np.ndarray, n: int) -> np.ndarray:
    """Of each structure, in thousandths; NaN without labels."""
    known = np.isfinite(residuals)
    counts = np.bincount(owners[known], minlength=n)
    squares = np.bincount(owners[known], weights=residuals[known] ** 2, minlength=n)
    return 1e3 * np.sqrt(np.where(counts > 0, squares, np.nan) / np.maximum(counts, 1))


def _errors(residuals: np.ndarray) -> tuple[int, float, float, float]:
    """Number of known residuals; their MAE, RMSE and largest, in thousandths; zeros where there are none."""
    known = 1e3 * np.abs(residuals[np.isfinite(residuals)])
    if not len(known):
        return 0, 0.0, 0.0, 0.0
    return len(known), float(known.mean()), float(np.sqrt(np.mean(known**2))), float(known.max())


def _error_words(residuals: np.ndarray, unit: str) -> str:
    n, mae, rmse, largest = _errors(residuals)
    if not n:
        return "no labels"
    return (
        f"{n} values, MAE {number(mae)} m{unit}, RMSE {number(rmse)} m{unit}, "
        f"largest error {number(largest)} m{unit}"
    )


def _symbol(z: int) -> str:
    return chemical_symbols[z] if 0 < z < len(chemical_symbols) else str(z)
