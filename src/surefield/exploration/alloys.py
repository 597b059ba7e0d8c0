"""Random alloys on perfect lattices: the structures that data of pure elements leave to a potential."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols
from scipy.optimize import nnls

from surefield.structures.neighbors import neighborhood

__all__ = ["atomic_volumes", "lattice_of", "lowest_cells", "random_alloy", "random_alloys"]

#: Elements that form no alloys.
_NO_METALS = frozenset([1, 2, *range(5, 11), *range(14, 19), *range(32, 37), *range(51, 55), 85, 86])
#: Atoms of the cubic cell, and how often it is repeated: 54 or 48 atoms.
_CELLS = {"bcc": (2, (3, 3, 3)), "fcc": (4, (2, 2, 3))}
#: Neighbours nearer than this many times the shortest distance tell lattices apart.
_SHELL = 1.2


def random_alloys(
    frames: Sequence[Atoms], energies: Sequence[float | None], n: int, *, seed: int
) -> list[Atoms]:
    """Perfect lattices with the metals of some structures in random places, all in equal parts.

    First all metals together, then pairs of them. The lattice is that of most pure cells (bcc or fcc; bcc
    where there are none), the volume the sum of the volumes of the atoms, see `atomic_volumes`.

    Args:
        frames: structures that a potential was trained on.
        energies: of each, eV; the cells of lowest energy are taken for lattices and volumes.
        n: alloys, at most.
        seed: of the places.

    Returns:
        Structures of about 50 atoms, their formulas under `name` in `info`; none where there are fewer than
        two metals, or no periodic cells of them.
    """
    lowest = lowest_cells(frames, energies)
    volumes = atomic_volumes(lowest)
    metals = sorted(z for z in volumes if z not in _NO_METALS)
    if len(metals) < 2:
        return []
    chosen = [tuple(metals)] if len(metals) > 2 else []
    pairs = list(combinations(metals, 2))
    # Spread over the list, so that every metal comes.
    count = min(max(n - len(chosen), 0), len(pairs))
    chosen += [pairs[i] for i in np.linspace(0, len(pairs) - 1, count).round().astype(int)]
    pure = [lattice_of(atoms) for atoms in lowest if len(set(atoms.numbers.tolist())) == 1]
    lattice = "fcc" if pure.count("fcc") > pure.count("bcc") else "bcc"
    alloys = []
    for number, elements in enumerate(chosen[:n]):
        alloys.append(random_alloy(elements, lattice, volumes, seed=(seed, number)))
    return alloys


def random_alloy(
    elements: Sequence[int],
    lattice: Literal["bcc", "fcc"],
    volumes: Mapping[int, float],
    *,
    seed: int | Sequence[int],
) -> Atoms:
    """A perfect lattice of 54 (bcc) or 48 (fcc) atoms with elements in random places, in equal parts.

    Args:
        elements: atomic numbers.
        lattice: 'bcc' or 'fcc'.
        volumes: of an atom of each element, Å^3.
        seed: of the places.
    """
    per_cell, repeats = _CELLS[lattice]
    edge = (per_cell * float(np.mean([volumes[z] for z in elements]))) ** (1 / 3)
    atoms = bulk("Fe", lattice, a=edge, cubic=True).repeat(repeats)
    places = np.random.default_rng(seed).permutation(len(atoms))
    atoms.numbers = np.array(elements)[places % len(elements)]
    atoms.info["name"] = "".join(chemical_symbols[z] for z in elements)
    return atoms


def atomic_volumes(frames: Sequence[Atoms]) -> dict[int, float]:
    """Volume of an atom of each element, Å^3, whose sums come near the volumes of some periodic cells.

    Those of zero volume, and elements that no cell has, are left out.
    """
    cells = [atoms for atoms in frames if atoms.pbc.all()]
    elements = sorted({z for atoms in cells for z in atoms.numbers.tolist()})
    if not elements:
        return {}
    counts = np.array([[np.mean(atoms.numbers == z) for z in elements] for atoms in cells])
    volumes, _ = nnls(counts, np.array([atoms.get_volume() / len(atoms) for atoms in cells]))
    return {z: float(v) for z, v in zip(elements, volumes, strict=True) if v > 0}


def lattice_of(atoms: Atoms) -> Literal["bcc", "fcc", ""]:
    """'bcc' or 'fcc' by the number of near neighbours in a cell; empty for any other structure."""
    if not atoms.pbc.all():
        return ""
    reach = (4.0 * atoms.get_volume() / len(atoms)) ** (1 / 3)  # the edge of fcc, beyond every nearest one
    shortest = neighborhood(atoms, reach).shortest
    if not np.isfinite(shortest):
        return ""
    counts = neighborhood(atoms, _SHELL * shortest).counts
    if (counts == 14).all():
        return "bcc"
    return "fcc" if (counts == 12).all() else ""


def lowest_cells(frames: Sequence[Atoms], energies: Sequence[float | None]) -> list[Atoms]:
    """The periodic structure of lowest energy per atom of each reduced formula."""
    lowest: dict[str, tuple[float, int]] = {}
    for i, (atoms, energy) in enumerate(zip(frames, energies, strict=True)):
        if energy is not None and atoms.pbc.all():
            formula = atoms.symbols.formula.reduce()[0].format("hill")
            lowest[formula] = min(lowest.get(formula, (np.inf, i)), (energy / len(atoms), i))
    return [frames[i] for _, i in lowest.values()]
