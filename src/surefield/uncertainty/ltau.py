"""LTAU: force errors of similar training atoms during training, as an uncertainty."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import numpy as np
from jaxtyping import Float

from surefield.errors import ConfigError, DataError
from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.selection.features import positive_int
from surefield.structures.labels import Mapped
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Source
from surefield.training.dataset import LabelledSet, as_labelled
from surefield.training.force_errors import with_forces
from surefield.uncertainty.environments import Environments, Index, of_atoms
from surefield.uncertainty.loss_trajectories import Spacing, logged_errors
from surefield.uncertainty.spread import Spread
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["LTAU"]

#: Standard deviation of a component of an isotropic Gaussian vector, in units of its mean length.
COMPONENT: Final = np.sqrt(np.pi / 8)


@final
@dataclass(frozen=True, eq=False)
class LTAU(Uncertainty):
    """Sigma of a force from the errors that the most similar training atoms had during the training.

    The error of an atom is expected to be the mean of those of the k nearest training atoms of its element in
    the inputs of the last layer, each the mean over the epochs of its binned force errors. Times sqrt(pi/8)
    it is the raw spread of a force component. Energies and stresses, which the method says nothing about,
    have the root mean square over the atoms, and mean only what their calibration makes of it.
    Vita, Samanta, Zhou, Lordi, arXiv:2407.03462.

    Attributes:
        environments: of the training atoms that have forces.
        errors: (n_environments,) expected force error of each, eV/Å.
        k: neighbours.
    """

    kind: ClassVar[str] = "ltau"
    zeros_by_values: ClassVar[bool] = True

    environments: Environments
    errors: Float[np.ndarray, " n_environments"]
    k: int

    @classmethod
    def fit(
        cls,
        potential: Potential | HasPotential,
        train: Source | LabelledSet,
        calibration: Source | LabelledSet,
        force_errors: str | Path | Float[np.ndarray, " n_train_atoms"],
        *,
        k: int = 10,
        n_bins: int = 100,
        bin_spacing: Spacing = "log",
        max_environments: int | None = None,
        seed: int = 0,
        index: Index = "exact",
        labels: Mapped | None = None,
        **options: Any,
    ) -> Self:
        """Read the log of a training, and calibrate on held-out data.

        Args:
            potential: trained, with a last layer.
            train: structures it was trained on, such as `Fit.train_set`.
            calibration: labelled structures it has not seen.
            force_errors: folder that `train(..., force_error_log=folder)` wrote; or the expected force error
                of each training atom that has forces, in the order of `train`, eV/Å.
            k: training atoms of the same element that are averaged.
            n_bins: of the errors.
            bin_spacing: 'log' or 'linear'.
            max_environments: of each element, drawn by chance where there are more; None: all.
            seed: of the draw.
            index: how the nearest are found: 'exact', or approximately by 'faiss' (extra `[ann]`), which pays
                for some ten thousand training atoms of an element and more.
            labels: explicit keys of the labels.
            options: of `calibrated`.

        Raises:
            ConfigError: k < 1, or more than the training atoms of an element; an unknown index, or no faiss.
            DataError: no log, or a log of other structures.
            PotentialError: the potential has no last layer, or does not know an element.
        """
        k = positive_int(k, "k, the number of neighbours,")
        potential = as_potential(potential)
        layer = potential.last_layer()
        data = as_labelled(train, potential, labels, require=())
        samples = with_forces(data.samples)
        own = [(sample.id, atom) for sample in samples for atom in range(sample.structure.n_atoms)]
        if isinstance(force_errors, np.ndarray):
            errors = force_errors
            if errors.shape != (len(own),):
                expected = f"({len(own)},), one per training atom with forces"
                raise DataError("expected force errors of other atoms", got=errors.shape, expected=expected)
            logged = own
        else:
            logged, errors = logged_errors(force_errors, n_bins, bin_spacing)
        if own != logged:
            raise DataError(
                "the log of force errors is of other structures than the training set",
                where=force_errors,
                got=f"{len(logged)} atoms, from {logged[0][0] if logged else 'nothing'}",
                expected=f"{len(own)} atoms, from {own[0][0] if own else 'nothing'}",
                fix="give the set that was trained on, Fit.train_set",
            )
        environments = Environments.of(layer, [s.structure for s in samples], max_environments, seed, index)
        for symbol, count in environments.counts.items():
            if k > count:
                what = f"k is larger than the number of training atoms of {symbol}"
                raise ConfigError(what, got=k, expected=f"at most {count}")
        statistics = {"environments": environments.counts}
        raw = cls(potential, {}, {}, statistics, environments, errors[environments.places], k)
        return raw.calibrated(calibration, labels=labels, **options)

    def expected_errors(
        self, structures: Sequence[Neighborhood]
    ) -> Iterator[tuple[int, Float[np.ndarray, " n_atoms"]]]:
        """Index of each structure and the expected force error of its atoms, eV/Å, not calibrated."""
        for index, _, which in self.environments.around(self.last_layer(), structures, self.k, scaled=False):
            yield index, self.errors[which].mean(axis=1)

    def spreads(
        self, structures: Sequence[Neighborhood], names: Collection[str], *, batch_size: int
    ) -> Iterator[tuple[int, Mapping[str, Spread]]]:
        """Index of each structure and the spreads that follow from the expected errors of its atoms."""
        del batch_size
        for index, errors in self.expected_errors(structures):
            yield index, of_atoms(COMPONENT * errors, structures[index], names)

    def arrays(self) -> dict[str, np.ndarray]:
        """The environments and their errors."""
        return self.environments.arrays() | {"errors": self.errors, "k": np.array(self.k)}

    @classmethod
    def fields_from(cls, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The environments and their errors."""
        environments = Environments.from_arrays(arrays)
        return {"environments": environments, "errors": arrays["errors"], "k": int(arrays["k"])}
