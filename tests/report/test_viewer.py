from __future__ import annotations

import json
import re
from html import unescape

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from surefield.report.viewer import structure_card


def data(html: str) -> dict:
    return json.loads(unescape(re.search(r'data-atoms="([^"]*)"', html).group(1)))


def test_molecules_have_their_bonds_and_no_cell():
    drawn = data(structure_card(molecule("CH4"), "methane"))
    assert sorted(map(tuple, drawn["b"])) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert drawn["e"] == []
    np.testing.assert_allclose(np.mean(drawn["p"], axis=0), 0.0, atol=1e-3)
    assert drawn["c"][0] != drawn["c"][1]


def test_crystals_have_an_edge_for_each_of_twelve_and_no_bonds_across():
    drawn = data(structure_card(bulk("Cu", cubic=True), "copper"))
    assert len(drawn["e"]) == 12
    lengths = [np.linalg.norm(np.subtract(*edge)) for edge in drawn["e"]]
    np.testing.assert_allclose(lengths, 3.61, atol=2e-3)
    for a, b in drawn["b"]:
        assert np.linalg.norm(np.subtract(drawn["p"][a], drawn["p"][b])) < 3.0


def test_what_cannot_be_drawn_is_said():
    assert "not drawn" in structure_card(None, "gone")
    assert "not drawn" in structure_card(Atoms("Cu500", positions=np.arange(1500.0).reshape(500, 3)), "large")
    card = structure_card(molecule("H2"), "<H2>", "σ < 3", "why & how", "failed", "#a00")
    assert "&lt;H2&gt;" in card
    assert "why &amp; how" in card
    assert "<H2>" not in card
