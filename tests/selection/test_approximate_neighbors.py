"""Nearest rows by a graph: nearly all of them, at exact distances."""

from __future__ import annotations

import numpy as np
import pytest

from surefield.selection.approximate_neighbors import NeighborGraph
from surefield.selection.distances import k_nearest

pytest.importorskip("faiss")


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_recall(offset):
    """At least 95 % of the true neighbours, also far from the origin; distances in float64."""
    rng = np.random.default_rng(0)
    rows, queries = (offset + rng.normal(size=(n, 16)) for n in (4000, 50))
    distances, which = NeighborGraph(rows).nearest(queries, 10)
    exact, true = k_nearest(queries, rows, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(which, true, strict=True)])
    assert recall >= 0.95
    assert np.all(np.diff(distances, axis=1) >= 0)
    np.testing.assert_allclose(distances, np.sum((queries[:, None] - rows[which]) ** 2, axis=-1))
    assert np.mean(np.isclose(distances, exact)) >= 0.95


def test_few_rows():
    """All of them, where no more are asked for."""
    rows = np.arange(6.0).reshape(3, 2)
    distances, which = NeighborGraph(rows).nearest(rows[:1], 3)
    assert which.tolist() == [[0, 1, 2]]
    assert distances.tolist() == [[0.0, 8.0, 32.0]]
