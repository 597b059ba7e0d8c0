"""Spreads of last-layer uncertainties without rows: over members, or over random weights of the posterior."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from surefield.potentials.potential import LastLayerPotential
from surefield.quantities import quantity
from surefield.structures.neighbors import Neighborhood
from surefield.uncertainty.member_deviations import member_deviations
from surefield.uncertainty.member_learner import Displacements
from surefield.uncertainty.spread import Spread, spread_of_members

__all__ = ["spreads_along", "target_of"]

#: Random directions that tell whether a row vanishes: for that their few suffice.
_LENGTHS: Final = 8


def target_of(name: str) -> str:
    """Whose members have the spread of a quantity: an output has its own, all else that of the energy."""
    return name if quantity(name).source == "output" else "energy"


def spreads_along(
    layer: LastLayerPotential,
    directions: Mapping[str, Displacements],
    members: Mapping[str, Displacements],
    structures: Sequence[Neighborhood],
    names: Collection[str],
    *,
    batch_size: int,
) -> Iterator[tuple[int, Mapping[str, Spread]]]:
    """Index of each structure and its spreads, with ddof = 1.

    Args:
        layer: a potential and its last layer.
        directions: by target the displacements of the weights whose spread it is.
        members: by target those whose values are given with it.
        structures: as the potential reads them.
        names: quantities; those without directions are left out.
        batch_size: structures per batch, about.
    """
    rng = np.random.Generator(np.random.Philox(key=0))
    lengths = rng.standard_normal((_LENGTHS, layer.n_features))
    streams, parts = [], []
    for target, own in directions.items():
        wanted = [name for name in names if target_of(name) == target]
        if wanted:
            drawn = members.get(target, np.zeros((0, layer.n_features)))
            stack = np.concatenate([own, lengths, drawn])
            parts.append((len(own), len(drawn)))
            streams.append(member_deviations(layer, stack, structures, wanted, batch_size=batch_size))
    for entries in zip(*streams, strict=True):
        spreads = {}
        for (n, n_members), (index, values) in zip(parts, entries, strict=True):
            for name, value in values.items():
                spreads[name] = _spread(name, value, n, n_members, structures[index].n_atoms)
        yield entries[0][0], spreads


def _spread(name: str, values: Any, n: int, n_members: int, n_atoms: int) -> Spread:
    along = values[:n] - values[:n].mean(axis=0)
    magnitude = None
    if quantity(name).symmetric_zeros:
        magnitude = np.sqrt(np.mean(values[n : n + _LENGTHS] ** 2, axis=0))
    members = values[n + _LENGTHS :] if n_members else None
    per = n_atoms if quantity(name).per_atom else 1
    vectors = np.moveaxis(along, 0, -1) / (per * np.sqrt(n - 1))
    return spread_of_members(name, along, n_atoms)._replace(
        magnitude=magnitude, members=members, vectors=vectors
    )
