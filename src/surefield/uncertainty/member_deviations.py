"""Deviations of last-layer members from the prediction: g·D_k, without the rows g."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from surefield.execution.cache import use_compilation_cache
from surefield.potentials.evaluate import Results
from surefield.potentials.learned_part import with_learned_part
from surefield.potentials.potential import LastLayerPotential, Potential
from surefield.quantities import quantity
from surefield.sensitivity.row_products import energy_products, row_products
from surefield.sensitivity.rows import structure_rows
from surefield.structures.batching import padded_batches
from surefield.structures.neighbors import Neighborhood
from surefield.structures.tensors import row_slices
from surefield.uncertainty.spread import Members, value_of

__all__ = ["displaced", "member_deviations"]


def displaced(potential: Potential, displacement: Float[np.ndarray, " n_features"]) -> Potential:
    """The potential whose last-layer weights are displaced."""
    layer = potential.last_layer()
    moved = displacement.reshape(layer.readout.shape).astype(layer.readout.dtype)
    return with_learned_part(potential, layer.with_readout(layer.readout + moved))


_of_all = eqx.filter_jit(row_products)
_of_energies = eqx.filter_jit(energy_products)


def member_deviations(
    layer: LastLayerPotential,
    displacements: Float[np.ndarray, "n_members n_features"],
    structures: Sequence[Neighborhood],
    names: Collection[str],
    *,
    batch_size: int = 16,
) -> Iterator[tuple[int, dict[str, Members]]]:
    """Index of each structure, and deviations (n_members, *shape) of its quantities, float64.

    Args:
        layer: a potential and its last layer.
        displacements: of its weights.
        structures: as the potential reads them.
        names: quantities; a stress is left out where there is none.
        batch_size: structures per batch, about.
    """
    if layer.closed_rows([], forces=False, strain=False) is not None:
        yield from _from_rows(layer, displacements, structures, names)
        return
    use_compilation_cache()
    whole = any(quantity(name).source != "energy" for name in names)
    drawn = jnp.asarray(displacements)
    for chunk, graph in padded_batches(structures, batch_size, layer.dtype):
        of_batch = _of_all(layer, drawn, graph) if whole else _of_energies(layer, drawn, graph)
        values: Any = jax.tree.map(lambda x: np.asarray(x, np.float64), of_batch)
        if not whole:
            nothing: Any = None
            values = Results(values[0], nothing, nothing, values[1], {})
        slices = row_slices(structures[index].n_atoms for index in chunk)
        for place, (index, rows) in enumerate(zip(chunk, slices, strict=True)):
            s = structures[index]
            yield (
                index,
                {
                    name: value
                    for name in names
                    if (value := value_of(name, values, s, place, rows)) is not None
                },
            )


def _from_rows(
    layer: LastLayerPotential,
    displacements: np.ndarray,
    structures: Sequence[Neighborhood],
    names: Collection[str],
) -> Iterator[tuple[int, dict[str, Members]]]:
    """The same of a potential that has a shorter way to its rows."""
    for index, rows in enumerate(structure_rows(layer, structures, names)):
        shapes = {name: quantity(name).shape(structures[index].n_atoms) for name in rows.values}
        yield (
            index,
            {
                name: (displacements @ np.atleast_2d(g).T).reshape(-1, *shapes[name])
                for name, g in rows.values.items()
            },
        )
