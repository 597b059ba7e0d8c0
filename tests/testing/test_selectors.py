"""The contract must catch selectors that break it: one broken selector per promise."""

import dataclasses
import warnings

import numpy as np
import pytest

from surefield.selection import select_rows
from surefield.testing.selectors import check_selector


def sound(pool, train, size, seed):
    return select_rows("max_dist", pool, train, size)


def returns_a_list(pool, train, size, seed):
    return list(sound(pool, train, size, seed))


def changes_its_input(pool, train, size, seed):
    picks = sound(pool, train, size, seed)
    pool *= 2
    return picks


def forgets_the_order(pool, train, size, seed):
    picks = sound(pool, train, size, seed)
    order = np.argsort(picks.indices)
    return dataclasses.replace(picks, indices=picks.indices[order])


def ignores_the_seed(pool, train, size, seed):
    ignores_the_seed.calls += 1
    return select_rows("random", pool, train, size, seed=ignores_the_seed.calls)


ignores_the_seed.calls = 0


def depends_on_the_axes(pool, train, size, seed):
    return select_rows("max_diag", pool, train, size, scores={"first": pool[:, 0]})


def depends_on_the_order(pool, train, size, seed):
    return select_rows("random", pool, train, size, seed=1)


def is_silent_about_stopping(pool, train, size, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sound(pool, train, size, seed)


def fills_up_silently(pool, train, size, seed):
    return dataclasses.replace(
        sound(pool, train, min(size, len(pool)), seed), n_requested=min(size, len(pool))
    )


def accepts_nan(pool, train, size, seed):
    return sound(np.nan_to_num(pool), None if train is None else np.nan_to_num(train), size, seed)


def picks_copies(pool, train, size, seed):
    return select_rows("max_diag", pool, train, size)


def test_a_sound_selector_passes():
    check_selector(sound)
    check_selector(sound, n_features=3, seed=5)


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (returns_a_list, "returns a Selection"),
        (changes_its_input, "arrays were changed"),
        (forgets_the_order, "in pick order"),
        (ignores_the_seed, "same seed"),
        (depends_on_the_axes, "rotation"),
        (depends_on_the_order, "order of the pool"),
        (is_silent_about_stopping, "one warning"),
        (fills_up_silently, "stopped must be 'exhausted'"),
        (accepts_nan, "NaN in the pool"),
        (picks_copies, "copies of training rows"),
    ],
)
def test_a_broken_selector_is_caught(select, message):
    with pytest.raises(AssertionError, match=message):
        check_selector(select)
