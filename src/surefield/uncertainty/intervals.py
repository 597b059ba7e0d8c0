"""Conformal prediction intervals: bounds with a stated coverage, for all values, per group or per element."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, final

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Float, Shaped

from surefield.calibration.fit import fit_calibration_map
from surefield.calibration.maps import ConformalMap
from surefield.errors import ConfigError, DataError
from surefield.keys import CONFIG_TYPE
from surefield.quantities import UNCERTAINTY, quantity
from surefield.structures.labels import Mapped
from surefield.structures.read import Source
from surefield.training.dataset import LabelledSet, as_labelled
from surefield.training.loss import mean_and_half_width
from surefield.uncertainty.evaluation import Comparison, evaluate_uncertainty, sigmas_of
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["ConformalIntervals", "Covered", "Interval"]

By = Literal["group", "element"]
#: Group of values of whole structures where groups are elements.
WHOLE = "all"


class Interval(NamedTuple):
    """Bounds of a quantity, in its shape and unit."""

    low: Float[np.ndarray, "*shape"]
    high: Float[np.ndarray, "*shape"]


class Covered(NamedTuple):
    """How many labels of a group lie inside their intervals.

    Attributes:
        share: of the labels.
        half_width: of the 95 % interval of that share, with the structures as independent; NaN for one.
        n: labels.
    """

    share: float
    half_width: float
    n: int


@final
@dataclass(frozen=True, eq=False)
class ConformalIntervals:
    """Prediction plus and minus q times sigma, with q so that a stated share of labels lies inside.

    q is the quantile of |error|/sigma over a calibration set (split conformal prediction; Lei et al., JASA
    113, 1094 (2018)), for each group of its own where there are groups: then each group has the coverage, not
    only all of them together. It holds, in the mean over calibration sets, for data that are exchangeable
    with the calibration set: not for other kinds of structures. Values of one structure are not independent,
    so few large structures make an uncertain q.

    Attributes:
        uncertainty: whose predictions and sigmas are meant.
        coverage: share of labels inside.
        by: None: one q for all; 'group': one per `config_type`; 'element': one per element for values of
            atoms, such as forces, and one for values of structures.
        maps: of each quantity.
    """

    uncertainty: Uncertainty
    coverage: float
    by: By | None
    maps: Mapping[str, ConformalMap]

    @classmethod
    def fit(
        cls,
        uncertainty: Uncertainty,
        calibration: Source | LabelledSet,
        *,
        coverage: float = 0.9,
        by: By | None = None,
        quantities: Iterable[str] | None = None,
        labels: Mapped | None = None,
    ) -> Self:
        """Find q of each quantity and group.

        Args:
            uncertainty: calibrated or not; only ratios of its sigmas matter.
            calibration: labelled structures that neither potential nor sigmas were fitted to.
            coverage: in (0, 1).
            by: see above.
            quantities: names; None: all that have labels and sigmas.
            labels: explicit keys of the labels.

        Raises:
            ConfigError: a coverage outside (0, 1), or an unknown `by`.
            DataError: no labels, or too few of a group: the message names the least number.
        """
        if not 0 < coverage < 1:
            raise ConfigError("coverage of intervals", got=coverage, expected="between 0 and 1")
        if by not in (None, "group", "element"):
            raise ConfigError("unknown groups of intervals", got=repr(by), expected="None, group or element")
        data = as_labelled(calibration, uncertainty.potential, labels, require=())
        names = tuple(uncertainty.maps) if quantities is None else tuple(quantities)
        comparison = evaluate_uncertainty(uncertainty, data, names)
        maps = {}
        for name in comparison.quantities:
            if f"{name}{UNCERTAINTY}" not in comparison.arrays or not comparison.scored(name).any():
                continue
            groups = None if by is None else _groups_of(comparison, name, by)[comparison.scored(name)]
            fitted = fit_calibration_map(
                *comparison.residuals(name), "conformal", delta=1 - coverage, groups=groups
            )
            assert isinstance(fitted, ConformalMap)
            maps[name] = fitted
        if not maps:
            raise DataError("no structure for the intervals has a label", expected=", ".join(names))
        return cls(uncertainty, coverage, by, maps)

    def predict(self, frames: Sequence[Atoms], *, batch_size: int = 16) -> list[dict[str, Interval]]:
        """Intervals of each structure by the names of quantities, as far as it has them.

        Raises:
            DataError: a group or element that the calibration set lacked, or as `Uncertainty.predict`.
            PotentialError: an element the potential does not know.
        """
        options: Any = sigmas_of(self.uncertainty, self.maps)
        predictions = self.uncertainty.predict(frames, batch_size=batch_size, **options)
        intervals = []
        for atoms, prediction in zip(frames, predictions, strict=True):
            own = {}
            for name, fitted in self.maps.items():
                sigma = prediction.get(f"{name}{UNCERTAINTY}")
                if sigma is not None:
                    half = fitted.half_width(sigma, self._groups(name, atoms, np.ndim(sigma)))
                    own[name] = Interval(prediction[name] - half, prediction[name] + half)
            intervals.append(own)
        return intervals

    def covered(
        self, test: Source | LabelledSet, *, labels: Mapped | None = None
    ) -> dict[str, dict[str, Covered]]:
        """Share of labels inside by quantity and group, and of all groups together under 'all'.

        Raises:
            DataError: no labels, or a group that the calibration set lacked.
        """
        data = as_labelled(test, self.uncertainty.potential, labels, require=())
        comparison = evaluate_uncertainty(self.uncertainty, data, self.maps)
        found: dict[str, dict[str, Covered]] = {}
        for name, fitted in self.maps.items():
            if name not in comparison.quantities:
                continue
            scored = comparison.scored(name)
            residuals, sigma = comparison.residuals(name)
            structures = comparison.structures(name)[scored]
            groups = None if self.by is None else _groups_of(comparison, name, self.by)[scored]
            inside = (np.abs(residuals) <= fitted.half_width(sigma, groups)).astype(float)
            found[name] = {WHOLE: _covered(inside, structures)}
            for group in np.unique(groups) if groups is not None else ():
                own = groups == group
                found[name][str(group)] = _covered(inside[own], structures[own])
        return found

    def _groups(self, name: str, atoms: Atoms, n_axes: int) -> Shaped[np.ndarray, " n"] | None:
        """Group of each row of a quantity of one structure."""
        if self.by is None:
            return None
        if self.by == "element" and quantity(name).per == "atom":
            return np.array(atoms.get_chemical_symbols())
        group = WHOLE if self.by == "element" else str(atoms.info.get(CONFIG_TYPE, ""))
        return np.array(group) if n_axes == 0 else np.full(_rows(name, len(atoms)), group)


def _rows(name: str, n_atoms: int) -> int:
    return quantity(name).shape(n_atoms)[0]


def _covered(inside: Float[np.ndarray, " n"], structures: np.ndarray) -> Covered:
    share, half = mean_and_half_width(inside, structures)
    return Covered(float(share), float(half), len(inside))


def _groups_of(comparison: Comparison, name: str, by: By) -> Shaped[np.ndarray, " n"]:
    """Group of each value of a quantity."""
    structures = comparison.structures(name)
    if by == "group":
        groups = comparison.arrays.get("group", np.full(len(comparison.arrays["n_atoms"]), ""))
        return groups[structures]
    if quantity(name).per != "atom":
        return np.full(len(structures), WHOLE)
    species = comparison.arrays["species"]
    symbols = np.array([chemical_symbols[z] for z in species])
    return np.repeat(symbols, len(structures) // len(symbols))
