"""The constant uncertainty: the error on held-out structures; what others must beat."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import numpy as np

from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Source
from surefield.training.dataset import LabelledSet
from surefield.uncertainty.environments import of_atoms
from surefield.uncertainty.spread import Spread
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["ConstantUncertainty"]


@final
@dataclass(frozen=True, eq=False)
class ConstantUncertainty(Uncertainty):
    """Sigma is the RMSE of each quantity on held-out structures; of energies that per atom.

    Serves every potential; the baseline of every comparison.
    """

    kind: ClassVar[str] = "constant"
    zeros_by_values: ClassVar[bool] = True

    @classmethod
    def fit(
        cls, potential: Potential | HasPotential, calibration: Source | LabelledSet, **options: Any
    ) -> Self:
        """RMSEs on labelled structures that the potential has not seen; options as of `calibrated`."""
        raw = cls(potential=as_potential(potential), maps={}, thresholds={}, statistics={})
        return raw.calibrated(calibration, **options)

    def spreads(
        self, structures: Sequence[Neighborhood], names: Collection[str], *, batch_size: int
    ) -> Iterator[tuple[int, Mapping[str, Spread]]]:
        """One, for every quantity of every structure."""
        del batch_size
        for index, structure in enumerate(structures):
            yield index, of_atoms(np.ones(structure.n_atoms), structure, names)

    def arrays(self) -> dict[str, np.ndarray]:
        """Nothing: the maps hold all."""
        return {}

    @classmethod
    def fields_from(cls, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Nothing."""
        return {}
