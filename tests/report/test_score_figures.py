"""The section on a score: values spread, information about parameters, one number."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from surefield.report.run import Run
from surefield.report.score_figures import score_section


def test_nothing_without_a_score(tmp_path: Path) -> None:
    assert score_section(Run(tmp_path, "train")) is None


def test_values_of_atoms(tmp_path: Path) -> None:
    values, structure = np.geomspace(1e-4, 1.0, 50), np.repeat(np.arange(10), 5)
    score = {"key": "ltau_forces_uq_score", "score": "LTAUForcesUQScore", "words": "of 50 atoms"}
    section = score_section(
        Run(tmp_path, "score", score=score, scored={"values": values, "structure": structure})
    )
    assert section is not None
    (panel,) = section.panels
    assert panel.title == "Expected force error"
    assert panel.figure.layout.xaxis.type == "log"
    assert sum(panel.figure.data[0].y) == 50
    assert "<td" in section.html
    assert ">9<" in section.html  # the structure with the largest, whose last atom is number 4
    masked = {"values": np.array([np.nan, 1.0]), "structure": np.array([0, 1])}
    section = score_section(Run(tmp_path, "score", score=score, scored=masked))
    assert section is not None
    assert sum(section.panels[0].figure.data[0].y) == 1


def test_a_matrix(tmp_path: Path) -> None:
    matrix = np.array([[4.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    parameters = {"0": {"parameter": "A", "extent": 0}, "1": {"parameter": "A", "extent": 1}}
    score = {"key": "fim_property_score", "parameters": parameters}
    section = score_section(Run(tmp_path, "score", score=score, scored={"matrix": matrix}))
    assert section is not None
    heat, spectrum = section.panels
    assert list(heat.figure.data[0].x) == ["A", "A[1]", "2"]
    np.testing.assert_allclose(heat.figure.data[0].z, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(spectrum.figure.data[0].y[0], 5.0)


def test_a_number(tmp_path: Path) -> None:
    score = {"key": "quests_diversity_score", "score": "QUESTSDiversityScore", "words": "is 3.2"}
    section = score_section(Run(tmp_path, "score", score=score, scored={"value": np.array(3.2)}))
    assert section is not None
    assert list(section.panels[0].figure.data[0].y) == [3.2]
    assert section.lead == "QUESTSDiversityScore: is 3.2."
