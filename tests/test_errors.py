"""Messages of the errors, also after a way between processes."""

from __future__ import annotations

import pickle

import pytest

from surefield.errors import ConfigError, DataError, SurefieldError, check_known, explain, nearest


def test_parts_of_a_message():
    error = DataError(
        "wrong forces", where="frame 7", got="(12, 2)", expected="(n_atoms, 3)", fix="turn them"
    )

    assert str(error) == "wrong forces in frame 7; got (12, 2); expected (n_atoms, 3); turn them"
    assert str(error) == explain(
        "wrong forces", where="frame 7", got="(12, 2)", expected="(n_atoms, 3)", fix="turn them"
    )


def test_errors_survive_the_way_between_processes():
    again = pickle.loads(pickle.dumps(DataError("wrong forces", got=3)))

    assert type(again) is DataError
    assert isinstance(again, SurefieldError)
    assert str(again) == "wrong forces; got 3"


def test_nearest_name():
    assert nearest("forcs", ["energy", "forces"]) == "did you mean 'forces'?"
    assert nearest("x", ["energy", "forces"]) == "known: energy, forces"
    assert nearest("x", []) == "there are none"
    assert nearest("LCMD", ["lcmd", "max_dist"]) == "did you mean 'lcmd'?"
    assert nearest("cu", ["Au", "Cu"]) == "did you mean 'Cu'?"


def test_unknown_names_are_refused():
    check_known({"energy": 1.0}, ["energy", "forces"], "unknown key {} in labels")
    with pytest.raises(ConfigError, match=r"key 'forcs' in labels; did you mean 'forces'"):
        check_known({"energy": 1.0, "forcs": 2.0}, ["energy", "forces"], "unknown key {} in labels")
