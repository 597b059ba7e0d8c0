"""Setfl files: tables read back exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.potentials.parametric.conftest import alloy_eam

from surefield.errors import PotentialError
from surefield.formats.setfl import read_setfl, write_setfl

__all__ = ["alloy_eam"]


def test_setfl_files_read_back_exactly(alloy_eam, tmp_path: Path):
    write_setfl(tmp_path / "CuAu.eam.alloy", alloy_eam)
    potential = read_setfl(tmp_path / "CuAu.eam.alloy")
    assert potential.symbols == ("Cu", "Au")
    assert (potential.dr, potential.drho, potential.reach) == (alloy_eam.dr, alloy_eam.drho, alloy_eam.reach)
    for name, table in alloy_eam.values.items():
        np.testing.assert_array_equal(potential.values[name], table)
    text = (tmp_path / "CuAu.eam.alloy").read_text()
    (tmp_path / "short").write_text(text[: len(text) // 2])
    for path in ("short", "none"):
        with pytest.raises(PotentialError, match=path):
            read_setfl(tmp_path / path)
