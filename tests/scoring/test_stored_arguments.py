from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from tests.conftest import SW

from surefield import ScoreQuantity
from surefield.errors import ConfigError
from surefield.files import json_text
from surefield.potentials.parametric import StillingerWeber
from surefield.scoring.stored_arguments import read_arguments, store_arguments


def test_arguments_come_back(tmp_path: Path) -> None:
    arguments = {
        "quantity": ScoreQuantity.SENSITIVITY,
        "cov": np.eye(2, dtype=np.float32),
        "reference": tmp_path / "r.npy",
        "noise": {"forces": 0.1, "energy": float("inf")},
        "index": {0: {"parameter": "A"}, 1: None},
        "masks": [np.ones(3, bool), None, [1, 0]],
        "potential": StillingerWeber(SW, ["Si"]),
        "frames": [Atoms("H2", [[0, 0, 0], [0, 0, 1 / 3]])],
        "step": np.float64(1e-3),
        "title": "cov.npy",
    }
    stored = json.loads(
        json_text(store_arguments(arguments, ("cov", "reference", "masks"), tmp_path / "stored"))
    )
    back = read_arguments(stored, ("cov", "reference"))
    assert back["quantity"] == "SENSITIVITY"
    np.testing.assert_array_equal(np.load(back["cov"]), np.eye(2))
    assert back["reference"] == str(tmp_path / "r.npy")
    assert back["noise"] == {"forces": 0.1, "energy": float("inf")}
    assert back["index"] == {0: {"parameter": "A"}, 1: None}
    assert back["masks"][0].dtype == bool
    assert back["masks"][1:] == [None, [1, 0]]
    assert back["potential"].predict([Atoms("Si2", [[0, 0, 0], [0, 0, 2.3]])])[0].energy < 0
    assert back["frames"][0].positions[1, 2] == 1 / 3
    assert (back["step"], back["title"]) == (1e-3, "cov.npy")


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="target_0 cannot be given to a job; got sum"):
        store_arguments({"target": [sum]}, (), tmp_path)


def test_texts_of_array_arguments_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stored = store_arguments({"masks": ["a.npy", None], "name": "a.npy"}, ("masks",), tmp_path / "stored")
    assert stored == {"masks": [str(tmp_path / "a.npy"), None], "name": "a.npy"}
