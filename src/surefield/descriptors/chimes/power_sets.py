"""Which products of Chebyshev polynomials a cluster has, and which of them share one coefficient."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int

__all__ = ["PAIRS", "PowerSets", "power_codes", "power_sets"]

#: Pairs of a cluster by its number of atoms, in the order of the powers: 12 13 23 and 12 13 14 23 24 34.
PAIRS: dict[int, tuple[tuple[int, int], ...]] = {
    m: tuple(itertools.combinations(range(m), 2)) for m in (2, 3, 4)
}


@dataclass(frozen=True, eq=False)
class PowerSets:
    """Power sets of one kind of cluster.

    Attributes:
        powers: (n_sets, n_pairs) power of each pair, last pair fastest.
        unique: (n_sets,) number of the coefficient of each set, in order of first appearance.
        n_unique: number of coefficients.
    """

    powers: Int[np.ndarray, "n_sets n_pairs"]
    unique: Int[np.ndarray, " n_sets"]
    n_unique: int

    @property
    def representatives(self) -> Int[np.ndarray, " n_unique"]:
        """First set of each coefficient."""
        return np.unique(self.unique, return_index=True)[1]


def power_codes(powers: Int[np.ndarray, "n_sets n_pairs"], n_powers: int) -> Int[np.ndarray, " n_sets"]:
    """Number of each set among all products of powers, last pair fastest."""
    return powers @ n_powers ** np.arange(powers.shape[1])[::-1]


@lru_cache(maxsize=256)
def power_sets(kinds: tuple[int, ...], n_powers: int) -> PowerSets:
    """Sets in which every atom is touched by a pair of power > 0; equal up to equal atoms, they share.

    Args:
        kinds: of the atoms of the cluster: equal numbers are equal atoms.
        n_powers: powers go from 0 to `n_powers` - 1.
    """
    pairs = PAIRS[len(kinds)]
    grid = np.indices((n_powers,) * len(pairs)).reshape(len(pairs), -1).T
    touched = [
        np.any(grid[:, [p for p, pair in enumerate(pairs) if a in pair]] > 0, axis=1)
        for a in range(len(kinds))
    ]
    powers = grid[np.all(touched, axis=0)]
    place = {pair: p for p, pair in enumerate(pairs)}
    codes = [
        power_codes(powers[:, [place[min(s[a], s[b]), max(s[a], s[b])] for a, b in pairs]], n_powers)
        for s in itertools.permutations(range(len(kinds)))
        if all(kinds[s[a]] == kinds[a] for a in range(len(kinds)))
    ]
    # Sets are in rising order of their codes, so the least code of an orbit is its first appearance.
    unique = np.unique(np.min(codes, axis=0), return_inverse=True)[1]
    return PowerSets(powers, unique, int(unique.max(initial=-1)) + 1)
