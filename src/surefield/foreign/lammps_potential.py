"""A potential that LAMMPS computes: energies, forces and stresses, and no other derivatives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from surefield.execution.callback import call_outside, errors_from_outside
from surefield.foreign.computed_batch import computed_batch, geometry_of
from surefield.foreign.lammps_run import LammpsProcess, LammpsSettings
from surefield.potentials.potential import Potential
from surefield.structures.graph import Graph

__all__ = ["LammpsPotential", "lammps_potential"]

#: Processes that run, by the numbers that potentials know them by: compiled programs serve all of them.
_RUNNING: Final[dict[int, LammpsProcess]] = {}
_NUMBERS: Final = itertools.count()


@final
class LammpsPotential(Potential):
    """What a running LAMMPS computes; see `lammps_potential`.

    Attributes:
        process: number of the process.
    """

    #: Energies of atoms are not asked for.
    supplies: ClassVar[frozenset[str]] = frozenset({"energy", "forces", "stress"})

    process: Int[Array, ""]
    offsets: Float[Array, " n_species"]
    species: tuple[int, ...] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """The energy of each structure in equal parts on its atoms, eV."""
        energies = _energies(graph.vectors, geometry_of(graph), self.process)
        share = energies / jnp.maximum(graph.n_atoms, 1)
        return jnp.where(graph.atom_mask, share[graph.structure], 0.0)


@contextmanager
def lammps_potential(
    like: Potential, command: str, commands: Sequence[str], symbols: Sequence[str], folder: Path
) -> Iterator[LammpsPotential]:
    """A potential as LAMMPS computes it, while the context lasts.

    Args:
        like: the same potential here, for its elements and its cutoff.
        command: that starts LAMMPS.
        commands: that define the potential, in units metal.
        symbols: element of each atom type.
        folder: that files of the commands are in.

    Raises:
        ExecutionError: LAMMPS cannot be started, or ended.
    """
    number = next(_NUMBERS)
    with LammpsProcess(command, LammpsSettings(commands, symbols), folder) as process, errors_from_outside():
        _RUNNING[number] = process
        try:
            offsets = jnp.zeros(len(like.species))
            yield LammpsPotential(
                process=jnp.asarray(number), offsets=offsets, species=like.species, cutoff=float(like.cutoff)
            )
        finally:
            del _RUNNING[number]


def _compute(vectors: Any, geometry: Any, number: Any) -> tuple[np.ndarray, np.ndarray]:
    return computed_batch(_RUNNING[int(number)].results, vectors, geometry)


def _called(vectors: Array, geometry: Any, number: Array) -> tuple[Array, Array]:
    shapes = (
        jax.ShapeDtypeStruct(geometry["n_atoms"].shape, jnp.float64),
        jax.ShapeDtypeStruct(vectors.shape, jnp.float64),
    )
    return call_outside(_compute, shapes, vectors, geometry, number)


@jax.custom_vjp
def _energies(vectors: Array, geometry: Any, number: Array) -> Float[Array, " n_structures"]:
    return _called(vectors, geometry, number)[0]


def _forward(vectors: Array, geometry: Any, number: Array) -> tuple[Array, Any]:
    energies, slopes = _called(vectors, geometry, number)
    return energies, (slopes, geometry["structure"])


def _backward(kept: Any, cotangent: Array) -> tuple[Array, None, None]:
    slopes, structure = kept
    return slopes * cotangent[structure][:, None, None], None, None


_energies.defvjp(_forward, _backward)
