"""Pools that are read chunk by chunk: the same picks as in memory, and no more read than needed."""

from contextlib import nullcontext

import numpy as np
import pytest

from surefield.errors import ConfigError, DataError
from surefield.selection import Constraints, FeatureStore, Selection, select_features, select_rows
from surefield.selection.chunked_features import ChunkedFeatures
from surefield.selection.features import Features
from surefield.selection.methods import METHODS

CHUNKS = [17, 256, 4096]


@pytest.fixture(scope="module")
def pools():
    """Rows of a slow random walk around an offset, of clusters, and with copies; train rows first."""
    rng = np.random.default_rng(2)
    walk = 10.0 + 0.1 * np.cumsum(rng.normal(size=(3000, 6)), axis=0)
    centers = rng.normal(size=(40, 6)) * 5
    clusters = np.repeat(centers, 75, axis=0) + 0.1 * rng.normal(size=(3000, 6))
    # Widths that are no multiples of each other: only copies are equally far from others.
    grid = rng.integers(0, 3, size=(3000, 6)) * [1.0, 1.37, 0.73, 2.11, 0.59, 1.91]
    return {"walk": walk, "clusters": clusters, "copies": grid}


def same(ours, theirs, rtol=1e-10):
    """MaxDet in memory has another order of its sums: 1e-12 of the largest residual, not of each."""
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(ours.gains, theirs.gains, rtol=rtol, atol=0)
    np.testing.assert_allclose(ours.squared_distances, theirs.squared_distances, rtol=1e-12)
    assert (ours.stopped, ours.notes) == (theirs.stopped, theirs.notes)


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("mode", ["p", "tp"])
@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("kind", ["walk", "clusters", "copies"])
def test_picks_are_those_of_the_pool_in_memory(pools, kind, method, mode, chunk_size):
    rows = pools[kind][::2]
    options = {"mode": mode, "sigma": 0.5, "seed": 3}
    whole = select_rows(method, rows[50:], rows[:50], 60, **options)
    parts = select_rows(method, rows[50:], rows[:50], 60, chunk_size=chunk_size, **options)
    same(parts, whole, 1e-10 if method == "max_det" else 1e-12)
    other = select_rows(method, rows[50:], rows[:50], 60, chunk_size=100, **options)
    assert list(parts) == list(other)
    if method != "random":
        np.testing.assert_allclose(parts.gains, other.gains, rtol=1e-12, atol=1e-12 * whole.gains.max())


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("method", ["max_dist", "max_det", "lcmd", "kmeanspp", "bait_f", "frank_wolfe"])
def test_constraints_and_scores_hold_as_in_memory(pools, method, chunk_size):
    rows = pools["clusters"][::3]
    rng = np.random.default_rng(7)
    cost, score = rng.uniform(0.5, 2.0, 950), rng.uniform(0.0, 1.0, 950)
    score[::3] = 0.0
    groups = np.where(np.arange(950) < 15, "few", np.where(np.arange(950) % 2, "odd", "even"))
    limits = {
        "cost": Constraints(cost=cost, budget=30.0),
        "quota": Constraints(groups=groups, quota="equal", exclude=np.arange(0, 950, 5)),
        "dropped": Constraints(groups=groups, quota="proportional", exclude=np.arange(0, 950, 5), drop=True),
    }
    for constraints in (None, *limits.values()):
        for scores in (None, {"sigma": score}):
            options = {"sigma": 0.5, "constraints": constraints, "scores": scores}
            size = None if constraints is limits["cost"] else 50
            if constraints is None:
                size = 45
            whole = select_rows(method, rows[50:], rows[:50], size, **options)
            same(select_rows(method, rows[50:], rows[:50], size, chunk_size=chunk_size, **options), whole)


@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_least_distances_hold_as_in_memory(pools, chunk_size):
    rows = pools["clusters"]
    limits = Constraints(min_distance=2.0, cost=np.random.default_rng(1).uniform(1, 2, 2980))
    for kind in (None, chunk_size):
        with pytest.warns(UserWarning, match=r"(\d+) of 60 picks \(min_distance\)"):
            picks = select_rows("max_dist", rows[20:], rows[:20], 60, constraints=limits, chunk_size=kind)
        if kind is None:
            whole = picks
    same(picks, whole)


def test_relative_least_distances_hold_as_in_memory(pools):
    rows, limits = pools["clusters"], Constraints(min_distance="0.3x", exclude=[4, 5], drop=True)
    whole = select_rows("lcmd", rows[20:], rows[:20], 15, constraints=limits)
    same(select_rows("lcmd", rows[20:], rows[:20], 15, constraints=limits, chunk_size=100), whole)


def test_copies_are_those_of_the_pool_in_memory(pools):
    rows = pools["copies"] - 1.37
    rows[5], rows[6] = 0.0, -0.0
    whole = Features(None, rows).first_copies()
    assert len(np.unique(whole)) < len(rows)
    np.testing.assert_array_equal(ChunkedFeatures(None, rows, 100).first_copies(), whole)


@pytest.mark.parametrize("method", ["lcmd", "kmeanspp", "bait_f", "frank_wolfe"])
def test_preselected_rows_are_those_of_max_dist(pools, method):
    """Among all rows that max_dist would pick, the picks are those of the method on these rows alone."""
    rows = pools["clusters"][::3]
    pool, train = rows[50:], rows[:50]
    among = np.sort(list(select_rows("max_dist", pool, train, 60, mode="p")))
    for kind in (None, 100):
        picks = select_rows(method, pool, train, 15, mode="p", preselect=4, chunk_size=kind)
        assert list(picks) == among[list(select_rows(method, pool[among], train, 15, mode="p"))].tolist()
        assert picks.notes[0] == "approximate: among 60 rows that max_dist preselected"
        assert picks.config["preselect"] == 4
    exclude = list(picks)[:5]
    limits = Constraints(exclude=exclude)
    others = select_rows(method, pool, train, 15, preselect=4, constraints=limits)
    assert len(others) == 15
    assert not {*others} & {*exclude}
    assert list(select_rows(method, pool, train, 9, preselect=999)) == list(
        select_rows(method, pool, train, 9)
    )


def test_rows_that_stay_are_read_no_more_than_those_of_a_whole_pool(pools):
    """Of a pool without its dropped rows, a chunk is not read for a few of its rows."""
    read = []

    class Source:
        ndim, shape = 2, pools["walk"].shape

        def __len__(self):
            return len(pools["walk"])

        def __getitem__(self, rows):
            part = pools["walk"][rows]
            read.append(len(part) if part.ndim == 2 else 1)
            return part

    kept = np.arange(0, 3000, 2)
    features = ChunkedFeatures(None, Source(), 500).of(kept)
    read.clear()
    rows = features.rows(slice(500, 1000), np.array([3, 7]))
    np.testing.assert_array_equal(rows, pools["walk"][kept[[503, 507]]])
    assert read == [2]


@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_ends_are_those_of_the_pool_in_memory(pools, chunk_size):
    """All that is left are copies; a group of copies passes its places on; asking for too much."""
    rows = np.concatenate([pools["walk"][:40], pools["walk"][:30], pools["walk"][40:60]])
    train, pool = rows[:30], rows[40:]
    groups = ["copies"] * 30 + ["new"] * 20
    cases = [
        (25, None, "duplicates"),
        (25, Constraints(groups=groups, quota={"new": 7}), "quota"),
        (12, Constraints(groups=groups, quota="equal"), None),
    ]
    for size, limits, stopped in cases:
        results = []
        for kind in (None, chunk_size):
            expected = pytest.warns(UserWarning, match=stopped) if stopped else nullcontext()
            with expected:
                picks = select_rows("max_dist", pool, train, size, constraints=limits, chunk_size=kind)
            results.append(picks)
        same(*reversed(results))
        assert results[0].stopped == stopped
    with pytest.warns(UserWarning, match="exhausted"):
        picks = select_rows("max_det", pool, train, 99, chunk_size=chunk_size)
    assert sorted(picks) == list(range(50))


def test_single_precision_is_read_as_it_is(pools):
    rows = pools["walk"].astype(np.float32)
    for method in ("max_dist", "max_det"):
        same(
            select_rows(method, rows[50:], rows[:50], 40, chunk_size=100),
            select_rows(method, rows[50:].astype(float), rows[:50].astype(float), 40),
        )


@pytest.mark.parametrize("method", ["max_dist", "max_det"])
def test_few_rows_are_looked_at_for_a_pick(pools, method, monkeypatch):
    looked, rows_of = [], ChunkedFeatures.rows
    monkeypatch.setattr(
        ChunkedFeatures,
        "rows",
        lambda self, part, rows: looked.append(len(rows)) or rows_of(self, part, rows),
    )
    rows = pools["clusters"]
    features = ChunkedFeatures(rows[:2000:100], rows, 64)
    select_features(method, features, 30, sigma=0.5)
    assert 0 < sum(looked) < 30 * len(rows) / 5


def test_a_store_gives_the_rows_that_were_computed(tmp_path, pools, monkeypatch):
    monkeypatch.setattr("surefield.selection.feature_store.SHARD_ROWS", 500)
    rows = pools["clusters"]
    contents = [str(i) for i in range(3000)]
    store = FeatureStore(tmp_path / "rows", dtype="float64")
    assert store.fill(contents, "model 1", lambda start, stop: rows[start:stop]) == 6
    assert store.shape == rows.shape
    np.testing.assert_array_equal(np.asarray(store), rows)
    np.testing.assert_array_equal(store[490:1020], rows[490:1020])
    np.testing.assert_array_equal(store[[2999, 3, -1]], rows[[2999, 3, -1]])
    np.testing.assert_array_equal(store[7], rows[7])
    np.testing.assert_array_equal(store[::700], rows[::700])
    assert store[5:5].shape == (0, 6)
    again = FeatureStore(tmp_path / "rows")  # keeps the type that it has
    assert again.dtype == np.float64
    for method in ("max_dist", "max_det"):
        same(
            select_rows(method, again, rows[:50], 30, sigma=0.5),
            select_rows(method, rows, rows[:50], 30, sigma=0.5),
        )
    with pytest.raises(IndexError):
        store[[3000]]
    picks = select_rows("max_dist", again, rows[:50], 5)
    picks.save(tmp_path / "picks.npz", features=True)
    np.testing.assert_array_equal(Selection.load(tmp_path / "picks.npz").g_pool, rows)


def test_an_interrupted_fill_goes_on(tmp_path, pools, monkeypatch):
    monkeypatch.setattr("surefield.selection.feature_store.SHARD_ROWS", 500)
    rows, contents, done = pools["walk"], [str(i) for i in range(3000)], []

    def compute(start, stop, end=3000):
        if stop > end:
            raise KeyboardInterrupt
        done.append(start)
        return rows[start:stop]

    store = FeatureStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.fill(contents, "model", lambda start, stop: compute(start, stop, 1700))
    assert len(store) == 0
    advanced = []
    assert FeatureStore(tmp_path).fill(contents, "model", compute, advanced.append) == 3
    assert done == [0, 500, 1000, 1500, 2000, 2500]
    assert advanced == [500] * 6
    # The same again computes nothing; one structure more, or another one, only its shard.
    store = FeatureStore(tmp_path)
    assert store.fill(contents, "model", compute) == 0
    np.testing.assert_array_equal(store[:], rows.astype(np.float32))
    assert store.fill([*contents[:700], "other", *contents[701:]], "model", compute) == 1
    assert done[6:] == [500]
    assert store.fill(contents[:2900], "model 2", compute) == 6
    assert len(list(tmp_path.glob("*.rows"))) == 6  # those of model 1 are gone


@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "record"])
def test_damaged_shards_are_computed_again_and_never_read(tmp_path, pools, monkeypatch, damage):
    monkeypatch.setattr("surefield.selection.feature_store.SHARD_ROWS", 1000)
    rows, contents = pools["walk"], [str(i) for i in range(3000)]
    FeatureStore(tmp_path).fill(contents, "model", lambda start, stop: rows[start:stop])
    shard = sorted(tmp_path.glob("*.rows"))[1]
    data = bytearray(shard.read_bytes())
    data[1234] ^= 1
    if damage == "record":
        shard.with_suffix(".json").write_text("{")
    elif damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(data if damage == "bit" else data[:-1])
    if damage != "record":
        with pytest.raises(DataError, match=r"missing or damaged; fill the store again"):
            select_rows("max_dist", FeatureStore(tmp_path), rows[:50], 5)
    computed = []

    def compute(start, stop):
        computed.append(start)
        return rows[start:stop]

    store = FeatureStore(tmp_path)
    assert store.fill(contents, "model", compute) == 1
    np.testing.assert_array_equal(store[:], rows.astype(np.float32))


def test_bad_stores(tmp_path, pools, monkeypatch):
    monkeypatch.setattr("surefield.selection.feature_store.SHARD_ROWS", 4)
    rows, contents = pools["walk"][:8], [str(i) for i in range(8)]
    store, row_one = FeatureStore(tmp_path), (np.arange(4) == 1)[:, None]
    with pytest.raises(ConfigError, match="unknown dtype of a feature store; got float16"):
        FeatureStore(tmp_path, dtype="float16")
    with pytest.raises(ConfigError, match="at least one structure"):
        store.fill([], "model", lambda start, stop: rows[start:stop])
    with pytest.raises(DataError, match="one row per structure is needed; got 3; expected 4"):
        store.fill(contents, "model", lambda start, stop: rows[start : stop - 1])
    with pytest.raises(DataError, match="features must have one width"):
        store.fill(contents, "model", lambda start, stop: rows[start:stop, : 2 + start])
    with pytest.raises(DataError, match=r"features of structures 0 to 3 are not finite in row 1"):
        store.fill(contents, "nan", lambda start, stop: np.where(row_one, np.nan, rows[start:stop]))
    with pytest.raises(DataError, match="too large for float32"):
        store.fill(contents, "large", lambda start, stop: 1e60 * rows[start:stop])
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(DataError, match="is no feature store of this version"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"preselect": 4}, ConfigError, "max_dist needs no preselect; expected a method of lcmd, kmeanspp"),
        ({"method": "lcmd", "preselect": 0}, ConfigError, "preselect is too small"),
        ({"chunk_size": 0}, ConfigError, "chunk_size is too small"),
        (
            {"method": "max_det", "sigma": 0},
            ConfigError,
            "sigma of max_det is too small for a",
        ),
        ({"constraints": Constraints(min_distance=1.0), "mode": "p"}, ConfigError, "needs mode 'tp'"),
        (
            {"constraints": Constraints(min_distance=1.0), "method": "max_det"},
            ConfigError,
            "min_distance with max_det needs the pool in memory",
        ),
        ({"constraints": Constraints(deduplicate="features")}, ConfigError, "needs the pool in memory"),
        ({"pool": np.zeros((0, 6))}, DataError, "the pool is empty"),
        ({"pool": FeatureStore("nowhere")}, DataError, r"pool is empty.*in nowhere; fill the store first"),
        ({"pool": np.zeros((9, 5))}, DataError, "same width"),
        ({"pool": np.full((9, 6), np.inf)}, DataError, "are not finite"),
        ({"pool": np.where(np.arange(54).reshape(9, 6) == 31, np.nan, 1.0)}, DataError, "row 0 is row 5"),
        ({"pool": np.zeros((9, 6)), "train": None}, DataError, "carry no information"),
        ({"pool": np.ones((9, 6)), "train": np.ones((2, 6))}, DataError, "carry no information"),
    ],
)
def test_bad_input(pools, change, error, message):
    options = {"method": "max_dist", "pool": pools["walk"], "train": pools["walk"][:9], "chunk_size": 4}
    with pytest.raises(error, match=message):
        select_rows(**{**options, **change})
