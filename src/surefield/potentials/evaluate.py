"""What a potential gives for structures: energy, forces, stress and whatever else, in padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Array, Float, Int

from surefield.errors import DataError, PotentialError, explain
from surefield.potentials.prediction import Prediction, voigt
from surefield.structures.batching import padded_batches
from surefield.structures.graph import Graph, edge_forces, edge_virials, sum_atoms
from surefield.structures.neighbors import Neighborhood

__all__ = [
    "EnergyFunction",
    "Results",
    "check_frames",
    "check_species",
    "composition_energy",
    "evaluate",
    "evaluate_jit",
    "predict",
    "species_index",
]


class EnergyFunction(Protocol):
    """What evaluation asks of a potential; see `Potential`, which declares all of it."""

    @property
    def species(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def offsets(self) -> Float[Array, " n_species"]: ...  # noqa: D102
    @property
    def supplies(self) -> frozenset[str]: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype: ...  # noqa: D102
    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]: ...  # noqa: D102
    def neighborhood(self, atoms: Atoms) -> Neighborhood: ...  # noqa: D102
    def check_frame(self, atoms: Atoms, where: object) -> None: ...  # noqa: D102
    def charges(self, graph: Graph) -> Float[Array, " n_atoms"] | None: ...  # noqa: D102
    def extrapolation(self, graph: Graph) -> Float[Array, "n_atoms n_inputs"] | None: ...  # noqa: D102
    def describe_extrapolation(self, atoms: Atoms) -> str: ...  # noqa: D102


class Results(NamedTuple):
    """What `evaluate` gives for a padded batch; padding atoms hold zeros.

    Attributes:
        energy: total energies, eV, float64, element offsets included.
        forces: eV/Å.
        virial: dE/d(strain), eV; divided by the cell volume it is the stress in ASE's sign.
        energies: per-atom energies, eV, without element offsets.
        charges: of atoms, e; None for potentials without an electrode potential.
        capacitance: -d(excess electrons)/d(electrode potential), e/V; None likewise.
        extrapolation: distance of each atom's features from the range of training; None where not defined.
    """

    energy: Float[Array, " n_structures"]
    forces: Float[Array, "n_atoms 3"]
    virial: Float[Array, "n_structures 3 3"]
    energies: Float[Array, " n_atoms"]
    charges: Float[Array, " n_atoms"] | None = None
    capacitance: Float[Array, " n_structures"] | None = None
    extrapolation: Float[Array, "n_atoms n_site_inputs"] | None = None


def species_index(potential: EnergyFunction, graph: Graph) -> Int[Array, " n_atoms"]:
    """Place of each atom's element in `potential.species`; padding atoms get 0."""
    table = np.zeros(len(chemical_symbols), np.int32)
    table[list(potential.species)] = np.arange(len(potential.species))
    return jnp.asarray(table)[graph.numbers]


def evaluate(potential: EnergyFunction, graph: Graph) -> Results:
    """Energy, forces and virial of every structure of a batch (traceable; wrap it in `jit`)."""

    def total(vectors: Array, positions: Array) -> tuple[Array, Array]:
        moved = eqx.tree_at(lambda g: (g.vectors, g.positions), graph, (vectors, positions))
        energies = jnp.where(graph.atom_mask, potential.site_energies(moved), 0.0)
        return jnp.sum(energies), energies

    gradient, energies = jax.grad(total, argnums=(0, 1), has_aux=True)(graph.vectors, graph.positions)
    by_vectors, by_positions = gradient
    direct = jnp.einsum("na,nb->nab", graph.positions, by_positions)
    direct = sum_atoms(direct, graph)
    energy = sum_atoms(energies.astype(jnp.float64), graph) + composition_energy(potential, graph)
    charges, capacitance = _charges(potential, graph)
    return Results(
        energy=energy,
        forces=edge_forces(by_vectors, graph) - by_positions,
        virial=edge_virials(by_vectors, graph) + 0.5 * (direct + jnp.swapaxes(direct, -1, -2)),
        energies=energies,
        charges=charges,
        capacitance=capacitance,
        extrapolation=potential.extrapolation(graph),
    )


def _charges(potential: EnergyFunction, graph: Graph) -> tuple[Array | None, Array | None]:
    """Charges of atoms, and the capacitance as the derivative of their sums: N_e = -Q."""

    def of(phi: Array) -> Array | None:
        return potential.charges(eqx.tree_at(lambda g: g.electrode_potential, graph, phi))

    phi = jnp.asarray(graph.electrode_potential)
    if jax.eval_shape(of, phi) is None:
        return None, None
    charges, slopes = jax.jvp(of, (phi,), (jnp.ones_like(phi),))
    return charges, sum_atoms(jnp.where(graph.atom_mask, slopes, 0.0), graph)


#: Compiled once per potential class and batch shape.
evaluate_jit = eqx.filter_jit(evaluate)


def predict(
    potential: EnergyFunction,
    frames: Sequence[Atoms],
    *,
    forces: bool = True,
    stress: bool = True,
    batch_size: int = 16,
    neighborhoods: Sequence[Neighborhood] | None = None,
) -> list[Prediction]:
    """Predict every structure, in padded batches; results are float64 and in the order of the frames.

    Args:
        potential: any potential.
        frames: structures; they are not changed.
        forces: give forces.
        stress: give stresses (of structures that are periodic in three directions).
        batch_size: structures per batch, about.
        neighborhoods: of the frames, if they are known already.

    Raises:
        PotentialError: an element the potential does not know.
    """
    check_frames(potential, frames)
    found = neighborhoods or [potential.neighborhood(atoms) for atoms in frames]
    predictions: list[Prediction | None] = [None] * len(found)
    table = dict(zip(potential.species, np.asarray(potential.offsets, np.float64).tolist(), strict=True))
    for chunk, graph in padded_batches(found, batch_size, potential.dtype):
        results = jax.tree.map(lambda x: np.asarray(x, np.float64), evaluate_jit(potential, graph))
        start = 0
        for place, index in enumerate(chunk):
            s = found[index]
            rows = slice(start, start + s.n_atoms)
            start = rows.stop
            volume = abs(np.linalg.det(s.cell)) if s.periodic else 0.0
            own = np.array([table[z] for z in s.numbers.tolist()])
            wants_stress = stress and s.periodic and "stress" in potential.supplies
            predictions[index] = Prediction(
                energy=float(results.energy[place]),
                energies=results.energies[rows] + own if "energies" in potential.supplies else None,
                forces=results.forces[rows] if forces else None,
                stress=voigt(results.virial[place] / volume) if wants_stress else None,
                **_electrochemical(results, place, rows, s.electrode_potential),
            )
            if results.extrapolation is not None:
                worst = results.extrapolation[rows].max(axis=1, initial=0.0)
                predictions[index] = replace(predictions[index], extrapolation=worst)  # type: ignore[type-var]
    return [p for p in predictions if p is not None]


def _electrochemical(results: Results, place: int, rows: slice, potential: float) -> dict[str, Any]:
    if results.charges is None or results.capacitance is None:
        return {}
    charges = np.asarray(results.charges)[rows]
    return {
        "charges": charges,
        "excess_electrons": -float(charges.sum()),
        "electrode_potential": potential,
        "capacitance": float(results.capacitance[place]),
    }


def composition_energy(potential: EnergyFunction, graph: Graph) -> Float[Array, " n_structures"]:
    """Sum of the element offsets over the atoms of each structure, eV, float64."""
    offsets = jnp.asarray(potential.offsets, jnp.float64)[species_index(potential, graph)]
    return sum_atoms(jnp.where(graph.atom_mask, offsets, 0.0), graph)


def check_frames(potential: EnergyFunction, frames: Sequence[Atoms], name: str = "frame") -> None:
    """Raise an error unless the potential can serve every structure; see `Potential.check_frame`.

    The error is that of the first structure that is refused, and names the others.
    """
    origin = getattr(frames, "origin", lambda index: f"{name} {index}")
    refused: dict[str, DataError] = {}
    for index, atoms in enumerate(frames):
        check_species(potential, atoms.numbers, origin(index))
        try:
            potential.check_frame(atoms, origin(index))
        except DataError as error:
            refused[origin(index)] = error
    if refused:
        first, *others = refused
        also = f"; refused as well: {', '.join(others)}" if others else ""
        raise DataError(f"{refused[first]}{also}")


def check_species(
    potential: EnergyFunction, numbers: Sequence[int] | Int[np.ndarray, " n"], where: object
) -> None:
    """Raise `PotentialError` if an element is not known to the potential."""
    unknown = sorted(set(np.unique(numbers).tolist()) - set(potential.species))
    if unknown:
        raise PotentialError(
            explain(
                f"the potential does not know {', '.join(chemical_symbols[z] for z in unknown)}",
                where=where,
                expected=f"only {', '.join(chemical_symbols[z] for z in potential.species)}",
                fix="train it on structures with these elements, or leave the frame out",
            )
        )
