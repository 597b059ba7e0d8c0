"""Structures that turn in a page: their atoms as data, drawn by a small script on a canvas."""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from typing import Final

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors

from surefield.structures.geometry import vectors_within

__all__ = ["structure_card", "viewer_script"]

#: Larger structures are not drawn.
_MOST_ATOMS: Final = 400
#: Bonds are up to so many times the sum of the covalent radii.
_BOND: Final = 1.2


def viewer_script() -> str:
    """The script that draws all structures of a page, to be put into it once."""
    return resources.files("surefield.report").joinpath("viewer.js").read_text(encoding="utf-8")


def structure_card(
    atoms: Atoms | None, title: str, told: str = "", reason: str = "", state: str = "", color: str = ""
) -> str:
    """A structure with what is known of it.

    Args:
        atoms: to draw; None, or of too many atoms: nothing is drawn.
        title: above.
        told: numbers, in one line.
        reason: why it is shown, in small.
        state: what became of it, with its `color`.
        color: of the state.
    """
    picture = '<div class="structure none">not drawn</div>'
    if atoms is not None and len(atoms) <= _MOST_ATOMS:
        data = escape(json.dumps(_drawn(atoms), separators=(",", ":")), quote=True)
        picture = (
            f'<canvas class="structure" role="img" aria-label="{escape(title)}" data-atoms="{data}"></canvas>'
        )
    mark = f'<span class="state" style="--state:{color}">{escape(state)}</span>' if state else ""
    lines = "".join(
        f'<p class="{kind}">{escape(text)}</p>' for kind, text in (("told", told), ("why", reason)) if text
    )
    return f'<div class="structure-card"><h4>{escape(title)}{mark}</h4>{picture}{lines}</div>'


def _drawn(atoms: Atoms) -> dict[str, list]:
    """Positions about the middle, radii in Å, colours, bonds by places, edges of a periodic cell."""
    cell = atoms.cell.array if atoms.pbc.any() else np.zeros((3, 3))
    middle = 0.5 * cell.sum(axis=0) if atoms.pbc.all() else atoms.positions.mean(axis=0)
    positions = atoms.positions - middle
    radii = covalent_radii[atoms.numbers]
    first, second, vectors, lengths = vectors_within(
        atoms, 2 * _BOND * float(radii.max(initial=0.5)), full=False
    )
    near = lengths <= _BOND * (radii[first] + radii[second])
    # A bond to an image in a neighbouring cell would cross the whole picture.
    inside = np.linalg.norm(positions[second] - positions[first] - vectors, axis=1) < 1e-3
    bonds = np.stack([first, second], axis=1)[near & inside]
    edges: list[list[list[float]]] = []
    if atoms.pbc.all():
        corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        for a in range(8):
            for b in range(a + 1, 8):
                if np.abs(corners[a] - corners[b]).sum() == 1:
                    ends = (corners[[a, b]] @ cell - middle).round(3)
                    edges.append(ends.tolist())
    colors = (255 * jmol_colors[atoms.numbers]).round().astype(int)
    return {
        "p": positions.round(3).tolist(),
        "r": radii.round(2).tolist(),
        "c": colors.tolist(),
        "b": bonds.tolist(),
        "e": edges,
    }
