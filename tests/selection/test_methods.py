import warnings

import numpy as np
import pytest
from scipy import stats

from surefield.errors import ConfigError, DataError
from surefield.selection import (
    Features,
    KernelMatrix,
    kmeanspp_probabilities,
    max_dist_selection,
    methods,
    select_features,
    select_rows,
)
from surefield.testing.selectors import check_selector

FAR = ["max_dist", "lcmd", "kmeanspp"]
ALL = [*FAR, "max_diag", "random"]


@pytest.fixture
def rows():
    return np.random.default_rng(11).normal(size=(60, 5))


@pytest.mark.parametrize("mode", ["p", "tp", None])
@pytest.mark.parametrize("method", ALL)
def test_contract(method, mode):
    check_selector(
        lambda pool, train, size, seed: select_rows(method, pool, train, size, mode=mode, seed=seed),
        deterministic=method not in ("kmeanspp", "random"),
        avoids_copies=method in FAR and mode != "p",
    )


def slow_max_dist(pool, train, size):
    """The rule as written in the paper: no updates, no Gram products."""
    picks = []
    for _ in range(size):
        centers = np.concatenate([train, pool[picks]])
        far = np.sum((pool[:, None] - centers[None]) ** 2, axis=2).min(axis=1)
        far[picks] = -1
        picks.append(int(np.argmax(far)))
    return picks


@pytest.mark.parametrize("block", [3, 2048])
def test_max_dist_is_the_greedy_rule_for_any_block_size(rows, block, monkeypatch):
    monkeypatch.setattr(methods.distances, "BLOCK_ROWS", block)
    picks = select_rows("max_dist", rows[20:], rows[:20], 30)
    assert list(picks) == slow_max_dist(rows[20:], rows[:20], 30)
    assert (np.diff(picks.gains) <= 0).all()


@pytest.mark.parametrize("method", FAR)
def test_gains_do_not_depend_on_the_block_size(rows, method, monkeypatch):
    whole = select_rows(method, rows[20:], rows[:20], 30, seed=4)
    monkeypatch.setattr(methods.distances, "BLOCK_ROWS", 7)
    parts = select_rows(method, rows[20:], rows[:20], 30, seed=4)
    assert list(parts) == list(whole)
    np.testing.assert_array_equal(parts.gains, whole.gains)


@pytest.mark.parametrize("method", ["max_dist", "lcmd"])
def test_an_offset_of_all_features_does_not_change_the_picks(rows, method):
    """Gram products of rows this long keep no digit of d² that is right to better than 1e-3."""
    moved = np.round(rows, 3) + 2.0**20
    assert list(select_rows(method, moved[20:], moved[:20], 20)) == list(
        select_rows(method, moved[20:] - 2.0**20, moved[:20] - 2.0**20, 20)
    )


@pytest.mark.parametrize("method", FAR)
def test_a_longer_batch_begins_with_the_shorter_one(rows, method):
    assert select_rows(method, rows, None, 20, seed=2)[:8] == list(select_rows(method, rows, None, 8, seed=2))


@pytest.mark.parametrize("method", FAR)
def test_copies_of_train_and_of_picks_are_never_picked(rows, method):
    train = rows[:30]
    pool = np.concatenate([train, rows[30:33], rows[30:33], train[::-1]])
    with pytest.warns(UserWarning, match="3 of 10 picks") as caught:
        picks = select_rows(method, pool, train, 10)
    assert len(caught) == 1
    assert sorted(index % 3 for index in picks) == [0, 1, 2]
    assert set(picks) <= set(range(30, 36))
    assert picks.stopped == "duplicates"
    if method != "kmeanspp":
        assert max(picks) <= 32  # of equal rows the first is taken


def test_clusters_of_copies_are_passed_over_by_lcmd(rows):
    pool = np.concatenate([np.repeat(rows[:1], 50, axis=0), rows[2:6]])
    picks = select_rows("lcmd", pool, rows[:2], 4, weight="none")
    assert sorted(picks) == [50, 51, 52, 53]


def test_ties_go_to_the_lowest_index():
    pool = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    assert list(select_rows("max_dist", pool, [[0.0, 0.0]], 4)) == [0, 1, 2, 3]
    assert list(select_rows("max_diag", pool, None, 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ALL)
def test_a_pool_of_one_is_picked(method):
    assert list(select_rows(method, [[1.0, 2.0]], None, 1)) == [0]


def test_without_train_tp_falls_back_to_p_and_says_so(rows):
    for train in (None, np.zeros((0, 5))):
        picks = select_rows("max_dist", rows, train)
        assert list(picks) == list(select_rows("max_dist", rows, rows[:3], mode="P"))
        assert picks.notes == ("no training rows: mode 'tp' fell back to 'p'",)
        assert picks.config["mode"] == "p"


def test_random_is_uniform_over_seeds():
    pool = np.arange(20.0)[:, None]
    first = np.zeros((20, 20), dtype=int)
    for seed in range(2000):
        picks = list(select_rows("random", pool, None, 20, seed=seed))
        first[np.arange(20), picks] += 1
    # One row per place in the batch: every pool index equally often.
    assert stats.chisquare(first, axis=1).pvalue.min() > 1e-4
    assert list(select_rows("random", pool, seed=0)) != list(select_rows("random", pool, seed=1))


@pytest.mark.parametrize("place", [0, 1])
def test_kmeanspp_frequencies_match_the_probabilities(place, rows):
    pool, train = rows[:12], rows[50:54]
    start = [] if place == 0 else [3]
    labelled = np.concatenate([train, pool[start]])
    expected = kmeanspp_probabilities(pool, train, start)
    counts = np.zeros(12)
    for seed in range(2000):
        counts[select_rows("kmeanspp", pool, labelled, 1, seed=seed)[0]] += 1
    allowed = expected > 0
    assert counts[~allowed].sum() == 0
    assert stats.chisquare(counts[allowed], 2000 * expected[allowed]).pvalue > 1e-3


def test_kmeanspp_starts_uniformly_without_train(rows):
    counts = np.zeros(12)
    for seed in range(2000):
        counts[select_rows("kmeanspp", rows[:12], None, 1, seed=seed)[0]] += 1
    assert stats.chisquare(counts).pvalue > 1e-3


def test_probabilities_of_the_next_pick(rows):
    np.testing.assert_array_equal(kmeanspp_probabilities(rows[:4]), 0.25)
    with pytest.raises(DataError, match="no next pick"):
        kmeanspp_probabilities(rows[:4], rows[:10])
    with pytest.raises(DataError, match="outside the pool; got 4"):
        kmeanspp_probabilities(rows[:4], rows[10:], [4])


def test_scores_rank_or_weight(rows):
    pool, train = rows[:30], rows[30:]
    sigma = np.random.default_rng(5).uniform(0.5, 2.0, size=30)
    ranked = select_rows("max_diag", pool, scores={"sigma": -sigma})
    assert list(ranked) == np.argsort(sigma)[:10].tolist()
    for method in FAR:
        plain = select_rows(method, pool, train, seed=3)
        equal = select_rows(method, pool, train, seed=3, scores={"sigma": np.full(30, 7.0)})
        assert list(equal) == list(plain)
        weighted = select_rows(method, pool, train, seed=3, scores={"sigma": sigma})
        np.testing.assert_allclose(
            weighted.gains, weighted.squared_distances * sigma[weighted.indices] / sigma.mean(), rtol=1e-12
        )
        assert weighted.reasons[0].score == "sigma"
        assert weighted.reasons[0].score_value == sigma[weighted[0]]
    first = select_rows("max_dist", pool, train, 1, scores={"sigma": sigma})[0]
    nearest = np.sum((pool[:, None] - train[None]) ** 2, axis=2).min(axis=1)
    assert first == np.argmax(nearest * sigma)


@pytest.mark.parametrize("mode", ["p", "tp"])
@pytest.mark.parametrize("method", FAR)
def test_rows_with_score_zero_are_never_picked(rows, method, mode):
    tens = np.arange(30) % 10 == 0
    with pytest.warns(UserWarning, match="zero_scores"):
        picks = select_rows(method, rows[:30], rows[30:], 10, mode=mode, scores={"entropy": tens})
    assert sorted(picks) == [0, 10, 20]


def test_max_dist_selection_of_the_whole_pool(rows):
    matrix = KernelMatrix(rows, 20)
    indices, found = max_dist_selection(matrix)
    assert sorted(indices) == list(range(40))
    picks = select_rows("max_dist", rows[20:], rows[:20], 40)
    np.testing.assert_array_equal(indices, picks)
    np.testing.assert_array_equal(found, picks.squared_distances)
    with pytest.warns(UserWarning, match=r"40 of 41 picks \(exhausted\)"):
        max_dist_selection(matrix, 41)


def test_more_rows_than_a_16_bit_index_can_count():
    line = np.linspace(0.0, 1.0, 40_000)[:, None]
    assert select_rows("max_dist", line, line[:1], 1)[0] == 39_999
    # Near each of the last two of 33,000 centers stand two rows; the wider pair belongs to the last.
    pool = line[[32_998, 32_998, 32_999, 32_999]] + [[0.0], [1e-6], [2e-6], [3e-6]]
    assert select_rows("lcmd", pool, line[:33_000], 1)[0] == 3


def test_a_note_when_features_follow_the_size():
    n_atoms = np.arange(5, 35)
    pool = np.column_stack([n_atoms, np.ones(30)]) * 2.0
    picks = select_features("max_dist", Features(None, pool, n_atoms_pool=n_atoms))
    assert any("per-atom" in note for note in picks.notes)
    noise = np.random.default_rng(0).normal(size=(30, 4))
    picks = select_features("max_dist", Features(noise[:2], noise, n_atoms_pool=n_atoms))
    assert picks.notes == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "max_dis"}, "unknown selection method 'max_dis': did you mean 'max_dist'"),
        ({"method": "LCMD"}, "did you mean 'lcmd'"),
        ({"method": "bait"}, "did you mean 'bait_f'"),
        ({"method": ["lcmd"]}, "unknown selection method"),
        ({"mode": "pt"}, "unknown mode 'pt': did you mean 'p'"),
        ({"batch_size": 0}, "batch_size is too small; got 0; expected at least 1"),
        ({"batch_size": 2.0}, "batch_size must be a whole number; got 2.0"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"seed": -1}, "seed is too small"),
        ({"seed": 2**128}, "seed is too large"),
        ({"method": "lcmd", "weight": "sqdist"}, "unknown weight 'sqdist': did you mean 'sq-dist'"),
        ({"weight": "dist"}, "weight applies to lcmd only"),
        ({"scores": np.ones(60)}, "one entry"),
        ({"scores": {"a": np.ones(60), "b": np.ones(60)}}, "one entry"),
        ({"method": "random", "scores": {"a": np.ones(60)}}, "random takes no scores"),
    ],
)
def test_bad_options(rows, change, message):
    with pytest.raises(ConfigError, match=message):
        select_rows(**{"method": "max_dist", "pool": rows, **change})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(59), r"one value per pool row; got shape \(59,\)"),
        (np.where(np.arange(60) == 7, -1.0, 1.0), "unusable score 'sigma' in row 7; got -1.0"),
        (np.where(np.arange(60) == 8, np.nan, 1.0), "in row 8; got nan"),
        (np.zeros(60), "0 for every row"),
    ],
)
def test_bad_scores(rows, values, message):
    with pytest.raises(DataError, match=message):
        select_rows("max_dist", rows, scores={"sigma": values})


@pytest.mark.parametrize("compat", [None, "apax"])
def test_bad_options_of_max_dist_selection(rows, compat):
    matrix = KernelMatrix(rows, 20)
    with pytest.raises(ConfigError, match="batch_size is too small"):
        max_dist_selection(matrix, -1, compat=compat)
    with pytest.raises(ConfigError, match="unknown compat 'appax': did you mean 'apax'"):
        max_dist_selection(matrix, 3, compat="appax")
    with pytest.raises(ConfigError, match="too small"):
        max_dist_selection(matrix, 0)


@pytest.mark.parametrize("pool", [np.zeros((5, 3)), np.ones((5, 3))])
@pytest.mark.parametrize("method", [*FAR, "max_diag"])
def test_features_without_information(method, pool):
    with pytest.raises(DataError, match="carry no information"):
        select_rows(method, pool, pool[:2], 2)
    assert len(select_rows("random", pool, None, 2)) == 2
    scored = select_rows("max_diag", pool, None, 2, scores={"sigma": np.arange(5)})
    assert list(scored) == [4, 3]


def test_rows_of_equal_length_carry_information():
    assert list(select_rows("max_dist", [[1.0, 0.0], [0.0, 1.0]], None, 2)) == [0, 1]


def test_nothing_is_said_when_all_is_well(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select_rows("max_dist", rows[10:], rows[:10], 5)
