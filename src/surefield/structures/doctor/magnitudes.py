"""Energies and forces of a size that no structure has in eV, and the unit in which they would be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from ase.data import covalent_radii

from surefield import units
from surefield.structures.doctor.finding import Finding
from surefield.structures.geometry import closest_pair
from surefield.structures.labels import Labels
from surefield.structures.read import Frames

__all__ = ["check_magnitudes"]

#: Energies of atoms with all electrons, H to Ar, hartree: Chakravorty et al., Phys. Rev. A 47, 3649 (1993).
_ATOMS: Final = (
    *(0.5, 2.9037, 7.4781, 14.6674, 24.6539, 37.845, 54.5892, 75.0673, 99.7339, 128.9376),
    *(162.2546, 200.053, 242.346, 289.359, 341.259, 398.11, 460.148, 527.54),
)
#: Share by which energies of molecules are lower.
_BINDING: Final = (0.985, 1.03)
#: Median rms force of structures without short contacts beyond which the unit is another, eV/Å.
_LARGEST_FORCE: Final = 10.0
_USUAL_FORCES: Final = (0.02, 4.0)
#: Shortest distance over the sum of the radii, beyond which atoms do not collide.
_APART: Final = 0.7
_MOST: Final = 200


def check_magnitudes(frames: Frames, labels: Sequence[Labels]) -> list[Finding]:
    """Report total energies of all electrons that are not in eV, and forces too large for eV/Å."""
    return [*_energies(frames, labels), *_forces(frames, labels)]


def _energies(frames: Frames, labels: Sequence[Labels]) -> list[Finding]:
    light = [
        i
        for i, label in enumerate(labels)
        if label.energy is not None and len(frames[i]) and 1 < frames[i].numbers.max() <= len(_ATOMS)
    ]
    if not light:
        return []
    table = np.array([0.0, *_ATOMS])
    ratios = np.array([-float(labels[i].energy or 0.0) / table[frames[i].numbers].sum() for i in light])
    low, high = np.quantile(ratios, [0.1, 0.9])
    for name, factor in units.ENERGY.items():
        expected = units.EV_PER_HARTREE / factor
        if name != "eV" and _BINDING[0] * expected < low <= high < _BINDING[1] * expected:
            times = f"{np.median(ratios):.4g} times the hartrees of their atoms with all electrons"
            message = (
                f"energies of {len(light)} structures look like {name}: they are {times}, in eV it would be "
                f"{units.EV_PER_HARTREE:.4g}"
            )
            remedy = f"declare units={{'energy': {name!r}}}; forces and stress go with it"
            return [Finding("energy unit", "error", message, tuple(light), float(np.median(ratios)), remedy)]
    return []


def _forces(frames: Frames, labels: Sequence[Labels]) -> list[Finding]:
    known = [i for i, label in enumerate(labels) if label.forces is not None and len(frames[i]) > 1]
    sizes = {i: float(np.sqrt(np.mean(np.square(np.asarray(labels[i].forces))))) for i in known}
    if not known or np.median(list(sizes.values())) < _LARGEST_FORCE:
        return []
    calm = [i for i in np.random.default_rng(0).permutation(known)[:_MOST].tolist() if _apart(frames, i)]
    if len(calm) < 3:
        return []
    median = float(np.median([sizes[i] for i in calm]))
    if median < _LARGEST_FORCE:
        return []
    lengths = {"Å": 1.0, "Bohr": units.ANGSTROM_PER_BOHR}
    candidates = {
        f"{n}/{u}": median * f / a for n, f in units.ENERGY.items() if n != "eV" for u, a in lengths.items()
    }
    low, high = _USUAL_FORCES
    usual = sorted(
        (n for n, size in candidates.items() if low < size < high), key=lambda n: abs(np.log(candidates[n]))
    )
    fitting = " or ".join(f"{n} ({candidates[n]:.2g} eV/Å)" for n in usual[:4]) or "nothing known"
    message = (
        f"forces have an rms of {median:.3g} eV/Å (median of structures without short contacts), more than "
        f"atoms at such distances exert; they would be usual as {fitting}"
    )
    remedy = "declare the unit, e.g. units={'energy': 'kcal/mol', 'length': 'Å'}, which converts energies too"
    return [Finding("impossible forces", "warning", message, tuple(sorted(calm)), median, remedy)]


def _apart(frames: Frames, i: int) -> bool:
    """Whether no two atoms of a structure are so near that they repel each other strongly."""
    atoms = frames[i]
    radii = covalent_radii[atoms.numbers]
    pair = closest_pair(atoms, 2 * float(radii.max()))
    return pair is None or pair[2] > _APART * (radii[pair[0]] + radii[pair[1]])
