"""What LTAU knows of each atom beyond its number: neighbours, density of the error, outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from numpy.typing import ArrayLike

from surefield.errors import ConfigError

__all__ = ["LTAUDetails"]


@final
@dataclass(frozen=True, eq=False)
class LTAUDetails:
    """Force errors that are expected of atoms, as densities over bins.

    Attributes:
        uncertainty: (n_atoms,) expected error, eV/Å.
        mean_sq_distance: (n_atoms,) mean squared distance to the neighbours, unit of the descriptor squared.
        pdf: (n_atoms, n_bins) density of the error, 1/(eV/Å).
        neighbors: (n_atoms, k) training atoms, the nearest first.
        outlier: (n_atoms,) whether the neighbours are further away than those of 99 % of the training atoms.
        edges: (n_bins + 1,) of the bins, eV/Å.
    """

    uncertainty: Float64[np.ndarray, " n_atoms"]
    mean_sq_distance: Float64[np.ndarray, " n_atoms"]
    pdf: Float64[np.ndarray, "n_atoms n_bins"]
    neighbors: Int[np.ndarray, "n_atoms k"]
    outlier: Bool[np.ndarray, " n_atoms"]
    edges: Float64[np.ndarray, " n_edges"]

    def cdf(self, level: ArrayLike) -> Float64[np.ndarray, "*levels"]:
        """Probability of an error up to a level.

        Args:
            level: one for all atoms, or one per atom; eV/Å.

        Returns:
            (n_atoms,) in [0, 1].

        Raises:
            ConfigError: a level that is no number.
        """
        levels = np.asarray(level, np.float64)
        if np.isnan(levels).any():
            raise ConfigError("a level of the force error must be a number", got=level)
        widths = np.diff(self.edges)
        parts = np.clip((levels[..., None] - self.edges[:-1]) / widths, 0.0, 1.0)
        return np.clip(np.sum(self.pdf * widths * parts, axis=-1), 0.0, 1.0)

    def exceedance(self, level: ArrayLike) -> Float64[np.ndarray, " n_atoms"]:
        """Probability of an error above a level: 1 - cdf."""
        return 1.0 - self.cdf(level)

    def quantile(self, p: Float[ArrayLike, " n_atoms"] | float) -> Float64[np.ndarray, " n_atoms"]:
        """Error that is not exceeded with a probability; the inverse of `cdf`, eV/Å.

        Args:
            p: one for all atoms, or one per atom, in [0, 1].

        Raises:
            ConfigError: no probability.
        """
        wanted = np.broadcast_to(np.asarray(p, np.float64), len(self.pdf))
        if not np.all((wanted >= 0) & (wanted <= 1)):
            raise ConfigError("a probability must lie in [0, 1]", got=p)
        widths = np.diff(self.edges)
        mass = self.pdf * widths
        total = np.cumsum(mass, axis=1)
        target = wanted * total[:, -1]
        # the first bin with some mass in which the target is reached
        reached = (total >= target[:, None] * (1 - 1e-15)) & (mass > 0)
        place = np.argmax(reached, axis=1)
        rows = np.arange(len(mass))
        missing = target - (total[rows, place] - mass[rows, place])
        return self.edges[place] + widths[place] * np.clip(missing / mass[rows, place], 0.0, 1.0)
