"""Constraints on a batch by configuration."""

import numpy as np
import pytest
from ase import Atoms

from surefield.acquisition.config import SelectionConfig
from surefield.acquisition.constraints_config import ConstraintsConfig
from surefield.config import parse
from surefield.errors import ConfigError, DataError
from surefield.selection import select_rows
from surefield.structures.read import Frames


@pytest.fixture
def pool():
    frames = [
        Atoms("Cu" if i % 3 else "CuAu", np.arange(6 - 3 * bool(i % 3)).reshape(-1, 3)) for i in range(12)
    ]
    for i, atoms in enumerate(frames):
        atoms.info["run"] = i // 4
    return Frames(tuple(frames), tuple(f"frame {i} of pool.xyz" for i in range(12)))


def test_groups_are_read_from_the_structures(pool):
    by_formula = ConstraintsConfig(groups="formula", quota={"AuCu": 1}).of(pool)
    assert list(by_formula.groups) == [atoms.get_chemical_formula() for atoms in pool]
    by_run = ConstraintsConfig(groups="run", quota="equal", exclude=(3,), drop=True).of(pool)
    rows = np.random.default_rng(0).normal(size=(12, 3))
    picks = list(select_rows("max_dist", rows, None, 6, constraints=by_run))
    assert sorted(i // 4 for i in picks) == [0, 0, 1, 1, 2, 2]
    assert 3 not in picks


def test_a_budget_may_stand_for_the_number_of_picks():
    assert parse(SelectionConfig, {"n": None, "constraints": {"cost": "n_atoms", "budget": 20}}).n is None
    with pytest.raises(ConfigError, match=r"without n, constraints\.budget has to say"):
        parse(SelectionConfig, {"n": None})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quota": "equal"}, "quota needs groups"),
        ({"budget": 3}, "budget needs a cost"),
        ({"strict_quota": True}, "strict_quota needs a quota"),
        ({"min_distance": "half"}, "min_distance out of range"),
        ({"quotas": "equal"}, "did you mean 'quota'"),
    ],
)
def test_bad_settings_are_refused_when_read(settings, words):
    with pytest.raises(ConfigError, match=words):
        parse(SelectionConfig, {"constraints": settings})


def test_a_structure_without_its_group_is_named(pool):
    del pool[7].info["run"]
    with pytest.raises(DataError, match=r"frame 7 of pool\.xyz"):
        ConstraintsConfig(groups="run").of(pool)
