"""Transforms of feature rows: their formulas, numbers of another program, and identities with selections."""

import numpy as np
import pytest

from surefield.errors import ConfigError, DataError
from surefield.selection import (
    ACSRF,
    L2,
    PCA,
    ACSGrad,
    Center,
    Features,
    PerAtom,
    Posterior,
    RowTransform,
    Scale,
    Selection,
    Sketch,
    Standardise,
    Whiten,
    described_transforms,
    select_features,
    select_rows,
    transform_features,
    transforms_from,
)
from surefield.sensitivity import LLPRPosterior
from surefield.sensitivity.sketch import count_sketch

SIGMAS = [0.1, 1.0]


@pytest.fixture
def rows():
    return np.random.default_rng(3).normal(size=(40, 5)) * [3.0, 1.0, 0.5, 0.3, 0.1] + 0.7


def near(found, expected, tolerance=1e-12):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_sizes_and_scales(rows):
    train, pool = rows[:15], rows[15:]
    counts = np.arange(2, 27)
    near(PerAtom().fit(train).transform(pool, counts), pool / counts[:, None])
    near(PerAtom(0.5).fit(train).transform(pool, counts), pool / np.sqrt(counts)[:, None])
    near(Scale(2.5).fit(train).transform(pool), 2.5 * pool)
    near(Scale().fit(train).transform(pool), pool / np.sqrt(np.mean(np.sum(train**2, axis=1))))
    mixed = np.concatenate([pool, np.zeros((1, 5))])
    lengths = np.linalg.norm(L2().fit(train).transform(mixed), axis=1)
    np.testing.assert_allclose(lengths, [1.0] * 25 + [0.0], atol=1e-14)


def test_means_deviations_and_components(rows):
    train, pool = rows[:15], rows[15:]
    near(Center().fit(train).transform(pool), pool - train.mean(axis=0))
    with_constant = np.insert(rows, 2, 4.0, axis=1)
    standard = Standardise().fit(with_constant[:15])
    near(standard.transform(with_constant[15:]), (pool - train.mean(axis=0)) / train.std(axis=0))
    white = Whiten(0.0).fit(train).transform(train)
    near(white.T @ white / 15, np.eye(5), 1e-10)
    covariance = np.cov(train.T, bias=True)
    inverse = np.linalg.inv(covariance + 0.3 * np.trace(covariance) / 5 * np.eye(5))
    soft, moved = Whiten(0.3).fit(train).transform(pool), pool - train.mean(axis=0)
    near(soft @ soft.T, moved @ inverse @ moved.T)
    pca = PCA(2).fit(train)
    values, vectors = np.linalg.eigh(covariance)
    near(pca.transform(train).var(axis=0), values[:-3:-1])
    near(np.abs(pca.transform(pool)), np.abs(moved @ vectors[:, :-3:-1]))
    assert pca.components.max(axis=1) == pytest.approx(np.abs(pca.components).max(axis=1))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_posterior_kernel_of_another_program(bmdal, split, sigma):
    pool, train = split
    posterior = Posterior(sigma).fit(train)
    after = posterior.transform(pool)
    near(after @ after.T, bmdal[f"post_sigma{sigma}_K_pool"], 1e-10)
    near(np.sum(after**2, axis=1), bmdal[f"post_sigma{sigma}_diag_pool"], 1e-10)
    stored = bmdal[f"post_sigma{sigma}_features_train"]
    near(posterior.transform(train) @ after.T, stored @ bmdal[f"post_sigma{sigma}_features_pool"].T, 1e-10)
    both = transform_features(Features(train, pool), [Scale(), Posterior(sigma)])
    near(both.pool_norms, bmdal[f"scale_then_post_sigma{sigma}_diag_pool"], 1e-9)
    assert both.spec == "array"
    assert both.transforms == ({"kind": "scale", "factor": None}, {"kind": "posterior", "sigma": sigma})


def test_scale_of_another_program(bmdal, split):
    pool, train = split
    near(Scale().fit(train).transform(pool), bmdal["scale_factor"] * pool)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_product_kernel_of_another_program(bmdal, split, sigma):
    pool, train = split
    found = ACSGrad(sigma).fit(train).transform(pool)
    near(found @ found.T * sigma**-8, bmdal[f"acsgrad_sigma{sigma}_K_pool"], 1e-9)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_posterior_variance_is_that_of_the_last_layer(split, sigma):
    pool, train = split
    u = LLPRPosterior.from_covariance(train.T @ train, varsigma2=sigma**2).u(pool)
    after = Posterior(sigma).fit(train).transform(pool)
    np.testing.assert_allclose(np.sum(after**2, axis=1), sigma**2 * u**2, rtol=1e-9)
    picks = select_rows("max_diag", pool, train, transforms=(Posterior(sigma),))
    assert list(picks) == np.argsort(-u)[:10].tolist()


@pytest.mark.parametrize("sigma", [0.01, 1.0])
def test_both_forms_of_the_posterior_agree(sigma):
    rows = np.random.default_rng(0).normal(size=(30, 1025))
    wide = Posterior(sigma).fit(rows[:12])
    assert wide.factor is None
    known, new = rows[:12], rows[12:]
    kernel = new @ new.T - new @ known.T @ np.linalg.solve(
        known @ known.T + sigma**2 * np.eye(12), known @ new.T
    )
    near(wide.transform(new) @ wide.transform(new).T, kernel, 1e-9)
    # Many copies of the rows, with their sum of squares, take the other form.
    copies = np.repeat(known / np.sqrt(30), 30, axis=0)
    square = Posterior(sigma).fit(copies)
    assert square.axes is None
    near(square.transform(new) @ square.transform(new).T, kernel, 1e-9)


@pytest.mark.parametrize("method", ["max_det", "bait_f"])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_training_rows_count_through_the_posterior_as_well(split, method, sigma):
    pool, train = split
    direct = select_rows(method, pool, train, mode="tp", sigma=sigma)
    after = select_rows(method, pool, train, mode="p", sigma=sigma, transforms=(Posterior(sigma),))
    assert list(after) == list(direct)
    np.testing.assert_allclose(after.gains, direct.gains, rtol=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "countsketch"])
def test_sketches_keep_inner_products_on_average(rows, kind):
    kernel = rows[:6] @ rows[:6].T
    found = []
    for seed in range(400):
        sketched = Sketch(16, seed, kind).fit(rows).transform(rows[:6])
        found.append(sketched @ sketched.T)
    error = np.std(found, axis=0) / np.sqrt(400)
    assert (np.abs(np.mean(found, axis=0) - kernel) < 4.5 * error + 1e-9).all()


def test_sketches_are_linear_and_known(rows):
    sketch = Sketch(7, seed=5).fit(rows)
    matrix = np.random.Generator(np.random.Philox(key=5)).standard_normal((5, 7)) / np.sqrt(7)
    near(sketch.transform(rows), rows @ matrix)
    near(Sketch(7, 5, "none").fit(rows).transform(rows), rows)
    places, signs = count_sketch(5, 3, 2)
    matrix = np.zeros((5, 3))
    matrix[np.arange(5), places] = signs
    near(Sketch(3, 2, "countsketch").fit(rows).transform(rows), rows @ matrix)


def test_blocks_of_a_sketch_add_up():
    rows = np.random.default_rng(1).normal(size=(2, 65_540))
    whole = Sketch(3, kind="gaussian").fit(rows).transform(rows)
    first = np.concatenate([rows[:, :65_536], np.zeros((2, 4))], axis=1)
    last = rows - first
    parts = [Sketch(3, kind="gaussian").fit(part).transform(part) for part in (first, last)]
    near(parts[0] + parts[1], whole)
    assert np.abs(parts[1]).min() > 0


def test_random_features_have_the_formula_and_its_distribution(rows):
    train, pool, sigma = rows[:15], rows[15:20], 0.5
    found = ACSRF(20_000, sigma, seed=1).fit(train).transform(pool)
    weights = np.linalg.inv(train.T @ train + sigma**2 * np.eye(5))
    variance = np.einsum("ij,jk,ik->i", pool, weights, pool)
    level = 0.5 * np.log(1 + variance / sigma**2) - variance / sigma**2
    # (φᵀθ)² has the mean φᵀΣφ and, for two rows, the covariance 2(φᵀΣψ)².
    np.testing.assert_allclose(found.mean(axis=1) * np.sqrt(20_000), level, atol=0.05)
    square = level[:, None] * level + (pool @ weights @ pool.T) ** 2 / (2 * sigma**4)
    near(found @ found.T, square, 0.05)


def test_the_product_kernel_can_be_sketched(rows):
    features = Features(rows[:15], rows[15:])
    exact = transform_features(features, [ACSGrad(0.5)])
    assert exact.n_features == 25
    kernel = exact.pool @ exact.pool.T
    found = np.mean(
        [
            (sketched := transform_features(features, [ACSGrad(0.5), Sketch(64, seed)]).pool) @ sketched.T
            for seed in range(200)
        ],
        axis=0,
    )
    near(found, kernel, 0.05)


def test_transforms_are_fitted_on_the_pool_without_train_and_stay_as_they_are(rows):
    center = Center()
    moved = transform_features(Features(None, rows), [center])
    near(moved.pool, rows - rows.mean(axis=0))
    assert center.mean is None
    assert moved.n_train == 0


@pytest.mark.parametrize("method", ["lcmd", "max_det", "kmeanspp"])
def test_a_saved_selection_is_made_again_from_its_file(method, rows, tmp_path):
    steps = [Standardise(), ACSGrad(0.5), Sketch(9, seed=np.int64(3), kind="countsketch"), Whiten(0.25)]
    arguments = {"mode": "tp", "sigma": 1 / 3, "seed": 7}
    picks = select_rows(method, rows[15:], rows[:15], 6, transforms=steps, **arguments)
    picks.save(tmp_path / "picks.npz")
    config = Selection.load(tmp_path / "picks.npz").config
    assert [entry["kind"] for entry in config["transforms"]] == ["standardise", "acsgrad", "sketch", "whiten"]
    known = {name: config[name] for name in ("mode", "sigma", "seed") if config[name] is not None}
    again = select_rows(
        config["method"],
        rows[15:],
        rows[:15],
        config["batch_size"],
        transforms=transforms_from(config["transforms"]),
        **known,
    )
    assert (list(again), dict(again.config)) == (list(picks), dict(picks.config))
    np.testing.assert_array_equal(again.g_pool, picks.g_pool)


def test_transforms_that_cannot_be_made():
    class Own(RowTransform):
        def fit(self, train, n_atoms=None):
            return self

        def transform(self, x, n_atoms=None):
            return np.asarray(x)

    [entry] = described_transforms([Own()])
    assert entry == {"kind": "Own"}
    for wrong, words in (
        (entry, "unknown transform 'Own'.*of your own"),
        ({"kind": "pac"}, "did you mean 'pca'"),
        ({"kind": "pca", "mean": 1}, "pca has no setting 'mean'"),
        ({}, "unknown transform None"),
    ):
        with pytest.raises(ConfigError, match=words):
            transforms_from([wrong])


def test_selection_on_transformed_rows(rows):
    counts = np.arange(1, 41)
    extensive = rows * counts[:, None]
    features = Features(extensive[:15], extensive[15:], counts[:15], counts[15:])
    picks = select_features("lcmd", transform_features(features, [PerAtom()]))
    assert list(picks) == list(select_rows("lcmd", rows[15:], rows[:15]))
    assert picks.config["transforms"] == [{"kind": "per_atom", "power": 1.0}]
    np.testing.assert_allclose(picks.g_pool, rows[15:])
    white = select_rows("max_dist", rows[15:], rows[:15], transforms=[Whiten(0.0)])
    stretched = select_rows("max_dist", 7.0 * rows[15:], 7.0 * rows[:15], transforms=[Whiten(0.0)])
    assert list(white) == list(stretched)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PerAtom(2.0), "power of PerAtom; got 2.0; expected 1 or 0.5"),
        (lambda: Posterior(0.0), "sigma of Posterior out of range; got 0.0"),
        (lambda: ACSGrad(-1.0), "sigma of ACSGrad"),
        (lambda: ACSRF(0, 1.0), "p of ACSRF is too small"),
        (lambda: Sketch(0), "p of Sketch is too small"),
        (lambda: Sketch(65_537), "1..65536"),
        (lambda: Sketch(4, kind="gausian"), "unknown sketch 'gausian': did you mean 'gaussian'"),
        (lambda: PCA(0), "k of PCA is too small"),
        (lambda: Whiten(-1.0), "eps of Whiten"),
        (lambda: Scale(0.0), "factor of Scale"),
        (lambda: Center().transform(np.eye(3)), "Center is not fitted"),
        (lambda: select_rows("lcmd", np.eye(3), transforms=["Center"]), "must be transforms.*got str"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PerAtom().transform(np.eye(3)), "needs the number of atoms"),
        (lambda: PerAtom().transform(np.eye(3), [1, 0, 2]), "one positive number per row"),
        (lambda: Center().fit(np.eye(3)).transform(np.eye(4)), "another width.*got 4 columns; expected 3"),
        (lambda: Standardise().fit(np.ones((4, 2))), "no column"),
        (lambda: Scale().fit(np.zeros((4, 2))), "all training features are 0"),
        (lambda: Whiten(0.0).fit(np.eye(3)), "singular"),
        (lambda: PCA(4).fit(np.eye(3)), "not as many principal components"),
        (lambda: Posterior(1e-9).fit(np.eye(3)), "too small"),
        (lambda: ACSGrad(1.0).fit(np.ones((3, 257))), "too many columns"),
        (lambda: L2().transform([[1.0, np.nan]]), "row 0"),
    ],
)
def test_bad_rows(make, message):
    with pytest.raises(DataError, match=message):
        make()
