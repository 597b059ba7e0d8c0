"""Nearest rows by a graph: nearly all of them, at exact distances."""

from __future__ import annotations

import numpy as np
import pytest

from surefield.selection import approximate_neighbors
from surefield.selection.approximate_neighbors import CompressedRows, NeighborGraph
from surefield.selection.distances import k_nearest


def test_distances_decide_among_what_a_search_has_named(monkeypatch):
    """Also in blocks, and where it has named too few: without faiss."""
    rng = np.random.default_rng(0)
    others, rows = rng.normal(size=(50, 4)), rng.normal(size=(9, 4))
    others[7] = others[3]  # of equals the lower index
    named = np.argsort(np.linalg.norm(rows[:, None] - others, axis=2), axis=1)[:, 11::-1].copy()
    named[4, 2:] = -1
    monkeypatch.setattr(approximate_neighbors, "DIFFERENCE_ENTRIES", 100)
    distances, which = approximate_neighbors._at_exact_distances(named, rows, others, 5)
    exact, true = k_nearest(rows, others, 5)
    np.testing.assert_array_equal(which, true)
    np.testing.assert_allclose(distances, exact, rtol=1e-12)


def test_recall_of_codes():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    rows, queries = (rng.normal(size=(n, 16)) for n in (4000, 50))
    which = CompressedRows(rows).nearest(queries, 10)[1]
    true = k_nearest(queries, rows, 10)[1]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(which, true, strict=True)]) >= 0.5


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_recall(offset):
    """At least 95 % of the true neighbours, also far from the origin; distances in float64."""
    pytest.importorskip("faiss")
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
    pytest.importorskip("faiss")
    rows = np.arange(6.0).reshape(3, 2)
    distances, which = NeighborGraph(rows).nearest(rows[:1], 3)
    assert which.tolist() == [[0, 1, 2]]
    assert distances.tolist() == [[0.0, 8.0, 32.0]]
