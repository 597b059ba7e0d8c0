from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.special import logsumexp

from surefield.errors import ConfigError, DataError
from surefield.scores.quests.entropy import (
    delta_entropy,
    diversity,
    efficiency,
    entropy,
    set_entropy,
    suggest_bandwidth,
)


def exponents(a: np.ndarray, b: np.ndarray, h: float) -> np.ndarray:
    return -((a[:, None] - b[None]) ** 2).sum(axis=2) / (2 * h**2)


def clustered(n_rows: int, n_features: int = 7, seed: int = 0) -> np.ndarray:
    """Rows at distances from much below to much above a bandwidth of 0.1."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(9, n_features))
    return centres[rng.integers(9, size=n_rows)] + rng.normal(0, 0.05, (n_rows, n_features))


@pytest.mark.parametrize("n_rows", [2, 130, 700])
def test_direct_sums(n_rows: int) -> None:
    rows = clustered(n_rows)
    sums = np.exp(exponents(rows, rows, 0.1)).sum(axis=1)
    expected = -np.mean(np.log(sums / n_rows))
    assert entropy(rows, 0.1) == pytest.approx(expected, abs=1e-12)
    assert efficiency(rows, 0.1) == pytest.approx(expected / np.log(n_rows), abs=1e-12)
    assert diversity(rows, 0.1) == pytest.approx(np.log(np.sum(1 / sums)), abs=1e-12)
    queries = clustered(50, seed=1)
    new = -logsumexp(exponents(queries, rows, 0.1), axis=1)
    np.testing.assert_allclose(delta_entropy(queries, rows, 0.1), new, atol=1e-12, rtol=1e-12)


def test_more_blocks_than_one_and_any_batch() -> None:
    rows = clustered(2500)
    sums = np.exp(exponents(rows, rows, 0.1)).sum(axis=1)
    results = [set_entropy(rows, 0.1, batch_size=size, nearest=True) for size in (20_000, 400, 90)]
    for result in results:
        assert result.entropy == pytest.approx(-np.mean(np.log(sums / 2500)), rel=1e-12)
        assert result.diversity == pytest.approx(np.log(np.sum(1 / sums)), rel=1e-12)
        assert result.nearest == pytest.approx(results[0].nearest, rel=1e-12)
    queries = clustered(1100, seed=1)
    new = [delta_entropy(queries, rows, 0.1, batch_size=size) for size in (20_000, 400, 90)]
    for values in new:
        np.testing.assert_allclose(values, -logsumexp(exponents(queries, rows, 0.1), axis=1), rtol=1e-12)


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_executors_give_the_same(executor: str) -> None:
    rows, queries = clustered(5000), clustered(300, seed=1)
    expected = set_entropy(rows, 0.1), delta_entropy(queries, rows, 0.1)
    with ThreadPoolExecutor(2) as pool:
        where = pool if executor == "threads" else executor
        assert set_entropy(rows, 0.1, executor=where).entropy == expected[0].entropy
        np.testing.assert_array_equal(delta_entropy(queries, rows, 0.1, executor=where), expected[1])


@pytest.mark.slow
def test_processes_give_the_same() -> None:
    rows = clustered(5000)
    assert entropy(rows, 0.1, executor="processes") == entropy(rows, 0.1)


def test_copies_and_far_rows() -> None:
    same = np.tile(np.random.default_rng(0).normal(size=(1, 5)), (40, 1))
    assert entropy(same, 0.1) == efficiency(same, 0.1) == diversity(same, 0.1) == 0.0
    far = 1e3 * np.random.default_rng(0).normal(size=(300, 5))
    assert efficiency(far, 0.1) == 1.0
    assert diversity(far, 0.1) == pytest.approx(np.log(300), rel=1e-14)
    two = np.array([[0.0, 0.0], [0.3, 0.4]])
    assert entropy(two, 0.7) == pytest.approx(-np.log((1 + np.exp(-0.25 / 0.98)) / 2), abs=1e-15)
    # Rows that differ by rounding count as copies, and still add up.
    nearly = np.repeat(clustered(60), 20, axis=0) * (
        1 + 1e-15 * np.random.default_rng(1).normal(size=(1200, 7))
    )
    sums = np.exp(exponents(nearly, nearly, 0.1)).sum(axis=1)
    assert entropy(nearly, 0.1) == pytest.approx(-np.mean(np.log(sums / 1200)), abs=1e-12)
    assert diversity(nearly, 0.1) == pytest.approx(np.log(np.sum(1 / sums)), abs=1e-12)


def test_one_row() -> None:
    assert diversity(np.ones((1, 3)), 0.1) == 0.0
    assert entropy(np.ones((1, 3)), 0.1) == 0.0
    with pytest.raises(DataError, match="ln N = 0"):
        efficiency(np.ones((1, 3)), 0.1)


def test_far_queries_are_finite_and_in_order() -> None:
    reference = np.array([[1.0, 2.0]])
    for distance in (1e-3, 0.5, 1.0, 100.0, 1e4, 1e7):
        query = reference + distance * 0.015 * np.array([[0.6, 0.8]])
        exact = np.sum((query - reference) ** 2) / (2 * 0.015**2)
        assert delta_entropy(query, reference)[0] == pytest.approx(exact, rel=1e-12)
    assert delta_entropy(reference + 1.5 * np.array([[0.6, 0.8]]), reference)[0] == pytest.approx(5000.0)
    assert delta_entropy(reference, reference)[0] == 0.0
    # A line of queries ever farther from many reference rows, near and far ones in one block.
    rng = np.random.default_rng(0)
    many = rng.normal(0, 0.05, (400, 3))
    queries = np.linspace(0, 300, 257)[:, None] * np.array([[0.0, 0.6, 0.8]])
    values = delta_entropy(queries, many, 0.1)
    np.testing.assert_allclose(values, -logsumexp(exponents(queries, many, 0.1), axis=1), rtol=1e-12)
    assert (np.diff(values[2:]) > 0).all()


def test_nearest_reference_is_not_in_the_first_look() -> None:
    # The centre of the leaf of queries lies among rows that are far from all of its queries.
    angles = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    queries = 50.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    reference = np.concatenate([np.random.default_rng(0).normal(0, 0.1, (400, 2)), queries + 0.03])
    values = delta_entropy(queries, reference, 1.0)
    np.testing.assert_allclose(
        values, -logsumexp(exponents(queries, reference, 1.0), axis=1), rtol=1e-12, atol=1e-12
    )


def test_approximate_is_never_below_exact() -> None:
    rows, queries = clustered(700), clustered(300, seed=1)
    exact = delta_entropy(queries, rows, 0.1)
    before = np.full(300, np.inf)
    for k in (1, 3, 700):
        values = delta_entropy(queries, rows, 0.1, approx=True, k=k)
        assert (values >= exact - 1e-12).all()
        assert (values <= before + 1e-12).all()
        nearest = np.sort(exponents(queries, rows, 0.1), axis=1)[:, ::-1][:, :k]
        np.testing.assert_allclose(values, -logsumexp(nearest, axis=1), rtol=1e-11, atol=1e-12)
        before = values
    np.testing.assert_allclose(before, exact, rtol=1e-12, atol=1e-12)


def test_bandwidth_suggestion() -> None:
    rows = clustered(600)
    distances = np.sqrt(-2 * exponents(rows, rows, 1.0))
    np.fill_diagonal(distances, np.inf)
    assert suggest_bandwidth(rows) == pytest.approx(np.median(distances.min(axis=1)), rel=1e-12)
    result = set_entropy(rows, 0.01, nearest=True)  # hardly any row has another within reach
    nearest = distances.min(axis=1) / 0.01
    assert result.nearest == pytest.approx((np.median(nearest), nearest.min(), nearest.max()), rel=1e-9)
    assert result.alone == pytest.approx(np.mean(nearest > 5))
    with pytest.raises(DataError, match="copies"):
        suggest_bandwidth(np.repeat(rows[:5], 3, axis=0))
    with pytest.raises(DataError, match="copies"):  # but for rounding, as equivalent atoms are
        suggest_bandwidth(np.concatenate([rows, rows * (1 + 1e-15)]))
    with pytest.raises(DataError, match="two rows"):
        suggest_bandwidth(rows[:1])


def test_input_is_not_changed_and_any_precision() -> None:
    rows = clustered(300).astype(np.float32)
    before = rows.copy()
    value = entropy(rows, 0.1)
    np.testing.assert_array_equal(rows, before)
    assert value == entropy(before.astype(np.float64), 0.1)


def test_bad_input() -> None:
    rows = clustered(10)
    for h in (0.0, -1.0, np.nan, "a", None):
        with pytest.raises(ConfigError, match="bandwidth"):
            entropy(rows, h)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_size"):
        entropy(rows, 0.1, batch_size=0)
    with pytest.raises(DataError, match="no environments"):
        diversity(np.zeros((0, 4)))
    with pytest.raises(DataError, match="X holds no environments"):
        delta_entropy(rows, np.zeros((0, 7)))
    with pytest.raises(DataError, match="7 and 3"):
        delta_entropy(rows, np.zeros((5, 3)))
    with pytest.raises(DataError, match="n_rows"):
        entropy(np.zeros(5))
    broken = rows.copy()
    broken[4, 2] = np.inf
    with pytest.raises(DataError, match="row 4"):
        entropy(broken)
    with pytest.raises(DataError, match="Y must be finite in row 4"):
        delta_entropy(broken, rows)
    with pytest.raises(ConfigError, match="11 of 10"):
        delta_entropy(rows, rows, approx=True, k=11)
    assert delta_entropy(np.zeros((0, 7)), rows).shape == (0,)


@pytest.fixture(scope="module")
def case(shared):
    folder = shared / "reference/scores"
    arrays = np.load(folder / "inputs/quests_si_descriptors.npz")
    return (
        arrays["X"].astype(np.float64),
        arrays["Y"].astype(np.float64),
        json.loads((folder / "expected/quests_si.json").read_text()),
        np.load(folder / "expected/quests_si_delta_entropy.npz"),
    )


@pytest.mark.parametrize("h", [0.015, 0.1])
@pytest.mark.parametrize("n_rows", [1000, 10_000, pytest.param(30_000, marks=pytest.mark.slow)])
def test_real_silicon(case, n_rows: int, h: float) -> None:
    rows, queries, expected, new = case
    numbers = expected[f"N={n_rows} h={h}"]
    result = set_entropy(rows[:n_rows], h)
    assert result.entropy == pytest.approx(numbers["entropy"], abs=1e-10)
    assert result.efficiency == pytest.approx(numbers["efficiency"], abs=1e-10)
    assert result.diversity == pytest.approx(numbers["diversity"], abs=1e-10)
    values = delta_entropy(queries, rows[:n_rows], h)
    np.testing.assert_allclose(values, new[f"dH_{n_rows}_{h}"], atol=1e-9, rtol=0)
