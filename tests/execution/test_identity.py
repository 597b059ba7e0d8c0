from __future__ import annotations

import json

import numpy as np
import pytest

from surefield.errors import ConfigError
from surefield.execution.identity import changes, check_inputs, computed, contents, digest


def structure(energy=1.0, x=0.0, **further):
    return [("positions", np.array([[x, 0.0, 0.0]])), ("energy", energy), *further.items()]


def test_equal_numbers_have_equal_hashes():
    assert digest(1, [1, 2]) == digest(1.0, np.array([1.0, 2.0], np.float32))
    assert digest({"a": [1.5, "x"]}) == digest({"a": [1.5, "x"]})
    different = [digest(x) for x in (0.0, 1.0, "1.0", [1.0], [[1.0]], None, True and "True", [1, [2, 3]], {})]
    assert len(set(different)) == len(different)
    assert digest("ab", "c") != digest("a", "bc")
    assert digest(object()) == digest(object())


@pytest.mark.parametrize(
    ("now", "text"),
    [
        ([structure(), structure(2.0, 1.0)], None),
        ([structure(), structure(2.5, 1.0)], "energy of the pool"),
        ([structure(), structure(2.0, 1.0, forces=[0.0])], "forces of the pool"),
        ([structure(), structure(2.5, 1.5)], "positions, energy of the pool"),
        ([structure(2.0, 1.0), structure()], "order of the pool"),
        ([structure()], "pool: 2 structures, now 1"),
    ],
)
def test_what_differs_is_named(now, text):
    known = {"pool": contents([structure(), structure(2.0, 1.0)])}
    assert changes(known, {"pool": contents(now)}) == ([] if text is None else [text])


def test_settings_are_compared_one_by_one():
    known = {"training": {"epochs": 3, "weights": {"a": 1.0}, "start": "0" * 32}, "version": "1"}
    now = {
        "training": {"epochs": 4, "weights": {"b": 1.0}, "start": "1" * 32, "new": 1},
        "version": "1",
        "x": 1,
    }
    assert changes(known, known) == []
    assert changes(known, now) == [
        "settings training.epochs was 3, now 4",
        "settings training.weights.a was 1.0, now not there",
        "settings training.weights.b was not there, now 1.0",
        "another settings training.start",
    ]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_computed_numbers_are_compared_to_rounding(dtype):
    def table(values):
        return json.loads(json.dumps({"start": computed([np.asarray(values, dtype), np.arange(3)])}))

    known = [np.inf, 1.0, -3.0]
    step = 3 * float(np.finfo(dtype).eps)
    assert changes(table(known), table([np.inf, 1.0, -3.0 - step])) == []
    assert changes({"of": table(known)}, {"of": table([np.inf, 1.0, -3.0 - step])}) == []
    for other in ([np.inf, 1.001, -3.0], [2.0, 1.0, -3.0], [np.inf, 1.0, -3.0, 0.0]):
        assert changes(table(known), table(other)) == ["another start"]
    assert changes({"start": digest(known)}, table(known)) == ["another start"]


def test_a_table_beside_the_result(tmp_path):
    path = tmp_path / "inputs.json"
    check_inputs(path, {"training": {"range": (0, 1)}}, "start anew")
    check_inputs(path, {"training": {"range": [0, 1]}}, "start anew")
    with pytest.raises(ConfigError, match=r"training\.range was \[0, 1\], now \[0, 2\]; start anew"):
        check_inputs(path, {"training": {"range": [0, 2]}}, "start anew")
