"""Relaxation of cells and atoms to a stationary point of the energy, by Newton's method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Bool, Float

from surefield.errors import ConfigError, ExecutionError
from surefield.potentials.potential import Potential
from surefield.properties.deformation import (
    N_STRAINS,
    curvatures_along,
    difference_curvatures,
    graph_of,
    slopes,
    strain_matrix,
    twice_differentiable,
    unit_graph,
)
from surefield.structures.graph import Graph
from surefield.structures.tensors import to_voigt, volume

__all__ = ["Relaxed", "Tolerances", "relax"]

#: Coordinates up to which the whole matrix of second derivatives is computed and diagonalised.
_DENSE: Final = 120
#: Longest step: of a strain, and of a displacement in Å.
_LONGEST: Final = (0.04, 0.2)
#: Factor by which the volume may change.
_LARGEST_CHANGE: Final = 2.0
#: A stationary point that leaves a direction undetermined has an eigenvalue below this share of the largest.
_FLAT: Final = 1e-7
#: Energies are known to this share of themselves.
_ROUNDING: Final = 1e-12

_slopes = eqx.filter_jit(slopes)
_along = eqx.filter_jit(curvatures_along)


@dataclass(frozen=True)
class Tolerances:
    """When a relaxation has converged, and when it is given up.

    Attributes:
        max_force: largest force on an atom that is free to move, eV/Å.
        max_stress: largest component of the stress of a cell that is free to change, eV/Å^3.
        max_steps: of Newton's method.
    """

    max_force: float = 1e-8
    max_stress: float = 1e-9
    max_steps: int = 100

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless all are positive."""
        for name in ("max_force", "max_stress", "max_steps"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0", got=getattr(self, name))


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A structure at a stationary point of the energy.

    Attributes:
        atoms: the structure.
        graph: the same as a batch of one.
        energy: total, eV.
        basis: (n_coordinates, n_free) orthonormal directions that were free.
        inverse: (n_coordinates, n_coordinates) inverse of the second derivatives in these directions; None
            where only energies follow from the structure, whose derivatives need no more.
        unstable: whether the energy falls along some direction.
        n_steps: of Newton's method.
    """

    atoms: Atoms
    graph: Graph
    energy: float
    basis: Float[np.ndarray, "n_coordinates n_free"]
    inverse: Float[np.ndarray, "n_coordinates n_coordinates"] | None
    unstable: bool
    n_steps: int


def relax(
    potential: Potential,
    atoms: Atoms,
    what: str,
    *,
    cell: bool = False,
    free: Bool[np.ndarray, "n_atoms 3"] | None = None,
    normal: Float[np.ndarray, " 3"] | None = None,
    one_length: bool = False,
    tolerances: Tolerances = Tolerances(),
    inverse: bool = True,
) -> Relaxed:
    """Relax a periodic structure; atoms as a whole stay where they are.

    Far from the stationary point steps go downhill; near to it they are plain Newton steps, so that a crystal
    keeps its symmetry also where a potential makes it unstable.

    Args:
        potential: in float64.
        atoms: start; not changed.
        what: is relaxed, for messages.
        cell: the cell is free as well.
        free: which coordinates of atoms may change; None: all.
        normal: the only direction that atoms may move in, and a free cell be strained along; None: all.
        one_length: symmetry leaves nothing but the size of the cell to be determined, so that the energy may
            be flat along all other directions, as that of springs between neighbours in diamond is along
            shears; nothing moves along these, whatever the parameters.
        tolerances: of convergence.
        inverse: also of the second derivatives; large structures are relaxed without.

    Raises:
        ExecutionError: not converged; energies that are not finite; atoms that do not interact.
    """
    basis = _free_basis(atoms, cell, free, normal)
    state = _Newton(potential, what, basis, tolerances, inverse or basis.shape[1] <= _DENSE, one_length)
    return state.run(atoms, inverse)


def _free_basis(
    atoms: Atoms, cell: bool, free: np.ndarray | None, normal: np.ndarray | None
) -> Float[np.ndarray, "n_coordinates n_free"]:
    """Orthonormal directions of the free coordinates, without translations."""
    n = len(atoms)
    strains = np.eye(N_STRAINS)
    if normal is not None:
        normal = normal / np.linalg.norm(normal)
        along = to_voigt(np.outer(normal, normal)) * [1, 1, 1, 2, 2, 2]
        strains = (along / np.linalg.norm(along))[:, None]
        moves = np.kron(np.eye(n), normal[:, None])
    else:
        chosen = np.ones(3 * n, bool) if free is None else np.asarray(free, bool).reshape(-1)
        moves = np.eye(3 * n)[:, chosen]
    if free is None or np.asarray(free).all():
        shifts = np.tile(np.eye(3), (n, 1)) / np.sqrt(n)
        moves = moves - shifts @ (shifts.T @ moves)
        left, sizes, _ = np.linalg.svd(moves, full_matrices=False)
        moves = left[:, sizes > 1e-10]
    n_strains = strains.shape[1] if cell else 0
    basis = np.zeros((N_STRAINS + 3 * n, n_strains + moves.shape[1]))
    basis[:N_STRAINS, :n_strains] = strains[:, :n_strains]
    basis[N_STRAINS:, n_strains:] = moves
    return basis


class _Newton:
    """One relaxation."""

    def __init__(
        self,
        potential: Potential,
        what: str,
        basis: np.ndarray,
        tolerances: Tolerances,
        dense: bool,
        one_length: bool,
    ) -> None:
        self.potential, self.what, self.basis, self.tolerances = potential, what, basis, tolerances
        self.dense = dense
        self.one_length = one_length
        self.volume = 1.0
        self.scale = 1.0

    def run(self, atoms: Atoms, inverse: bool) -> Relaxed:
        self.volume = volume(atoms.cell.array)
        graph, energy, gradient = self.at(atoms)
        n_steps = 0
        while True:
            force, stress = self.largest(gradient, graph)
            if force <= self.tolerances.max_force and stress <= self.tolerances.max_stress:
                return self.converged(atoms, graph, energy, inverse, n_steps)
            if n_steps == self.tolerances.max_steps:
                break
            step = self.step(graph, gradient)
            atoms, graph, energy, gradient = self.accepted(atoms, graph, energy, gradient, step)
            n_steps += 1
        raise ExecutionError(
            f"{self.what}: the relaxation did not converge in {self.tolerances.max_steps} steps",
            got=f"a largest force of {force:.1e} eV/Å, a largest stress of {stress:.1e} eV/Å^3",
            expected=f"{self.tolerances.max_force:g} and {self.tolerances.max_stress:g}",
            fix="begin nearer to the equilibrium, allow more steps (max_steps), or, for a model that "
            "computes in float32, larger forces (max_force, max_stress)",
        )

    def at(self, atoms: Atoms) -> tuple[Graph, float, np.ndarray]:
        ratio = volume(atoms.cell.array) / self.volume
        if not 1 / _LARGEST_CHANGE < ratio < _LARGEST_CHANGE:
            raise ExecutionError(
                f"{self.what}: the cell is leaving the neighbourhood of the start",
                got=f"{ratio:.2f} times its volume",
                fix="begin nearer to the equilibrium; if there is none near by, the potential does not know "
                "this crystal",
            )
        graph = unit_graph(graph_of(self.potential, atoms, self.what))
        energy, gradient = (np.asarray(x, np.float64) for x in _slopes(self.potential, graph))
        if not (np.isfinite(energy) and np.isfinite(gradient).all()):
            raise ExecutionError(f"{self.what}: energy or forces are not finite", got=float(energy))
        return graph, float(energy), gradient

    def largest(self, gradient: np.ndarray, graph: Graph) -> tuple[float, float]:
        """Largest force and stress along free directions, eV/Å and eV/Å^3."""
        along = self.basis @ (self.basis.T @ gradient)
        forces = np.linalg.norm(along[N_STRAINS:].reshape(-1, 3), axis=1)
        stress = np.abs(along[:N_STRAINS]).max() / volume(np.asarray(graph.cell[0]))
        return float(forces.max(initial=0.0)), float(stress)

    def products(self, graph: Graph, directions: np.ndarray) -> np.ndarray:
        """Second derivatives times directions."""
        if twice_differentiable(self.potential, graph):
            return np.asarray(_along(self.potential, graph, jnp.asarray(directions)))
        return difference_curvatures(self.potential, graph, directions)

    def matrix(self, graph: Graph) -> np.ndarray:
        """Second derivatives by the free coordinates."""
        matrix = self.basis.T @ self.products(graph, self.basis.T).T
        return 0.5 * (matrix + matrix.T)

    def step(self, graph: Graph, gradient: np.ndarray) -> np.ndarray:
        """Newton step, downhill where it is long, and no longer than allowed."""
        reduced = self.basis.T @ gradient
        if self.dense:
            values, vectors = np.linalg.eigh(self.matrix(graph))
            largest = np.abs(values).max()
            if not largest > 0:
                raise self.undetermined()
            floor = np.maximum(np.abs(values), _FLAT * largest)
            parts = vectors.T @ reduced
            plain = self.basis @ (vectors @ (-parts / np.where(values < 0, -floor, floor)))
            if self.length(plain) < 0.25 * self.scale:
                return plain
            step = self.basis @ (vectors @ (-parts / floor))
        else:
            step = self.basis @ self.conjugate_gradients(graph, reduced)
        return step * min(1.0, self.scale / max(self.length(step), 1e-300))

    @staticmethod
    def length(step: np.ndarray) -> float:
        """Of a step, in units of the longest that is allowed."""
        return max(
            np.abs(step[:N_STRAINS]).max() / _LONGEST[0],
            np.abs(step[N_STRAINS:]).max(initial=0.0) / _LONGEST[1],
        )

    def conjugate_gradients(self, graph: Graph, gradient: np.ndarray) -> np.ndarray:
        """Newton step of many coordinates (Steihaug, SIAM J. Numer. Anal. 20, 626 (1983))."""
        step, residual = np.zeros(len(gradient)), -gradient
        direction, size = residual.copy(), float(residual @ residual)
        goal = min(0.1, size**0.25) * np.sqrt(size)
        for _ in range(2 * len(gradient)):
            product = self.basis.T @ self.products(graph, (self.basis @ direction)[None])[0]
            curvature = float(direction @ product)
            if curvature <= 0:  # the energy falls along it: as far as a step may go
                ahead = direction / max(self.length(self.basis @ direction), 1e-300)
                return step + ahead * self.scale
            step = step + size / curvature * direction
            residual = residual - size / curvature * product
            former, size = size, float(residual @ residual)
            if np.sqrt(size) <= goal or self.length(self.basis @ step) > self.scale:
                break
            direction = residual + size / former * direction
        return step

    def accepted(
        self, atoms: Atoms, graph: Graph, energy: float, gradient: np.ndarray, step: np.ndarray
    ) -> tuple[Atoms, Graph, float, np.ndarray]:
        """Where a step leads; shorter until energy or forces fall."""
        size = np.linalg.norm(self.basis.T @ gradient)
        force, stress = self.largest(gradient, graph)
        for _ in range(12):
            moved = _moved(atoms, step)
            after, energy_after, gradient_after = self.at(moved)
            falls = energy_after <= energy + _ROUNDING * max(abs(energy), 1.0)
            if falls or np.linalg.norm(self.basis.T @ gradient_after) < 0.5 * size:
                self.scale = min(1.0, 2 * self.scale)
                return moved, after, energy_after, gradient_after
            step = 0.3 * step
            self.scale = max(0.3 * self.scale, 1e-6)
        raise ExecutionError(
            f"{self.what}: no step lowers the energy any more",
            got=f"a largest force of {force:.1e} eV/Å, a largest stress of {stress:.1e} eV/Å^3",
            expected=f"{self.tolerances.max_force:g} and {self.tolerances.max_stress:g}",
            fix="a model that computes in float32, or is not smooth, needs larger max_force and max_stress",
        )

    def converged(self, atoms: Atoms, graph: Graph, energy: float, inverse: bool, n_steps: int) -> Relaxed:
        if not np.asarray(graph.mask).any():
            raise self.undetermined()
        matrix, unstable = None, False
        if inverse and self.basis.shape[1]:
            values, vectors = np.linalg.eigh(self.matrix(graph))
            columns = self.basis @ vectors
            flat = np.abs(values) <= _FLAT * np.abs(values).max()
            growth = np.abs(columns[:3, flat].sum(axis=0)).max(initial=0.0)
            if flat.any() and not (self.one_length and growth < _FLAT**0.5):
                raise self.undetermined()
            values, columns = values[~flat], columns[:, ~flat]
            matrix, unstable = (columns / values) @ columns.T, bool((values < 0).any())
        elif inverse:
            matrix = np.zeros((len(self.basis), len(self.basis)))
        return Relaxed(atoms, graph, energy, self.basis, matrix, unstable, n_steps)

    def undetermined(self) -> ExecutionError:
        return ExecutionError(
            f"{self.what}: the energy does not determine the structure: it is flat along some direction",
            fix="begin nearer to the equilibrium, with atoms within the cutoff "
            f"({self.potential.cutoff:g} Å) of each other",
        )


def _moved(atoms: Atoms, step: np.ndarray) -> Atoms:
    """Copy of a structure after a step of strain and displacements."""
    matrix = np.eye(3) + np.asarray(strain_matrix(jnp.asarray(step[:N_STRAINS])))
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ matrix)
    moved.positions = (atoms.positions + step[N_STRAINS:].reshape(-1, 3)) @ matrix
    return moved
