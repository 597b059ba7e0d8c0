"""`kernel_selection`: from saved potentials to picks; its modes, its errors, and the picks of apax."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import Atoms
from tests.conftest import small_network

import surefield as sf
from surefield.errors import ConfigError, DataError, PotentialError
from surefield.selection import (
    PCA,
    Constraints,
    FeatureStore,
    LastLayerForceFeatures,
    LastLayerGradientFeatures,
    PerAtom,
    PerAtomFeatures,
    Posterior,
    ScaleFeatures,
    Selection,
    compute_features,
    create_feature_fn,
    kernel_selection,
    select_rows,
)

LL_GRAD = {"name": "ll_grad", "layer_name": "dense_2"}


def volumes(frames):
    """Features that need no potential."""
    return np.array([[atoms.get_volume(), atoms.positions.std()] for atoms in frames])


@pytest.fixture(scope="module")
def frames(alloy):
    """Twelve rattled crystals of copper and gold, of one shape; the first four are labelled."""
    made = [alloy[0].copy() for _ in range(12)]
    for seed, atoms in enumerate(made):
        atoms.rattle(0.05 + 0.01 * seed, seed=seed)
    return made[:4], made[4:]


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    sf.save_potential(folder / "potential.npz", network)
    return folder / "potential.npz"


@pytest.fixture(scope="module")
def picks(saved, frames):
    return kernel_selection(str(saved), *frames, LL_GRAD, "max_dist", [], 5)


def test_picks_of_a_saved_potential(network, frames, picks):
    train, pool = frames
    function = create_feature_fn(network, None, LastLayerGradientFeatures())
    g_train, g_pool = compute_features(function, train), compute_features(function, pool)
    assert isinstance(picks, Selection)
    assert list(picks) == list(select_rows("max_dist", g_pool, g_train, 5))
    np.testing.assert_allclose(picks.g_train, g_train, rtol=1e-12)
    np.testing.assert_allclose(picks.g_pool, g_pool, rtol=1e-12)
    assert picks.notes[0] == "layer 'dense_2' is the final linear map of MomentNetwork (2 x 59 weights)"
    assert picks.config["features"] == "LastLayerGradientFeatures(name='ll_grad', layer_name='dense_2')"


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batch_size_changes_nothing(network, frames, picks, size):
    again = kernel_selection(network, *frames, {}, "max_dist", [], 5, size)
    assert list(again) == list(picks)
    np.testing.assert_allclose(again.gains, picks.gains, rtol=1e-10)


def test_a_large_structure_beside_changes_nothing(network, frames, picks):
    """It is in the pool, so that the others are padded, and never picked."""
    train, pool = frames
    large = [*pool, pool[0].repeat((3, 2, 1))]
    never = Constraints(exclude=[len(pool)])
    again = kernel_selection(network, train, large, {}, "max_dist", [], 5, constraints=never)
    assert list(again) == list(picks)
    np.testing.assert_allclose(again.gains, picks.gains, rtol=1e-10)


def test_folders_and_ensembles(saved, network, frames, picks):
    assert list(kernel_selection(saved.parent, *frames, {}, "max_dist", [], 5)) == list(picks)
    both = kernel_selection([saved, network], *frames, {}, "max_dist", [], 5)
    # The mean of two equal kernels.
    assert list(both) == list(picks)
    np.testing.assert_allclose(both.gains, picks.gains, rtol=1e-12)
    assert both.g_pool.shape[1] == 2 * picks.g_pool.shape[1]


def test_members_that_differ(network, frames):
    """In shape and cutoff: each reads structures in its own way."""
    other = small_network(("Cu", "Au"))
    wide = sf.MomentNetwork(("Cu", "Au"), cutoff=4.0, n_basis=3, n_channels=2, n_triple=2, hidden=())
    train, pool = frames
    picks = kernel_selection([other, wide], train, pool, {}, "max_dist", [], 3)
    parts = [compute_features(create_feature_fn(p, None, {}), pool) for p in (other, wide)]
    np.testing.assert_allclose(picks.g_pool, np.concatenate(parts, axis=1) / np.sqrt(2), rtol=1e-10)
    with pytest.raises(PotentialError, match="members of different shapes cannot be added"):
        kernel_selection([other, wide], train, pool, {}, "max_dist", [], 3, compat="apax")


def test_projections_follow_the_seed(network, frames):
    options = {"name": "full_grad_rp", "num_rp": 16}
    first, again, other = (
        kernel_selection(network, *frames, options, "lcmd", PerAtomFeatures(), 4, seed=seed)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.g_pool, again.g_pool)
    assert list(first) == list(again)
    assert not np.allclose(first.g_pool, other.g_pool)
    fixed = kernel_selection(network, *frames, {**options, "seed": 1}, "lcmd", PerAtomFeatures(), 4, seed=2)
    np.testing.assert_array_equal(fixed.g_pool, first.g_pool)


def test_energies_as_features(network, frames):
    picks = kernel_selection(network, *frames, {"name": "identity"}, "max_dist", [], 3)
    energies = np.array([[p.energy] for p in network.predict(frames[1])])
    np.testing.assert_allclose(picks.g_pool, energies, rtol=1e-12)


def test_transforms_of_functions_and_of_features(frames):
    train, pool = frames
    steps = [PerAtom(), Posterior(0.3)]
    picks = kernel_selection(None, train, pool, volumes, "max_det", steps, 4, sigma=0.2)
    rows, sizes = volumes(pool), [3] * len(pool)
    posterior = Posterior(0.3).fit(volumes(train) / 3)
    transformed = posterior.transform(PerAtom().transform(rows, sizes))
    np.testing.assert_allclose(picks.g_pool, transformed, rtol=1e-12)
    rms = np.sqrt(np.mean(np.sum(posterior.transform(volumes(train) / 3) ** 2, axis=1)))
    expected = select_rows("max_det", rows / 3, volumes(train) / 3, 4, transforms=steps[1:], sigma=0.2 * rms)
    assert list(picks) == list(expected)


def test_features_from_elsewhere(frames, tmp_path):
    train, pool = frames
    rows = volumes([*train, *pool])
    expected = list(kernel_selection(None, train, pool, volumes, "lcmd", [], 4))
    assert list(kernel_selection(None, train, pool, rows, "lcmd", [], 4)) == expected
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "rows.npz", train=rows[:4], pool=rows[4:])
    for name in ("rows.npy", "rows.npz"):
        assert list(kernel_selection(None, train, pool, tmp_path / name, "lcmd", [], 4)) == expected


def test_without_training_structures(frames):
    picks = kernel_selection(None, [], frames[1], volumes, "max_dist", [], 3)
    assert "no training rows" in picks.notes[0]
    assert len(picks) == 3


def test_copies_are_never_picked(frames):
    train, pool = frames
    copies = [train[0].copy(), *pool, pool[2].copy()]
    with pytest.warns(UserWarning, match="8 of 20 picks"):
        picks = kernel_selection(None, train, copies, volumes, "max_dist", [], 20)
    assert sorted(picks) == list(range(1, 9))
    assert picks.stopped == "exhausted"
    assert [(entry.index, entry.kept_in) for entry in picks.dropped] == [(0, "train"), (9, "pool")]
    assert picks.notes == tuple(
        f"copies of {what} in the pool, which are never picked: 1"
        for what in ("training structures", "others of the pool")
    )
    with pytest.warns(UserWarning, match="duplicates"):
        kept = kernel_selection(
            None, train, copies, volumes, "max_dist", [], 20, constraints=Constraints(deduplicate=None)
        )
    assert sorted(kept) == list(range(1, 9))
    assert kept.stopped == "duplicates"


def test_constraints(frames):
    cheap = Constraints(cost=lambda atoms: float(len(atoms)), budget=9.0)
    picks = kernel_selection(None, *frames, volumes, "max_dist", [], None, constraints=cheap)
    assert len(picks) == 3


def test_stores(network, frames, picks, tmp_path, monkeypatch):
    """The same picks, in memory or by chunks; what is there is not computed again."""
    store = FeatureStore(tmp_path / "pool", "float64")
    first = kernel_selection(network, *frames, {}, "max_dist", [], 5, store=store)
    assert list(first) == list(picks)
    assert isinstance(first.g_pool, FeatureStore)
    whole = kernel_selection(network, *frames, {}, "lcmd", [], 5, store=tmp_path / "pool")
    np.testing.assert_allclose(whole.g_pool, picks.g_pool, rtol=1e-12)
    function = create_feature_fn(network, None, {})
    computed = []
    original = type(function).compute
    monkeypatch.setattr(
        type(function), "compute", lambda self, *given: computed.append(given) or original(self, *given)
    )
    assert compute_features(function, frames[1], out=store) is store
    assert not computed
    moved = [atoms.copy() for atoms in frames[1]]
    moved[3].positions[0, 0] += 1e-9
    compute_features(function, moved, out=store)
    compute_features(create_feature_fn(network, None, {}, [ScaleFeatures(2.0)]), moved, out=store)
    compute_features(create_feature_fn(small_network(("Cu", "Au"), readout=0.2), None, {}), moved, out=store)
    assert len(computed) == 3
    with pytest.raises(ConfigError, match="a store needs a function of create_feature_fn"):
        compute_features(volumes, frames[1], out=store)
    with pytest.raises(ConfigError, match="a store needs a feature map of a potential"):
        kernel_selection(None, *frames, volumes, "max_dist", [], 5, store=store)


@pytest.fixture(scope="module")
def reference(apax):
    """Features of apax 0.14 and as many structures, which stand for theirs."""
    made = [Atoms("Cu", cell=[4.0 + 0.01 * i] * 3, pbc=True) for i in range(len(apax["g"]))]
    return made[: int(apax["n_train"])], made[int(apax["n_train"]) :]


@pytest.mark.parametrize("size", [1, 5, 10, 25, None])
def test_the_picks_of_apax(apax, reference, size):
    answer = kernel_selection(None, *reference, apax["g"], "max_dist", [], size, compat="apax")
    assert type(answer) is tuple
    indices, distances, g_train, g_pool = answer
    np.testing.assert_array_equal(indices, apax[f"maxdist_idx_b{size}"])
    np.testing.assert_allclose(distances, apax[f"maxdist_dist_b{size}"], rtol=1e-10)
    np.testing.assert_array_equal(np.concatenate([g_train, g_pool]), apax["g"])


def test_the_default_picks_on_the_features_of_apax(apax, reference):
    picks = kernel_selection(None, *reference, apax["g"], "max_dist")
    assert list(picks) == [24, 4, 21, 5, 22, 15, 2, 16, 33, 13]


def test_features_of_apax(network, frames):
    """Members are added up through one projection, and arrays are averaged over their last axis."""
    train, pool = frames
    options = {"name": "full_grad_rp", "num_rp": 16, "sketch": "none"}
    *_, g_pool = kernel_selection(network, train, pool, options, "max_dist", [], 2, compat="apax")
    full = create_feature_fn(network, None, options)
    rows, start, means = compute_features(full, pool), 0, []
    shapes = {name: getattr(network, name).shape for name in ("bias", "radial", "readout")}
    shapes |= {"biases0": network.biases[0].shape, "weights0": network.weights[0].shape}
    for name in sorted(shapes):
        size = int(np.prod(shapes[name]))
        part = rows[:, start : start + size].reshape(len(pool), *shapes[name])
        means.append(part.mean(axis=-1).reshape(len(pool), -1))
        start += size
    assert start == rows.shape[1]
    np.testing.assert_allclose(g_pool, np.concatenate(means, axis=1), rtol=1e-10, atol=1e-14)
    *_, both = kernel_selection([network] * 2, train, pool, {}, "max_dist", [], 2, compat="apax")
    single = compute_features(create_feature_fn(network, None, {}), pool)
    np.testing.assert_allclose(both, np.sqrt(2) * single, rtol=1e-12)


def test_structures_are_left_alone(network, frames):
    before = [[atoms.copy() for atoms in part] for part in frames]
    kernel_selection(network, *frames, {}, "max_dist", [], 2)
    assert all(
        a == b for part, old in zip(frames, before, strict=True) for a, b in zip(part, old, strict=True)
    )


def select(model=None, train=None, pool=None, options=volumes, method="max_dist", steps=(), n=3, b=8, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kernel_selection(model, train, pool, options, method, steps, n, b, **more)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "max_dits"}, ConfigError, "unknown selection method 'max_dits': did you mean 'max_dist'"),
        ({"method": "fw"}, ConfigError, "did you mean 'frank_wolfe'"),
        (
            {"options": {"name": "ll_gard"}},
            ConfigError,
            "unknown feature map 'll_gard': did you mean 'll_grad'",
        ),
        ({"options": {"layer": "dense_2"}}, ConfigError, "unknown key 'layer', did you mean 'layer_name'"),
        ({"options": 3}, ConfigError, "unusable options of a feature map; got int"),
        ({"mode": "tpp"}, ConfigError, "unknown mode 'tpp': did you mean 'tp'"),
        ({"steps": [PCA]}, ConfigError, "no transform of features; got <class"),
        ({"steps": [LastLayerGradientFeatures()]}, ConfigError, "no transform of features"),
        (
            {"steps": [PerAtom(), ScaleFeatures(2.0)], "options": {}},
            ConfigError,
            "ScaleFeatures changes feature functions and cannot come after PerAtom",
        ),
        ({"steps": ScaleFeatures(2.0)}, ConfigError, "need a feature map of a potential"),
        ({"n": 0}, ConfigError, "selection_batch_size is too small; got 0; expected at least 1"),
        ({"n": -1, "compat": "apax"}, ConfigError, "selection_batch_size is too small; got -1"),
        ({"n": 2.5}, ConfigError, "selection_batch_size must be a whole number; got 2.5"),
        ({"b": 0}, ConfigError, "processing_batch_size is too small"),
        ({"pool": []}, DataError, "the pool is empty"),
        ({"compat": "apx"}, ConfigError, "unknown compat 'apx': did you mean 'apax'"),
        ({"compat": "apax", "method": "lcmd"}, ConfigError, "compat='apax' has one method; got 'lcmd'"),
        ({"compat": "apax", "constraints": Constraints()}, ConfigError, "has no constraints"),
        ({"model": None, "options": {}}, ConfigError, "these features need a potential"),
        ({"model": [], "options": {}}, PotentialError, "model_dir is an empty list"),
        ({"model": "nowhere", "options": {}}, PotentialError, "there is nothing saved at .*nowhere"),
        (
            {"options": LastLayerForceFeatures()},
            ConfigError,
            "cannot be selected by .*'raw' gives one row per force component.*'gram'",
        ),
        (
            {"options": {"name": "ll_force_feat", "strategy": "sum"}},
            ConfigError,
            "'sum' is 0 for every structure.*'gram'",
        ),
        ({"options": np.zeros((3, 2))}, DataError, r"do not fit the structures; got shape \(3, 2\)"),
        ({"options": np.zeros((12, 2))}, DataError, "features carry no information"),
        ({"options": np.zeros((12, 2)), "compat": "apax"}, DataError, "features carry no information"),
        ({"options": lambda frames: np.ones((len(frames), 2))}, DataError, "features carry no information"),
        (
            {"options": lambda frames: np.where(np.arange(12)[:, None] == 5, np.nan, 1.0)},
            DataError,
            r"features are not finite in frame 1 of the pool \(AuCu2\)",
        ),
        (
            {"options": np.where(np.arange(12)[:, None] == 5, np.nan, np.eye(12))},
            DataError,
            r"features are not finite in frame 1 of the pool \(AuCu2\)",
        ),
        ({"options": {"name": ["ll_grad"]}}, ConfigError, "unknown feature map"),
        ({"options": "no.npy"}, DataError, "there is no file of features at"),
    ],
)
def test_bad_input(frames, arguments, error, message):
    with pytest.raises(error, match=message):
        select(**{"train": frames[0], "pool": frames[1], **arguments})


def test_bad_potentials(network, frames, tmp_path):
    with pytest.raises(PotentialError, match=r"there is nothing saved at .*potential\.npz"):
        select(tmp_path, *frames, options={})
    (tmp_path / "text.npz").write_text("no potential")
    with pytest.raises(PotentialError, match="not a saved potential"):
        select(tmp_path / "text.npz", *frames, options={})
    with pytest.raises(PotentialError, match=r"there is no layer 'dense_9'; did you mean 'dense_2'"):
        select(network, *frames, options={"layer_name": "dense_9"})
    with pytest.raises(ConfigError, match="a potential of surefield is needed"):
        select(object(), *frames, options={})


def test_flattened_forces_need_equal_sizes(network, frames):
    train, pool = frames
    options = {"name": "ll_force_feat", "strategy": "flatten"}
    sizes = [*pool, pool[0].repeat((2, 1, 1))]
    with pytest.raises(DataError, match=r"got 3 in frame 0 of train and 6 in frame 8 of the pool; .*'gram'"):
        select(network, train, sizes, options=options)


def test_mixed_periodicity(network, alloy):
    """Features are of single structures: a crystal, a molecule and a slab may stand side by side."""
    picks = kernel_selection(network, alloy[:1], alloy[1:], {}, "max_dist", [], 2)
    assert sorted(picks) == [0, 1]
