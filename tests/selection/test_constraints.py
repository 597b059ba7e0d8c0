"""Batches under constraints: exclusion, quotas of groups, costs and a budget, least distances, copies."""

import itertools

import numpy as np
import pytest

from surefield.errors import ConfigError, DataError
from surefield.selection import Constraints, select_rows
from surefield.selection.constraints import shares
from surefield.selection.methods import METHODS
from surefield.testing.selectors import check_selector

ALL = sorted(METHODS)
#: Neither draw at random nor give picks back.
GREEDY = [name for name in ALL if name not in ("random", "kmeanspp", "bait_fb")]


@pytest.fixture
def rows():
    return np.random.default_rng(11).normal(size=(60, 5)) * [3.0, 1.0, 0.5, 0.3, 0.1]


@pytest.fixture
def cost():
    return np.random.default_rng(3).uniform(0.5, 4.0, size=40)


def pick(method, rows, size=10, n_train=20, **constraints):
    options = {name: constraints.pop(name) for name in ("scores", "mode", "sigma") if name in constraints}
    limits = Constraints(**constraints) if constraints else None
    return select_rows(
        method, rows[n_train:], rows[:n_train], size, seed=4, constraints=limits, **{"sigma": 0.3, **options}
    )


@pytest.mark.parametrize("mode", ["p", "tp"])
@pytest.mark.parametrize("method", ALL)
def test_contract_with_constraints_that_forbid_nothing(method, mode):
    def select(pool, train, size, seed):
        n_pool = len(pool)
        free = Constraints(
            groups=np.arange(n_pool) % 3,
            quota=dict.fromkeys(range(3), n_pool),
            cost="uniform",
            budget=float(n_pool),
            min_distance=0.0,
        )
        return select_rows(method, pool, train, size, mode=mode, seed=seed, constraints=free)

    check_selector(
        select,
        deterministic=method not in ("kmeanspp", "random"),
        avoids_copies=mode == "tp" and method in ("max_dist", "lcmd", "kmeanspp"),
    )


@pytest.mark.parametrize("method", ALL)
def test_excluded_rows_are_never_picked(rows, method):
    free = pick(method, rows)
    gone = free[:3]
    picks = pick(method, rows, exclude=gone)
    assert len(picks) == 10
    assert not set(gone) & set(picks)
    assert [entry.index for entry in picks.dropped] == sorted(gone)
    assert {entry.reason for entry in picks.dropped} == {"excluded"}
    # Dropped rows are as if they had not been there.
    kept = np.setdiff1d(np.arange(40), gone)
    dropped = pick(method, rows, exclude=gone, drop=True)
    assert len(dropped) == 10
    if method != "random":
        alone = pick(method, np.concatenate([rows[:20], rows[20:][kept]]))
        assert list(dropped) == kept[list(alone)].tolist()
        np.testing.assert_array_equal(dropped.gains, alone.gains)
        assert dropped.g_pool is not None
        assert len(dropped.g_pool) == 40


def test_excluded_rows_still_count_in_what_the_pool_is():
    """Excluded members of a cluster draw `lcmd`, and excluded rows are predicted, too, for `bait_f`."""
    train, pool = np.array([[0.0], [100.0]]), np.array([[3.0], [96.0], *[[2.5]] * 10])
    gone = np.arange(2, 12)
    for drop, expected in {False: 0, True: 1}.items():
        limits = Constraints(exclude=gone, drop=drop)
        assert list(select_rows("lcmd", pool, train, 1, constraints=limits)) == [expected]
    gains = [
        select_rows("bait_f", pool, train, 1, constraints=Constraints(exclude=gone, drop=drop)).gains[0]
        for drop in (False, True)
    ]
    # The same row is picked, and lowers the variance of all that counts.
    squares = [np.sum(pool**2) + 1e4, np.sum(pool[:2] ** 2) + 1e4]
    assert gains[0] / gains[1] == pytest.approx(squares[0] / squares[1], rel=1e-9)


@pytest.mark.parametrize("method", ALL)
def test_quotas_are_never_exceeded_and_filled(rows, method):
    groups = np.array(["b", "a", "a", "a"] * 10)
    for quota, expected in {"equal": (6, 6), "proportional": (9, 3)}.items():
        picks = pick(method, rows, 12, groups=groups, quota=quota)
        assert tuple(np.sum(groups[list(picks)] == label) for label in "ab") == expected
    with pytest.warns(UserWarning, match=r"5 of 12 picks \(quota\)"):
        picks = pick(method, rows, 12, groups=groups, quota={"a": 3, "b": 2})
    assert picks.stopped == "quota"
    assert sorted(groups[list(picks)]) == ["a", "a", "a", "b", "b"]


@pytest.mark.parametrize("method", ALL)
def test_what_a_group_cannot_fill_goes_to_the_others(rows, method):
    groups = ["rare", "rare", *["common"] * 20, *["other"] * 18]
    picks = pick(method, rows, 12, groups=groups, quota="equal")
    chosen = [groups[i] for i in picks]
    assert [chosen.count(label) for label in ("rare", "common", "other")] == [2, 5, 5]
    [note] = [note for note in picks.notes if "places" in note]
    assert "'rare' has 2 candidates for 4 places" in note
    with pytest.raises(
        DataError, match="group 'rare' cannot fill its quota; got 2 candidates; expected at le"
    ):
        pick(method, rows, 12, groups=groups, quota="equal", strict_quota=True)


def test_places_pass_on_when_a_group_is_used_up_on_the_way(rows):
    """Copies of training rows are no candidates for `max_dist`, which is known only as it picks."""
    pool = np.concatenate([rows[:20], rows[:8], rows[20:40]])
    groups = ["copies"] * 8 + ["new"] * 20
    picks = pick("max_dist", pool, 10, groups=groups, quota="equal")
    assert min(picks) >= 8
    assert len(picks) == 10
    assert any("left places to others: 'copies' 5" in note for note in picks.notes)
    with pytest.raises(DataError, match=r"places left: 'copies' 5"):
        pick("max_dist", pool, 10, groups=groups, quota="equal", strict_quota=True)


def test_shares_are_rounded_by_the_largest_remainder():
    plenty = np.full(3, 99)
    assert shares(10, np.array([1, 1, 1]), plenty).tolist() == [4, 3, 3]
    assert shares(10, np.array([50, 33, 17]), plenty).tolist() == [5, 3, 2]
    assert shares(4, np.array([5, 3, 2]), plenty).tolist() == [2, 1, 1]
    assert shares(10, np.array([1, 1, 1]), np.array([0, 2, 99])).tolist() == [0, 2, 8]
    assert shares(10, np.array([1, 1, 1]), np.array([1, 1, 1])).tolist() == [1, 1, 1]
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes, room, total = rng.integers(1, 50, 6), rng.integers(0, 9, 6), int(rng.integers(0, 60))
        result = shares(total, sizes, room)
        assert result.sum() == min(total, room.sum())
        assert (result <= room).all()


@pytest.mark.parametrize("method", ALL)
def test_a_budget_is_never_exceeded(rows, cost, method):
    with pytest.warns(UserWarning, match=r"\(budget\)"):
        picks = pick(method, rows, 30, cost=cost, budget=11.0)
    spent = cost[list(picks)].sum()
    assert spent <= 11.0
    assert picks.stopped == "budget"
    # Nothing that is left would have fitted, but after the removals of bait_fb, or one label alone.
    if method not in ("bait_fb", "max_det"):
        left = np.setdiff1d(np.arange(40), list(picks))
        assert (spent + cost[left] > 11.0).all()
    assert any("heuristic" in note for note in picks.notes) == (method not in ("max_det", "random"))


@pytest.mark.parametrize("method", ALL)
def test_equal_costs_change_no_pick(rows, method):
    plain = pick(method, rows, 12)
    equal = pick(method, rows, 12, cost=np.full(40, 0.7), budget=1e3)
    assert list(equal) == list(plain)
    np.testing.assert_array_equal(equal.gains, plain.gains)
    by_budget = pick(method, rows, None, cost="uniform", budget=12.5)  # and no warning: that was asked for
    assert list(by_budget)[:12] == list(plain) or method == "bait_fb"
    assert len(by_budget) == 12
    assert by_budget.stopped == "budget"


@pytest.mark.parametrize("method", GREEDY)
def test_the_first_pick_has_the_largest_gain_per_cost(rows, cost, method):
    gains = np.empty(40)
    for i in range(40):
        # What each row would gain as the first pick: all others are excluded.
        gains[i] = pick(method, rows, 1, exclude=np.setdiff1d(np.arange(40), i)).gains[0]
    if method == "max_dist":
        gains = np.sqrt(gains)
    expected = int(np.argmax(np.where(gains > 0, gains / cost, gains * cost)))
    if method == "lcmd":
        expected = slow_lcmd(rows[20:], rows[:20], cost)
    assert pick(method, rows, 1, cost=cost)[0] == expected


def slow_lcmd(pool, train, cost):
    squares = np.sum((pool[:, None] - train[None]) ** 2, axis=2)
    near, square = squares.argmin(axis=1), squares.min(axis=1)
    cluster = np.argmax(np.bincount(near, weights=square, minlength=len(train)))
    return int(np.argmax(np.where(near == cluster, square / cost, -1.0)))


def test_kmeanspp_draws_by_distance_over_cost(rows, cost):
    pool, train = rows[20:28], rows[:20]
    near = np.sum((pool[:, None] - train[None]) ** 2, axis=2).min(axis=1)
    expected = near / cost[:8] / (near / cost[:8]).sum()
    limits = Constraints(cost=cost[:8])
    counts = np.zeros(8)
    for seed in range(2000):
        counts[select_rows("kmeanspp", pool, train, 1, seed=seed, constraints=limits)[0]] += 1
    assert np.sum((counts - 2000 * expected) ** 2 / (2000 * expected)) < 27  # χ² of 7, p = 3e-4


def log_det_gain(pool, train, batch, sigma):
    rows = np.concatenate([train, pool[list(batch)]])
    values = [0.5 * np.linalg.slogdet(np.eye(len(x)) + x @ x.T / sigma**2)[1] for x in (rows, train)]
    return values[0] - values[1]


@pytest.mark.filterwarnings("ignore:selection stopped")
@pytest.mark.parametrize("seed", range(12))
def test_costed_max_det_is_near_the_best_that_the_budget_buys(seed):
    rng = np.random.default_rng(seed)
    pool, train = rng.normal(size=(9, 4)) * rng.uniform(0.05, 3.0, (9, 1)), rng.normal(size=(3, 4)) * 0.3
    cost = rng.uniform(0.2, 3.0, 9) ** 2
    budget = float(cost.max() * rng.uniform(1.0, 1.5))
    picks = select_rows(
        "max_det", pool, train, None, sigma=0.2, constraints=Constraints(cost=cost, budget=budget)
    )
    assert cost[list(picks)].sum() <= budget
    best = max(
        log_det_gain(pool, train, batch, 0.2)
        for size in range(1, 10)
        for batch in itertools.combinations(range(9), size)
        if cost[list(batch)].sum() <= budget
    )
    assert picks.gains.sum() == pytest.approx(log_det_gain(pool, train, list(picks), 0.2), rel=1e-8)
    assert picks.gains.sum() >= 0.5 * (1 - 1 / np.e) * best


def test_one_label_alone_where_it_is_worth_more():
    """Per cost the short row is first, and then the budget is too small for the long one."""
    picks = select_rows(
        "max_det",
        [[0.02, 0.0], [0.0, 9.0]],
        sigma=0.1,
        batch_size=None,
        constraints=Constraints(cost=[0.001, 10.0], budget=10.0),
    )
    assert list(picks) == [1]
    assert picks.stopped == "budget"
    assert any("one label alone" in note for note in picks.notes)


@pytest.mark.parametrize("method", ALL)
def test_nothing_affordable_is_an_empty_result(rows, cost, method):
    with pytest.warns(UserWarning, match=r"0 of 10 picks \(budget\)"):
        picks = pick(method, rows, 10, cost=cost, budget=0.1)
    assert len(picks) == 0
    assert picks.stopped == "budget"


@pytest.mark.parametrize("method", ALL)
def test_picks_keep_their_distance(rows, method):
    with pytest.warns(UserWarning, match=r"\(min_distance\)"):
        picks = pick(method, rows, 40, min_distance=1.5)
    centers = np.concatenate([rows[:20], rows[20:][list(picks)]])
    square = np.sum((centers[:, None] - centers[None]) ** 2, axis=2)
    np.fill_diagonal(square, np.inf)
    assert len(picks) > 1
    assert square[20:].min() >= 1.5**2
    if method not in ("bait_fb", "max_det"):  # of these, gain and removal end before nothing fits
        left = np.setdiff1d(np.arange(40), list(picks))
        near = np.sum((rows[20:][left][:, None] - centers[None]) ** 2, axis=2).min(axis=1)
        assert near.max() < 1.5**2
    nearest = np.sqrt(np.sum((rows[20:, None] - rows[None, :20]) ** 2, axis=2).min(axis=1))
    relative = pick(method, rows, 3, min_distance="0.5x")
    assert list(relative) == list(pick(method, rows, 3, min_distance=0.5 * np.median(nearest)))


def test_all_constraints_together(rows, cost):
    groups = np.arange(40) % 4
    for method in ALL:
        picks = pick(
            method,
            rows,
            8,
            exclude=[1, 2, 3],
            groups=groups,
            quota="equal",
            cost=cost,
            budget=25.0,
            min_distance=0.1,
            scores=None if method == "random" else {"sigma": cost**-1},
        )
        assert not {1, 2, 3} & set(picks)
        assert cost[list(picks)].sum() <= 25.0
        assert np.bincount(groups[list(picks)]).max() <= 2
        assert picks.config["constraints"] == {
            "n_excluded": 3,
            "quota": "equal",
            "cost": "by structure",
            "budget": 25.0,
            "min_distance": 0.1,
            "deduplicate": "exact",
        }


@pytest.mark.parametrize("method", ["max_diag", "random", "max_det"])
def test_copies_of_features_are_dropped(rows, method):
    nearly = rows[20:25] * (1 + 1e-7)
    pool = np.concatenate([rows[20:30], rows[:3], nearly, rows[30:40]])
    with pytest.warns(UserWarning, match=r"20 of 30 picks"):
        picks = select_rows(method, pool, rows[:20], 30, constraints=Constraints(deduplicate="features"))
    assert [(entry.index, entry.kept, entry.kept_in) for entry in picks.dropped] == [
        *((10 + i, i, "train") for i in range(3)),
        *((13 + i, i, "pool") for i in range(5)),
    ]
    assert sorted(picks) == [*range(10), *range(18, 28)]
    kept = select_rows(method, pool, rows[:20], 28, constraints=Constraints(deduplicate=None))
    assert sorted(kept) == list(range(28))


def test_a_chain_of_near_copies_keeps_its_first_and_what_is_far_from_that():
    step = 0.8e-5 * np.sqrt(2.0)
    pool = 1.0 + step * np.arange(4.0)[:, None]
    picks = select_rows("random", pool, None, 2, constraints=Constraints(deduplicate="features"))
    assert [(entry.index, entry.kept) for entry in picks.dropped] == [(1, 0), (3, 2)]


def test_a_pool_of_which_all_is_dropped(rows):
    with pytest.warns(UserWarning, match=r"0 of 3 picks \(exhausted\)"):
        picks = pick("max_dist", rows, 3, exclude=np.arange(40), drop=True)
    assert len(picks) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quota": "equal"}, "quota needs groups"),
        ({"groups": [0] * 40, "quota": "equl"}, "unknown quota 'equl': did you mean 'equal'"),
        ({"strict_quota": True}, "strict_quota needs a quota"),
        ({"groups": [0] * 40, "quota": {0: -1}}, "quota of 0 is too small"),
        ({"groups": [0] * 40, "quota": {0: 1.5}}, "quota of 0 must be a whole number"),
        ({"cost": "n_atom"}, "unknown cost 'n_atom': did you mean 'n_atoms'"),
        ({"cost": "n_atoms"}, "cost 'n_atoms' needs structures"),
        ({"cost": len}, "cost is a function of structures"),
        ({"budget": 3.0}, "budget needs a cost"),
        ({"cost": "uniform", "budget": 0.0}, "budget out of range; got 0.0"),
        ({"cost": "uniform", "budget": np.nan}, "budget out of range"),
        ({"min_distance": -1.0}, "min_distance out of range; got -1.0"),
        ({"min_distance": "half"}, "expected a number from 0, or a factor as '0.5x'"),
        ({"deduplicate": "exactly"}, "unknown deduplicate 'exactly': did you mean 'exact'"),
    ],
)
def test_bad_options(rows, change, message):
    with pytest.raises(ConfigError, match=message):
        pick("max_dist", rows, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [0] * 39, "quota": "equal"}, "one label per pool row; got 39; expected 40"),
        ({"groups": [[0]] * 40}, "must be hashable"),
        ({"groups": ["fcc"] * 40, "quota": {"bcc": 2}}, "quota for an unknown group: did you mean 'fcc'"),
        ({"cost": np.ones(41)}, r"one value per pool row; got shape \(41,\)"),
        ({"cost": ["much"] * 40}, "cost must be numbers"),
        ({"cost": np.arange(40.0)}, "unusable cost in row 0; got 0.0; expected above 0"),
        ({"cost": np.where(np.arange(40) == 7, np.nan, 1.0)}, "unusable cost in row 7; got nan"),
        ({"exclude": [3, 40]}, "exclude is outside the pool; got 40; expected 0 to 39"),
        ({"exclude": [-1]}, "exclude is outside the pool; got -1"),
        ({"exclude": [0.5]}, "exclude must be a list of pool indices"),
    ],
)
def test_bad_data(rows, change, message):
    with pytest.raises(DataError, match=message):
        pick("max_dist", rows, **change)


def test_more_bad_options(rows, cost):
    with pytest.raises(ConfigError, match="batch_size must be a whole number; got None; None needs a budget"):
        pick("lcmd", rows, None)
    with pytest.raises(ConfigError, match="quota 'equal' needs a batch_size"):
        pick("lcmd", rows, None, cost="uniform", budget=3, groups=[0] * 40, quota="equal")
    with pytest.raises(ConfigError, match="relative to training rows, and there are none"):
        pick("lcmd", rows, n_train=0, min_distance="2x")
    with pytest.raises(ConfigError, match="cost with max_det need a sigma above 0"):
        pick("max_det", rows, 3, n_train=0, sigma=0, cost=np.r_[cost, cost[:20]])
    with pytest.raises(DataError, match="scores per cost need scores that are not negative"):
        pick("max_diag", rows, cost=cost, scores={"entropy": -cost})
