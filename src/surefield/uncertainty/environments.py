"""Environments of training atoms, found again by their features, and spreads that belong to atoms."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float, Int

from surefield.errors import ConfigError, DataError, PotentialError, nearest
from surefield.potentials.potential import LastLayerPotential
from surefield.quantities import quantity
from surefield.selection.approximate_neighbors import NeighborGraph, check_faiss
from surefield.selection.distances import k_nearest
from surefield.sensitivity.rows import site_features
from surefield.structures.neighbors import Neighborhood
from surefield.uncertainty.spread import Spread

__all__ = ["Environments", "Index", "of_atoms"]

Index = Literal["exact", "faiss"]
#: How training atoms are searched.
INDICES: Final = ("exact", "faiss")

#: Queries whose features are held at once.
_ATOMS: Final = 4096


@dataclass(frozen=True, eq=False)
class Environments:
    """Site features of training atoms, and the search among those of one element.

    Attributes:
        features: (n_environments, n_site_features) in the precision of the potential.
        numbers: (n_environments,) atomic numbers.
        places: (n_environments,) number of each atom among all atoms of the training set.
        index: 'exact', or 'faiss', see `NeighborGraph`.
    """

    features: Float[np.ndarray, "n_environments n_site_features"]
    numbers: Int[np.ndarray, " n_environments"]
    places: Int[np.ndarray, " n_environments"]
    index: Index = "exact"

    @classmethod
    def of(
        cls,
        layer: LastLayerPotential,
        structures: Sequence[Neighborhood],
        most: int | None = None,
        seed: int = 0,
        index: Index = "exact",
    ) -> Environments:
        """Those of structures, batch by batch; of elements with more than `most` atoms as many by chance.

        Raises:
            ConfigError: `most` is not positive, an unknown index, or one that is not installed.
            DataError: no atoms.
            PotentialError: features that are not finite.
        """
        if index not in INDICES:
            raise ConfigError(f"unknown index {index!r}", fix=nearest(str(index), INDICES))
        if index == "faiss":
            check_faiss()
        if most is not None and most < 1:
            raise ConfigError("max_environments must be positive", got=most)
        if not structures:
            raise DataError("there are no training structures to take environments from")
        numbers = np.concatenate([structure.numbers for structure in structures])
        rng = np.random.Generator(np.random.Philox(key=seed))
        kept = np.sort(
            np.concatenate([rng.permutation(np.flatnonzero(numbers == z))[:most] for z in np.unique(numbers)])
        )
        stops = np.cumsum([structure.n_atoms for structure in structures])
        features = np.empty((len(kept), layer.readout.shape[1]), layer.dtype)
        for number, own in site_features(layer, structures):
            start, stop = stops[number] - len(own), stops[number]
            low, high = np.searchsorted(kept, [start, stop])
            features[low:high] = own[kept[low:high] - start]
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            atom = int(kept[np.argmax(bad)])
            structure = int(np.searchsorted(stops, atom, side="right"))
            first = stops[structure] - structures[structure].n_atoms
            where = f"training structure {structure}, atom {atom - first}"
            raise PotentialError("features of an atom are not finite", where=where)
        return cls(features, numbers[kept], kept, index)

    def arrays(self) -> dict[str, np.ndarray]:
        """All there is, by name."""
        named = {"features": self.features, "numbers": self.numbers, "places": self.places}
        return named if self.index == "exact" else {**named, "index": np.array(self.index)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Environments:
        """What `arrays` gave."""
        index: Any = str(arrays.get("index", "exact"))
        return cls(arrays["features"], arrays["numbers"], arrays["places"], index)

    @property
    def counts(self) -> dict[str, int]:
        """Environments of each element, by its symbol."""
        numbers, counts = np.unique(self.numbers, return_counts=True)
        return {chemical_symbols[z]: int(n) for z, n in zip(numbers, counts, strict=True)}

    @cached_property
    def scales(self) -> dict[int, Float[np.ndarray, " n_site_features"]]:
        """Standard deviation of each feature over the atoms of an element, by its atomic number.

        A feature that hardly varies counts as if it varied a thousandth of the one that varies most.
        """
        scales = {}
        for z in np.unique(self.numbers):
            spread = self.features[self.numbers == z].std(axis=0, dtype=np.float64)
            largest = float(spread.max(initial=0.0))
            scales[int(z)] = np.maximum(spread, 1e-3 * largest) if largest > 0 else np.ones_like(spread)
        return scales

    @cached_property
    def _graphs(self) -> dict[tuple[int, bool], NeighborGraph]:
        """By element and scaling, made when they are searched."""
        return {}

    def nearest(
        self,
        features: Float[np.ndarray, "n_atoms n_site_features"],
        number: int,
        k: int,
        *,
        scaled: bool,
        themselves: bool = False,
    ) -> tuple[Float[np.ndarray, "n_atoms k"], Int[np.ndarray, "n_atoms k"]]:
        """Squared distances to the k nearest environments of an element, ascending, and their indices.

        Args:
            features: of atoms of the element.
            number: its atomic number.
            k: as many as there are, where there are fewer.
            scaled: in units of `scales`, and a mean over the features.
            themselves: the atoms are all environments of the element, and not near to themselves.

        Raises:
            PotentialError: no training atom of the element.
        """
        own = np.flatnonzero(self.numbers == number)
        if len(own) - themselves < 1:
            symbol = chemical_symbols[number]
            raise PotentialError(
                f"no training atom to compare {symbol} with",
                got=f"{len(own)} of {symbol}",
                fix=f"fit the uncertainty on structures with {symbol}",
            )
        unit = self.scales[number] * np.sqrt(features.shape[1]) if scaled else 1.0
        rows, others = (np.asarray(x, np.float64) / unit for x in (features, self.features[own]))
        if self.index == "faiss" and not themselves:
            place = number, scaled
            if place not in self._graphs:
                self._graphs[place] = NeighborGraph(others)
            distances, which = self._graphs[place].nearest(rows, min(k, len(own)))
            return distances, own[which]
        without = np.arange(len(own)) if themselves else None
        distances, which = k_nearest(rows, others, min(k, len(own) - themselves), without=without)
        return distances, own[which]

    def around(
        self, layer: LastLayerPotential, structures: Sequence[Neighborhood], k: int, *, scaled: bool
    ) -> Iterator[tuple[int, Float[np.ndarray, "n_atoms k"], Int[np.ndarray, "n_atoms k"]]]:
        """Index of each structure, and what `nearest` gives for its atoms; where an element has fewer than k
        environments, its last one stands for the rest."""
        held: list[tuple[int, np.ndarray]] = []
        total = 0
        for entry in site_features(layer, structures):
            held.append(entry)
            total += len(entry[1])
            if total >= _ATOMS:
                yield from self._around(held, structures, k, scaled)
                held, total = [], 0
        yield from self._around(held, structures, k, scaled)

    def _around(
        self, held: list[tuple[int, np.ndarray]], structures: Sequence[Neighborhood], k: int, scaled: bool
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        if not held:
            return
        features = np.concatenate([own for _, own in held])
        numbers = np.concatenate([structures[index].numbers for index, _ in held])
        distances, which = np.empty((len(features), k)), np.empty((len(features), k), np.int64)
        for z in np.unique(numbers):
            atoms = numbers == z
            found = self.nearest(features[atoms], int(z), k, scaled=scaled)
            # Where there are fewer than k, the last one again.
            columns = np.minimum(np.arange(k), found[0].shape[1] - 1)
            distances[atoms], which[atoms] = (part[:, columns] for part in found)
        start = 0
        for index, own in held:
            yield index, distances[start : start + len(own)], which[start : start + len(own)]
            start += len(own)


def of_atoms(
    u: Float[np.ndarray, " n_atoms"], structure: Neighborhood, names: Collection[str]
) -> Mapping[str, Spread]:
    """Spreads of quantities from one of each atom.

    That of an atom serves all that it has, each component of its force, say; structures have the root mean
    square of their atoms, as if these erred together.
    """
    whole, spreads = float(np.sqrt(np.mean(u**2))), {}
    for name in names:
        entry = quantity(name)
        if entry.source == "strain" and not structure.periodic:
            continue
        shape = entry.shape(structure.n_atoms)
        own = u.reshape(-1, *(1,) * len(entry.components)) if entry.per == "atom" else np.float64(whole)
        spreads[name] = Spread(np.broadcast_to(own, shape))
    return spreads
