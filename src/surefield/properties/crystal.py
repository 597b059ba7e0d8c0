"""Crystals that properties are computed of: primitive and conventional cells, supercells, stacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell
from jaxtyping import Float, Int

from surefield.errors import ConfigError

__all__ = ["Crystal", "LayeredCell", "supercell"]

#: Array of structures: which atom of the crystal's cell each atom is.
SITE: Final = "site"
#: Lattices whose conventional cell is a cube, and those that are told by lengths a and c.
CUBIC: Final = (*("sc", "fcc", "bcc", "diamond", "zincblende", "rocksalt", "cesiumchloride", "fluorite"),)
HEXAGONAL: Final = ("hcp", "wurtzite")
_SEARCHED: Final = 4


@dataclass(frozen=True, eq=False)
class Crystal:
    """A crystal to begin with.

    Attributes:
        atoms: of its primitive cell.
        conventional: integer combinations of the cell's vectors that are the conventional cell.
        lengths: names of the lengths of the conventional cell that tell the lattice.
    """

    atoms: Atoms
    conventional: Int[np.ndarray, "3 3"]
    lengths: tuple[str, ...]

    @classmethod
    def named(
        cls, lattice_param: float | Sequence[float], lattice_type: str, elements: str | Sequence[str]
    ) -> Crystal:
        """Crystal of a common lattice.

        Args:
            lattice_param: a, or a and c, Å; about right, for it is relaxed.
            lattice_type: as `ase.build.bulk` knows it, such as 'fcc', 'bcc', 'diamond', 'hcp', 'rocksalt'.
            elements: one symbol or several.

        Raises:
            ConfigError: an unknown lattice, elements that do not fit it, lengths that are not positive.
        """
        if lattice_type not in (*CUBIC, *HEXAGONAL):
            known = ", ".join((*CUBIC, *HEXAGONAL))
            raise ConfigError(
                "unknown lattice_type", got=repr(lattice_type), expected=known, fix="or give structure"
            )
        lengths = np.atleast_1d(np.asarray(lattice_param, np.float64))
        most = 2 if lattice_type in HEXAGONAL else 1
        if not (1 <= len(lengths) <= most and np.isfinite(lengths).all() and (lengths > 0).all()):
            raise ConfigError(
                "lattice_param must be a length in Å" + (", or a and c" if most == 2 else ""),
                got=np.asarray(lattice_param).tolist(),
            )
        symbols = elements if isinstance(elements, str) else "".join(elements)
        options = dict(zip("ac", lengths.tolist(), strict=False))
        try:
            primitive = bulk(symbols, lattice_type, **options)
            cube = bulk(symbols, lattice_type, cubic=True, **options) if lattice_type in CUBIC else primitive
        except (ValueError, RuntimeError, KeyError, IndexError) as error:
            raise ConfigError(
                f"no {lattice_type} crystal of {symbols!r}: {error}", fix="elements such as ['Si']"
            ) from None
        combinations = np.rint(cube.cell.array @ np.linalg.inv(primitive.cell.array)).astype(int)
        return cls(_with_sites(primitive), combinations, ("a", "c") if lattice_type in HEXAGONAL else ("a",))

    @classmethod
    def of(cls, atoms: Atoms) -> Crystal:
        """Crystal whose cell is given.

        Raises:
            ConfigError: not periodic in three directions.
        """
        if not isinstance(atoms, Atoms) or not atoms.pbc.all():
            raise ConfigError("structure must be an Atoms object that is periodic in three directions")
        copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        return cls(_with_sites(copy), np.eye(3, dtype=int), ("a", "b", "c"))

    @property
    def one_length(self) -> bool:
        """Whether symmetry leaves nothing but the length a open, as in all cubic lattices here."""
        return self.lengths == ("a",)

    @property
    def name(self) -> str:
        """Formula, for messages."""
        return self.atoms.get_chemical_formula(empirical=True)

    def normal(self, cell: Float[np.ndarray, "3 3"], miller: Sequence[int]) -> Float[np.ndarray, " 3"]:
        """Unit normal of a plane of the conventional cell.

        Args:
            cell: of the relaxed primitive cell.
            miller: h, k, l.
        """
        h = np.asarray(miller)
        if h.shape != (3,) or not np.issubdtype(h.dtype, np.integer) or not h.any():
            raise ConfigError("miller must be three integers, not all zero", got=list(miller))
        direction = np.linalg.inv(self.conventional @ cell) @ h
        return direction / np.linalg.norm(direction)


def _with_sites(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.set_array(SITE, np.arange(len(atoms)))
    return atoms


def supercell(atoms: Atoms, combinations: Int[np.ndarray, "3 3"]) -> Atoms:
    """Cell of integer combinations of a crystal's cell vectors; its atoms know which of the cell they are."""
    return make_supercell(atoms, combinations)


@dataclass(frozen=True, eq=False)
class LayeredCell:
    """A crystal cut into layers: two cell vectors lie in the plane, the third leads to the last layer.

    Attributes:
        atoms: periodic, with the cut at the border of the cell.
        normal: of the plane.
        area: of the cell's face, Å^2.
    """

    atoms: Atoms
    normal: Float[np.ndarray, " 3"]
    area: float

    @classmethod
    def of(
        cls, crystal: Crystal, relaxed: Atoms, miller: Sequence[int], layers: int, cut: int
    ) -> LayeredCell:
        """Layers of a relaxed crystal.

        Args:
            crystal: of which lattice.
            relaxed: its primitive cell.
            miller: plane of the conventional cell.
            layers: lattice planes of the primitive cell; each holds all its atoms.
            cut: between which planes of atoms: 0 is the widest gap, 1 the next.

        Raises:
            ConfigError: no such gap.
        """
        normal = crystal.normal(relaxed.cell.array, miller)
        combinations = _plane(relaxed.cell.array, normal)
        combinations[2] *= layers
        atoms = supercell(relaxed, combinations)
        cell = atoms.cell.array
        height = float(cell[2] @ normal)
        heights = np.mod(atoms.positions @ normal + 1e-9, height)
        ordered = np.sort(heights)
        gaps = np.diff([*ordered, ordered[0] + height])
        widths = sorted({round(float(gap), 4) for gap in gaps if gap > 1e-3}, reverse=True)
        if not 0 <= cut < len(widths):
            raise ConfigError(
                f"there is no gap number {cut} of planes {tuple(miller)}", expected=f"0 to {len(widths) - 1}"
            )
        place = int(np.flatnonzero(np.abs(gaps - widths[cut]) < 2e-4)[0])
        border = ordered[place] + 0.5 * gaps[place]
        # Whole vectors of the stack take every atom above the cut.
        atoms.positions -= np.outer(np.floor((atoms.positions @ normal - border) / height), cell[2])
        return cls(atoms, normal, float(np.linalg.norm(np.cross(cell[0], cell[1]))))

    def with_vector(self, change: Float[np.ndarray, " 3"]) -> Atoms:
        """The stack with another third vector: with vacuum at the cut, or shifted along it."""
        atoms, cell = self.atoms.copy(), self.atoms.cell.array.copy()
        cell[2] += change
        atoms.set_cell(cell)
        return atoms


def _plane(cell: Float[np.ndarray, "3 3"], normal: Float[np.ndarray, " 3"]) -> Int[np.ndarray, "3 3"]:
    """Shortest combinations of cell vectors: two in a plane, and one that leads to the next plane."""
    combinations = np.array([c for c in product(range(-_SEARCHED, _SEARCHED + 1), repeat=3) if any(c)])
    vectors = combinations @ cell
    lengths, heights = np.linalg.norm(vectors, axis=1), vectors @ normal
    flat = np.abs(heights) < 1e-6
    order = np.flatnonzero(flat)[np.argsort(lengths[flat], kind="stable")]
    if len(order) < 2:
        raise ConfigError("the plane has too large indices", expected="small integers")
    first = order[0]
    crosses = np.linalg.norm(np.cross(vectors[first], vectors[order]), axis=1)
    second = order[np.flatnonzero(crosses > 1e-6)[0]]
    above = np.flatnonzero(heights > 1e-6)
    lowest = above[np.abs(heights[above] - heights[above].min()) < 1e-6]
    third = lowest[np.argmin(lengths[lowest])]
    chosen = combinations[[first, second, third]]
    if np.linalg.det(chosen) < 0:
        chosen[[0, 1]] = chosen[[1, 0]]
    return chosen
