"""What the sections of a page are made of, and how they read the recorded predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from surefield.quantities import names, quantity
from surefield.report.run import Run

if TYPE_CHECKING:  # pages without its figures do without plotly
    from surefield.report.figures import Figure

__all__ = ["Panel", "Section", "kinds", "panel", "structures", "values"]

#: Names and units of the kinds of prediction.
KINDS: Final = {
    "forces": ("force component", "eV/Å"),
    "energy": ("energy per atom", "eV/atom"),
    "stress": ("stress", "eV/Å³"),
}


@dataclass(frozen=True)
class Panel:
    """A figure with its title and caption."""

    title: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page; `head` and `html` hold its tables, escaped, before and after the figures."""

    key: str
    title: str
    lead: str = ""
    panels: tuple[Panel, ...] = ()
    html: str = ""
    head: str = ""


def panel(title: str, figure: Figure | None, caption: str) -> list[Panel]:
    """The panel of a figure, if there is one."""
    return [] if figure is None else [Panel(title, figure, caption)]


def kinds(run: Run) -> dict[str, tuple[str, str]]:
    """Names and units of the quantities that may be shown: the usual ones, and what else was predicted."""
    others = [name.removesuffix("_reference") for name in run.predictions if name.endswith("_reference")]
    return KINDS | {
        name: (name.replace("_", " "), quantity(name).unit if name in names() else "")
        for name in others
        if name not in KINDS
    }


def values(run: Run, kind: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Reference and prediction of a kind, flat; energies per atom."""
    reference, predicted = run.predictions.get(f"{kind}_reference"), run.predictions.get(kind)
    scale = per_atom(run, kind)
    if reference is None or predicted is None or scale is None:
        return None
    return (reference / scale).ravel(), (predicted / scale).ravel()


def per_atom(run: Run, kind: str) -> np.ndarray | float | None:
    """Divisor of a kind: the number of atoms where it is per atom (None if not recorded), else 1."""
    return run.predictions.get("n_atoms") if kind in names() and quantity(kind).per_atom else 1.0


def structures(run: Run, kind: str, n_values: int) -> np.ndarray | None:
    """Structure that each flat value of a kind belongs to; None if that was not recorded."""
    n_atoms = run.predictions.get("n_atoms")
    if n_atoms is None or kind not in names():
        return None
    rows = np.arange(len(n_atoms))
    rows = np.repeat(rows, n_atoms) if quantity(kind).per == "atom" else rows
    return np.repeat(rows, n_values // len(rows)) if len(rows) and n_values % len(rows) == 0 else None
