"""Crystals whose energy is flat along directions that their symmetry does not leave open."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from tests.conftest import SW

from surefield.errors import ExecutionError
from surefield.potentials.parametric import StillingerWeber
from surefield.properties import ElasticConstants

SPRINGS = StillingerWeber({**SW, "lambda": 0.0}, ["Si"])


def test_springs_between_neighbours_in_diamond() -> None:
    """Without bending forces C44 and C11 - C12 vanish (Keating, Phys. Rev. 145, 637 (1966))."""
    constants = ElasticConstants(5.43, "diamond", ["Si"], components=("C11", "C12", "C44"))
    c11, c12, c44 = constants.calculate_property(SPRINGS).value
    assert c11 == pytest.approx(c12, rel=1e-6)
    assert c11 > 0.1
    assert abs(c44) < 1e-6 * c11


def test_without_symmetry_it_is_refused() -> None:
    constants = ElasticConstants(structure=bulk("Si", a=5.43), components=("C11",))
    with pytest.raises(ExecutionError, match="flat along some direction"):
        constants.calculate_property(SPRINGS)
    assert np.isfinite(constants.calculate_property(StillingerWeber(SW, ["Si"])).value).all()
