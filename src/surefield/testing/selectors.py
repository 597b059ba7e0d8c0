"""The contract of a batch selector, as a check that any selector can be put through."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from surefield.errors import DataError
from surefield.selection import Selection

__all__ = ["Selector", "check_selector"]

Rows = Float[np.ndarray, "n_rows n_features"]
#: `select(pool, train, batch_size, seed)`; `train` is None where there is no labelled structure yet.
Selector = Callable[[Rows, Rows | None, int, int], Selection]


def check_selector(
    select: Selector,
    *,
    n_features: int = 8,
    seed: int = 0,
    deterministic: bool = True,
    avoids_copies: bool = True,
) -> None:
    """Check what every selector must do, on made-up features.

    Picks are different indices of the pool in pick order, with one reason and one finite distance each;
    inputs stay as they are; the same seed gives the same picks; who asks for too much gets less, one warning
    and a reason; NaN is a `DataError` that names the row; picks do not depend on a rotation of the features
    or, for deterministic selectors, on the order of the pool.

    Args:
        select: the selector, as `select(pool, train, batch_size, seed)`; `train` may be None.
        n_features: width of the made-up features.
        seed: of the features, and given to the selector.
        deterministic: the picks depend on the features alone, not on the seed.
        avoids_copies: exact copies of training rows are never picked.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    rng = np.random.default_rng(seed)
    scales = np.geomspace(1.0, 0.1, n_features)
    pool = rng.normal(size=(40, n_features)) * scales
    train = rng.normal(size=(12, n_features)) * scales
    for labelled in (train, None):
        _check_picks(select, pool, labelled, seed)
        _check_rotation(select, pool, labelled, seed, rng)
        if deterministic:
            _check_order(select, pool, labelled, seed, rng)
    _check_too_many(select, pool, train, seed)
    _check_not_finite(select, pool, train, seed)
    if avoids_copies:
        _check_copies(select, pool, train, seed)


def _check_picks(select: Selector, pool: Rows, train: Rows | None, seed: int) -> None:
    arrays = [array for array in (pool, train) if array is not None]
    before = [array.copy() for array in arrays]
    picks = select(pool, train, 10, seed)
    _require(isinstance(picks, Selection), f"a selector returns a Selection, got {type(picks).__name__}")
    _require(all(map(np.array_equal, arrays, before)), "the caller's arrays were changed")
    indices = list(picks)
    _require(len(indices) == 10 and picks.n_requested == 10, f"10 picks were asked for, got {len(indices)}")
    _require(picks.stopped is None, f"all picks were delivered, but stopped = {picks.stopped!r}")
    _require(
        len(set(indices)) == 10 and min(indices) >= 0 and max(indices) < 40,
        f"picks {indices} are no 10 of 0..39",
    )
    _require(len(picks.gains) == 10 and len(picks.reasons) == 10, "one gain and one reason per pick")
    expected = _distances_in_order(pool, train, indices), _distances_in_order(pool, None, indices)
    _require(
        any(np.allclose(picks.squared_distances, values, rtol=1e-9, atol=1e-12) for values in expected),
        "squared_distances are not those to the nearest of (train and) earlier picks, in pick order",
    )
    again = select(pool.copy(), None if train is None else train.copy(), 10, seed)
    _require(list(again) == indices, f"the same seed gave {indices}, then {list(again)}")
    _require(np.array_equal(again.gains, picks.gains, equal_nan=True), "the same seed gave other gains")


def _check_rotation(
    select: Selector, pool: Rows, train: Rows | None, seed: int, rng: np.random.Generator
) -> None:
    turn = np.linalg.qr(rng.normal(size=(pool.shape[1], pool.shape[1])))[0]
    turned = select(pool @ turn, None if train is None else train @ turn, 10, seed)
    _require(
        list(turned) == list(select(pool, train, 10, seed)), "picks depend on a rotation of the features"
    )


def _check_order(
    select: Selector, pool: Rows, train: Rows | None, seed: int, rng: np.random.Generator
) -> None:
    order = rng.permutation(len(pool))
    shuffled = [int(order[index]) for index in select(pool[order], train, 10, seed)]
    _require(shuffled == list(select(pool, train, 10, seed)), "picks depend on the order of the pool")
    _require(
        list(select(pool, train, 10, seed + 1)) == list(select(pool, train, 10, seed)),
        "picks depend on the seed",
    )


def _check_too_many(select: Selector, pool: Rows, train: Rows, seed: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        picks = select(pool, train, len(pool) + 7, seed)
    _require(
        sorted(picks) == list(range(len(pool))), "asking for more than the pool must give every row once"
    )
    _require(picks.stopped == "exhausted", f"stopped must be 'exhausted', got {picks.stopped!r}")
    _require(picks.n_requested == len(pool) + 7, "n_requested must be what was asked for")
    _require(
        len(caught) == 1,
        f"stopping early must give one warning, got {[str(entry.message) for entry in caught]}",
    )


def _check_not_finite(select: Selector, pool: Rows, train: Rows, seed: int) -> None:
    for name, place in (("pool", 0), ("train", 1)):
        arrays = [pool.copy(), train.copy()]
        arrays[place][5, 1] = np.nan
        try:
            select(arrays[0], arrays[1], 10, seed)
        except DataError as error:
            _require(
                "5" in str(error) and name in str(error), f"the error must name row 5 of the {name}: {error}"
            )
        else:
            raise AssertionError(f"NaN in the {name} features must be a DataError")


def _check_copies(select: Selector, pool: Rows, train: Rows, seed: int) -> None:
    mixed = np.concatenate([train, pool[:6], train])
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        picks = select(mixed, train, 20, seed)
    first = len(train)
    _require(
        sorted(picks) == list(range(first, first + 6)), f"copies of training rows were picked: {list(picks)}"
    )
    _require(picks.stopped == "duplicates", f"stopped must be 'duplicates', got {picks.stopped!r}")


def _distances_in_order(pool: Rows, train: Rows | None, indices: list[int]) -> Float[np.ndarray, " n_picks"]:
    result = []
    centers = [] if train is None else list(train)
    for index in indices:
        row = pool[index]
        result.append(
            min((float(np.sum((row - center) ** 2)) for center in centers), default=float(np.sum(row**2)))
        )
        centers.append(row)
    return np.array(result)


def _require(holds: object, message: str) -> None:
    if not holds:
        raise AssertionError(message)
