"""When a structure on its way has broken: atoms too close, too hot, or parts of a molecule that fly off."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.symbols import Symbols
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from surefield.exploration.config import BreakageConfig
from surefield.exploration.sampling import hottest_allowed
from surefield.structures.geometry import vectors_within

__all__ = ["fault_of", "fragment_numbers", "nearest_contact"]


def fault_of(
    atoms: Atoms, config: BreakageConfig, *, temperature: float | None = None, n_fragments: int | None = None
) -> str:
    """How a structure has broken, in words; empty where it has not.

    Args:
        atoms: on their way.
        config: what counts as broken.
        temperature: of the thermostat, K; None: temperatures are not looked at.
        n_fragments: parts of the start; None: not looked at, as in periodic structures.
    """
    if not np.isfinite(atoms.positions).all():
        return "positions are not finite"
    if temperature is not None:
        kelvin = atoms.get_temperature()
        if not kelvin <= hottest_allowed(temperature, len(atoms)):  # true of NaN, too
            return f"kinetic temperature of {kelvin:.4g} K"
    contact = nearest_contact(atoms, config.contact)
    if contact:
        return contact
    if n_fragments is None or config.fragment_gap is None or atoms.pbc.any():
        return ""
    return _flown(atoms, config.fragment_gap, n_fragments)


def nearest_contact(atoms: Atoms, share: float) -> str:
    """The two atoms nearest to each other, in units of their covalent radii, if nearer than a share of them.

    Radii of Cordero et al., Dalton Trans. 2008, 2832, as in ASE; periodic images count.
    """
    radii = covalent_radii[atoms.numbers]
    reach = 2.0 * share * float(radii.max(initial=0.0))
    if reach <= 0:
        return ""
    first, second, _, distance = vectors_within(atoms, reach, full=False)
    ratio = distance / (radii[first] + radii[second])
    if not len(ratio) or ratio.min() >= share:
        return ""
    k = int(ratio.argmin())
    a, b = int(first[k]), int(second[k])
    return f"atoms {a} ({atoms.symbols[a]}) and {b} ({atoms.symbols[b]}) are {distance[k]:.2f} Å apart"


def fragment_numbers(atoms: Atoms, gap: float) -> np.ndarray:
    """Number of the part that each atom belongs to: (n_atoms,); parts are farther apart than `gap` (Å)."""
    first, second, _, _ = vectors_within(atoms, gap, full=False)
    n = len(atoms)
    pairs = coo_matrix((np.ones(len(first)), (first, second)), shape=(n, n))
    return connected_components(pairs, directed=False)[1]


def _flown(atoms: Atoms, gap: float, n_fragments: int) -> str:
    numbers = fragment_numbers(atoms, gap)
    if numbers.max() + 1 <= n_fragments:
        return ""
    smallest = int(np.bincount(numbers).argmin())
    formula = Symbols(atoms.numbers[numbers == smallest]).get_chemical_formula()
    return f"{formula} flew off, more than {gap:g} Å from the rest"
