"""Energies of vacancies, surfaces and stacking faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, final

import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.units import J, m
from jaxtyping import Array, Float

from surefield.errors import ConfigError
from surefield.potentials.potential import Potential
from surefield.properties.crystal import SITE, LayeredCell, supercell
from surefield.properties.deformation import deformed
from surefield.properties.energies import energy_of
from surefield.properties.property import CrystalProperty, Stationary
from surefield.properties.relaxation import Relaxed, relax
from surefield.structures.graph import Graph

__all__ = ["StackingFaultEnergy", "SurfaceEnergy", "VacancyFormationEnergy"]

UNITS: Final = {"eV/A^2": 1.0, "J/m^2": m**2 / J}


@final
@dataclass(frozen=True, eq=False)
class VacancyFormationEnergy(CrystalProperty):
    """E(N - 1 atoms) - (N - 1) E(crystal)/N, eV: a vacancy in a supercell of the relaxed crystal.

    The cell keeps the volume of the crystal; atoms are relaxed.

    Args:
        repeats: of the conventional cell in the supercell.
        site: atom of the crystal's cell that is missing.
        relaxed: relax the atoms; otherwise only one is removed.
        rattle: largest random displacement before the relaxation, Å, so that it may break the symmetry.
        seed: of the displacements.
    """

    calibrated_as: ClassVar[Literal["energy"]] = "energy"

    repeats: tuple[int, int, int] = (2, 2, 2)
    site: int = 0
    relaxed: bool = True
    rattle: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `ConfigError` for compounds, and for cells and sites that there are not."""
        super().__post_init__()
        _check_element(self, "chemical potentials, which a vacancy in a compound needs, are not known")
        if len(self.repeats) != 3 or min(self.repeats) < 1:
            raise ConfigError("repeats must be three numbers from 1", got=list(self.repeats))
        if not 0 <= self.site < len(self.crystal.atoms):
            raise ConfigError("no such site", got=self.site, expected=f"0 to {len(self.crystal.atoms) - 1}")
        if not 0 <= self.rattle <= 0.3:
            raise ConfigError("rattle must be between 0 and 0.3 Å", got=self.rattle)

    @property
    def names(self) -> tuple[str, ...]:
        """One value."""
        return ("E_vac",)

    @property
    def units(self) -> tuple[str, ...]:
        """eV."""
        return ("eV",)

    def states(self, potential: Potential) -> Any:
        """The crystal, and the supercell with the vacancy."""
        bulk = self.bulk(potential)
        atoms = supercell(bulk.atoms, np.diag(self.repeats) @ self.crystal.conventional)
        if len(atoms) < 2:
            raise ConfigError("the supercell has one atom only", fix="larger repeats")
        del atoms[int(np.flatnonzero(atoms.arrays[SITE] == self.site)[0])]
        if self.relaxed:
            rng = np.random.Generator(np.random.Philox(key=self.seed))
            atoms.positions += self.rattle * rng.uniform(-1, 1, atoms.positions.shape)
        what = f"{self.crystal.name} vacancy"
        return _states(self, potential, bulk, atoms, what, self.relaxed)

    def values(self, potential: Potential, states: Any) -> Float[Array, " n"]:
        """Formation energy."""
        excess, _ = _excess(potential, states)
        return excess[None]


@final
@dataclass(frozen=True, eq=False)
class SurfaceEnergy(CrystalProperty):
    """(E(slab) - N E(crystal)/N)/(2 area) of a slab with two like faces; unreconstructed.

    Args:
        miller: plane of the conventional cell.
        layers: lattice planes of the primitive cell in the slab.
        vacuum: between slab and slab, Å; beyond the range of the potential.
        cut: between which planes of atoms: 0 is the widest gap, 1 the next.
        relaxed: relax the atoms.
        unit: 'eV/A^2' or 'J/m^2'.
    """

    calibrated_as: ClassVar[Literal["energy"]] = "energy"

    miller: tuple[int, int, int] = (1, 0, 0)
    layers: int = 8
    vacuum: float = 12.0
    cut: int = 0
    relaxed: bool = True
    unit: str = "J/m^2"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for compounds and for settings out of range."""
        super().__post_init__()
        _check_element(self, "faces of a compound may differ, and then have no energies of their own")
        _check_layers(self)
        if not self.vacuum > 0:
            raise ConfigError("vacuum must be above 0", got=self.vacuum)

    @property
    def names(self) -> tuple[str, ...]:
        """One value."""
        return (f"E_surf({''.join(map(str, self.miller))})",)

    @property
    def units(self) -> tuple[str, ...]:
        """Energy per area."""
        return (self.unit,)

    def states(self, potential: Potential) -> Any:
        """The crystal, and the slab."""
        if self.vacuum <= potential.cutoff:
            raise ConfigError(
                "the slabs see each other",
                got=f"vacuum {self.vacuum:g} Å",
                expected=f"above the cutoff, {potential.cutoff:g} Å",
            )
        bulk = self.bulk(potential)
        stack = LayeredCell.of(self.crystal, bulk.atoms, self.miller, self.layers, self.cut)
        atoms = stack.with_vector(self.vacuum * stack.normal)
        what = f"{self.crystal.name} surface {self.miller}"
        return _states(self, potential, bulk, atoms, what, self.relaxed)

    def values(self, potential: Potential, states: Any) -> Float[Array, " n"]:
        """Energy per area of one face."""
        excess, area = _excess(potential, states)
        return (UNITS[self.unit] * excess / (2 * area))[None]


@final
@dataclass(frozen=True, eq=False)
class StackingFaultEnergy(CrystalProperty):
    """(E(fault) - N E(crystal)/N)/area: one half of a crystal is shifted along a plane of it.

    Atoms and the height of the cell relax along the normal of the plane, so that any point of the energy
    surface of shifts can be computed (Vitek, Philos. Mag. 18, 773 (1968)). The defaults are the intrinsic
    fault of fcc crystals.

    Args:
        miller: plane of the conventional cell.
        shift: in units of the vectors of the conventional cell; has to lie in the plane.
        layers: lattice planes of the primitive cell between fault and fault.
        cut: between which planes of atoms the fault is: 0 is the widest gap, 1 the next.
        relaxed: relax along the normal.
        unit: 'eV/A^2' or 'J/m^2'.
    """

    calibrated_as: ClassVar[Literal["energy"]] = "energy"

    miller: tuple[int, int, int] = (1, 1, 1)
    shift: tuple[float, float, float] = (1 / 6, 1 / 6, -1 / 3)
    layers: int = 9
    cut: int = 0
    relaxed: bool = True
    unit: str = "J/m^2"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for settings out of range, and shifts that leave the plane."""
        super().__post_init__()
        _check_layers(self)
        if abs(float(np.dot(self.shift, self.miller))) > 1e-6:
            raise ConfigError("the shift leaves the plane", got=f"shift {self.shift}, miller {self.miller}")

    @property
    def names(self) -> tuple[str, ...]:
        """One value."""
        return (f"E_fault({''.join(map(str, self.miller))})",)

    @property
    def units(self) -> tuple[str, ...]:
        """Energy per area."""
        return (self.unit,)

    def states(self, potential: Potential) -> Any:
        """The crystal, and the crystal with the fault."""
        bulk = self.bulk(potential)
        stack = LayeredCell.of(self.crystal, bulk.atoms, self.miller, self.layers, self.cut)
        shift = np.asarray(self.shift) @ (self.crystal.conventional @ bulk.atoms.cell.array)
        atoms = stack.with_vector(shift)
        what = f"{self.crystal.name} stacking fault {self.miller}"
        return _states(self, potential, bulk, atoms, what, self.relaxed, stack.normal)

    def values(self, potential: Potential, states: Any) -> Float[Array, " n"]:
        """Energy per area of the fault."""
        excess, area = _excess(potential, states)
        return (UNITS[self.unit] * excess / area)[None]


def _check_element(prop: CrystalProperty, reason: str) -> None:
    symbols = sorted(set(prop.crystal.atoms.get_chemical_symbols()))
    if len(symbols) > 1:
        raise ConfigError(f"{type(prop).__name__} is of elements only: {reason}", got=", ".join(symbols))


def _check_layers(prop: SurfaceEnergy | StackingFaultEnergy) -> None:
    if prop.layers < 1:
        raise ConfigError("layers must be at least 1", got=prop.layers)
    if prop.unit not in UNITS:
        raise ConfigError("unknown unit of an energy per area", got=prop.unit, expected=", ".join(UNITS))
    # Tells at once of indices that are no plane.
    prop.crystal.normal(prop.crystal.atoms.cell.array, prop.miller)


def _states(
    prop: CrystalProperty,
    potential: Potential,
    bulk: Relaxed,
    atoms: Atoms,
    what: str,
    relaxed: bool,
    normal: np.ndarray | None = None,
) -> Any:
    options: Any = {"tolerances": prop.tolerances, "inverse": False}
    if relaxed:
        defect = relax(potential, atoms, what, cell=normal is not None, normal=normal, **options)
    else:
        defect = relax(potential, atoms, what, free=np.zeros((len(atoms), 3), bool), **options)
    return {
        "bulk": Stationary.of(bulk),
        "defect": defect.graph,
        "sites": jnp.asarray(atoms.arrays[SITE]),
        "message": prop.stability(bulk),
    }


def _excess(potential: Potential, states: Any) -> tuple[Array, Array]:
    """Energy beyond that of as many atoms of the crystal, eV, and area of the first two cell vectors, Å^2.

    By the envelope theorem coordinates that are relaxed stay where they are; the cell follows the crystal's.
    """
    bulk: Stationary = states["bulk"]
    defect: Graph = states["defect"]
    lattice, displacements = bulk.shift(potential)
    # Displacements within the crystal's cell come with its strain already taken out.
    graph = deformed(defect, lattice, displacements[states["sites"]])
    crystal = energy_of(potential, deformed(bulk.graph, lattice, displacements))
    n, n_cell = defect.numbers.shape[0], bulk.graph.numbers.shape[0]
    cell = graph.cell[0]
    area = jnp.linalg.norm(jnp.cross(cell[0], cell[1]))
    return energy_of(potential, graph) - n * crystal / n_cell, area
