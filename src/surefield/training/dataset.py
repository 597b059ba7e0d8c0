"""Labelled structures ready for training: neighbours found once, labels checked, batches of few shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import equinox as eqx
import numpy as np
from ase import Atoms
from jaxtyping import Array, Float

from surefield.errors import DataError
from surefield.keys import ATOMIC_WEIGHTS, STRUCTURE_WEIGHT, Kind
from surefield.structures.batching import Shape, chunks
from surefield.structures.geometry import check_geometry
from surefield.structures.graph import Graph, collate
from surefield.structures.labels import Labels, Mapped, resolve_labels
from surefield.structures.neighbors import Neighborhood, neighborhood
from surefield.structures.offsets import is_isolated_atom, isolated_atom_energies
from surefield.structures.read import Frames, Source, read_frames

__all__ = ["Batch", "Dataset", "Sample", "batches", "make_batch", "prepare"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled structure with its neighbours and its weights in the loss."""

    structure: Neighborhood
    labels: Labels
    weight: float = 1.0
    atom_weights: Float[np.ndarray, " n_atoms"] | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples, the frames they were made from, and what was left out.

    Attributes:
        samples: one per frame.
        frames: the frames, isolated atoms left out.
        isolated_atoms: energies of the isolated atoms that were found among the frames, eV.
        label_note: one line that says which labels were taken.
    """

    samples: tuple[Sample, ...]
    frames: Frames
    isolated_atoms: Mapping[int, float]
    label_note: str

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Sequence[int] | np.ndarray) -> Dataset:
        chosen = np.asarray(index, dtype=int)
        samples = tuple(self.samples[i] for i in chosen)
        return Dataset(samples, self.frames[chosen], self.isolated_atoms, self.label_note)

    @property
    def structures(self) -> list[Neighborhood]:
        """Neighbourhoods of all samples."""
        return [sample.structure for sample in self.samples]

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(sorted({int(z) for s in self.samples for z in np.unique(s.structure.numbers)}))


def prepare(
    source: Source,
    cutoff: float,
    *,
    labels: Mapped | None = None,
    require: Sequence[Kind] = ("energy", "forces"),
) -> Dataset:
    """Read, check and label structures, and find their neighbours.

    Args:
        source: anything `read_frames` takes.
        cutoff: Å.
        labels: explicit keys of the labels, kind to key.
        require: labels every structure must have.

    Raises:
        DataError: see `read_frames`, `check_geometry` and `resolve_labels`; or nothing is left to use.
    """
    frames = read_frames(source)
    single = np.array([is_isolated_atom(atoms) for atoms in frames], dtype=bool)
    isolated: dict[int, float] = {}
    if single.any():
        free = frames[np.flatnonzero(single)]
        of_free, _ = resolve_labels(free, labels, require=())
        isolated = isolated_atom_energies(free, [label.energy for label in of_free])
    frames = frames[np.flatnonzero(~single)]
    if len(frames) == 0:
        raise DataError("there are no structures to use: the source is empty or holds isolated atoms only")
    check_geometry(frames)
    found, report = resolve_labels(frames, labels, require=require)
    samples = tuple(
        Sample(neighborhood(atoms, cutoff), label, *_weights(atoms, frames.origin(i)))
        for i, (atoms, label) in enumerate(zip(frames, found, strict=True))
    )
    return Dataset(samples, frames, isolated, str(report))


def _weights(atoms: Atoms, where: str) -> tuple[float, np.ndarray | None]:
    weight = float(atoms.info.get(STRUCTURE_WEIGHT, 1.0))
    per_atom = atoms.arrays.get(ATOMIC_WEIGHTS)
    bad = not np.isfinite(weight) or weight < 0
    bad = bad or (per_atom is not None and (per_atom.ndim != 1 or not np.all(per_atom >= 0)))
    if bad:
        raise DataError(
            f"weights must be finite and not negative ({STRUCTURE_WEIGHT}, {ATOMIC_WEIGHTS}) in {where}"
        )
    return weight, None if per_atom is None else np.asarray(per_atom, np.float64)


class Batch(eqx.Module):
    """A padded batch with labels; a weight of zero stands for a label that is not there.

    Attributes:
        graph: the structures.
        energy: total energies, eV, float64.
        energy_weight: (n_structures,).
        forces: eV/Å.
        forces_weight: (n_atoms, 3).
        stress: eV/Å^3, (n_structures, 3, 3).
        stress_weight: (n_structures,).
    """

    graph: Graph
    energy: Float[Array, " n_structures"]
    energy_weight: Float[Array, " n_structures"]
    forces: Float[Array, "n_atoms 3"]
    forces_weight: Float[Array, "n_atoms 3"]
    stress: Float[Array, "n_structures 3 3"]
    stress_weight: Float[Array, " n_structures"]


def batches(
    samples: Sequence[Sample],
    shapes: Sequence[tuple[Shape, np.ndarray]],
    *,
    seed: int,
    epoch: int,
    dtype: np.typing.DTypeLike,
) -> Iterator[Batch]:
    """Batches of one epoch in an order that depends on the seed and the epoch alone."""
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    structures = [sample.structure for sample in samples]
    planned = [
        (shape, chunk)
        for shape, members in shapes
        for chunk in chunks(structures, rng.permutation(members), shape)
    ]
    for place in rng.permutation(len(planned)):
        shape, chunk = planned[place]
        yield make_batch([samples[i] for i in chunk], shape, dtype)


def make_batch(samples: Sequence[Sample], shape: Shape, dtype: np.typing.DTypeLike) -> Batch:
    """Pad samples and their labels to a shape."""
    graph = collate(
        [sample.structure for sample in samples],
        n_atoms=shape.n_atoms,
        n_neighbors=shape.n_neighbors,
        n_structures=shape.n_structures,
        dtype=dtype,
    )
    energy = np.zeros(shape.n_structures)
    energy_weight = np.zeros(shape.n_structures, dtype)
    forces = np.zeros((shape.n_atoms, 3), dtype)
    forces_weight = np.zeros((shape.n_atoms, 3), dtype)
    stress = np.zeros((shape.n_structures, 3, 3), dtype)
    stress_weight = np.zeros(shape.n_structures, dtype)
    start = 0
    for index, sample in enumerate(samples):
        rows = slice(start, start + sample.structure.n_atoms)
        start = rows.stop
        labels = sample.labels
        if labels.energy is not None:
            energy[index], energy_weight[index] = labels.energy, sample.weight
        if labels.forces is not None:
            forces[rows] = labels.forces
            per_atom = 1.0 if sample.atom_weights is None else sample.atom_weights[:, None]
            forces_weight[rows] = sample.weight * per_atom
        if labels.stress is not None and sample.structure.periodic:
            xx, yy, zz, yz, xz, xy = labels.stress
            stress[index] = [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
            stress_weight[index] = sample.weight
    return Batch(graph, energy, energy_weight, forces, forces_weight, stress, stress_weight)  # type: ignore[arg-type]
