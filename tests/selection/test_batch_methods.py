"""MaxDet, BAIT and Frank-Wolfe: numbers of another program, the rules as they are written, and identities."""

import numpy as np
import pytest

from surefield.errors import ConfigError, DataError
from surefield.selection import Features, select_features, select_rows
from surefield.selection.determinant import max_det_by_columns, max_det_by_features
from surefield.selection.request import Request
from surefield.testing.selectors import check_selector

METHODS = ["max_det", "bait_f", "bait_fb", "frank_wolfe"]
MODES = ["p", "tp"]
SIGMAS = ["0.1", "1.0"]


@pytest.fixture
def rows():
    return np.random.default_rng(11).normal(size=(60, 5)) * [3.0, 1.0, 0.5, 0.3, 0.1]


@pytest.mark.parametrize("mode", [*MODES, None])
@pytest.mark.parametrize("method", METHODS)
def test_contract(method, mode):
    check_selector(
        lambda pool, train, size, seed: select_rows(method, pool, train, size, mode=mode, seed=seed),
        avoids_copies=False,
    )


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("mode", MODES)
def test_picks_of_another_program(bmdal, split, mode, sigma):
    for method, name in {"max_det": "maxdet", "bait_f": "bait_f", "bait_fb": "bait_fb"}.items():
        picks = select_rows(method, *split, mode=mode, sigma=float(sigma))
        assert list(picks) == bmdal[f"idx_{name}_{mode}_sigma{sigma}"].tolist(), method
        assert picks.config["sigma"] == float(sigma)


@pytest.mark.parametrize("mode", MODES)
def test_frank_wolfe_picks_of_another_program(bmdal, split, mode):
    assert list(select_rows("frank_wolfe", *split, mode=mode)) == bmdal[f"idx_fw_{mode}"].tolist()


@pytest.mark.parametrize("sigma", SIGMAS)
def test_picks_of_another_program_on_posterior_features(bmdal, sigma):
    pool = bmdal[f"post_sigma{sigma}_features_pool"]
    for method, name in {"max_det": "maxdet_p", "bait_f": "bait_f_p"}.items():
        picks = select_rows(method, pool, mode="p", sigma=float(sigma))
        assert list(picks) == bmdal[f"idx_{name}_post{sigma}_sigma{sigma}"].tolist()
    assert list(select_rows("frank_wolfe", pool)) == bmdal[f"idx_fw_p_post{sigma}"].tolist()


def test_max_det_without_noise_ends_with_the_rank(bmdal, split):
    ten = select_rows("max_det", *split, mode="p", sigma=0.0)
    assert list(ten) == bmdal["idx_maxdet_p_sigma0"].tolist()
    with pytest.warns(UserWarning, match=r"16 of 20 picks \(rank_exhausted\)"):
        picks = select_rows("max_det", *split, 20, mode="p", sigma=0.0)
    assert list(picks) == bmdal["idx_maxdet_p_sigma0_b20_rank16"][:16].tolist()
    chosen = split[0][list(ten)]
    assert ten.gains.sum() == pytest.approx(0.5 * np.linalg.slogdet(chosen @ chosen.T)[1], rel=1e-9)
    # Training rows of full rank leave nothing.
    with pytest.warns(UserWarning, match=r"0 of 10 picks \(rank_exhausted\)"):
        assert not len(select_rows("max_det", *split, sigma=0.0))


def slow_max_det(pool, train, size, sigma):
    """Log-determinants of every candidate batch, from scratch."""

    def value(batch):
        stacked = np.concatenate([train, pool[batch]])
        return 0.5 * np.linalg.slogdet(np.eye(len(stacked)) + stacked @ stacked.T / sigma**2)[1]

    picks, gains = [], []
    for _ in range(size):
        found = [value([*picks, i]) if i not in picks else -np.inf for i in range(len(pool))]
        gains.append(max(found) - value(picks))
        picks.append(int(np.argmax(found)))
    return picks, gains


@pytest.mark.parametrize("form", [max_det_by_columns, max_det_by_features])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sigma", [0.01, 1.0])
def test_both_forms_of_max_det_are_the_largest_log_determinant(rows, form, mode, sigma):
    pool, train = rows[20:], rows[:20]
    picks = form(Request(Features(train, pool), 8, mode=mode, sigma=sigma))
    expected, gains = slow_max_det(pool, train if mode == "tp" else train[:0], 8, sigma)
    assert picks.indices.tolist() == expected
    np.testing.assert_allclose(picks.gains, gains, rtol=1e-6, atol=1e-9)


def slow_bait(pool, train, mode, size, sigma, kept=None):
    """Traces from scratch; then, if fewer are kept, removals in the same way."""
    total = pool.T @ pool + train.T @ train
    known = train if mode == "tp" else train[:0]

    def trace(batch):
        stacked = np.concatenate([known, pool[batch]])
        inverse = np.linalg.inv(stacked.T @ stacked + sigma**2 * np.eye(pool.shape[1]))
        return sigma**2 * np.trace(total @ inverse)

    picks, gains = [], []
    for _ in range(size):
        found = [trace([*picks, i]) if i not in picks else np.inf for i in range(len(pool))]
        gains.append(trace(picks) - min(found))
        picks.append(int(np.argmin(found)))
    while kept is not None and len(picks) > kept:
        worst = int(np.argmin([trace([*picks[:k], *picks[k + 1 :]]) for k in range(len(picks))]))
        del picks[worst], gains[worst]
    return picks, gains


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sigma", [0.03, 1.0])
def test_bait_lowers_the_summed_variance_most(rows, mode, sigma):
    pool, train = rows[20:], rows[:20]
    picks = select_rows("bait_f", pool, train, 8, mode=mode, sigma=sigma)
    expected, gains = slow_bait(pool, train, mode, 8, sigma)
    assert list(picks) == expected
    np.testing.assert_allclose(picks.gains, gains, rtol=1e-6)
    both = select_rows("bait_fb", pool, train, 6, mode=mode, sigma=sigma, overselect=1.5)
    assert list(both) == slow_bait(pool, train, mode, 9, sigma, kept=6)[0]


def test_bait_keeps_its_digits_where_little_variance_is_left(rows):
    """The variance of the last picks is 1e-11 of that of the first."""
    picks = select_rows("bait_f", 1e3 * rows, None, 40, sigma=0.01)
    gains = slow_bait(1e3 * rows, rows[:0], "p", 5, 0.01)[1]
    np.testing.assert_allclose(picks.gains[:5], gains, rtol=1e-4)
    stacked = 1e3 * rows[list(picks)[:30]]
    inverse = np.linalg.inv(stacked.T @ stacked + 1e-4 * np.eye(5))
    total = 1e6 * rows.T @ rows
    v = 1e-4 * inverse @ (1e3 * rows[picks[30]])
    expected = (v @ total @ v) / (1e3 * rows[picks[30]] @ v + 1e-4)
    assert picks.gains[30] == pytest.approx(expected, rel=1e-6)


def test_frank_wolfe_follows_the_missing_direction(rows):
    pool = rows[:30]
    picks = select_rows("frank_wolfe", pool, None, 6)
    lengths = np.linalg.norm(pool, axis=1)
    point, goal = np.zeros(5), pool.sum(axis=0)
    for index, gain in zip(picks, picks.gains, strict=True):
        score = (pool / lengths[:, None]) @ (goal - point)
        assert gain == pytest.approx(score[index], rel=1e-9)
        end = lengths.sum() * pool[index] / lengths[index]
        steps = np.linspace(0, 1, 100_001)
        best = steps[np.argmin(np.linalg.norm(goal - point - steps[:, None] * (end - point), axis=1))]
        exact = (end - point) @ (goal - point) / ((end - point) @ (end - point))
        assert exact == pytest.approx(best, abs=2e-5)
        point = point + exact * (end - point)


def test_rows_of_zeros_are_never_picked_by_frank_wolfe(rows):
    pool = np.concatenate([np.zeros((3, 5)), rows[:2]])
    with pytest.warns(UserWarning, match=r"2 of 4 picks \(zero_features\)"):
        picks = select_rows("frank_wolfe", pool, None, 4)
    assert sorted(picks) == [3, 4]


# bait_fb may pick both copies at first, and remove either.
@pytest.mark.parametrize("method", ["max_det", "bait_f", "frank_wolfe"])
def test_copies_in_the_pool_are_ties_that_go_to_the_first(rows, method):
    pool = np.concatenate([rows[20:47], rows[20:47]])
    picks = select_rows(method, pool, rows[:20], 8, mode="tp")
    seen = set()
    for index in picks:
        assert index < 27 or index - 27 in seen
        seen.add(index)


@pytest.mark.parametrize("method", METHODS)
def test_scores_weight_the_rule(rows, method):
    pool, train = rows[20:], rows[:20]
    plain = select_rows(method, pool, train, 5)
    equal = select_rows(method, pool, train, 5, scores={"sigma": np.full(40, 7.0)})
    assert list(equal) == list(plain)
    np.testing.assert_allclose(equal.gains, plain.gains, rtol=1e-12)
    only = np.zeros(40)
    only[[3, 8]] = 1.0
    with pytest.warns(UserWarning, match=r"2 of 5 picks \(zero_scores\)"):
        picks = select_rows(method, pool, train, 5, scores={"sigma": only})
    assert sorted(picks) == [3, 8]


def test_first_copies(rows):
    pool = np.concatenate([rows[:3], -rows[:2], rows[1:2], rows[:1]])
    assert Features(None, pool).first_copies().tolist() == [0, 1, 2, 3, 4, 1, 0]


def test_the_noise_follows_the_features_where_none_is_given(rows):
    features = Features(rows[:20], rows[20:])
    expected = 0.1 * np.sqrt(np.mean(np.sum(rows[:20] ** 2, axis=1)))
    assert select_features("bait_f", features).config["sigma"] == pytest.approx(expected)
    large = select_features("bait_f", Features(1e4 * rows[:20], 1e4 * rows[20:]))
    assert list(large) == list(select_features("bait_f", features))
    assert select_features("lcmd", features).config["sigma"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "bait_f", "sigma": 0}, "sigma of bait_f out of range; got 0; expected a positive number"),
        ({"method": "bait_fb", "sigma": -1.0}, "sigma of bait_fb out of range"),
        ({"method": "max_det", "sigma": np.nan}, "expected a number of at least 0"),
        ({"method": "max_det", "sigma": "much"}, "sigma must be a number"),
        ({"method": "max_det", "sigma": 0, "scores": {"a": np.ones(60)}}, "sigma above 0"),
        ({"method": "bait_fb", "overselect": 0.5}, "overselect out of range"),
        ({"method": "bait_f", "overselect": 3.0}, "overselect applies to bait_fb only"),
        ({"method": "bait"}, "did you mean 'bait_f'"),
        ({"method": "fw"}, "did you mean 'frank_wolfe'"),
        ({"method": "maxdet"}, "did you mean 'max_det'"),
    ],
)
def test_bad_options(rows, change, message):
    with pytest.raises(ConfigError, match=message):
        select_rows(**{"pool": rows, **change})


def test_noise_that_is_lost_beside_the_features(rows):
    with pytest.raises(DataError, match="sigma is too small"):
        select_rows("bait_f", np.outer(rows[:, 0], np.ones(3)), rows[:5, :3] * 1e3, sigma=1e-9)
