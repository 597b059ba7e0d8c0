"""Lattice constants, cohesive energies and equations of state of crystals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Array, Float

from surefield.errors import ConfigError
from surefield.potentials.potential import Potential
from surefield.properties.deformation import deformed, energy, graph_of, unit_graph
from surefield.properties.elastic import UNITS
from surefield.properties.property import CrystalProperty, Stationary
from surefield.properties.relaxation import relax

__all__ = ["CohesiveEnergy", "EquationOfState", "LatticeConstant"]


@final
@dataclass(frozen=True, eq=False)
class LatticeConstant(CrystalProperty):
    """Lengths of the relaxed conventional cell, Å: a of cubic crystals, a and c of hexagonal ones."""

    calibrated_as: ClassVar[Literal["stress"]] = "stress"

    @property
    def names(self) -> tuple[str, ...]:
        """Such as a and c."""
        return self.crystal.lengths

    @property
    def units(self) -> tuple[str, ...]:
        """Å."""
        return ("Å",) * len(self.names)

    def states(self, potential: Potential) -> Any:
        """The crystal."""
        bulk = self.bulk(potential)
        return {"bulk": Stationary.of(bulk), "message": self.stability(bulk)}

    def values(self, potential: Potential, states: Any) -> Float[Array, " n"]:
        """Lengths of the conventional cell."""
        crystal, bulk = self.crystal, states["bulk"]
        cell = jnp.asarray(crystal.conventional) @ bulk.graph.cell[0] @ bulk.shift(potential)[0]
        lengths = jnp.linalg.norm(cell, axis=1)
        return lengths[np.array(["abc".index(name) for name in self.names])]


@final
@dataclass(frozen=True, eq=False)
class CohesiveEnergy(CrystalProperty):
    """Energy of the relaxed crystal per atom minus that of free atoms, eV/atom: negative where it is bound.

    Args:
        free_atoms: energy of a free atom of each element, eV; None: the potential's own, which is a guess
            where it was trained on no free atoms.
    """

    calibrated_as: ClassVar[Literal["energy"]] = "energy"

    free_atoms: Mapping[str, float] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """One value."""
        return ("E_coh",)

    @property
    def units(self) -> tuple[str, ...]:
        """eV per atom."""
        return ("eV/atom",)

    def states(self, potential: Potential) -> Any:
        """The crystal, and free atoms of its elements."""
        bulk = self.bulk(potential)
        states = {"bulk": Stationary.of(bulk), "message": self.stability(bulk)}
        symbols = bulk.atoms.get_chemical_symbols()
        if self.free_atoms is None:
            states["atoms"] = {
                symbol: unit_graph(graph_of(potential, Atoms(symbol), f"free {symbol} atom"))
                for symbol in sorted(set(symbols))
            }
        elif missing := sorted(set(symbols) - set(self.free_atoms)):
            raise ConfigError(f"free_atoms lacks {', '.join(missing)}", got=dict(self.free_atoms))
        return states

    def values(self, potential: Potential, states: Any) -> Float[Array, " n"]:
        """Cohesive energy."""
        symbols = self.crystal.atoms.get_chemical_symbols()
        if self.free_atoms is None:
            free = {symbol: energy_of(potential, graph) for symbol, graph in states["atoms"].items()}
        else:
            free = dict(self.free_atoms)
        reference = sum(free[symbol] for symbol in symbols)
        return ((energy_of(potential, states["bulk"].moved(potential)) - reference) / len(symbols))[None]


@final
@dataclass(frozen=True, eq=False)
class EquationOfState(CrystalProperty):
    """E0, V0, B and B' by a Birch-Murnaghan fit of third order, all per atom.

    Cells are scaled, not reshaped, and internal coordinates relaxed at every volume; energies are a cubic
    polynomial in V^(-2/3) (Birch, Phys. Rev. 71, 809 (1947)), fitted by least squares.

    Args:
        strain: largest linear strain, either way.
        n_points: volumes, at least 5.
        unit: of B, 'eV/A^3' or 'GPa'.
    """

    calibrated_as: ClassVar[Literal["stress"]] = "stress"

    strain: float = 0.02
    n_points: int = 9
    unit: str = "GPa"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for settings that give no fit."""
        super().__post_init__()
        if not 1e-4 <= self.strain <= 0.1:
            raise ConfigError("strain must be between 1e-4 and 0.1", got=self.strain)
        if self.n_points < 5:
            raise ConfigError("n_points must be at least 5", got=self.n_points)
        if self.unit not in UNITS:
            raise ConfigError("unknown unit of B", got=self.unit, expected=", ".join(UNITS))

    @property
    def names(self) -> tuple[str, ...]:
        """Energy and volume of the minimum, bulk modulus and its derivative by pressure."""
        return ("E0", "V0", "B", "B'")

    @property
    def units(self) -> tuple[str, ...]:
        """Of each."""
        return ("eV/atom", "Å^3/atom", self.unit, "1")

    def states(self, potential: Potential) -> Any:
        """The crystal, and crystals of other volumes."""
        bulk = self.bulk(potential)
        graphs = []
        for scale in self._scales:
            atoms = bulk.atoms.copy()
            atoms.set_cell(scale * atoms.cell.array, scale_atoms=True)
            what = f"{self.crystal.name} crystal of another volume"
            scaled = relax(potential, atoms, what, tolerances=self.tolerances, inverse=False)
            graphs.append(scaled.graph)
        return {"bulk": Stationary.of(bulk), "graphs": graphs, "message": self.stability(bulk)}

    @property
    def _scales(self) -> Float[np.ndarray, " n_points"]:
        return np.linspace(1 - self.strain, 1 + self.strain, self.n_points)

    def values(self, potential: Potential, states: Any) -> Float[Array, " n"]:
        """E0, V0, B, B'."""
        bulk = states["bulk"]
        lattice, _ = bulk.shift(potential)
        n = bulk.graph.numbers.shape[0]
        still = jnp.zeros((n, 3))
        energies = jnp.stack(
            [energy_of(potential, deformed(graph, lattice, still)) for graph in states["graphs"]]
        )
        volume = jnp.abs(jnp.linalg.det(bulk.graph.cell[0] @ lattice)) / n
        # In x = (V/V_bulk)^(-2/3) the fit is the same matrix for all parameters.
        x = self._scales**-2.0
        matrix = np.linalg.pinv(np.vander(x - 1.0, 4, increasing=True))
        middle = energies[len(x) // 2]
        c = matrix @ ((energies - middle) / n)

        def curve(ratio: Array) -> Array:
            y = ratio ** (-2.0 / 3.0) - 1.0
            return c[0] + y * (c[1] + y * (c[2] + y * c[3]))

        root = jnp.sqrt(c[2] ** 2 - 3 * c[1] * c[3])
        y = -c[1] / (c[2] + root)  # the minimum, in a form without cancellation
        ratio = (1.0 + y) ** -1.5
        second, third = jax.grad(jax.grad(curve)), jax.grad(jax.grad(jax.grad(curve)))
        modulus = ratio * second(ratio) / volume
        slope = -1.0 - ratio * third(ratio) / second(ratio)
        return jnp.stack([curve(ratio) + middle / n, ratio * volume, modulus * UNITS[self.unit], slope])


energy_of = eqx.filter_jit(energy)
