"""Structures that cannot be computed, and atoms that are too close to each other."""

from __future__ import annotations

import numpy as np

from surefield.errors import DataError
from surefield.structures.doctor.finding import Finding
from surefield.structures.geometry import check_numbers, closest_pair
from surefield.structures.read import Frames

__all__ = ["check_computable", "check_contacts"]


def check_computable(frames: Frames) -> tuple[np.ndarray, list[Finding]]:
    """Indices of the structures that can be looked at further, and a report of all others."""
    causes: dict[int, str] = {}
    for i, atoms in enumerate(frames):
        try:
            check_numbers(atoms, frames.origin(i))
        except DataError as error:
            causes[i] = str(error)
    sound = np.array([i for i in range(len(frames)) if i not in causes], dtype=int)
    if not causes:
        return sound, []
    message = f"{len(causes)} structures cannot be computed: {next(iter(causes.values()))}"
    message += f"; and {len(causes) - 1} more" if len(causes) > 1 else ""
    remedy = "remove them; they are left out of all other checks"
    return sound, [
        Finding("impossible structures", "error", message, tuple(causes), float(len(causes)), remedy)
    ]


def check_contacts(frames: Frames, min_distance: float) -> list[Finding]:
    """Report structures with two atoms nearer than `min_distance` (Å), periodic images included."""
    closest: dict[int, tuple[int, int, float]] = {}
    for i, atoms in enumerate(frames):
        pair = closest_pair(atoms, min_distance)
        if pair is not None:
            closest[i] = pair
    if not closest:
        return []
    worst = min(closest, key=lambda i: closest[i][2])
    a, b, distance = closest[worst]
    symbols = frames[worst].get_chemical_symbols()
    message = (
        f"{len(closest)} structures have atoms nearer than {min_distance:g} Å; shortest {distance:.3f} Å, "
        f"atoms {a} ({symbols[a]}) and {b} ({symbols[b]}) of {frames.origin(worst)}"
    )
    remedy = (
        "leave them out of training, or check the unit of the positions and whether cell and pbc are right"
    )
    return [Finding("short contacts", "error", message, tuple(closest), distance, remedy)]
