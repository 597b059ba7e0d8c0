"""What `select` makes of features; how they are computed is tested with the potentials."""

import importlib
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ase import Atoms
from tests.conftest import small_network

import surefield as sf
import surefield.selection
from surefield.acquisition.select import _PoolRows, feature_rows, select
from surefield.errors import ConfigError, DataError
from surefield.selection import Constraints, FeatureStore, PerAtom, duplicates, select_rows
from surefield.sensitivity.packed_matrices import unpacked
from surefield.sensitivity.posterior import LLPRPosterior
from surefield.structures.read import read_frames
from surefield.uncertainty.llpr import LLPR


@pytest.fixture
def chains(monkeypatch):
    """Chains of 1 to 30 atoms whose features are known and follow their length."""
    module = importlib.import_module("surefield.acquisition.select")
    intensive = np.random.default_rng(2).normal(size=(31, 4)) * 0.1 + 1.0

    def rows(potential, frames, kind, seed):
        sizes = [len(atoms) for atoms in frames]
        return np.array(sizes)[:, None] * intensive[sizes]

    monkeypatch.setattr(module, "feature_rows", rows)
    monkeypatch.setattr(module, "as_potential", lambda potential: potential)
    monkeypatch.setattr(module, "check_frames", lambda potential, frames: None)
    frames = [Atoms(f"H{n}", positions=np.outer(np.arange(n), [1.0, 0, 0])) for n in range(1, 31)]
    return frames[:10], frames[10:], intensive


def test_transforms_know_the_sizes_of_the_structures(chains):
    train, pool, rows = chains
    picks = select(None, train, pool, "lcmd", 5, transforms=[PerAtom()])
    assert list(picks) == list(select_rows("lcmd", rows[11:], rows[1:11], 5))
    assert picks.config["features"] == "full_grad_rp"
    assert picks.config["transforms"] == [{"kind": "per_atom", "power": 1.0}]
    assert picks.notes == ()
    [note] = select(None, train, pool, "lcmd", 5).notes
    assert "PerAtom" in note


def test_what_is_broken_is_left_out_and_picks_are_counted_in_the_whole_pool(chains):
    train, pool, _ = chains
    close = Atoms("H2", positions=[[0, 0, 0], [0.1, 0, 0]])
    lost = Atoms("H", positions=[[np.nan, 0, 0]])
    whole = [pool[0], close, pool[0].copy(), *pool[1:5], lost, *pool[5:]]
    places = [i for i, atoms in enumerate(whole) if atoms not in (close, lost)]
    scores, groups = np.arange(1.0, len(whole) + 1), [("even", "odd")[i % 2] for i in range(len(whole))]
    limits = {"quota": {"even": 2}, "exclude": [3, 7], "cost": np.arange(1, len(whole) + 1)}
    options = {"scores": {"number": scores}, "transforms": [PerAtom()], "drop_broken": True}
    picks = select(None, train, whole, "lcmd", 4, constraints=Constraints(groups=groups, **limits), **options)
    options |= {"scores": {"number": scores[places]}, "drop_broken": False}
    limits |= {"exclude": [places.index(3)], "cost": limits["cost"][places]}
    bare = Constraints(groups=[groups[i] for i in places], **limits)
    same = select(None, train, [whole[i] for i in places], "lcmd", 4, constraints=bare, **options)
    assert list(picks) == [places[i] for i in same]
    assert {1, 3, 7}.isdisjoint(picks)
    left = {entry.index: entry.reason for entry in picks.dropped}
    assert left[1].startswith("atoms H0 and H1 are 0.1 Å apart")
    assert left[7] == "positions are not finite"
    assert left[2] == "copy of structure 0 of pool"
    assert left[3] == "excluded"
    assert "copies of others of the pool in the pool, which are never picked: 1" in picks.notes
    assert any("out of the pool: 2 (the first, structure 1: atoms" in note for note in picks.notes)
    assert picks.g_pool.shape == (len(whole), 4)
    np.testing.assert_array_equal(picks.g_pool[places], same.g_pool)
    with pytest.raises(DataError, match=r"every structure of the pool is broken.*not finite"):
        select(None, train, [lost], "lcmd", 1, drop_broken=True)
    beyond = Constraints(exclude=[len(whole)])
    with pytest.raises(DataError, match=f"0 to {len(whole) - 1}"):
        select(None, train, whole, "lcmd", 1, constraints=beyond, drop_broken=True)


def test_noise_is_relative_to_the_features(chains):
    train, pool, _ = chains
    extensive = np.arange(1, 31)[:, None] * chains[2][1:]
    scale = np.sqrt(np.mean(np.sum(extensive[:10] ** 2, axis=1)))
    picks = select(None, train, pool, "max_det", 5, sigma=0.3)
    assert picks.config["sigma"] == pytest.approx(0.3 * scale)
    same = select_rows("max_det", extensive[10:], extensive[:10], 5, sigma=0.3 * scale)
    assert list(picks) == list(same)
    assert len(select(None, [], pool, "bait_fb", 3)) == 3


def test_constraints_know_the_structures(chains):
    train, pool, _ = chains
    for cost in ("n_atoms^3", lambda atoms: float(len(atoms)) ** 3):
        limits = Constraints(cost=cost, budget=20000.0, groups=np.arange(20) % 2, quota="equal", exclude=[0])
        picks = select(None, train, pool, "max_det", 4, constraints=limits)
        assert sum(len(pool[i]) ** 3 for i in picks) <= 20000.0
        assert 0 not in list(picks)
        assert sorted(i % 2 for i in picks) == [0, 0, 1, 1]
    with pytest.raises(DataError, match=r"unusable cost in row 0; got -1\.0"):
        select(None, train, pool, "lcmd", constraints=Constraints(cost=lambda atoms: -1.0))


def test_copies_of_structures_are_dropped(chains):
    train, pool, _ = chains
    shifted = pool[3].copy()
    shifted.positions += 5.0
    frames = [*pool, train[2], shifted]
    picks = select(None, train, frames, "max_diag", 20)
    assert {(entry.index, entry.kept, entry.kept_in) for entry in picks.dropped} == {
        (20, 2, "train"),
        (21, 3, "pool"),
    }
    assert sorted(picks) == list(range(20))
    assert len(select(None, train, frames, "max_diag", 22, constraints=Constraints(deduplicate=None))) == 22


def test_copies_of_what_is_held_out_are_never_picked_and_every_structure_is_looked_at_once(
    chains, monkeypatch
):
    train, pool, _ = chains
    seen = []

    def key(atoms, where):
        seen.append(where)
        return structure_key(atoms, where)

    structure_key = duplicates.structure_key
    monkeypatch.setattr(duplicates, "structure_key", key)
    picks = select(None, train, pool, "max_diag", 18, held_out=[pool[4].copy(), pool[19].copy()])
    assert {(entry.index, entry.kept, entry.kept_in) for entry in picks.dropped} == {
        (4, 0, "held-out set"),
        (19, 1, "held-out set"),
    }
    assert picks.dropped[0].reason == "copy of structure 0 of held-out set"
    assert "copies of validation structures in the pool, which are never picked: 2" in picks.notes
    assert len(seen) == len(set(seen)) == len(train) + 2 + len(pool)
    rows_only = Constraints(deduplicate="features")
    held = {"held_out": [pool[4]]}
    assert 4 not in select(None, train, pool, "max_diag", 19, constraints=rows_only, **held)
    all_of_them = Constraints(deduplicate=None)
    assert len(select(None, train, pool, "max_diag", 20, constraints=all_of_them, **held)) == 20


def test_windows_of_scores(chains):
    """Who may be picked at all, also at random; of variances by their roots."""
    train, pool, _ = chains
    sigma = np.linspace(0.0, 1.9, 20)
    for method in ("lcmd", "random"):
        scores = {"forces_variance": sigma**2}
        picks = select(None, train, pool, method, 6, scores=scores, window=(0.45, 1.0))
        assert sorted(picks) == [5, 6, 7, 8, 9, 10]
    plain = select(None, train, pool[5:11], "lcmd", 6)
    picks = select(None, train, pool, "lcmd", 6, scores={"σ": sigma}, window=(0.45, 1.0))
    assert [i - 5 for i in picks] == list(plain)  # no weights
    first = picks.dropped[0]
    assert (first.index, first.reason) == (0, "σ of 0 is outside the window 0.45 to 1")
    assert picks.notes[0] == f"left out of the pool: 14 (the first, structure 0: {first.reason})"
    assert list(select(None, train, pool, "max_diag", 2, scores={"σ": sigma}, window=(None, 1.0))) == [10, 9]
    with pytest.raises(ConfigError, match="a window needs the scores that it is of"):
        select(None, train, pool, "lcmd", window=(0.0, 1.0))
    with pytest.raises(DataError, match=r"score 'σ' must be one per structure; got \(19,\); expected 20"):
        select(None, train, pool, "lcmd", scores={"σ": sigma[1:]}, window=(0.0, 1.0))
    with pytest.raises(ConfigError, match=r"the window is empty; got \(2.0, 1.0\)"):
        select(None, train, pool, "lcmd", scores={"σ": sigma}, window=(2.0, 1.0))


@pytest.fixture(scope="module")
def crystals(alloy):
    """Twelve rattled crystals of copper and gold; the first four are labelled."""
    frames = [alloy[0].copy() for _ in range(12)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05 + 0.01 * seed, seed=seed)
    return frames[:4], frames[4:]


@pytest.mark.parametrize("features", ["ll_grad", "full_grad_rp"])
def test_pools_in_a_store(network, crystals, features, tmp_path, monkeypatch):
    """The picks of memory, from a folder whose rows are computed once for a potential and a seed."""
    train, pool = crystals
    store = FeatureStore(tmp_path / "pool", "float64")
    for method in ("max_dist", "lcmd"):
        stored = select(network, train, pool, method, 5, features=features, store=store)
        plain = select(network, train, pool, method, 5, features=features)
        assert list(stored) == list(plain)
        np.testing.assert_allclose(stored.squared_distances, plain.squared_distances, rtol=1e-9)
    assert isinstance(stored.g_pool, FeatureStore)
    module = importlib.import_module("surefield.acquisition.select")
    computed = []
    original = module.feature_rows

    def rows(potential, frames, *args, **kwargs):
        computed.append(len(frames))
        return original(potential, frames, *args, **kwargs)

    monkeypatch.setattr(module, "feature_rows", rows)
    again = select(network, train, pool, "lcmd", 5, features=features, store=tmp_path / "pool")
    assert list(again) == list(plain)
    assert computed == [4]  # the training set; a store has the pool
    # Transforms need all rows at once: the picks are those of memory, too.
    by_atom = select(network, train, pool, "lcmd", 5, features=features, transforms=[PerAtom()], store=store)
    options = {"features": features, "transforms": [PerAtom()]}
    assert list(by_atom) == list(select(network, train, pool, "lcmd", 5, **options))
    computed.clear()
    select(small_network(("Cu", "Au"), readout=0.2), train, pool, "lcmd", 5, features=features, store=store)
    select(network, train, pool, "lcmd", 5, features=features, seed=7, store=store)
    assert computed == [4, 8, 4, 8]  # another potential, another seed: nothing is mixed


def test_rows_of_a_store_by_an_executor(network, crystals, tmp_path, monkeypatch):
    """Shards of three rows, computed by two threads; what a killed run left is not computed again."""
    monkeypatch.setattr("surefield.selection.feature_store.SHARD_ROWS", 3)
    train, pool = crystals
    plain = select(network, train, pool, "max_dist", 5, features="ll_grad")
    with ThreadPoolExecutor(2) as threads:
        picks = select(
            network, train, pool, "max_dist", 5, features="ll_grad", store=tmp_path, executor=threads
        )
    assert list(picks) == list(plain)
    assert len(list(tmp_path.glob("*.rows"))) == 3
    with pytest.raises(ConfigError, match="executor is where the features of a store are computed"):
        select(network, train, pool, executor="processes")
    # What is sent to other processes arrives there with the same rows and the same identity.
    rows = _PoolRows(network, read_frames(pool), "ll_grad", 0)
    sent = pickle.loads(pickle.dumps(rows))
    assert sent.identity() == rows.identity()
    np.testing.assert_array_equal(sent(2, 5), rows(2, 5))


def test_stores_know_the_posterior(network, crystals, tmp_path):
    train, pool = crystals
    posteriors = [LLPRPosterior.from_covariance(np.eye(118) * c, 0.0) for c in (1.0, 4.0)]
    fits = [LLPR(network, {}, {}, {}, posterior) for posterior in posteriors]
    rows = []
    for fit in fits:
        picks = select(fit, train, pool, "max_det", 3, features="ll_posterior", store=tmp_path)
        rows.append(np.asarray(picks.g_pool))
    np.testing.assert_allclose(rows[0], 2 * rows[1], rtol=1e-6)


def test_damaged_shards(network, crystals, tmp_path):
    """A shard that was edited or cut off is computed again; read without that it is an error."""
    train, pool = crystals
    kept = list(select(network, train, pool, "max_dist", 3, features="ll_grad", store=tmp_path))
    (shard,) = tmp_path.glob("*.rows")
    whole = shard.read_bytes()
    for damaged in (whole[:-4], bytes([whole[0] ^ 1]) + whole[1:], b""):
        shard.write_bytes(damaged)
        with pytest.raises(DataError, match=r"missing or damaged.*only what is damaged is computed"):
            select_rows("max_dist", FeatureStore(tmp_path), None, 3)
        again = select(network, train, pool, "max_dist", 3, features="ll_grad", store=tmp_path)
        assert list(again) == kept
        assert shard.read_bytes() == whole


def test_modes_and_names(chains):
    train, pool, rows = chains
    sized = np.arange(1, 31)[:, None] * rows[1:]
    picks = select(None, train, pool, "max_dist", 3, mode="p")
    assert list(picks) == list(select_rows("max_dist", sized[10:], None, 3))
    with pytest.raises(ConfigError, match="unknown mode 'pt'"):
        select(None, train, pool, "lcmd", mode="pt")
    with pytest.raises(ConfigError, match=r"unknown selection method 'lmcd'.*lcmd"):
        select(None, train, pool, "lmcd")
    with pytest.raises(DataError, match="the pool is empty"):
        select(None, train, [])
    with pytest.raises(ConfigError, match=r"unknown features 'll_grads'.*ll_grad"):
        feature_rows(None, pool, "ll_grads")


def test_names_of_the_layer_above():
    """Where the page of apax is looked for, `select` and `replay` are, too."""
    assert surefield.selection.select is sf.select
    assert surefield.selection.replay is sf.replay


def test_the_default_looks_at_forces_where_their_rows_are_cheap(network, crystals, tmp_path):
    """Else, and where features are kept or transformed, it is what works with every potential."""
    train, pool = crystals
    picks = select(network, train, pool, n=3)
    assert (picks.config["method"], picks.config["features"]) == ("bait_f", "ll_force")
    named = select(network, train, pool, "bait_f", 3, features="ll_force")
    assert list(picks) == list(named)
    assert select(network, train, pool, features="ll_force", n=2).config["method"] == "bait_f"
    assert select(network, train, pool, "lcmd", n=2).config["features"] == "full_grad_rp"
    for options in ({"store": tmp_path}, {"transforms": [PerAtom()]}, {"features": "ll_grad"}):
        assert select(network, train, pool, n=2, **options).config["method"] == "lcmd"
    with pytest.raises(ConfigError, match="'ll_force' follow from all structures and are not stored"):
        select(network, train, pool, features="ll_force", store=tmp_path)
    with pytest.raises(ConfigError, match="information matrices have no transforms"):
        select(network, train, pool, features="ll_force", transforms=[PerAtom()])


def test_information_of_labels_does_not_depend_on_order_and_orientation(network, crystals):
    train, pool = crystals
    rows = feature_rows(network, [*train, *pool], "ll_force")
    turned = [atoms.copy() for atoms in (*train, *pool)]
    for k, atoms in enumerate(turned):
        atoms.rotate(40.0 + k, (1, 2, 3), rotate_cell=True)
    shuffled = [atoms[[2, 0, 1]] for atoms in turned]
    np.testing.assert_allclose(feature_rows(network, shuffled, "ll_force"), rows, rtol=1e-7, atol=1e-9)
    matrices = unpacked(rows)
    assert np.linalg.eigvalsh(matrices).min() > -1e-9
    assert np.mean(np.trace(matrices, axis1=1, axis2=2)) == pytest.approx(matrices.shape[1])
