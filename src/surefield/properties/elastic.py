"""Elastic constants of relaxed crystals, ions relaxed at every strain."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Final, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surefield.errors import ConfigError, PotentialError, nearest
from surefield.potentials.potential import Potential
from surefield.properties.deformation import (
    N_STRAINS,
    curvatures,
    deformed,
    graph_of,
    slopes,
    strain_matrix,
    twice_differentiable,
    unit_graph,
)
from surefield.properties.property import CrystalProperty, Stationary
from surefield.properties.relaxation import Relaxed, relax
from surefield.structures.graph import Graph
from surefield.units import EV_A3_PER_GPA

__all__ = ["COMPONENTS", "UNITS", "ElasticConstants"]

#: Names of all 36, row by row.
COMPONENTS: Final = tuple(f"C{row}{column}" for row in range(1, 7) for column in range(1, 7))
#: Units of stresses and what eV/Å^3 is multiplied by.
UNITS: Final = {"eV/A^3": 1.0, "GPa": 1 / EV_A3_PER_GPA}
#: Stiffness against moving all atoms at once, which costs no energy, eV/Å^2.
_HELD: Final = 10.0


@final
@dataclass(frozen=True, eq=False)
class ElasticConstants(CrystalProperty):
    """C_kl = d(stress_k)/d(strain_l) of the relaxed crystal, Voigt order, engineering shears.

    With a magnitude d the stress is taken at strains of +d and -d, internal coordinates relaxed at each:
    C_kl = (sigma_k(+d_l) - sigma_k(-d_l))/(2d). None: the limit of small strains, from second derivatives,
    C = (E_ee - E_eu E_uu^-1 E_ue)/V (Born, Huang, Dynamical Theory of Crystal Lattices, 1954).

    Args:
        deformation_mag: d, or None.
        components: such as ('C11', 'C12', 'C44'); None: all 36, row by row.
        unit: 'eV/A^3' or 'GPa'.
        clamped: internal coordinates stay where the strain puts them.
        fixed_cell: the cell is the one given, at which there may be a stress: derivatives of that stress.
    """

    calibrated_as: ClassVar[Literal["stress"]] = "stress"

    deformation_mag: float | None = 1e-4
    components: tuple[str, ...] | None = None
    unit: str = "eV/A^3"
    _: KW_ONLY
    clamped: bool = False
    fixed_cell: bool = False

    def __post_init__(self) -> None:
        """Raise `ConfigError` for unknown names and strains out of range."""
        super().__post_init__()
        if self.unit not in UNITS:
            raise ConfigError("unknown unit of elastic constants", got=self.unit, expected=", ".join(UNITS))
        for name in self.names:
            if name not in COMPONENTS:
                raise ConfigError(f"no elastic constant {name!r}", fix=nearest(name, COMPONENTS))
        d = self.deformation_mag
        if d is not None and not 1e-7 <= d <= 0.05:
            raise ConfigError("deformation_mag must be a strain of 1e-7 to 0.05, or None", got=d)
        if d is None and self.fixed_cell:
            raise ConfigError(
                "under stress second derivatives are no elastic constants", fix="give deformation_mag"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Components, in their order."""
        return COMPONENTS if self.components is None else tuple(self.components)

    @property
    def units(self) -> tuple[str, ...]:
        """The unit of all."""
        return (self.unit,) * len(self.names)

    @property
    def _columns(self) -> list[int]:
        """Strains that the components need."""
        return sorted({int(name[2]) - 1 for name in self.names})

    def states(self, potential: Potential) -> Any:
        """The crystal, and the crystal at every strain that is needed."""
        bulk = self.bulk(potential, cell=not self.fixed_cell)
        states = {"bulk": Stationary.of(bulk), "message": self.stability(bulk)}
        if self.deformation_mag is None:
            if not twice_differentiable(potential, bulk.graph):
                raise PotentialError(
                    f"{type(potential).__name__} has no second derivatives",
                    fix="give deformation_mag, such as 1e-4",
                )
            return states
        matrices = [
            np.eye(3) + sign * np.asarray(strain_matrix(self.deformation_mag * np.eye(N_STRAINS)[column]))
            for column in self._columns
            for sign in (1.0, -1.0)
        ]
        relaxed = [self._strained(potential, bulk, matrix) for matrix in matrices]
        width = max(one.graph.neighbors.shape[1] for one in relaxed)
        graphs = [unit_graph(graph_of(potential, one.atoms, "strained crystal", width)) for one in relaxed]
        states["strained"] = {
            "graphs": jax.tree.map(lambda *parts: jnp.stack(parts), *graphs),
            "inverses": jnp.asarray(np.array([one.inverse for one in relaxed])),
            "matrices": jnp.asarray(np.array(matrices)),
        }
        return states

    def _strained(self, potential: Potential, bulk: Relaxed, matrix: Float[np.ndarray, "3 3"]) -> Relaxed:
        atoms = bulk.atoms.copy()
        atoms.set_cell(atoms.cell.array @ matrix, scale_atoms=True)
        free = np.zeros((len(atoms), 3), bool) if self.clamped else None
        what = f"strained {self.crystal.name} crystal"
        return relax(potential, atoms, what, free=free, tolerances=self.tolerances)

    def values(self, potential: Potential, states: Any) -> Float[Array, " n"]:
        """Elastic constants in their order and unit."""
        if self.deformation_mag is not None:
            stresses = _stresses(potential, states["bulk"], states["strained"])
            pairs = stresses.reshape(-1, 2, N_STRAINS)
            found = (pairs[:, 0] - pairs[:, 1]) / (2 * self.deformation_mag)
            places = {column: place for place, column in enumerate(self._columns)}
            chosen = [found[places[int(name[2]) - 1], int(name[1]) - 1] for name in self.names]
        else:
            matrix = _born(potential, states["bulk"], self.clamped)
            chosen = [matrix[int(name[1]) - 1, int(name[2]) - 1] for name in self.names]
        return jnp.stack(chosen) * UNITS[self.unit]


def _volume(graph: Graph) -> Array:
    return jnp.abs(jnp.linalg.det(graph.cell[0]))


@eqx.filter_jit
def _stresses(potential: Potential, bulk: Stationary, strained: Any) -> Float[Array, "n_strains 6"]:
    """Stresses of strained crystals whose unstrained cell follows the parameters."""
    lattice = bulk.shift(potential)[0]

    def stress(state: Any) -> Array:
        # The strained cell is the one that follows the parameters, strained: L^-1 comes first, then L again.
        matrix = jnp.linalg.solve(state["matrices"], lattice @ state["matrices"])
        _, displacements = Stationary(state["graphs"], state["inverses"]).shift(potential, matrix)
        undisplaced = deformed(state["graphs"], matrix, jnp.zeros_like(displacements))
        graph = deformed(undisplaced, jnp.eye(3), displacements)
        return slopes(potential, graph)[1][:N_STRAINS] / _volume(graph)

    return jax.lax.map(stress, strained)


@eqx.filter_jit
def _born(potential: Potential, bulk: Stationary, clamped: bool) -> Float[Array, "6 6"]:
    graph = bulk.moved(potential)
    _, matrix = curvatures(potential, graph)
    if clamped:
        return matrix[:N_STRAINS, :N_STRAINS] / _volume(graph)
    n = graph.numbers.shape[0]
    shifts = jnp.tile(jnp.eye(3), (n, 1)) / jnp.sqrt(n)
    inner = matrix[N_STRAINS:, N_STRAINS:] + _HELD * shifts @ shifts.T
    mixed = matrix[N_STRAINS:, :N_STRAINS]
    total = matrix[:N_STRAINS, :N_STRAINS] - mixed.T @ jnp.linalg.solve(inner, mixed)
    return 0.5 * (total + total.T) / _volume(graph)
