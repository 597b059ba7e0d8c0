"""BAIT on information matrices: against sums written out here, and the forms it must agree with."""

import numpy as np
import pytest

from surefield.errors import ConfigError, DataError
from surefield.selection import Constraints, Features, PerAtom, select_features, transform_features
from surefield.sensitivity.packed_matrices import packed, unpacked


@pytest.fixture(scope="module")
def models():
    """Rows J of 5 labelled and 30 other structures of 2 to 4 atoms, and features of their information."""
    rng = np.random.default_rng(4)
    sizes = rng.integers(2, 5, 35)
    scales = rng.lognormal(0.0, 0.7, 35)
    rows = [scale * rng.normal(size=(3 * n, 6)) for n, scale in zip(sizes, scales, strict=True)]
    information = np.array([packed(j.T @ j) for j in rows])
    features = Features(information[:5], information[5:], sizes[:5], sizes[5:], information=True)
    return rows, sizes, features


def test_packed_products_are_traces():
    rng = np.random.default_rng(0)
    a, b = (np.einsum("nij,nkj->nik", x, x) for x in rng.normal(size=(2, 4, 5, 5)))
    np.testing.assert_allclose(unpacked(packed(a)), a, rtol=1e-15)
    np.testing.assert_allclose(packed(a) @ packed(b).T, np.einsum("nij,mij->nm", a, b))
    with pytest.raises(DataError, match=r"no packed matrices; got 7 columns; expected k\(k \+ 1\)/2"):
        unpacked(np.zeros((2, 7)))


def expected_error(rows, sizes, labelled, sigma):
    """Sum over structures of 3 n ln(mean variance), with the variances of all their rows."""
    precision = sigma**2 * np.eye(6) + sum(rows[i].T @ rows[i] for i in labelled)
    covariance = np.linalg.inv(precision)
    means = [np.mean(np.einsum("ij,jk,ik->i", j, covariance, j)) for j in rows]
    return float(np.sum(3 * sizes * np.log(means)))


def test_the_first_pick_has_the_largest_drop(models):
    """The slope of the sum of logarithms ranks as a small label does: all rows of a label scaled by 1e-3."""
    rows, sizes, features = models
    sigma, small = 0.5, 1e-3
    before = expected_error(rows, sizes, range(5), sigma)
    weak = [small * j for j in rows]
    drops = []
    for i in range(5, 35):
        precision = sigma**2 * np.eye(6) + sum(rows[k].T @ rows[k] for k in range(5)) + weak[i].T @ weak[i]
        covariance = np.linalg.inv(precision)
        means = [np.mean(np.einsum("ij,jk,ik->i", j, covariance, j)) for j in rows]
        drops.append(before - float(np.sum(3 * sizes * np.log(means))))
    scaled = Features(
        features.train,
        np.concatenate([features.pool, small**2 * features.pool]),
        features.n_atoms_train,
        np.concatenate([features.n_atoms_pool, features.n_atoms_pool]),
        information=True,
    )
    # The weak copies are ranked here; that they are of the pool themselves changes the target but little.
    picks = select_features("bait_f", scaled, 1, sigma=sigma, constraints=Constraints(exclude=range(30)))
    assert picks[0] - 30 == int(np.argmax(drops))


def test_a_batch_lowers_the_expected_error_more_than_others(models):
    """Greedy picks beat every one of 200 random batches, and are those of one pick at a time."""
    rows, sizes, features = models
    picks = select_features("bait_f", features, 4, sigma=0.5)
    left = expected_error(rows, sizes, [*range(5), *(5 + i for i in picks)], 0.5)
    rng = np.random.default_rng(1)
    others = [
        expected_error(rows, sizes, [*range(5), *(5 + rng.permutation(30)[:4])], 0.5) for _ in range(200)
    ]
    assert left < np.quantile(others, 0.02)
    first = list(picks)[:1]
    more = Features(
        np.concatenate([features.train, features.pool[first]]),
        features.pool,
        np.concatenate([features.n_atoms_train, features.n_atoms_pool[first]]),
        features.n_atoms_pool,
        information=True,
    )
    # The one that was picked counts twice in the target then, so only the next pick is compared.
    second = select_features("bait_f", more, 1, sigma=0.5, constraints=Constraints(exclude=first))
    assert list(second) == list(picks)[1:2]
    assert np.all(np.diff(picks.gains) < 0)
    assert picks.gains.min() > 0


def test_one_row_a_structure_is_bait_of_rows_with_weights():
    """Rank-one information: the drop of `bait_f` on the rows, where each counts by its own variance."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(40, 5))
    information = np.array([packed(np.outer(x, x)) for x in rows])
    features = Features(None, information, information=True)
    covariance = np.eye(5) / 0.3**2
    target = sum(np.outer(x, x) / (x @ covariance @ x) for x in rows)
    v = rows @ covariance
    drops = np.einsum("ij,jk,ik->i", v, target, v) / (1 + np.einsum("ij,ij->i", rows, v))
    picks = select_features("bait_f", features, 1, sigma=0.3)
    assert picks[0] == int(np.argmax(drops))
    assert picks.gains[0] == pytest.approx(0.5 * drops.max() / 40)


def test_what_information_cannot_be_used_for(models):
    _, _, features = models
    with pytest.raises(ConfigError, match=r"bait_fb takes rows, not information matrices.*bait_f"):
        select_features("bait_fb", features, 3, sigma=0.5)
    with pytest.raises(ConfigError, match="information matrices have no transforms"):
        transform_features(features, [PerAtom()])
    kept = features.of(np.arange(3, 9))
    assert kept.information
    assert kept.n_pool == 6
    assert features.root_mean_square() == pytest.approx(
        np.sqrt(np.mean([np.diag(g) for g in unpacked(features.train)]))
    )


def test_copies_constraints_and_costs(models):
    _, _, features = models
    double = Features(
        features.train,
        np.concatenate([features.pool, features.pool]),
        features.n_atoms_train,
        np.concatenate([features.n_atoms_pool] * 2),
        information=True,
    )
    picks = select_features("bait_f", double, 3, sigma=0.5)
    assert len({i % 30 for i in picks}) <= 3
    assert picks[0] < 30  # of two copies the first
    cheap = np.where(np.arange(30) == 7, 1e-6, 1.0)
    assert select_features("bait_f", features, 1, sigma=0.5, constraints=Constraints(cost=cheap))[0] == 7
    with pytest.warns(UserWarning, match="exhausted"):
        assert sorted(select_features("bait_f", features, 40, sigma=0.5)) == list(range(30))
