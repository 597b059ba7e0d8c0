"""Atoms that are too close to each other."""

from __future__ import annotations

import numpy as np

from surefield.structures.doctor.finding import Finding
from surefield.structures.geometry import closest_pair
from surefield.structures.read import Frames

__all__ = ["check_contacts"]


def check_contacts(frames: Frames, min_distance: float) -> list[Finding]:
    """Report structures with two atoms nearer than `min_distance` (Å), periodic images included."""
    closest: dict[int, tuple[int, int, float]] = {}
    for i, atoms in enumerate(frames):
        if not np.isfinite(atoms.positions).all():
            continue
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
