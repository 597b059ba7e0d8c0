"""Frequencies of phonons from the force constants of a supercell."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Final, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase import units as ase_units
from jaxtyping import Array, Complex, Float

from surefield.errors import ConfigError
from surefield.potentials.potential import Potential
from surefield.properties.crystal import SITE, supercell
from surefield.properties.deformation import (
    N_STRAINS,
    curvatures_along,
    deformed,
    difference_curvatures,
    graph_of,
    twice_differentiable,
    unit_graph,
)
from surefield.properties.property import CrystalProperty, Stationary
from surefield.structures.graph import Graph

__all__ = ["PhononFrequencies"]

#: THz per square root of eV/(Å^2 u).
_THZ: Final = float(np.sqrt(ase_units._e / (ase_units._amu * 1e-20)) / (2 * np.pi) * 1e-12)
#: Squared frequencies below this share of the largest are zero: all atoms move together.
_ZERO: Final = 1e-8
#: Images of a pair at equal distances, up to this length in Å, share its force constant.
_EQUAL: Final = 1e-4


@final
@dataclass(frozen=True, eq=False)
class PhononFrequencies(CrystalProperty):
    """Frequencies of the relaxed crystal at wave vectors, THz, ascending; imaginary ones are negative.

    Force constants are second derivatives of the energy of a supercell by displacements of one primitive
    cell (of models that JAX cannot differentiate twice, central differences of forces). They give wave
    vectors that the supercell is commensurate with exactly, and all others where it reaches beyond twice the
    range of the potential; images at equal distances share a force constant
    (Parlinski, Li, Kawazoe, Phys. Rev. Lett. 78, 4063 (1997)).

    Args:
        q: wave vectors in units of the reciprocal vectors of the primitive cell.
        repeats: of the primitive cell in the supercell.
    """

    calibrated_as: ClassVar[Literal["forces"]] = "forces"

    q: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),)
    repeats: tuple[int, int, int] = (2, 2, 2)

    def __post_init__(self) -> None:
        """Raise `ConfigError` for wave vectors and repeats that are none."""
        super().__post_init__()
        q = np.asarray(self.q, np.float64)
        if q.ndim != 2 or q.shape[1] != 3 or not len(q) or not np.isfinite(q).all():
            raise ConfigError("q must be a list of three numbers each", got=repr(self.q))
        if len(self.repeats) != 3 or min(self.repeats) < 1:
            raise ConfigError("repeats must be three numbers from 1", got=list(self.repeats))

    @property
    def names(self) -> tuple[str, ...]:
        """Wave vector and number of the branch."""
        n = 3 * len(self.crystal.atoms)
        return tuple(
            f"f{branch}({' '.join(f'{x:g}' for x in q)})" for q in self.q for branch in range(1, n + 1)
        )

    @property
    def units(self) -> tuple[str, ...]:
        """THz."""
        return ("THz",) * len(self.names)

    def states(self, potential: Potential) -> Any:
        """The crystal and its supercell, with the phase of every atom at every wave vector."""
        bulk = self.bulk(potential)
        atoms = supercell(bulk.atoms, np.diag(self.repeats))
        graph = unit_graph(graph_of(potential, atoms, f"{self.crystal.name} supercell"))
        home, phases = _phases(bulk.atoms, atoms, np.asarray(self.q, np.float64))
        masses = bulk.atoms.get_masses()
        states = {
            "bulk": Stationary.of(bulk),
            "graph": graph,
            "sites": jnp.asarray(atoms.arrays[SITE]),
            "home": jnp.asarray(home),
            "phases": jnp.asarray(phases),
            "masses": jnp.asarray(masses),
            "message": self.stability(bulk),
        }
        if not twice_differentiable(potential, graph):
            rows = difference_curvatures(potential, graph, _directions(home, len(atoms)))
            states["constants"] = jnp.asarray(rows[:, N_STRAINS:])
        return states

    def values(self, potential: Potential, states: Any) -> Float[Array, " n"]:
        """Frequencies, wave vector by wave vector."""
        if "constants" in states:
            return _frequencies(states["constants"], states)
        lattice, displacements = states["bulk"].shift(potential)
        graph = deformed(states["graph"], lattice, displacements[states["sites"]])
        return _frequencies(_constants(potential, graph, states["home"]), states)


def _directions(home: Any, n_atoms: int) -> np.ndarray:
    directions = np.zeros((3 * len(home), N_STRAINS + 3 * n_atoms))
    for row, (atom, axis) in enumerate(product(np.asarray(home).tolist(), range(3))):
        directions[row, N_STRAINS + 3 * atom + axis] = 1.0
    return directions


@eqx.filter_jit
def _constants(potential: Potential, graph: Graph, home: Array) -> Float[Array, "n_moved n_all"]:
    """Force constants between the atoms of one primitive cell and all others, eV/Å^2."""
    n = graph.numbers.shape[0]
    columns = (N_STRAINS + 3 * home[:, None] + jnp.arange(3)).reshape(-1)
    directions = jax.nn.one_hot(columns, N_STRAINS + 3 * n, dtype=jnp.float64)
    return curvatures_along(potential, graph, directions)[:, N_STRAINS:]


@jax.jit
def _frequencies(constants: Float[Array, "n_moved n_all"], states: Any) -> Float[Array, " n"]:
    masses, sites, phases = states["masses"], states["sites"], states["phases"]
    n, n_all = len(masses), len(sites)
    blocks = constants.reshape(n, 3, n_all, 3)
    onto = jax.nn.one_hot(sites, n, dtype=jnp.float64)
    # (wave vector, atom, axis, atom, axis)
    sums = jnp.einsum("iajb,qij,jk->qiakb", blocks, phases, onto)
    roots = jnp.sqrt(masses)
    matrix = (sums / (roots[:, None, None, None] * roots[:, None])).reshape(len(phases), 3 * n, 3 * n)
    matrix = 0.5 * (matrix + jnp.conj(jnp.swapaxes(matrix, 1, 2)))
    # To first order eigenvalues change as their vectors say, which need no derivatives.
    _, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(matrix))
    squares = jnp.real(jnp.einsum("qka,qkl,qla->qa", jnp.conj(vectors), matrix, vectors))
    moving = jnp.abs(squares) > _ZERO * jnp.max(jnp.abs(squares))
    sizes = jnp.sqrt(jnp.where(moving, jnp.abs(squares), 1.0))
    return (_THZ * jnp.where(moving, jnp.sign(squares) * sizes, 0.0)).reshape(-1)


def _phases(
    primitive: Atoms, atoms: Atoms, q: Float[np.ndarray, "n_q 3"]
) -> tuple[np.ndarray, Complex[np.ndarray, "n_q n_home n_atoms"]]:
    """One atom of each site, and exp(2 pi i q n) of the cell of every atom as seen from it.

    Of an atom whose nearest images are equally far the mean is taken.
    """
    sites = atoms.arrays[SITE]
    inverse = np.linalg.inv(primitive.cell.array)
    numbers = np.rint((atoms.positions - primitive.positions[sites]) @ inverse)
    first = {int(site): index for index, site in reversed(list(enumerate(sites.tolist())))}
    home = np.array([first[site] for site in range(len(primitive))])
    images = np.array(list(product((-1, 0, 1), repeat=3)))
    big = atoms.cell.array
    whole = np.rint(big @ inverse)
    phases = np.zeros((len(q), len(home), len(atoms)), complex)
    for row, index in enumerate(home):
        vectors = (atoms.positions - atoms.positions[index])[:, None] + images @ big
        cells = (numbers - numbers[index])[:, None] + images @ whole
        lengths = np.linalg.norm(vectors, axis=2)
        nearest = lengths < lengths.min(axis=1, keepdims=True) + _EQUAL
        waves = np.exp(2j * np.pi * np.einsum("jmc,qc->qjm", cells, q))
        phases[:, row] = np.sum(waves * nearest, axis=2) / nearest.sum(axis=1)
    return home, phases
