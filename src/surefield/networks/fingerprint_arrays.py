"""Fingerprints and their derivatives, given as lists and dictionaries, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

__all__ = ["Primes", "dense_primes", "padded_rows"]

#: dG_n/dR_m,x by (m, symbol of m, n, symbol of n, x).
Primes = Mapping[tuple[int, str, int, str, int], Sequence[float]]


def padded_rows(
    rows: Sequence[Sequence[float]], width: int | None = None
) -> Float[np.ndarray, "n_rows width"]:
    """Zero-padded rows; by default as wide as the longest."""
    width = max((len(row) for row in rows), default=0) if width is None else width
    result = np.zeros((len(rows), width))
    for target, row in zip(result, rows, strict=True):
        target[: len(row)] = row
    return result


def dense_primes(primes: Primes, n_atoms: int, width: int) -> Float[np.ndarray, "n_atoms 3 n_atoms width"]:
    """Derivatives by moved atom, direction and centre; zero where there is none."""
    dense = np.zeros((n_atoms, 3, n_atoms, width))
    for (moved, _, centre, _, direction), row in primes.items():
        dense[moved, direction, centre, : len(row)] = row
    return dense
