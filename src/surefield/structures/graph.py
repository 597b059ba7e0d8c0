"""The padded batch of structures that every potential sees, and how structures are put into few shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import linear_call
from jaxtyping import Array, Bool, Float, Int

from surefield.structures.neighbors import Neighborhood

__all__ = ["Graph", "bucket_size", "collate", "edge_forces", "edge_virials", "sum_atoms"]

#: Padding vectors are this long (Å): far outside every cutoff, and safe to normalise.
PADDING_LENGTH = 1e3


class Graph(eqx.Module):
    """Several structures in one padded batch; atoms of all structures share the first axis.

    `vectors` and `positions` both carry the geometry: potentials of neighbour distances read the
    vectors, potentials of raw coordinates the positions, and forces follow from both.

    Attributes:
        numbers: atomic numbers, 0 for padding atoms.
        positions: Å.
        vectors: from atom to neighbour, Å; `PADDING_LENGTH` along x where `mask` is False.
        neighbors: index of the neighbour (the atom itself where padded).
        reverse: flat index (atom * n_neighbors + column) of the same edge seen from the neighbour.
        mask: which neighbours are real.
        structure: index of the structure an atom belongs to.
        cell: row vectors, Å.
        periodic: which structures are periodic in three directions (have a stress).
        n_atoms: real atoms per structure, 0 for padding structures.
        inputs: further numbers of each structure that its potential reads, 0 for padding structures.
    """

    numbers: Int[Array, " n_atoms"]
    positions: Float[Array, "n_atoms 3"]
    vectors: Float[Array, "n_atoms n_neighbors 3"]
    neighbors: Int[Array, "n_atoms n_neighbors"]
    reverse: Int[Array, "n_atoms n_neighbors"]
    mask: Bool[Array, "n_atoms n_neighbors"]
    structure: Int[Array, " n_atoms"]
    cell: Float[Array, "n_structures 3 3"]
    periodic: Bool[Array, " n_structures"]
    n_atoms: Int[Array, " n_structures"]
    inputs: dict[str, Float[Array, " n_structures"]]

    @property
    def n_structures(self) -> int:
        """Structures in the batch, padding included."""
        return self.cell.shape[-3]

    @property
    def atom_mask(self) -> Bool[Array, " n_atoms"]:
        """Which atoms are real."""
        return self.numbers > 0

    @property
    def volume(self) -> Float[Array, " n_structures"]:
        """Cell volumes in Å^3, 1 where a structure has no stress."""
        return jnp.where(self.periodic, jnp.abs(jnp.linalg.det(self.cell)), 1.0)


def bucket_size(n: int, ratio: float = 1.25, smallest: int = 4) -> int:
    """Round up to one of few sizes in geometric steps, so that few shapes are compiled."""
    if n <= smallest:
        return smallest
    size = smallest * ratio ** math.ceil(math.log(n / smallest) / math.log(ratio) - 1e-9)
    return int(4 * math.ceil(size / 4)) if size > 16 else math.ceil(size)


def collate(
    structures: Sequence[Neighborhood],
    *,
    n_atoms: int | None = None,
    n_neighbors: int | None = None,
    n_structures: int | None = None,
    dtype: np.typing.DTypeLike = np.float64,
) -> Graph:
    """Pad structures into one `Graph` of NumPy arrays; sizes default to the next bucket."""
    total = sum(s.n_atoms for s in structures)
    width = max((s.n_neighbors for s in structures), default=0)
    n = bucket_size(total) if n_atoms is None else n_atoms
    k = bucket_size(width) if n_neighbors is None else n_neighbors
    m = len(structures) if n_structures is None else n_structures
    if total > n or width > k or len(structures) > m:
        raise ValueError(f"{len(structures)} structures, {total} atoms, {width} neighbours > {(m, n, k)}")
    numbers = np.zeros(n, np.int32)
    positions = np.zeros((n, 3), dtype)
    vectors = np.zeros((n, k, 3), dtype)
    vectors[..., 0] = PADDING_LENGTH
    neighbors = np.repeat(np.arange(n, dtype=np.int32)[:, None], k, axis=1)
    reverse = np.arange(n * k, dtype=np.int32).reshape(n, k)
    mask = np.zeros((n, k), bool)
    structure = np.full(n, m - 1, np.int32)
    cell = np.tile(np.eye(3, dtype=dtype), (m, 1, 1))
    periodic = np.zeros(m, bool)
    counts = np.zeros(m, np.int32)
    inputs = {name: np.zeros(m, dtype) for name in (structures[0].inputs if structures else ())}
    start = 0
    for index, s in enumerate(structures):
        rows = slice(start, start + s.n_atoms)
        filled = rows, slice(s.n_neighbors)
        real = np.arange(s.n_neighbors) < s.counts[:, None]
        numbers[rows] = s.numbers
        positions[rows] = s.positions
        structure[rows] = index
        # Masked copies take a third of the time of gathering and scattering what is real.
        np.copyto(vectors[filled], s.vectors, where=real[:, :, None], casting="same_kind")
        moved = s.neighbors + start
        np.copyto(neighbors[filled], moved, where=real, casting="same_kind")
        np.copyto(reverse[filled], moved * k + s.reverse, where=real, casting="same_kind")
        mask[filled] = real
        if s.periodic:
            cell[index] = s.cell
        periodic[index] = s.periodic
        counts[index] = s.n_atoms
        for name, value in s.inputs.items():
            inputs[name][index] = value
        start += s.n_atoms
    return Graph(
        numbers,  # type: ignore[arg-type]
        positions,  # type: ignore[arg-type]
        vectors,  # type: ignore[arg-type]
        neighbors,  # type: ignore[arg-type]
        reverse,  # type: ignore[arg-type]
        mask,  # type: ignore[arg-type]
        structure,  # type: ignore[arg-type]
        cell,  # type: ignore[arg-type]
        periodic,  # type: ignore[arg-type]
        counts,  # type: ignore[arg-type]
        inputs,  # type: ignore[arg-type]
    )


def sum_atoms(values: Float[Array, " n_atoms *rest"], graph: Graph) -> Float[Array, " n_structures *rest"]:
    """Sum per-atom values over each structure; padding atoms must hold zeros."""
    return jax.ops.segment_sum(values, graph.structure, graph.n_structures, indices_are_sorted=True)


def edge_forces(
    gradient: Float[Array, "n_atoms n_neighbors 3 *rest"], graph: Graph
) -> Float[Array, "n_atoms 3 *rest"]:
    """Forces from dE/d(vectors): F_i = sum_k g_ik - g_(reverse of ik).

    The reversed edge is looked up, never scattered to, and the transpose is a look-up as well:
    on a CPU that is several times faster than the scatter automatic differentiation would make.
    """

    def forces(indices, g):
        _, reverse = indices
        back = g.reshape(-1, *g.shape[2:])[reverse.reshape(-1)].reshape(g.shape)
        return jnp.sum(g - back, axis=1)

    def transpose(indices, f):
        neighbors, _ = indices
        return f[:, None] - f[neighbors]

    return linear_call(forces, transpose, (graph.neighbors, graph.reverse), gradient)


def edge_virials(
    gradient: Float[Array, "n_atoms n_neighbors 3 *rest"], graph: Graph
) -> Float[Array, "n_structures 3 3 *rest"]:
    """dE/d(strain) of each structure in eV, from dE/d(vectors); symmetric."""
    vectors = jnp.where(graph.mask[..., None], graph.vectors, 0.0)
    total = sum_atoms(jnp.einsum("nka,nkb...->nab...", vectors, gradient), graph)
    return 0.5 * (total + jnp.swapaxes(total, 1, 2))
