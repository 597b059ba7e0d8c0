"""Power sets: how many, which share a coefficient, and in which order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from surefield.descriptors.chimes.power_sets import PAIRS, power_sets


@pytest.mark.parametrize(
    ("n_atoms", "n_powers", "total", "unique"), [(3, 5, 112, 30), (4, 3, 636, 56), (4, 4, 3861, 256)]
)
def test_documented_counts(n_atoms, n_powers, total, unique):
    sets = power_sets((0,) * n_atoms, n_powers)
    assert (len(sets.powers), sets.n_unique) == (total, unique)


def test_pairs_have_one_coefficient_each():
    sets = power_sets((0, 1), 4)
    assert sets.powers.ravel().tolist() == [1, 2, 3]
    assert sets.unique.tolist() == [0, 1, 2]


def test_disjoint_pairs_touch_all_atoms():
    powers = {tuple(p) for p in power_sets((0, 1, 2, 3), 2).powers.tolist()}
    assert (1, 0, 0, 0, 0, 1) in powers  # 12 with 34
    assert (1, 1, 0, 0, 0, 0) not in powers  # atom 4 is left out


@pytest.mark.parametrize("kinds", [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 2), (1, 0, 0, 1)])
def test_sets_share_exactly_what_exchanges_of_equal_atoms_share(kinds):
    sets = power_sets(kinds, 3)
    pairs = PAIRS[len(kinds)]
    place = {tuple(p): i for i, p in enumerate(sets.powers.tolist())}
    for powers, number in zip(sets.powers.tolist(), sets.unique.tolist(), strict=True):
        orbit = set()
        for s in itertools.permutations(range(len(kinds))):
            if [kinds[i] for i in s] == list(kinds):
                moved = tuple(powers[pairs.index(tuple(sorted((s[a], s[b]))))] for a, b in pairs)
                orbit.add(sets.unique[place[moved]])
        assert orbit == {number}
    members = {n: {tuple(sorted(p)) for p in sets.powers[sets.unique == n].tolist()} for n in sets.unique}
    assert all(len(found) == 1 for found in members.values())


def test_coefficients_are_numbered_by_first_appearance():
    sets = power_sets((0, 0, 1), 4)
    first = sets.representatives
    assert (np.diff(first) > 0).all()
    assert sets.unique[first].tolist() == list(range(sets.n_unique))
