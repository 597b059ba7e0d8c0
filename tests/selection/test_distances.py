import numpy as np
import pytest

from surefield.selection import distances
from surefield.selection.distances import nearest, squared_distances, squared_norms


def brute(rows, others):
    return np.sum((rows[:, None, :] - others[None, :, :]) ** 2, axis=2)


@pytest.fixture
def offset_rows():
    """Rows that differ by 1e-5 of their length: Gram products alone keep no more than six digits of d²."""
    rng = np.random.default_rng(3)
    return 100.0 * rng.normal(size=12) + 1e-3 * rng.normal(size=(50, 12))


def test_distances_of_nearly_equal_rows_are_exact(offset_rows):
    norms = squared_norms(offset_rows)
    found = squared_distances(offset_rows, norms, offset_rows[7], norms[7])
    np.testing.assert_allclose(found, brute(offset_rows, offset_rows[7:8])[:, 0], rtol=1e-12, atol=0)
    assert found[7] == 0.0
    gram = norms + norms[7] - 2 * offset_rows @ offset_rows[7]
    assert np.max(np.abs(gram / np.where(found > 0, found, np.inf) - 1)[found > 0]) > 1e-7


def test_ceiling_leaves_the_smaller_of_two_values_unchanged(offset_rows):
    norms = squared_norms(offset_rows)
    exact = squared_distances(offset_rows, norms, offset_rows[7], norms[7])
    ceiling = np.roll(exact, 5)
    found = squared_distances(offset_rows, norms, offset_rows[7], norms[7], ceiling=ceiling)
    np.testing.assert_array_equal(np.minimum(found, ceiling), np.minimum(exact, ceiling))


@pytest.mark.parametrize("block", [1, 7, 2048])
@pytest.mark.parametrize("kind", ["spread", "offset"])
def test_nearest_is_the_smallest_distance_for_any_block_size(block, kind, offset_rows, monkeypatch):
    rows = offset_rows if kind == "offset" else np.random.default_rng(1).normal(size=(50, 12))
    others = np.concatenate([rows[::9] + 1e-4, rows[3:5], rows[3:5]])
    monkeypatch.setattr(distances, "BLOCK_ROWS", block)
    monkeypatch.setattr(distances, "DIFFERENCE_ENTRIES", 12 * block)
    found, which = nearest(rows, squared_norms(rows), others, squared_norms(others))
    expected = brute(rows, others)
    np.testing.assert_allclose(found, expected.min(axis=1), rtol=1e-12, atol=0)
    np.testing.assert_array_equal(which, expected.argmin(axis=1))
    assert found[3] == found[4] == 0.0


def test_many_copies_among_the_others_cost_no_more_differences_than_one(monkeypatch):
    rows = np.random.default_rng(2).normal(size=(20, 6))
    others = np.repeat(rows[:3] + 1.0, 100, axis=0)
    pairs = []
    exact = distances._exact
    monkeypatch.setattr(distances, "_exact", lambda *pair: pairs.append(len(pair[1])) or exact(*pair))
    found, which = nearest(rows, squared_norms(rows), others, squared_norms(others))
    assert pairs == [20]
    expected = brute(rows, others)
    np.testing.assert_allclose(found, expected.min(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(which, expected.argmin(axis=1))


def test_equal_rows_have_equal_distances_wherever_they_stand():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(101, 37))
    rows[[3, 50, 99, 100]] = rows[17]
    norms = squared_norms(rows)
    found = squared_distances(rows, norms, rows[0], norms[0])
    assert len(set(found[[3, 17, 50, 99, 100]])) == 1
    part = squared_distances(rows[13:20], norms[13:20], rows[0], norms[0])
    np.testing.assert_array_equal(part, found[13:20])


def test_without_others_nothing_is_near():
    rows = np.ones((3, 2))
    found, _ = nearest(rows, squared_norms(rows), np.zeros((0, 2)), np.zeros(0))
    assert np.isinf(found).all()
