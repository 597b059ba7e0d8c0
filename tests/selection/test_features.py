import numpy as np
import pytest

from surefield.errors import ConfigError, DataError
from surefield.selection import Features, KernelMatrix


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(12, 4))


def test_features_are_float64_and_read_only_and_leave_the_callers_array_alone(rows):
    features = Features(rows[:3].astype(np.float32), rows[3:], n_atoms_pool=range(1, 10), spec="made up")
    assert features.train.dtype == features.pool.dtype == np.float64
    assert (features.n_train, features.n_pool, features.n_features) == (3, 9, 4)
    assert np.shares_memory(features.pool, rows)
    with pytest.raises(ValueError, match="read-only"):
        features.pool[0, 0] = 1.0
    rows[3, 0] = 2.0


def test_column_major_rows_are_accepted(rows):
    np.testing.assert_array_equal(
        Features(None, np.asfortranarray(rows)).pool_norms, Features(None, rows).pool_norms
    )


@pytest.mark.parametrize(
    ("train", "pool", "message"),
    [
        (None, np.zeros((0, 3)), "pool is empty"),
        (None, np.zeros(3), r"pool features must be 2-D; got shape \(3,\)"),
        (None, np.zeros((2, 5, 3)), "one row per structure"),
        (None, np.zeros((2, 0)), "must be 2-D"),
        (np.zeros((2, 4)), np.ones((2, 3)), "same width; got 4 and 3"),
        (None, [[1.0, 2.0], [1.0, np.nan], [np.inf, 0.0]], "pool features are not finite in row 1; got nan"),
        ([[1.0, np.inf]], np.ones((2, 2)), "train features are not finite in row 0; got inf"),
        (None, [[1.0], [1e200]], "too large to be squared in row 1"),
        (None, [["a"]], "real numbers"),
        (None, np.ones((1, 2), dtype=complex), "real numbers"),
    ],
)
def test_bad_features(train, pool, message):
    with pytest.raises(DataError, match=message):
        Features(train, pool)


def test_bad_atom_counts(rows):
    with pytest.raises(DataError, match=r"one entry per row.*\(3,\).*\(12,\)"):
        Features(None, rows, n_atoms_pool=[1, 2, 3])
    with pytest.raises(DataError, match="positive in row 1"):
        Features(None, rows[:2], n_atoms_pool=[1, 0])


def test_kernel_columns_and_scores(rows):
    matrix = KernelMatrix(rows, 3)
    kernel = rows @ rows.T
    assert (matrix.n_train, matrix.num_columns) == (3, 12)
    np.testing.assert_allclose(matrix.diagonal, np.diag(kernel), rtol=1e-14)
    np.testing.assert_allclose(matrix.compute_column(5), kernel[:, 5], rtol=0, atol=1e-14)
    squared = np.sum((rows - rows[5]) ** 2, axis=1)
    np.testing.assert_allclose(matrix.score(5), squared, rtol=1e-13)
    assert matrix.score(5)[5] == 0.0


def test_kernel_matrix_is_immutable(rows):
    matrix = KernelMatrix(rows, 3)
    with pytest.raises(AttributeError):
        matrix.n_train = 4
    for array in (matrix.g, matrix.diagonal):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0


@pytest.mark.parametrize(
    ("n_train", "error", "message"),
    [
        (12, DataError, "leaves no pool; got n_train = 12 for 12 rows"),
        (-1, ConfigError, "n_train is too small"),
        (2.5, ConfigError, "n_train must be a whole number; got 2.5"),
    ],
)
def test_wrong_n_train(rows, n_train, error, message):
    with pytest.raises(error, match=message):
        KernelMatrix(rows, n_train)


def test_kernel_matrix_refuses_force_features_and_rows_it_does_not_have(rows):
    with pytest.raises(DataError, match="g must be 2-D"):
        KernelMatrix(np.zeros((4, 3, 2)), 1)
    with pytest.raises(DataError, match="no such row; got 12"):
        KernelMatrix(rows, 3).score(12)
    with pytest.raises(ConfigError, match="too small"):
        KernelMatrix(rows, 3).compute_column(-1)
