"""Messages of the errors, also after a way between processes."""

from __future__ import annotations

import pickle

from surefield.errors import DataError, SurefieldError, explain, nearest


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
