"""Labelled structures ready for training: neighbours found once, labels checked, batches of few shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from surefield.errors import DataError
from surefield.keys import Kind
from surefield.potentials.electrode.charged_potential import ChargedPotential
from surefield.potentials.evaluate import check_frames
from surefield.potentials.potential import Potential
from surefield.structures.batching import Shape, chunks
from surefield.structures.electrode import grand_canonical_labels
from surefield.structures.geometry import check_geometry
from surefield.structures.graph import Graph, collate
from surefield.structures.labels import Labels, Mapped, resolve_labels
from surefield.structures.neighbors import Neighborhood, neighborhood
from surefield.structures.offsets import is_isolated_atom, isolated_atom_energies
from surefield.structures.read import Frames, Source, read_frames
from surefield.training.weights import FrameWeights, frame_weights

__all__ = ["Batch", "Dataset", "Sample", "batches", "make_batch", "prepare"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled structure with its neighbours and its weights, which multiply residuals."""

    structure: Neighborhood
    labels: Labels
    weight: float = 1.0
    atom_weights: Float[np.ndarray, " n_atoms"] | None = None
    energy_weight: float = 1.0

    @property
    def trained_energy(self) -> bool:
        """Whether there is an energy that counts."""
        return self.labels.energy is not None and self.weight * self.energy_weight > 0

    @property
    def trained_atoms(self) -> Bool[np.ndarray, " n_atoms"]:
        """Which atoms have forces that count."""
        weights = np.ones(self.structure.n_atoms) if self.atom_weights is None else self.atom_weights
        return weights * self.weight > 0


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
    potential: Potential | float,
    *,
    labels: Mapped | None = None,
    require: Sequence[Kind] = ("energy", "forces"),
) -> Dataset:
    """Read, check and label structures, and find their neighbours.

    Args:
        source: anything `read_frames` takes.
        potential: what the structures are for, or the cutoff of its neighbour list in Å.
        labels: explicit keys of the labels, kind to key.
        require: labels every structure must have.

    Raises:
        DataError: see `read_frames`, `check_geometry`, `resolve_labels` and, for electrodes,
            `grand_canonical_labels`; or nothing is left to use.
        PotentialError: an element the potential does not know.
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
    note = str(report)
    if isinstance(potential, Potential):
        check_frames(potential, frames)
        surroundings = potential.neighborhood
        if isinstance(potential, ChargedPotential):
            found, note = grand_canonical_labels(frames, found, potential.electrode_potential)
            note = f"{report}; {note}"
    else:
        surroundings = partial(neighborhood, cutoff=potential)
    samples = tuple(
        _sample(surroundings(atoms), label, frame_weights(atoms, frames.origin(i)))
        for i, (atoms, label) in enumerate(zip(frames, found, strict=True))
    )
    return Dataset(samples, frames, isolated, note)


def _sample(structure: Neighborhood, labels: Labels, weights: FrameWeights) -> Sample:
    """Weights of residuals: roots of those of squares."""
    per_atom = None if weights.atoms is None else np.sqrt(weights.atoms)
    return Sample(
        structure, labels, float(np.sqrt(weights.structure)), per_atom, float(np.sqrt(weights.energy))
    )


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
        excess_electrons: of electrodes.
        excess_electrons_weight: (n_structures,).
    """

    graph: Graph
    energy: Float[Array, " n_structures"]
    energy_weight: Float[Array, " n_structures"]
    forces: Float[Array, "n_atoms 3"]
    forces_weight: Float[Array, "n_atoms 3"]
    stress: Float[Array, "n_structures 3 3"]
    stress_weight: Float[Array, " n_structures"]
    excess_electrons: Float[Array, " n_structures"]
    excess_electrons_weight: Float[Array, " n_structures"]


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
    electrons = np.zeros(shape.n_structures, dtype)
    electrons_weight = np.zeros(shape.n_structures, dtype)
    start = 0
    for index, sample in enumerate(samples):
        rows = slice(start, start + sample.structure.n_atoms)
        start = rows.stop
        labels = sample.labels
        if labels.energy is not None:
            energy[index], energy_weight[index] = labels.energy, sample.weight * sample.energy_weight
        if labels.forces is not None:
            forces[rows] = labels.forces
            per_atom = 1.0 if sample.atom_weights is None else sample.atom_weights[:, None]
            forces_weight[rows] = sample.weight * per_atom
        if labels.stress is not None and sample.structure.periodic:
            xx, yy, zz, yz, xz, xy = labels.stress
            stress[index] = [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
            stress_weight[index] = sample.weight
        if labels.excess_electrons is not None:
            electrons[index], electrons_weight[index] = labels.excess_electrons, sample.weight
    values = (
        energy,
        energy_weight,
        forces,
        forces_weight,
        stress,
        stress_weight,
        electrons,
        electrons_weight,
    )
    return Batch(graph, *values)  # type: ignore[arg-type]
