"""A small ChIMES potential of two elements and the reference cases."""

from __future__ import annotations

import itertools

import ase.io
import numpy as np
import pytest

from surefield.potentials.chimes import Chimes, ChimesSettings

#: Pair, triplet and quadruplet cutoffs differ; the order of the types is not alphabetical.
LIMITS = tuple(
    (m, "outer", kind, tuple((pair, limit) for pair in sorted(set(itertools.combinations(kind, 2)))))
    for m, limit in ((3, 3.8), (4, 3.6))
    for kind in itertools.combinations_with_replacement((0, 1), m)
)
SETTINGS = ChimesSettings(
    types=("Cu", "Au"),
    orders=(6, 4, 3),
    inner=(2.2, 2.1, 2.0),
    outer=(4.5, 4.4, 4.6),
    lengths=(1.5, 1.6, 1.7),
    cutoff="TERSOFF",
    tersoff=0.5,
    limits=LIMITS,
)


@pytest.fixture(scope="session")
def chimes() -> Chimes:
    return Chimes(SETTINGS, 0.1 * np.random.default_rng(0).normal(size=SETTINGS.n_columns))


@pytest.fixture(scope="session")
def reference(shared):
    return shared / "reference" / "trainers"


@pytest.fixture(scope="session")
def structure(reference):
    """A function that reads a structure of the calculator's cases."""
    return lambda name: ase.io.read(reference / "inputs" / "chimes" / "structures" / f"{name}.extxyz")
