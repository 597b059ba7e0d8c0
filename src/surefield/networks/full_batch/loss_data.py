"""Images of one shape, collated once and put on the device: features, their derivatives, labels, weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from surefield.descriptors.atomic_descriptor import AtomicDescriptor
from surefield.descriptors.derivatives import STORED_BYTES, atomic_features, dense_derivatives
from surefield.networks.full_batch.training_images import Terms, TrainingImage
from surefield.potentials.image_network import ImageNetwork
from surefield.potentials.potential import DescriptorPotential
from surefield.potentials.vector_potential import VectorPotential
from surefield.quantities import quantity
from surefield.structures.batching import padded_batches
from surefield.structures.graph import Graph, collate
from surefield.structures.neighbors import Neighborhood
from surefield.structures.tensors import row_slices
from surefield.training.network_data import stacked_graph

__all__ = ["LossBatch", "LossData", "exact_batch", "loss_batches"]

#: Numbers in the derivatives of one batch: enough to hide the cost of a call, few enough for the cache.
_BATCH_NUMBERS: Final = 2**22
#: Atoms per batch where derivatives are made again, and where there are none.
_ATOMS_REMADE, _ATOMS_PLAIN = 256, 16384
#: Neighbouring sizes of images share a shape beyond this number of shapes, or where it costs little.
_SHAPES, _LITTLE = 4, 1.25
_FLOAT: Final = 8


class LossData(eqx.Module):
    """Arrays of a batch. Padding has weights of zero.

    Attributes:
        graph: structures; without neighbours where features are stored.
        features: of the descriptor; None: made from the graph at every evaluation.
        primes: -dF/d(dE/dG), (n_structures, 3 n, n width), periodic copies folded; None.
        jacobian: derivatives of the features by the vectors of the graph; None.
        labels: by quantity, (n_structures or n_atoms, *components).
        weights: of squared residuals by quantity, (n_structures,); of |ΔF|^2 of each atom (n_atoms,).
    """

    graph: Graph
    features: Float[Array, "n_atoms width"] | None
    primes: Float[Array, "n_structures n_coordinates n_inputs"] | None
    jacobian: Float[Array, "n_atoms n_neighbors 3 width"] | None
    labels: dict[str, Float[Array, ...]]
    weights: dict[str, Float[Array, " n_rows"]]


@dataclass(frozen=True, eq=False)
class LossBatch:
    """A batch and which images it has.

    Attributes:
        data: on the device.
        images: number of each image.
        starts: first row of each image among the atoms.
    """

    data: LossData
    images: tuple[int, ...]
    starts: tuple[int, ...]

    def image_of_row(self, row: int) -> tuple[int, int]:
        """Image and atom of a row of the atoms."""
        place = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.images[place], row - self.starts[place]


def loss_batches(
    images: Sequence[TrainingImage],
    potential: VectorPotential,
    terms: Terms,
    numbers: Sequence[int] | None = None,
) -> list[LossBatch]:
    """All images in batches of few shapes.

    Args:
        images: labelled images.
        potential: with descriptor features that are to be stored, or without.
        terms: of the loss.
        numbers: of the images; 0, 1, ... by default.
    """
    numbered = list(zip(range(len(images)) if numbers is None else numbers, images, strict=True))
    if not isinstance(potential, DescriptorPotential):
        whole = isinstance(potential, ImageNetwork)
        return list(_graph_batches(numbered, potential, _ATOMS_PLAIN if whole else _ATOMS_REMADE))
    derivatives = terms.force or terms.stress
    batches: list[LossBatch] = []
    left = STORED_BYTES
    for n, members in _size_groups(numbered):
        neighbors = max(image.sample.structure.n_neighbors for _, image in members)
        has_features = members[0][1].features is not None
        # With few atoms several neighbours are copies of one atom; with many most pairs are far apart.
        folded = not terms.stress and (has_features or n <= neighbors)
        per_image = (3 * n * n if folded else 3 * n * neighbors) * potential.descriptor.width * derivatives
        size = _FLOAT * per_image * len(members)
        if size > left and not has_features:
            batches += _graph_batches(members, potential, _ATOMS_REMADE)
            continue
        left -= size
        per_batch = max(1, _BATCH_NUMBERS // max(per_image, 4 * n * potential.descriptor.width))
        if folded or not derivatives:
            batches += _folded_batches(members, potential, n, per_batch, derivatives=derivatives)
        else:
            batches += _edge_batches(members, potential, per_batch)
    return batches


def exact_batch(number: int, image: TrainingImage, potential: VectorPotential, terms: Terms) -> LossBatch:
    """One image without padding; descriptor features are made here, the only compiled part."""
    s = image.sample.structure
    if image.features is not None:
        graph = _bare_graph([s], s.n_atoms, 1, potential.dtype)
        primes = None if image.primes is None else image.primes.reshape(1, 3 * s.n_atoms, -1)
        return _batch([(number, image)], graph, [0], image.features, primes)
    graph = collate([s], n_atoms=s.n_atoms, n_neighbors=max(s.n_neighbors, 1), dtype=potential.dtype)
    if not isinstance(potential, DescriptorPotential):
        return _batch([(number, image)], graph, [0])
    derivatives = terms.force or terms.stress
    features, jacobian = _with_jacobian(potential.descriptor, graph, derivatives)
    return _batch([(number, image)], graph, [0], features, None, jacobian)


_Numbered = Sequence[tuple[int, TrainingImage]]


def _size_groups(images: _Numbered) -> Iterator[tuple[int, list[tuple[int, TrainingImage]]]]:
    """Images by number of atoms, the small ones first; few sizes, to which the others are padded."""
    sizes = sorted({image.sample.n_atoms for _, image in images})
    counts = {n: sum(image.sample.n_atoms == n for _, image in images) for n in sizes}
    least = total = sum(counts[n] * n * n for n in sizes)
    while len(sizes) > 1:
        costs = [counts[a] * (b * b - a * a) for a, b in itertools.pairwise(sizes)]
        place = int(np.argmin(costs))
        total += costs[place]
        if len(sizes) <= _SHAPES and total > _LITTLE * least:
            break
        counts[sizes[place + 1]] += counts[sizes[place]]
        del sizes[place]
    low = 0
    for n in sizes:
        yield n, [(i, image) for i, image in images if low < image.sample.n_atoms <= n]
        low = n


def _cut(images: _Numbered, most: int) -> tuple[int, list[_Numbered]]:
    """Chunks of nearly equal length, and the largest length."""
    count = math.ceil(len(images) / most)
    size = math.ceil(len(images) / count)
    return size, [images[i : i + size] for i in range(0, len(images), size)]


def _folded_batches(
    images: _Numbered, potential: DescriptorPotential, n: int, most: int, *, derivatives: bool
) -> Iterator[LossBatch]:
    """n rows per image; derivatives by the positions of all n atoms."""
    width, dtype = potential.descriptor.width, potential.dtype
    size, parts = _cut(images, most)
    for part in parts:
        features = np.zeros((size, n, width), dtype)
        primes = np.zeros((size, n, 3, n, width), dtype) if derivatives else None
        _fill(features, primes, [image for _, image in part], potential.descriptor)
        graph = _bare_graph([image.sample.structure for _, image in part], n, size, dtype)
        yield _batch(
            part,
            graph,
            [n * place for place in range(len(part))],
            features.reshape(size * n, width),
            None if primes is None else primes.reshape(size, 3 * n, n * width),
        )


def _fill(
    features: np.ndarray,
    primes: np.ndarray | None,
    images: Sequence[TrainingImage],
    descriptor: AtomicDescriptor,
) -> None:
    own = [place for place, image in enumerate(images) if image.features is None]
    structures = [images[place].sample.structure for place in own]
    if primes is None:
        for place, values in zip(own, atomic_features(descriptor, structures), strict=True):
            features[place, : len(values)] = values
    elif own:
        values, slopes = dense_derivatives(descriptor, structures)
        n = values.shape[1]
        features[own, :n] = values
        primes[own, :n, :, :n] = slopes
    for place, image in enumerate(images):
        if image.features is not None:
            n = len(image.features)
            features[place, :n] = image.features
            if primes is not None:
                primes[place, :n, :, :n] = image.primes


def _edge_batches(images: _Numbered, potential: DescriptorPotential, per_batch: int) -> Iterator[LossBatch]:
    """Padded graphs with derivatives by the vectors to the neighbours."""
    for part, graph in _graphs(images, per_batch, potential.dtype):
        features, jacobian = _with_jacobian(potential.descriptor, graph, True)
        yield _batch(part, graph, _starts(part), features, None, jacobian)


@eqx.filter_jit
def _with_jacobian(
    descriptor: AtomicDescriptor, graph: Graph, derivatives: bool
) -> tuple[Array, Array | None]:
    return descriptor.features(graph), descriptor.jacobian(graph) if derivatives else None


def _graph_batches(images: _Numbered, potential: VectorPotential, n_atoms: int) -> Iterator[LossBatch]:
    """Padded graphs, from which everything is made at every evaluation."""
    mean = sum(image.sample.n_atoms for _, image in images) / len(images)
    for part, graph in _graphs(images, max(1, int(n_atoms / mean)), potential.dtype):
        yield _batch(part, graph, _starts(part))


def _graphs(images: _Numbered, per_batch: int, dtype: np.dtype) -> Iterator[tuple[_Numbered, Graph]]:
    structures = [image.sample.structure for _, image in images]
    for chunk, graph in padded_batches(structures, per_batch, dtype, buckets=False):
        yield [images[i] for i in chunk], graph


def _starts(images: _Numbered) -> list[int]:
    return [rows.start for rows in row_slices(image.sample.n_atoms for _, image in images)]


def _bare_graph(structures: Sequence[Neighborhood], n: int, size: int, dtype: np.dtype) -> Graph:
    """Structures in n rows each, without neighbours."""
    numbers, positions = np.zeros((size, n), np.int32), np.zeros((size, n, 3), dtype)
    cell, counts = np.tile(np.eye(3, dtype=dtype), (size, 1, 1)), np.zeros(size, np.int32)
    periodic = np.zeros(size, bool)
    inputs = {name: np.zeros(size, dtype) for name in structures[0].inputs}
    for i, s in enumerate(structures):
        numbers[i, : s.n_atoms], positions[i, : s.n_atoms] = s.numbers, s.positions
        counts[i], periodic[i] = s.n_atoms, s.periodic
        cell[i] = s.cell if s.periodic else np.eye(3)
        for name, value in s.inputs.items():
            inputs[name][i] = value
    fields = {"positions": positions.reshape(-1, 3), "cell": cell, "periodic": periodic, "inputs": inputs}
    return stacked_graph(numbers, counts, **fields)


def _batch(
    images: _Numbered,
    graph: Graph,
    starts: Sequence[int],
    features: np.ndarray | Array | None = None,
    primes: np.ndarray | None = None,
    jacobian: Array | None = None,
) -> LossBatch:
    """Labels and weights beside a graph, all of it on the device."""
    labels: dict[str, np.ndarray] = {}
    weights: dict[str, np.ndarray] = {}
    for name in images[0][1].weights:
        entry = quantity(name)
        n_rows = graph.numbers.shape[0] if entry.per == "atom" else graph.n_structures
        labels[name], weights[name] = np.zeros((n_rows, *entry.components)), np.zeros(n_rows)
        for place, ((_, image), start) in enumerate(zip(images, starts, strict=True)):
            rows = slice(start, start + image.sample.n_atoms) if entry.per == "atom" else place
            weights[name][rows] = image.weights[name]
            if name in image.sample.labels:
                labels[name][rows] = image.sample.labels[name]
    data = LossData(graph, features, primes, jacobian, labels, weights)  # type: ignore[arg-type]
    return LossBatch(jax.device_put(data), tuple(i for i, _ in images), tuple(starts))
