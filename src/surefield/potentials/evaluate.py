"""What a potential gives for structures: energy, forces, stress and whatever else, in padded batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Array, Float, Int

from surefield.errors import DataError, PotentialError
from surefield.execution.cache import use_compilation_cache
from surefield.execution.callback import errors_from_outside
from surefield.potentials.abilities import SharedFeatures
from surefield.potentials.prediction import Prediction
from surefield.quantities import quantity
from surefield.structures.batching import padded_batches
from surefield.structures.geometry import check_contact, check_numbers
from surefield.structures.graph import Graph, edge_forces, edge_virials, sum_atoms
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Frames
from surefield.structures.tensors import row_slices, to_voigt, volume

__all__ = [
    "EnergyFunction",
    "Results",
    "check_frames",
    "check_species",
    "composition_energy",
    "energies_and_features",
    "evaluate",
    "evaluate_jit",
    "neighborhoods_of",
    "predict",
    "species_index",
    "species_numbers",
]


class EnergyFunction(Protocol):
    """What evaluation asks of a potential; see `Potential`, which declares all of it."""

    @property
    def species(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def cutoff(self) -> float: ...  # noqa: D102

    min_distance: ClassVar[float]
    supplies: ClassVar[frozenset[str]]

    @property
    def offsets(self) -> Float[Array, " n_species"]: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype: ...  # noqa: D102
    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]: ...  # noqa: D102
    def neighborhood(self, atoms: Atoms) -> Neighborhood: ...  # noqa: D102
    def check_frame(self, atoms: Atoms, where: object) -> None: ...  # noqa: D102
    def outputs(self, graph: Graph) -> dict[str, Array]: ...  # noqa: D102
    def extrapolation(self, graph: Graph) -> Float[Array, "n_atoms n_inputs"] | None: ...  # noqa: D102
    def describe_extrapolation(self, atoms: Atoms) -> str: ...  # noqa: D102
    def last_layer(self) -> Any: ...  # noqa: D102


class Results(NamedTuple):
    """What `evaluate` gives for a padded batch; padding atoms hold zeros.

    Attributes:
        energy: total energies, eV, float64, element offsets included.
        forces: eV/Å.
        virial: dE/d(strain), eV; divided by the cell volume it is the stress in ASE's sign.
        energies: per-atom energies, eV, without element offsets.
        outputs: quantities that do not follow from the energy, see `Potential.outputs`.
        extrapolation: distance of each atom's features from the range of training; None where not defined.
        features: inputs of the last layer of each atom; None where they were not asked for.
    """

    energy: Float[Array, " n_structures"]
    forces: Float[Array, "n_atoms 3"]
    virial: Float[Array, "n_structures 3 3"]
    energies: Float[Array, " n_atoms"]
    outputs: dict[str, Array]
    extrapolation: Float[Array, "n_atoms n_site_inputs"] | None = None
    features: Float[Array, "n_atoms n_site_features"] | None = None


def species_index(potential: EnergyFunction, graph: Graph) -> Int[Array, " n_atoms"]:
    """Place of each atom's element in `potential.species`; padding atoms get 0."""
    table = np.zeros(len(chemical_symbols), np.int32)
    table[list(potential.species)] = np.arange(len(potential.species))
    return jnp.asarray(table)[graph.numbers]


def energies_and_features(
    potential: EnergyFunction, graph: Graph
) -> tuple[Float[Array, " n_atoms"], Float[Array, "n_atoms n_site_features"]]:
    """Energies of atoms and the inputs of the last layer, computed once where the potential knows how."""
    if isinstance(potential, SharedFeatures):
        return potential.energies_and_features(graph)
    return potential.site_energies(graph), potential.last_layer().site_features(graph)


def evaluate(potential: EnergyFunction, graph: Graph, features: bool = False) -> Results:
    """Energy, forces and virial of every structure of a batch (traceable; wrap it in `jit`)."""

    def total(vectors: Array, positions: Array) -> tuple[Array, tuple[Array, Array | None]]:
        moved = eqx.tree_at(lambda g: (g.vectors, g.positions), graph, (vectors, positions))
        by_atom, inputs = (
            energies_and_features(potential, moved) if features else (potential.site_energies(moved), None)
        )
        energies = jnp.where(graph.atom_mask, by_atom, 0.0)
        return jnp.sum(energies), (energies, inputs)

    gradient, (energies, inputs) = jax.grad(total, argnums=(0, 1), has_aux=True)(
        graph.vectors, graph.positions
    )
    by_vectors, by_positions = gradient
    direct = jnp.einsum("na,nb->nab", graph.positions, by_positions)
    direct = sum_atoms(direct, graph)
    energy = sum_atoms(energies.astype(jnp.float64), graph) + composition_energy(potential, graph)
    return Results(
        energy=energy,
        forces=edge_forces(by_vectors, graph) - by_positions,
        virial=edge_virials(by_vectors, graph) + 0.5 * (direct + jnp.swapaxes(direct, -1, -2)),
        energies=energies,
        outputs=potential.outputs(graph),
        extrapolation=potential.extrapolation(graph),
        features=inputs,
    )


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
    on_features: Callable[[int, Float[np.ndarray, "n_atoms n_site_features"]], None] | None = None,
) -> list[Prediction]:
    """Predict every structure, in padded batches; results are float64 and in the order of the frames.

    Args:
        potential: any potential.
        frames: structures; they are not changed.
        forces: give forces.
        stress: give stresses (of structures that are periodic in three directions).
        batch_size: structures per batch, about.
        neighborhoods: of the frames, if they are known already.
        on_features: called with the index of every structure and the inputs of the last layer of its atoms,
            in the precision of the potential; they come with the energies at hardly any cost.

    Raises:
        DataError: a structure that cannot be computed, see `check_geometry`.
        PotentialError: an element the potential does not know.
    """
    use_compilation_cache()
    if neighborhoods is None:
        structures: Sequence[Neighborhood] = neighborhoods_of(potential, frames)
    else:
        check_frames(potential, frames)
        structures = neighborhoods
    predictions: list[Prediction | None] = [None] * len(structures)
    table = dict(zip(potential.species, np.asarray(potential.offsets, np.float64).tolist(), strict=True))
    for chunk, graph in padded_batches(structures, batch_size, potential.dtype):
        with errors_from_outside():
            results = evaluate_jit(potential, graph, on_features is not None)
        features = None if results.features is None else np.asarray(results.features)
        results = jax.tree.map(lambda x: np.asarray(x, np.float64), results._replace(features=None))
        batch = [structures[i] for i in chunk]
        for place, rows in enumerate(row_slices(s.n_atoms for s in batch)):
            s = batch[place]
            values: dict[str, Any] = {name: v for name, v in s.inputs.items() if name in potential.supplies}
            for name, output in results.outputs.items():
                value = output[rows] if quantity(name).per == "atom" else output[place]
                values[name] = float(value) if value.ndim == 0 else value
            values["energy"] = float(results.energy[place])
            if "energies" in potential.supplies:
                values["energies"] = results.energies[rows] + [table[z] for z in s.numbers.tolist()]
            if forces:
                values["forces"] = results.forces[rows]
            if stress and s.periodic and "stress" in potential.supplies:
                values["stress"] = to_voigt(results.virial[place]) / volume(s.cell)
            if results.extrapolation is not None:
                values["extrapolation"] = results.extrapolation[rows].max(axis=1, initial=0.0)
            predictions[chunk[place]] = Prediction(**values)
            if on_features is not None and features is not None:
                on_features(chunk[place], features[rows])
    return [p for p in predictions if p is not None]


def composition_energy(potential: EnergyFunction, graph: Graph) -> Float[Array, " n_structures"]:
    """Sum of the element offsets over the atoms of each structure, eV, float64."""
    offsets = jnp.asarray(potential.offsets, jnp.float64)[species_index(potential, graph)]
    return sum_atoms(jnp.where(graph.atom_mask, offsets, 0.0), graph)


def neighborhoods_of(
    potential: EnergyFunction, frames: Sequence[Atoms], *, checked: bool = False
) -> list[Neighborhood]:
    """Neighbours of structures that pass `check_frames` and whose atoms are not too close.

    Args:
        potential: whose cutoff counts.
        frames: the structures.
        checked: whether they have passed it before.

    Raises:
        DataError: a structure that cannot be computed, see `check_geometry`.
        PotentialError: an element the potential does not know.
    """
    if not checked:
        check_frames(potential, frames)
    around = potential.neighborhood  # bound once: Equinox takes its time
    structures = [around(atoms) for atoms in frames]
    for index, (structure, atoms) in enumerate(zip(structures, frames, strict=True)):
        # A list of neighbours tells already, which costs less than another search.
        if min(potential.cutoff, structure.shortest) < potential.min_distance:
            check_contact(atoms, _origin(frames, index), potential.min_distance)
    return structures


def _origin(frames: Sequence[Atoms], index: int, name: str = "frame") -> str:
    return frames.origin(index) if isinstance(frames, Frames) else f"{name} {index}"


def species_numbers(species: Sequence[str | int]) -> tuple[int, ...]:
    """Ascending atomic numbers from symbols or numbers; a text is one symbol."""
    species = [species] if isinstance(species, str) else species
    try:
        numbers = {chemical_symbols.index(s) if isinstance(s, str) else int(s) for s in species}
    except ValueError:
        unknown = [s for s in species if isinstance(s, str) and s not in chemical_symbols]
        raise PotentialError(f"species {unknown} are no chemical symbols") from None
    if not numbers:
        raise PotentialError("a potential needs at least one species, such as species=['Si']")
    return tuple(sorted(numbers))


def check_frames(potential: EnergyFunction, frames: Sequence[Atoms], name: str = "frame") -> None:
    """Raise an error unless the potential can serve every structure; see `Potential.check_frame`.

    The error is that of the first structure that is refused, and names the others.
    """
    refused: dict[str, DataError] = {}
    check_frame = potential.check_frame  # bound once
    for index, atoms in enumerate(frames):
        where = _origin(frames, index, name)
        check_numbers(atoms, where)
        check_species(potential, atoms.numbers, where)
        try:
            check_frame(atoms, where)
        except DataError as error:
            refused[where] = error
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
            f"the potential does not know {', '.join(chemical_symbols[z] for z in unknown)}",
            where=where,
            expected=f"only {', '.join(chemical_symbols[z] for z in potential.species)}",
            fix="train it on structures with these elements, or leave the frame out",
        )
