"""Configurations for network training: features and their derivatives made once, stacked into few shapes.

A descriptor has no parameters, so a step needs its values and derivatives only: forces are the product of
dE/dG with dG/dr. Neighbours that are copies of one atom are folded into one slot, the first slot of an atom
is the atom itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from surefield.descriptors.atomic_descriptor import AtomicDescriptor, product
from surefield.descriptors.derivatives import STORED_BYTES
from surefield.potentials.dropout_network import DropoutNetwork
from surefield.potentials.potential import Potential
from surefield.structures.graph import Graph, bucket_size
from surefield.structures.neighbors import Neighborhood
from surefield.structures.tensors import VOIGT_COLUMNS, VOIGT_ROWS, volume
from surefield.training.dataset import Sample, without_baseline
from surefield.training.problem import Weights, residual_weights

__all__ = ["PerKind", "Stack", "make_stacks", "predicted", "residuals", "stacked_graph", "take"]

#: Numbers in the derivatives of the configurations that are worked on at once: enough to hide the cost of an
#: operation, few enough for the cache of a processor.
_BLOCK_NUMBERS: Final = 2**22


class Targets(eqx.Module):
    """Targets and weights of residuals, which are zero where there is no label.

    Attributes:
        energy: total energy without element offsets and baseline, eV.
        forces: eV/Å, without baseline.
        stress: eV/Å^3, Voigt, without baseline.
        energy_weight: of the energy per atom.
        force_weight: of each atom.
        stress_weight: of each component.
        n_atoms: real atoms.
        volume: Å^3; 1 without stress.
    """

    energy: Float[Array, " s"]
    forces: Float[Array, "s n 3"]
    stress: Float[Array, "s 6"]
    energy_weight: Float[Array, " s"]
    force_weight: Float[Array, "s n"]
    stress_weight: Float[Array, "s 6"]
    n_atoms: Float[Array, " s"]
    volume: Float[Array, " s"]


class Geometry(eqx.Module):
    """Neighbours of every atom, numbered inside its structure."""

    vectors: Float[Array, "s n k 3"]
    neighbors: Int[Array, "s n k"]
    mask: Bool[Array, "s n k"]
    slots: Int[Array, "s n k"]


class Derivatives(eqx.Module):
    """Features and their derivatives.

    Attributes:
        features: of the descriptor.
        primes: by the position of the atom in each slot, per Å.
        strain: by the strain, symmetric, Voigt.
    """

    features: Float[Array, "s n width"]
    primes: Float[Array, "s n n_slots 3 width"]
    strain: Float[Array, "s n 6 width"]


class Stack(eqx.Module):
    """Configurations padded to one shape; either derivatives are stored, or the geometry they follow from.

    Attributes:
        ids: place of each configuration in the order it was given.
        numbers: atomic numbers, 0 for padding.
        index: atom of each slot of each atom.
        targets: what is to be predicted, and weights.
        geometry: None where derivatives are stored.
        derivatives: None where they are made at every use.
    """

    ids: Int[Array, " s"]
    numbers: Int[Array, "s n"]
    index: Int[Array, "s n n_slots"]
    targets: Targets
    geometry: Geometry | None
    derivatives: Derivatives | None

    def block(self, width: int, count: int) -> int:
        """Configurations to work on at once, out of so many."""
        _, n, n_slots = self.index.shape
        return max(1, min(count, _BLOCK_NUMBERS // (3 * n * n_slots * width)))


class PerKind(NamedTuple):
    """Results or residuals of configurations: energy (s,), forces (s, n, 3), stress (s, 6)."""

    energy: Float[Array, " s"]
    forces: Float[Array, "s n 3"]
    stress: Float[Array, "s 6"]

    def brackets(self, n_atoms: Float[Array, " s"], method: str) -> Float[Array, " s"]:
        """Bracket of the loss of each configuration, of residuals: 'mse' squares, 'mae' is absolute."""
        size = jnp.abs if method == "mae" else jnp.square
        forces = jnp.sum(size(self.forces), axis=(1, 2)) / (3 * n_atoms)
        return size(self.energy) + forces + jnp.sum(size(self.stress), axis=1) / 6


def predicted(
    network: DropoutNetwork, part: Stack, factors: Sequence[Float[Array, "s n_out"]] = ()
) -> PerKind:
    """Energies without offsets, eV, forces, eV/Å, and stresses, eV/Å^3, of configurations (traceable).

    Args:
        network: at its present parameters; its stored members do not count.
        part: configurations.
        factors: of the hidden units of each layer, one row per configuration; none: the full network.
    """
    size, n = part.numbers.shape
    derivatives = part.derivatives
    if derivatives is None:
        derivatives = _derivatives(network.descriptor, part)
    graph = stacked_graph(part.numbers, part.targets.n_atoms, part.geometry)
    rows = [jnp.repeat(factor, n, axis=0) for factor in factors]

    def total(features: Array) -> tuple[Array, Array]:
        energies = network.member_energies(features.reshape(size * n, -1), graph, rows)
        return jnp.sum(energies), energies

    slopes, energies = jax.grad(total, has_aux=True)(derivatives.features)
    by_slot = jnp.einsum("snjxw,snw->snjx", derivatives.primes, slopes)
    place = jnp.arange(size)[:, None, None]
    forces = jnp.zeros((size, n, 3), by_slot.dtype).at[place, part.index].add(-by_slot)
    stress = jnp.einsum("snvw,snw->sv", derivatives.strain, slopes) / part.targets.volume[:, None]
    return PerKind(energies.reshape(size, n).sum(axis=1), forces, stress)


def residuals(results: PerKind, targets: Targets) -> PerKind:
    """Residuals, of energies per atom, times their weights, which are zero without label (traceable)."""
    energy = (results.energy - targets.energy) / targets.n_atoms * targets.energy_weight
    forces = (results.forces - targets.forces) * targets.force_weight[..., None]
    stress = (results.stress - targets.stress) * targets.stress_weight
    return PerKind(energy, forces, stress)


def take(stack: Stack, rows: Int[Array, " b"]) -> Stack:
    """Some configurations of a stack."""
    return jax.tree.map(lambda x: x[rows], stack)


@dataclass(frozen=True)
class _Shape:
    """Sizes of a stack: atoms, neighbours, slots."""

    n: int
    k: int
    n_slots: int


def make_stacks(
    network: DropoutNetwork,
    parts: Sequence[Sequence[Sample]],
    weights: Weights,
    baseline: Potential | None = None,
) -> list[list[Stack]]:
    """Stacks of several sets of configurations, which share their shapes.

    Derivatives are stored as long as there is memory for them, those of the first set first.

    Args:
        network: whose descriptor and element offsets count.
        parts: sets of configurations.
        weights: of the residuals.
        baseline: whose energies, forces and stresses are subtracted from the labels.
    """
    folded = [[_folded(sample.structure) for sample in part] for part in parts]
    keys = [[bucket_size(sample.n_atoms) for sample in part] for part in parts]
    left = STORED_BYTES
    sets: list[list[Stack]] = []
    for part, sizes, slots in zip(parts, keys, folded, strict=True):
        fitted = part if baseline is None else without_baseline(network + baseline, part)[1]
        stacks = []
        for key in sorted(set(sizes)):
            rows = [i for i, size in enumerate(sizes) if size == key]
            shape = _shape(key, parts, keys, folded)
            stack = _stack(network, fitted, rows, slots, weights, shape)
            size = 8 * len(rows) * shape.n * network.descriptor.width * (3 * shape.n_slots + 7)
            if size <= left:
                left -= size
                stack = _stored(network.descriptor, stack)
            stacks.append(jax.tree.map(jnp.asarray, stack))
        sets.append(stacks)
    return sets


class _Folded(NamedTuple):
    """Slot of each neighbour, and atom of each slot."""

    slots: Int[np.ndarray, "n k"]
    atoms: Int[np.ndarray, "n n_slots"]


def _folded(s: Neighborhood) -> _Folded:
    own = np.arange(s.n_atoms)[:, None]
    others = np.where(np.arange(s.n_neighbors) < s.counts[:, None], s.neighbors, own)
    # The atom itself sorts first, as -1; every other atom that occurs has the next number.
    labels = np.concatenate([np.full_like(own, -1), np.where(others == own, -1, others)], axis=1)
    order = np.argsort(labels, axis=1, kind="stable")
    ranked = np.take_along_axis(labels, order, axis=1)
    slot = np.cumsum(np.diff(ranked, axis=1, prepend=ranked[:, :1]) > 0, axis=1, dtype=np.int64)
    slots = np.empty_like(slot)
    np.put_along_axis(slots, order, slot, axis=1)
    index = np.repeat(own, slot.max(initial=0) + 1, axis=1)
    np.put_along_axis(index, slot, np.where(ranked < 0, own, ranked), axis=1)
    return _Folded(slots[:, 1:], index)


def _shape(
    key: int,
    parts: Sequence[Sequence[Sample]],
    keys: Sequence[Sequence[int]],
    folded: Sequence[Sequence[_Folded]],
) -> _Shape:
    """Sizes that hold all configurations of a size, whatever their set."""
    sizes = [
        (sample.n_atoms, sample.structure.n_neighbors, f.atoms.shape[1])
        for part, own, slots in zip(parts, keys, folded, strict=True)
        for sample, other, f in zip(part, own, slots, strict=True)
        if other == key
    ]
    n, k, n_slots = (max(values) for values in zip(*sizes, strict=True))
    return _Shape(n, 4 * math.ceil(max(k, 1) / 4), n_slots)


def _stack(
    network: DropoutNetwork,
    samples: Sequence[Sample],
    rows: Sequence[int],
    folded: Sequence[_Folded],
    weights: Weights,
    shape: _Shape,
) -> Stack:
    """Arrays of some configurations, on the host and without derivatives; energies without offsets."""
    size, n, k = len(rows), shape.n, shape.k
    numbers = np.zeros((size, n), np.int32)
    index = np.tile(np.arange(n, dtype=np.int32)[:, None], (size, 1, shape.n_slots))
    vectors, mask = np.zeros((size, n, k, 3)), np.zeros((size, n, k), bool)
    neighbors, slots = np.zeros((size, n, k), np.int32), np.zeros((size, n, k), np.int32)
    energy, energy_weight, n_atoms = np.zeros(size), np.zeros(size), np.zeros(size)
    forces, force_weight = np.zeros((size, n, 3)), np.zeros((size, n))
    stress, stress_weight, volumes = np.zeros((size, 6)), np.zeros((size, 6)), np.ones(size)
    for place, row in enumerate(rows):
        sample, f = samples[row], folded[row]
        s, labels, w = sample.structure, sample.labels, residual_weights(sample, weights)
        m, width = s.n_atoms, s.n_neighbors
        numbers[place, :m] = s.numbers
        index[place, :m, : f.atoms.shape[1]] = f.atoms
        vectors[place, :m, :width], neighbors[place, :m, :width] = s.vectors, s.neighbors
        mask[place, :m, :width] = np.arange(width) < s.counts[:, None]
        slots[place, :m, :width] = f.slots
        n_atoms[place], energy_weight[place] = m, w.energy
        if labels.energy is not None:
            energy[place] = labels.energy - network.constant_energy(s.numbers)
        if labels.forces is not None:
            forces[place, :m], force_weight[place, :m] = sample.label("forces"), w.forces
        if labels.stress is not None and s.periodic:
            stress[place], stress_weight[place] = sample.label("stress"), w.stress
            volumes[place] = volume(s.cell)
    kinds = (energy, forces, stress, energy_weight, force_weight, stress_weight)
    targets = Targets(*kinds, n_atoms, volumes)  # type: ignore[arg-type]
    geometry = Geometry(vectors, neighbors, mask, slots)  # type: ignore[arg-type]
    return Stack(np.array(rows, np.int32), numbers, index, targets, geometry, None)  # type: ignore[arg-type]


def _stored(descriptor: AtomicDescriptor, stack: Stack) -> Stack:
    """Copy with derivatives, made block by block, in place of the geometry."""
    count = len(stack.ids)
    block = stack.block(descriptor.width, count)
    blocks = []
    for start in range(0, count, block):
        # Every block has the same shape; what the last one repeats is cut off in the end.
        rows = np.minimum(np.arange(start, start + block), count - 1)
        blocks.append(_derivatives_jit(descriptor, take(stack, rows)))  # type: ignore[arg-type]
    whole = jax.tree.map(lambda *parts: jnp.concatenate(parts)[:count], *blocks)
    return Stack(stack.ids, stack.numbers, stack.index, stack.targets, None, whole)


def _derivatives(descriptor: AtomicDescriptor, part: Stack) -> Derivatives:
    """Features and derivatives from the geometry (traceable)."""
    assert part.geometry is not None
    size, n, n_slots = part.index.shape
    graph = stacked_graph(part.numbers, part.targets.n_atoms, part.geometry)
    features, jacobian = descriptor.features(graph), descriptor.jacobian(graph)
    rows, k, _, width = jacobian.shape
    slots = part.geometry.slots.reshape(rows, k)
    one_hot = (jnp.arange(n_slots)[:, None] == slots[:, None]).astype(jacobian.dtype)
    primes = product(one_hot, jacobian.reshape(rows, k, 3 * width)).reshape(rows, n_slots, 3, width)
    # Moving an atom moves all its neighbours the other way.
    primes = primes.at[:, 0].add(-jnp.sum(jacobian, axis=1))
    vectors = jnp.where(graph.mask[..., None], graph.vectors, 0.0)
    tensor = jnp.einsum("rka,rkbw->rabw", vectors, jacobian)
    strain = 0.5 * (tensor + jnp.swapaxes(tensor, 1, 2))[:, VOIGT_ROWS, VOIGT_COLUMNS]
    shapes = ((size, n, width), (size, n, n_slots, 3, width), (size, n, 6, width))
    return Derivatives(*(x.reshape(s) for x, s in zip((features, primes, strain), shapes, strict=True)))


_derivatives_jit = eqx.filter_jit(_derivatives)


def stacked_graph(numbers: Any, n_atoms: Any, geometry: Geometry | None = None, **fields: Any) -> Graph:
    """Graph of structures in n rows each; no geometry, no neighbours; other fields are 0 (traceable)."""
    size, n = numbers.shape
    rows, start = size * n, n * jnp.arange(size)[:, None, None]
    vectors, neighbors = jnp.zeros((rows, 0, 3)), jnp.zeros((rows, 0), jnp.int32)
    mask = jnp.zeros((rows, 0), bool)
    if geometry is not None:
        g, k = geometry, geometry.mask.shape[2]
        neighbors = (jnp.asarray(g.neighbors) + start).reshape(rows, k)
        vectors, mask = g.vectors.reshape(rows, k, 3), g.mask.reshape(rows, k)
    zeros = {
        "positions": jnp.zeros((rows, 3)),
        "cell": jnp.zeros((size, 3, 3)),
        "periodic": jnp.zeros(size, bool),
    }
    return Graph(
        numbers=numbers.reshape(rows),
        vectors=vectors,
        neighbors=neighbors,
        reverse=neighbors,
        mask=mask,
        structure=jnp.repeat(jnp.arange(size, dtype=jnp.int32), n),
        n_atoms=n_atoms,
        **{**zeros, "inputs": {}, **fields},  # type: ignore[arg-type]
    )
