"""Gradients of the energy with respect to all trainable parameters, sketched to a few numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surefield.potentials.potential import Potential, trainable
from surefield.sensitivity.sketch import checked_width, count_sketch
from surefield.structures.graph import Graph, collate
from surefield.structures.neighbors import Neighborhood

__all__ = ["CountSketch", "gradient_features", "gradient_rows"]


class CountSketch:
    """Unbiased map of long vectors to `width` numbers: each entry is added to a random one, with random sign.

    See `surefield.sensitivity.sketch.count_sketch`, whose numbers do not depend on how the vector is cut.

    Args:
        n_parameters: length of the vectors.
        width: length of the sketches; the relative deviation of squared distances is about root(2/width).
        seed: of the map.
    """

    def __init__(self, n_parameters: int, width: int = 512, seed: int = 0) -> None:
        self.width = checked_width(width)
        self.places, self.signs = count_sketch(n_parameters, width, seed)

    def __call__(self, vector: Float[Array, " n_parameters"]) -> Float[Array, " width"]:
        """Sketch one vector, in float64."""
        signed = vector.astype(jnp.float64) * self.signs
        return jax.ops.segment_sum(signed, self.places, self.width)


def _flat(tree: Potential) -> Array:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    ordered = sorted(leaves, key=lambda leaf: jax.tree_util.keystr(leaf[0]))
    return jnp.concatenate([leaf.ravel() for _, leaf in ordered])


@eqx.filter_jit
def _gradient(potential: Potential, graph: Graph) -> Array:
    moving, fixed = eqx.partition(potential, trainable(potential))

    def energy(parameters: Potential) -> Array:
        energies = eqx.combine(parameters, fixed).site_energies(graph)
        return jnp.sum(jnp.where(graph.atom_mask, energies, 0.0))

    return _flat(jax.grad(energy)(moving))


def gradient_rows(
    potential: Potential, structures: Sequence[Neighborhood]
) -> Iterator[Float[np.ndarray, " n_parameters"]]:
    """dE/d(parameters) of each structure, parameters ordered by the sorted names of their arrays."""
    for structure in structures:
        yield np.asarray(_gradient(potential, collate([structure], dtype=potential.dtype)))


def gradient_features(
    potential: Potential, structures: Sequence[Neighborhood], *, width: int = 512, seed: int = 0
) -> Float[np.ndarray, "n_structures width"]:
    """Sketched full gradients of the energies, one row per structure, float64."""
    sketch: CountSketch | None = None
    rows = []
    for gradient in gradient_rows(potential, structures):
        if sketch is None:
            sketch = CountSketch(len(gradient), width, seed)
        rows.append(np.asarray(sketch(jnp.asarray(gradient))))
    return np.stack(rows) if rows else np.zeros((0, width))
