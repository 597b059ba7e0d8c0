"""Labelled structures ready for training: neighbours found once, labels checked, batches of few shapes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import equinox as eqx
import numpy as np
from ase import Atoms
from jaxtyping import Array, Bool, Float

from surefield.errors import DataError, worded
from surefield.execution.executor import usable_cores
from surefield.potentials.evaluate import check_frames, predict
from surefield.potentials.potential import Potential, SumPotential
from surefield.quantities import labelled, quantity
from surefield.structures.batching import Shape, chunks
from surefield.structures.geometry import check_geometry
from surefield.structures.graph import Graph, collate
from surefield.structures.label_sources import keys_present
from surefield.structures.labels import LabelReport, Labels, Mapped, resolve_labels
from surefield.structures.neighbors import Neighborhood, neighborhood
from surefield.structures.offsets import is_isolated_atom, isolated_atom_energies
from surefield.structures.read import Frames, Source, read_frames
from surefield.structures.states import mixed_states
from surefield.structures.tensors import from_voigt, row_slices
from surefield.training.weights import frame_weights

__all__ = [
    "AT_ONCE",
    "Batch",
    "LabelledSet",
    "Sample",
    "as_labelled",
    "batches",
    "make_batch",
    "make_samples",
    "prepare",
    "unread_states",
    "without_baseline",
]

#: Samples that are predicted at once, so that memory does not grow with the data.
AT_ONCE: Final = 512
#: Structures from which on a thread of its own pays.
_A_THREAD: Final = 64
#: What the argument of `resolve_labels` is called here.
_ARGUMENT: Final = {r"(?<!, )\bmapping=": "labels="}


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled structure with its neighbours and its weights, which multiply residuals.

    Attributes:
        structure: with its neighbours, as the potential reads it.
        labels: reference values.
        id: of the structure where it is stored, or where it comes from.
        atoms: the structure itself, which nobody changes.
        weight: of all residuals.
        atom_weights: of the residuals of each atom, besides; None: all 1.
        factors: of the residuals of single quantities, besides.
    """

    structure: Neighborhood
    labels: Labels
    id: str
    atoms: Atoms
    weight: float = 1.0
    atom_weights: Float[np.ndarray, " n_atoms"] | None = None
    factors: Mapping[str, float] = field(default_factory=dict)

    @property
    def weights_of_atoms(self) -> Float[np.ndarray, " n_atoms"]:
        """`atom_weights`, also where these are all 1."""
        return np.ones(self.n_atoms) if self.atom_weights is None else self.atom_weights

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.structure.n_atoms

    def scaled(self, **factors: float) -> Sample:
        """Copy with further factors of the residuals of quantities."""
        products = {name: self.factors.get(name, 1.0) * factor for name, factor in factors.items()}
        return replace(self, factors={**self.factors, **products})

    def known(self, name: str) -> Bool[np.ndarray, "*shape"]:
        """Which components of a quantity have a label; NaN marks those that have none."""
        label = self.labels.get(name)
        return np.zeros(quantity(name).shape(self.n_atoms), bool) if label is None else ~np.isnan(label)

    def label(self, name: str) -> Float[np.ndarray, "*shape"]:
        """The label of a quantity, zero where there is none."""
        known = self.known(name)
        return np.where(known, self.labels[name], 0.0) if known.any() else np.zeros(known.shape)

    def component_weights(self, name: str) -> Float[np.ndarray, "*shape"]:
        """`residual_weight` of every component; 0 for those without a label."""
        weight, known = self.residual_weight(name), self.known(name)
        return weight.reshape(weight.shape + (1,) * (known.ndim - weight.ndim)) * known

    def residual_weight(self, name: str) -> Float[np.ndarray, "*n_atoms"]:
        """What residuals of a quantity are multiplied by, () or (n_atoms,); 0 without a label that counts."""
        entry = quantity(name)
        known = name in self.labels and (entry.source != "strain" or self.structure.periodic)
        value = np.asarray(self.weight * self.factors.get(name, 1.0) if known else 0.0)
        if entry.per == "structure":
            return value
        return value * self.weights_of_atoms

    @property
    def trained_energy(self) -> bool:
        """Whether there is an energy that counts."""
        return bool(self.residual_weight("energy") > 0)

    @property
    def trained_atoms(self) -> Bool[np.ndarray, " n_atoms"]:
        """Which atoms have forces that count."""
        return self.weights_of_atoms * self.weight > 0


@dataclass(frozen=True, eq=False)
class LabelledSet:
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

    def __getitem__(self, index: Sequence[int] | np.ndarray) -> LabelledSet:
        chosen = np.asarray(index, dtype=int)
        samples = tuple(self.samples[i] for i in chosen)
        return LabelledSet(samples, self.frames[chosen], self.isolated_atoms, self.label_note)

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
    require: Sequence[str] = ("energy",),
    num_workers: int | None = 0,
    allow_nan: bool = False,
) -> LabelledSet:
    """Read, check and label structures, and find their neighbours.

    Args:
        source: anything `read_frames` takes.
        potential: what the structures are for, or the cutoff of its neighbour list in Å.
        labels: explicit keys of the labels, kind to key.
        require: labels every structure must have; of the others those count that are there.
        num_workers: threads that find neighbours; 0: none but this one; None: what suits their number.
        allow_nan: single values that are NaN have no label, and the rest of the label counts; infinite ones
            are refused. False: see `resolve_labels`.

    Raises:
        DataError: see `read_frames`, `check_geometry`, `resolve_labels` and `Potential.understood`; or
            nothing is left to use.
        PotentialError: an element the potential does not know.

    Warns:
        UserWarning: energies differ by charge or spin, which the potential does not read.
    """
    frames = read_frames(source)
    single = np.array([is_isolated_atom(atoms) for atoms in frames], dtype=bool)
    isolated: dict[int, float] = {}
    if single.any():
        with worded(_ARGUMENT):
            # Of all frames at once: free atoms whose energy has another name are refused.
            of_all, _ = resolve_labels(frames, labels, require=())
        isolated = isolated_atom_energies(frames, [label.energy for label in of_all])
    frames = frames[np.flatnonzero(~single)]
    if len(frames) == 0:
        raise DataError("there are no structures to use: the source is empty or holds isolated atoms only")
    check_geometry(frames)
    supplies = potential.supplies if isinstance(potential, Potential) else ()
    with worded(_ARGUMENT):
        understood, report = resolve_labels(
            frames, labels, require=require, supplies=supplies, allow_nan=allow_nan
        )
    if allow_nan:
        _check_not_infinite(frames, understood)
    note = f"{report}{_without_forces(frames, report)}"
    if isinstance(potential, Potential):
        check_frames(potential, frames)
        surroundings = potential.neighborhood
        understood, meaning = potential.understood(frames, understood)
        note = f"{note}; {meaning}" if meaning else note
    else:
        surroundings = partial(neighborhood, cutoff=potential)
    unread = unread_states(frames, understood, supplies)
    note = f"{note}; {unread}" if unread else note
    samples = make_samples(frames, understood, surroundings, num_workers)
    return LabelledSet(samples, frames, isolated, note)


def as_labelled(
    source: Source | LabelledSet, potential: Potential, labels: Mapped | None, **options: Any
) -> LabelledSet:
    """The data set itself, or that of structures; options as `prepare` takes."""
    if isinstance(source, LabelledSet):
        return source
    return prepare(source, potential, labels=labels, **options)


def _without_forces(frames: Frames, report: LabelReport) -> str:
    """What structures without forces are good for, in words."""
    forces = report.kinds["forces"]
    if not forces.missing:
        return ""
    if forces.present:
        return f"; {forces.missing} structures have no forces: of them the energies count"
    keys = keys_present(frames[0])
    return (
        f"; energies alone count (keys present: {keys}; labels of another name are found if `labels` says so)"
    )


def unread_states(frames: Frames, labels: Sequence[Labels], supplies: Collection[str]) -> str:
    """Warn of energies that differ by charge or spin, unless a potential of an electrode reads these.

    Args:
        frames: structures.
        labels: theirs.
        supplies: results of the potential.

    Returns:
        The warning; empty where there is none.
    """
    mixed = None if "excess_electrons" in supplies else mixed_states(frames, labels)
    if mixed is None:
        return ""
    text = f"{mixed.message}; the potential reads neither charge nor spin and fits the mean of such energies"
    warnings.warn(text, UserWarning, stacklevel=3)
    return text


def make_samples(
    frames: Frames,
    labels: Sequence[Labels],
    neighborhood: Callable[[Atoms], Neighborhood],
    num_workers: int | None = 0,
) -> tuple[Sample, ...]:
    """Samples with the weights that structures carry; those of residuals are roots of those of squares.

    Args:
        frames: structures.
        labels: of each.
        neighborhood: gives the neighbours of a structure.
        num_workers: threads that call it, see `prepare`.
    """
    samples = []
    structures = _each(neighborhood, frames, num_workers)
    for i, (atoms, label) in enumerate(zip(frames, labels, strict=True)):
        weights = frame_weights(atoms, frames.origin(i))
        per_atom = None if weights.atoms is None else np.sqrt(weights.atoms)
        factors = {"energy": float(np.sqrt(weights.energy))}
        whole = float(np.sqrt(weights.structure))
        samples.append(Sample(structures[i], label, frames.origin(i), atoms, whole, per_atom, factors))
    return tuple(samples)


def _check_not_infinite(frames: Frames, labels: Sequence[Labels]) -> None:
    for i, label in enumerate(labels):
        for name, value in label.results().items():
            if np.isinf(value).any():
                where = f"{frames.origin(i)} ({frames[i].get_chemical_formula()})"
                raise DataError(f"{name} is not finite", where=where, fix="remove it, or mark it by NaN")


def _each(
    neighborhood: Callable[[Atoms], Neighborhood], frames: Frames, num_workers: int | None
) -> list[Neighborhood]:
    """Neighbours of every structure, in order; the search leaves the interpreter, so that threads suffice."""
    if num_workers is None:
        num_workers = min(usable_cores(), len(frames) // _A_THREAD)
    if num_workers < 2:
        return [neighborhood(atoms) for atoms in frames]
    with ThreadPoolExecutor(num_workers) as pool:
        return list(pool.map(neighborhood, frames))


def without_baseline(potential: Potential, samples: Sequence[Sample]) -> tuple[Potential, list[Sample]]:
    """The part of a potential that is fitted, and copies of samples whose labels lack the fixed baseline."""
    if not isinstance(potential, SumPotential):
        return potential, list(samples)
    copies = []
    for start in range(0, len(samples), AT_ONCE):
        block = samples[start : start + AT_ONCE]
        stress = any("stress" in sample.labels for sample in block)
        predictions = predict(
            potential.baseline,
            [sample.atoms for sample in block],
            stress=stress,
            neighborhoods=[sample.structure for sample in block],
        )
        for sample, p in zip(block, predictions, strict=True):
            left = {
                name: label if quantity(name).source == "output" else label - p[name] if name in p else None
                for name, label in sample.labels.results().items()
            }
            copies.append(replace(sample, labels=Labels(**left)))
    return potential.learned, copies


class Batch(eqx.Module):
    """A padded batch with labels; a weight of zero stands for a label that is not there.

    Attributes:
        graph: the structures.
        labels: by quantity, (n_structures or n_atoms, *components); energies are float64, of stress whole
            tensors (n_structures, 3, 3).
        weights: by quantity, in the shape of the labels.
    """

    graph: Graph
    labels: dict[str, Float[Array, ...]]
    weights: dict[str, Float[Array, ...]]


def batches(
    samples: Sequence[Sample],
    shapes: Sequence[tuple[Shape, np.ndarray]],
    *,
    seed: int,
    epoch: int,
    dtype: np.typing.DTypeLike,
    quantities: Sequence[str] | None = None,
) -> Iterator[Batch]:
    """Batches of one epoch in an order that depends on the seed and the epoch alone; see `make_batch`."""
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    structures = [sample.structure for sample in samples]
    planned = [
        (shape, chunk)
        for shape, members in shapes
        for chunk in chunks(structures, rng.permutation(members), shape)
    ]
    for place in rng.permutation(len(planned)):
        shape, chunk = planned[place]
        yield make_batch([samples[i] for i in chunk], shape, dtype, quantities)


def make_batch(
    samples: Sequence[Sample],
    shape: Shape,
    dtype: np.typing.DTypeLike,
    quantities: Sequence[str] | None = None,
) -> Batch:
    """Pad samples and their labels to a shape.

    Args:
        samples: labelled structures.
        shape: of the batch.
        dtype: of all arrays but energies.
        quantities: whose labels the batch holds; None: those that follow from energies, and all that the
            samples have.
    """
    graph = collate(
        [sample.structure for sample in samples],
        n_atoms=shape.n_atoms,
        n_neighbors=shape.n_neighbors,
        n_structures=shape.n_structures,
        dtype=dtype,
    )
    labels: dict[str, np.ndarray] = {}
    weights: dict[str, np.ndarray] = {}
    if quantities is None:
        quantities = list(dict.fromkeys([*labelled(), *(name for s in samples for name in s.labels)]))
    for name in quantities:
        entry = quantity(name)
        n_rows = shape.n_atoms if entry.per == "atom" else shape.n_structures
        components = (3, 3) if entry.source == "strain" else entry.components
        # Energies are differences of large numbers.
        kind = np.float64 if entry.source == "energy" else dtype
        labels[name], weights[name] = (np.zeros((n_rows, *components), d) for d in (kind, dtype))
        places = row_slices(s.structure.n_atoms for s in samples) if entry.per == "atom" else range(n_rows)
        for place, sample in zip(places, samples, strict=False):
            weight = sample.component_weights(name)
            if np.any(weight > 0):
                whole = from_voigt if entry.source == "strain" else np.asarray
                labels[name][place], weights[name][place] = whole(sample.label(name)), whole(weight)
    return Batch(graph, labels, weights)  # type: ignore[arg-type]
