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

__all__ = ["ConformalIntervals", "Covered", "Interval", "Widening"]

By = Literal["group", "element"]
#: Group of values of whole structures where groups are elements.
WHOLE = "all"


@dataclass(frozen=True, eq=False)
class Widening:
    """How much more uncertain q is for structures with few of the calibration set beyond them, as a factor.

    Values of one structure err together, so q is known as well as its structures are many: its standard error
    in logarithms is spread/sqrt(n). What counts are structures at least as uncertain as one's own: beyond the
    most uncertain one it is that of a single one. The least uncertain structure has the factor 1.

    Attributes:
        spread: how much the root mean square error in units of sigma differs between structures, relative to
            that of all: by it a single structure tells q.
        levels: root mean square sigma of each structure, ascending.
    """

    spread: float
    levels: Float[np.ndarray, " n_structures"]

    @classmethod
    def of(cls, residuals: np.ndarray, sigma: np.ndarray, structures: np.ndarray) -> Self | None:
        """From values and the numbers of their structures; None where there are too few to tell."""
        _, place, counts = np.unique(structures, return_inverse=True, return_counts=True)
        levels = np.sqrt(np.bincount(place, sigma**2) / counts)
        if len(counts) < 2:
            return None
        # Each structure counts as its values do; small errors of few structures must not count as a spread.
        squares = np.bincount(place, (residuals / sigma) ** 2)
        shares = (squares - counts * squares.sum() / counts.sum()) / squares.mean()
        return cls(float(0.5 * np.sqrt(np.sum(shares**2) / (len(counts) - 1))), np.sort(levels))

    def factors(
        self, sigma: Float[np.ndarray, " n"], structures: Shaped[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """exp[spread (1/sqrt(n) - 1/sqrt(N))] of each value, with n of N at least as uncertain as its own."""
        _, place = np.unique(structures, return_inverse=True)
        counts = np.maximum(np.bincount(place, sigma > 0), 1)
        level = np.sqrt(np.bincount(place, sigma**2) / counts)
        beyond = len(self.levels) - np.searchsorted(self.levels, level * (1 - 1e-9))
        error = 1 / np.sqrt(np.maximum(beyond, 1)) - 1 / np.sqrt(len(self.levels))
        return np.exp(self.spread * error)[place]


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
    with the calibration set. Values of one structure are not independent, which that guarantee does not know
    of: intervals of values of atoms are wider, by up to a standard error of q, for structures that are more
    uncertain than most of the calibration set, see `Widening`.

    Attributes:
        uncertainty: whose predictions and sigmas are meant.
        coverage: share of labels inside.
        by: None: one q for all; 'group': one per `config_type`; 'element': one per element for values of
            atoms, such as forces, and one for values of structures.
        maps: of each quantity.
        widenings: of the quantities of atoms.
    """

    uncertainty: Uncertainty
    coverage: float
    by: By | None
    maps: Mapping[str, ConformalMap]
    widenings: Mapping[str, Widening]

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
        maps, widenings = {}, {}
        for name in comparison.quantities:
            if f"{name}{UNCERTAINTY}" not in comparison.arrays or not comparison.scored(name).any():
                continue
            groups = None if by is None else _groups_of(comparison, name, by)[comparison.scored(name)]
            fitted = fit_calibration_map(
                *comparison.residuals(name), "conformal", delta=1 - coverage, groups=groups
            )
            assert isinstance(fitted, ConformalMap)
            maps[name] = fitted
            if quantity(name).per == "atom":
                numbers = comparison.structures(name)[comparison.scored(name)]
                widening = Widening.of(*comparison.residuals(name), numbers)
                widenings |= {} if widening is None else {name: widening}
        if not maps:
            raise DataError("no structure for the intervals has a label", expected=", ".join(names))
        return cls(uncertainty, coverage, by, maps, widenings)

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
                    half = half * self._factors(name, sigma, np.zeros(np.size(sigma), int))
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
            half = fitted.half_width(sigma, groups) * self._factors(name, sigma, structures)
            inside = (np.abs(residuals) <= half).astype(float)
            found[name] = {WHOLE: _covered(inside, structures)}
            for group in np.unique(groups) if groups is not None else ():
                own = groups == group
                found[name][str(group)] = _covered(inside[own], structures[own])
        return found

    def _factors(self, name: str, sigma: Any, structures: np.ndarray) -> Float[np.ndarray, "*shape"]:
        """How much wider the intervals of values are, given the structure of each."""
        if name not in self.widenings:
            return np.ones(np.shape(sigma))
        return self.widenings[name].factors(np.ravel(sigma), structures).reshape(np.shape(sigma))

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
