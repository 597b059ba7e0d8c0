"""Hyperparameters: checks, blocks, columns."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from surefield.errors import ConfigError
from surefield.potentials.chimes import ChimesSettings

WATER = ChimesSettings(("O", "H"), (8, 4, 2), (0.75,) * 3, (6.0,) * 3, (1.25,) * 3)


def test_columns_come_in_the_order_of_the_peer():
    names = WATER.names
    assert names[:9] == (*(f"O-O T{k}" for k in range(1, 9)), "H-H T1")
    assert names[16] == "H-O T1"
    assert names[24:26] == ("O-O-O 0 1 1", "O-O-O 0 1 2")
    assert [b.label for b in WATER.blocks(3)] == ["O-O-O", "H-O-O", "H-H-O", "H-H-H"]
    assert names[-2:] == ("offset O", "offset H")
    assert len(names) == WATER.n_columns == 180
    assert WATER.n_coefficients == 178


def test_settings_survive_json():
    special = (3, "outer", (0, 0, 1), (((0, 0), 4.5), ((0, 1), 4.0)))
    settings = replace(WATER, limits=(special,), excluded=((0, 0, 0),), cutoff="TERSOFF", fit_stress="ALL")
    assert ChimesSettings.from_config(json.loads(json.dumps(settings.config()))) == settings


def test_special_cutoffs_reach_their_block_alone():
    special = (3, "outer", (0, 0, 1), (((0, 1), 4.0),))
    outer = {b.label: b.outer for b in replace(WATER, limits=(special,)).blocks(3)}
    assert outer["H-O-O"] == (4.0, 4.0, 6.0)
    assert outer["H-H-O"] == (6.0, 6.0, 6.0)


def test_excluded_clusters_have_no_columns():
    settings = replace(WATER, excluded=((0,), (0, 1), (0, 0, 1)))
    assert not any(name.startswith(("H-O T", "H-O-O 0", "offset O")) for name in settings.names)
    assert settings.n_columns == 180 - 8 - 33 - 1
    assert len(settings.blocks(2)) == 3  # the pair keeps its penalty


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"types": ("O", "O")}, "different chemical symbols"),
        ({"types": ("O", "Water")}, "different chemical symbols"),
        ({"orders": (8, -1, 0)}, "unusable orders"),
        ({"inner": (0.7, 0.7)}, "wrong number of type pairs; got 2 values of inner; expected 3"),
        ({"inner": (0.7, 7.0, 0.7)}, "pair HH"),
        ({"lengths": (1.2, 0.0, 1.2)}, "MORSE_LAMBDA > 0"),
        ({"transform": "MORS"}, "did you mean 'MORSE'"),
        ({"cutoff": "COSINE"}, "unknown cutoff function"),
        ({"cutoff": "TERSOFF", "tersoff": 1.5}, "TERSOFF fraction"),
        ({"limits": ((3, "outer", (0, 0, 0), (((0, 0), 0.5),)),)}, "O-O-O"),
        ({"transform": "INVRSE_R", "inner": (0.0, 0.7, 0.7)}, "above 0 for INVRSE_R"),
    ],
)
def test_what_is_refused(change, text):
    with pytest.raises(ConfigError, match=text):
        replace(WATER, **change)
