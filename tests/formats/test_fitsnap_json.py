"""Training folders of FitSNAP: units, signs, rows of the lattice, groups."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.units import GPa, Hartree

from surefield.errors import DataError
from surefield.formats.fitsnap_json import read_fitsnap_json

DATA = {
    "Lattice": [[4.0, 0.0, 0.0], [1.0, 4.0, 0.0], [0.0, 0.5, 5.0]],
    "Positions": [[0.0, 0.0, 0.0], [1.0, 1.5, 2.0]],
    "AtomTypes": ["In", "P"],
    "NumAtoms": 2,
    "Energy": -7,
    "Forces": [[0.1, 0.0, 0.0], [-0.1, 0.0, 0.0]],
    "Stress": [[10.0, 2.0, 3.0], [2.0, 20.0, 4.0], [3.0, 4.0, 30.0]],
}
STYLES = {
    "EnergyStyle": "electronvolt", "ForcesStyle": "electronvoltperangstrom", "StressStyle": "bar",
    "PositionsStyle": "angstrom", "LatticeStyle": "angstrom", "AtomTypeStyle": "chemicalsymbol", "Label": "x",
}  # fmt: skip


def write(folder, changes=None, styles=STYLES, comment="# a comment\n"):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"Dataset": {"Data": [{**DATA, **(changes or {})}], **styles}}
    (folder / "a_1.json").write_text(comment + json.dumps(content))


def test_structures_and_groups(tmp_path):
    write(tmp_path / "JSON" / "Bulk")
    write(tmp_path / "JSON" / "EOS", styles={}, comment="")
    bulk, eos = read_fitsnap_json(tmp_path / "JSON")
    assert (bulk.info["config_type"], eos.info["config_type"]) == ("Bulk", "EOS")
    assert bulk.info["file"] == "a_1.json"
    for atoms in (bulk, eos, *read_fitsnap_json(tmp_path / "JSON" / "EOS")):
        np.testing.assert_array_equal(atoms.cell.array, DATA["Lattice"])
        np.testing.assert_array_equal(atoms.positions, DATA["Positions"])
        assert atoms.pbc.all()
        assert atoms.get_potential_energy() == -7
        np.testing.assert_array_equal(atoms.get_forces(), DATA["Forces"])
        # Positive in compression there.
        expected = -1e-4 * GPa * np.array([10, 20, 30, 4, 3, 2])
        np.testing.assert_allclose(atoms.get_stress(), expected, rtol=1e-14)


def test_units(tmp_path):
    styles = STYLES | {"EnergyStyle": "Hartree", "StressStyle": "kB", "ForcesStyle": "eV/Angstrom"}
    write(tmp_path / "g", {"Energy": [2.0]}, styles)
    (atoms,) = read_fitsnap_json(tmp_path / "g" / "a_1.json")
    assert atoms.get_potential_energy() == pytest.approx(2 * Hartree, rel=1e-14)
    np.testing.assert_allclose(atoms.get_stress()[0], -GPa, rtol=1e-14)
    changes = {name: None for name in ("Stress", "Forces")}
    (tmp_path / "g" / "a_1.json").write_text(
        json.dumps({"Dataset": {"Data": [{k: v for k, v in DATA.items() if k not in changes}]}})
    )
    (atoms,) = read_fitsnap_json(tmp_path / "g")
    assert set(atoms.calc.results) == {"energy"}


@pytest.mark.parametrize(
    ("changes", "styles", "message"),
    [
        ({}, {"EnergyStyle": "electronvolts"}, "unit of Energy.*did you mean 'electronvolt'"),
        ({}, {"AtomTypeStyle": "number"}, "AtomTypeStyle is not supported"),
        ({"AtomTypes": [1, 2]}, {}, "must be chemical symbols"),
        ({"NumAtoms": 3}, {}, "NumAtoms is 3"),
        ({"Energy": float("nan")}, {}, "unusable Energy"),
        ({"Forces": [[0.1, 0.0, 0.0]]}, {}, r"unusable Forces.*\(2, 3\)"),
        ({"Stress": "none"}, {}, "unusable Stress"),
    ],
)
def test_what_is_malformed_is_refused(tmp_path, changes, styles, message):
    write(tmp_path / "g", changes, STYLES | styles)
    with pytest.raises(DataError, match=message):
        read_fitsnap_json(tmp_path)


def test_no_files(tmp_path):
    with pytest.raises(DataError, match="no JSON files"):
        read_fitsnap_json(tmp_path)
    (tmp_path / "x.json").write_text("# x\n{\n")
    with pytest.raises(DataError, match=r"not a JSON file of FitSNAP in .*x\.json"):
        read_fitsnap_json(tmp_path)
