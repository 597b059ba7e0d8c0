"""Units that the metadata of ASE's databases state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.units import Bohr, GPa, Hartree, kcal, mol

from surefield.errors import DataError
from surefield.structures.labels import resolve_labels
from surefield.structures.read import read_frames, write_frames

FORCES = np.array([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])
STRESS = np.arange(1.0, 7)


def database(path: Path, metadata: dict[str, Any], data: dict[str, Any], length: float = 1.0) -> Path:
    connection = ase.db.connect(path)
    atoms = Atoms("H2", np.array([[0, 0, 0], [0, 0, 0.8]]) / length, cell=np.eye(3) * 5 / length, pbc=True)
    connection.write(atoms, data=data)
    connection.metadata = metadata
    return path


@pytest.mark.parametrize(
    ("units", "energy", "forces", "length", "distance"),
    [
        ({"energy": "kcal/mol", "forces": "kcal/mol/Ang"}, kcal / mol, kcal / mol, 1.0, "Ang"),
        ({"energy": "Hartree", "forces": "Hartree/Bohr"}, Hartree, Hartree / Bohr, Bohr, "Bohr"),
        ({"energy": Hartree, "forces": "eV/Ang", "gap": "Debye"}, Hartree, 1.0, 10.0, "nm"),
    ],
)
@pytest.mark.parametrize("extension", ["db", "json"])
def test_stated_units_are_converted(
    tmp_path: Path,
    units: dict[str, Any],
    energy: float,
    forces: float,
    length: float,
    distance: str,
    extension: str,
):
    metadata = {"_property_unit_dict": units, "_distance_unit": distance, "atomrefs": {}}
    data = {"energy": np.array([-3.0 / energy]), "forces": FORCES / forces, "gap": 1.0}
    frames = read_frames(database(tmp_path / f"a.{extension}", metadata, data, length))
    (labels,), _ = resolve_labels(frames)
    assert labels.energy == pytest.approx(-3.0, rel=1e-12)
    assert labels.forces == pytest.approx(FORCES, rel=1e-12)
    assert frames[0].get_distance(0, 1) == pytest.approx(0.8, rel=1e-12)
    assert frames[0].cell.lengths() == pytest.approx([5, 5, 5], rel=1e-12)
    assert frames[0].info["gap"] == 1.0
    with pytest.raises(DataError, match=r"states its units \(energy .*frame 0 of .*a\.\w+.*leave them out"):
        resolve_labels(frames, units={"energy": "Hartree"})


def test_stresses_virials_and_columns_with_a_description(tmp_path: Path):
    metadata = {
        "_property_unit_dict": {"stress": "GPa"},
        "key_descriptions": {"total_energy": ("Energy", "of the cell", "Hartree"), "name": ("a", "b", "")},
    }
    path = database(tmp_path / "a.db", metadata, {"stress": STRESS[None], "forces": FORCES})
    ase.db.connect(path).update(1, total_energy=-1.0)
    (labels,), _ = resolve_labels(read_frames(path))
    assert labels.energy == pytest.approx(-Hartree, rel=1e-12)
    assert labels.stress == pytest.approx(STRESS * GPa, rel=1e-12)
    virial = {"_property_unit_dict": {"virial": "Hartree"}}
    (labels,), _ = resolve_labels(
        read_frames(database(tmp_path / "b.db", virial, {"virial": STRESS})), require=()
    )
    assert labels.stress == pytest.approx(-STRESS * Hartree / 125, rel=1e-12)


@pytest.mark.parametrize(
    "metadata",
    [
        {"energy_unit": "Hartree", "force_unit": "Hartree/Bohr", "length_unit": "Bohr"},
        {"units": {"energy": "Hartree", "forces": "Hartree/Bohr", "positions": "Bohr"}},
        {
            "_property_unit_dict": {"energy": "Hartree", "forces": "Hartree/Bohr"},
            "_distance_unit": "Bohr",
            "units": {"energy": "hartree", "length": "bohr"},
        },
    ],
)
def test_units_that_are_stated_in_words_are_converted(tmp_path: Path, metadata: dict[str, Any]):
    data = {"energy": -3.0 / Hartree, "forces": FORCES / (Hartree / Bohr)}
    frames = read_frames(database(tmp_path / "a.db", metadata, data, Bohr))
    (labels,), _ = resolve_labels(frames)
    assert labels.energy == pytest.approx(-3.0, rel=1e-12)
    assert labels.forces == pytest.approx(FORCES, rel=1e-12)
    assert frames[0].get_distance(0, 1) == pytest.approx(0.8, rel=1e-12)
    plain = read_frames(database(tmp_path / "b.db", {"units": "eV"}, {"energy": -3.0}))
    assert resolve_labels(plain, require=["energy"])[0][0].energy == -3.0


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"_property_unit_dict": {"energy": "a.u."}}, r"unit of 'energy' in the metadata of .*a.db.*'a.u.'"),
        ({"_property_unit_dict": {"forces": "eV"}}, r"'eV' is no unit of 'forces' in the metadata of .*a.db"),
        ({"_distance_unit": "eV"}, "'eV' is no unit of lengths"),
        ({"_distance_unit": "feet"}, "unknown unit 'feet'"),
        ({"units": "kcal/mol"}, "'units' in the metadata of .*a.db does not say what is in 'kcal/mol'"),
        ({"_distance_unit": "Ang", "length_unit": "Bohr"}, "a length is stated in two units.*Ang and Bohr"),
        (
            {"_property_unit_dict": {"energy": "eV"}, "energy_unit": "Hartree"},
            "energy is stated in two units in the metadata of .*a.db",
        ),
        ({"energy_unit": "furlong"}, "unit of 'energy' in the metadata of .*unknown unit 'furlong'"),
    ],
)
def test_units_that_cannot_be_converted_are_refused(tmp_path: Path, metadata: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        read_frames(database(tmp_path / "a.db", metadata, {"energy": -3.0, "forces": FORCES}))


def test_what_is_written_has_no_units_to_convert(tmp_path: Path):
    metadata = {"_property_unit_dict": {"energy": "Hartree"}}
    frames = read_frames(database(tmp_path / "a.db", metadata, {"energy": -1.0}))
    for name in ("b.db", "b.xyz", "b.traj"):
        write_frames(tmp_path / name, frames)
        (labels,), _ = resolve_labels(read_frames(tmp_path / name), require=["energy"])
        assert labels.energy == pytest.approx(-Hartree, rel=1e-12)
