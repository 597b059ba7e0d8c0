"""Distances to the training set in the features of a potential, as an uncertainty."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self, final

import numpy as np

from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.quantities import uncertain
from surefield.selection.features import positive_int
from surefield.structures.labels import Mapped
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Source
from surefield.training.dataset import LabelledSet, as_labelled
from surefield.uncertainty.environments import Environments, of_atoms
from surefield.uncertainty.spread import Spread
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["FeatureDistance"]

#: An atom is never nearer than this times the typical distance within the training set.
NEAREST: Final = 1e-3
#: Atoms of the training set whose distances among themselves are looked at.
_SAMPLE: Final = 2000


@final
@dataclass(frozen=True, eq=False)
class FeatureDistance(Uncertainty):
    """Sigma from how far the environments of the atoms are from those of the training set.

    The distance of an atom is the root mean square of those to the k nearest training atoms of its element,
    in the inputs of the potential's last layer, each in units of its standard deviation over the element. It
    is the spread of the atom's energy and force; energies, stresses and other quantities of structures have
    the root mean square over the atoms. With the calibration map `local` sigma is the error of what was held
    out and is as far away, and grows with the distance beyond that.
    Compare Janet et al., Chem. Sci. 10, 7913 (2019).

    Attributes:
        environments: of the training atoms; at most a fixed number of each element.
        k: neighbours.
        nearest: distance below which all atoms count as equally near.
    """

    kind: ClassVar[str] = "distance"
    zeros_by_values: ClassVar[bool] = True

    environments: Environments
    k: int
    nearest: float

    @classmethod
    def fit(
        cls,
        potential: Potential | HasPotential,
        train: Source | LabelledSet,
        calibration: Source | LabelledSet,
        *,
        k: int = 8,
        max_environments: int | None = 10_000,
        seed: int = 0,
        calibration_map: Mapping[str, str] | None = None,
        labels: Mapped | None = None,
        **options: Any,
    ) -> Self:
        """Keep environments of the training set, calibrate distances to them on held-out data.

        Args:
            potential: trained, with a last layer.
            train: structures it was trained on.
            calibration: labelled structures it has not seen.
            k: neighbours; of an element with fewer training atoms all of these.
            max_environments: of each element, drawn by chance where there are more; None: all.
            seed: of the draw.
            calibration_map: quantity to map; 'local' where none is named.
            labels: explicit keys of the labels.
            options: of `calibrated`.

        Raises:
            ConfigError: k or max_environments is not positive.
            DataError: no structures in one of the sets.
            PotentialError: the potential has no last layer, or does not know an element.
        """
        k = positive_int(k, "k, the number of neighbours,")
        potential = as_potential(potential)
        layer = potential.last_layer()
        structures = as_labelled(train, potential, labels, require=()).structures
        environments = Environments.of(layer, structures, max_environments, seed)
        statistics = {"environments": environments.counts}
        raw = cls(potential, {}, {}, statistics, environments, k, _typical(environments, k) * NEAREST)
        maps = dict.fromkeys(uncertain(potential.supplies), "local") | dict(calibration_map or {})
        return raw.calibrated(calibration, calibration_map=maps, labels=labels, **options)

    def spreads(
        self, structures: Sequence[Neighborhood], names: Collection[str], *, batch_size: int
    ) -> Iterator[tuple[int, Mapping[str, Spread]]]:
        """Index of each structure and the distances of its atoms."""
        del batch_size
        found = self.environments.around(self.last_layer(), structures, self.k, scaled=True)
        for index, squared, _ in found:
            distances = np.maximum(np.sqrt(squared.mean(axis=1)), self.nearest)
            yield index, of_atoms(distances, structures[index], names)

    def arrays(self) -> dict[str, np.ndarray]:
        """The environments."""
        return self.environments.arrays() | {"k": np.array(self.k), "nearest": np.array(self.nearest)}

    @classmethod
    def fields_from(cls, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The environments."""
        environments = Environments.from_arrays(arrays)
        return {"environments": environments, "k": int(arrays["k"]), "nearest": float(arrays["nearest"])}


def _typical(environments: Environments, k: int) -> float:
    """Median distance of training atoms from the others of their element; 1 where all are alike."""
    found = []
    for z in np.unique(environments.numbers):
        own = np.flatnonzero(environments.numbers == z)[:_SAMPLE]
        if len(own) > 1:
            part = Environments(environments.features[own], environments.numbers[own], own)
            squared, _ = part.nearest(part.features, int(z), k, scaled=True, themselves=True)
            found.append(np.sqrt(squared.mean(axis=1)))
    typical = float(np.median(np.concatenate(found))) if found else 0.0
    return typical if typical > 0 else 1.0
