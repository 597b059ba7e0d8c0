"""`surefield properties`: the table on terminal, page and disk, with the numbers of the library."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from tests.conftest import SW

import surefield as sf
from surefield.cli.config import read_config
from surefield.cli.jobs import run_verb
from surefield.errors import ConfigError, DataError, ExecutionError, PotentialError
from surefield.potentials.parametric import StillingerWeber
from surefield.properties.table import computed_rows, csv_text
from surefield.structures.read import write_frames

CRYSTAL = {"lattice_param": 5.43, "lattice_type": "diamond", "elements": ["Si"]}
SETTINGS = [
    {"kind": "cohesive_energy", **CRYSTAL},
    {"kind": "lattice_constant", **CRYSTAL, "max_steps": 1, "lattice_param": 5.3},
]


@pytest.fixture
def folder(tmp_path: Path, silicon: list[Atoms]) -> Path:
    """A run folder as `train` leaves it: a potential with its uncertainty."""
    model = StillingerWeber(SW, ["Si"], free=[("A", 0), ("gamma", 0), ("lambda", 0)])
    rng, noisy = np.random.default_rng(0), []
    for atoms in silicon:
        noisy.append(atoms.copy())
        noisy[-1].info["REF_energy"] = atoms.get_potential_energy() + 0.01 * rng.normal()
    llpr = sf.LLPR.fit(model, noisy[:5], noisy[5:], row_kinds=["energy"], progress=False)
    (tmp_path / "runs" / "si-train").mkdir(parents=True)
    llpr.save(tmp_path / "runs" / "si-train" / "llpr.npz")
    sf.save_potential(tmp_path / "runs" / "si-train" / "potential.npz", model)
    return tmp_path


def run(folder: Path, properties: list[dict[str, Any]], *, dry_run: bool = False, **data: Any) -> Path | None:
    config = {"name": "si", "root": str(folder / "runs"), "data": data, "properties": properties}
    (folder / "si.yaml").write_text(yaml.safe_dump(config))
    return run_verb("properties", folder / "si.yaml", [], dry_run=dry_run, overwrite=False)


def test_table_of_properties(folder: Path, capsys: Any) -> None:
    report = run(folder, SETTINGS)
    assert report is not None
    llpr = sf.LLPR.load(folder / "runs" / "si-train" / "llpr.npz")
    expected = sf.CohesiveEnergy(5.43, "diamond", "Si").predict(llpr)
    assert expected.sigma is not None
    with (report.parent / "properties.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["name"], rows[0]["unit"]) == ("E_coh", "eV/atom")
    assert float(rows[0]["value"]) == expected.value[0]
    assert float(rows[0]["sigma"]) == pytest.approx(expected.sigma[0], rel=1e-12)
    assert rows[1]["value"] == rows[1]["sigma"] == ""
    assert "did not converge in 1 steps" in rows[1]["message"]
    assert (
        json.loads((report.parent / "properties.json").read_text())["rows"][0]["value"] == expected.value[0]
    )
    page, printed = report.read_text(), capsys.readouterr().out
    for text in (page, printed):
        assert f"{expected.value[0]:.1f}" in text
        assert "cohesive energy" in text
        assert "not computed: lattice_constant of diamond Si" in text


def test_a_rehearsal_reads_everything_and_writes_nothing(folder: Path, capsys: Any) -> None:
    assert run(folder, SETTINGS, dry_run=True) is None
    assert "cohesive_energy: E_coh" in capsys.readouterr().out
    assert not (folder / "runs" / "si-properties").exists()


def test_bare_potentials_have_no_sigma(folder: Path) -> None:
    report = run(folder, SETTINGS[:1], validation=0.0)
    assert report is not None
    (row,) = json.loads((report.parent / "properties.json").read_text())["rows"]
    assert row["sigma"] is None
    assert row["value"] == pytest.approx(-4.3364, abs=1e-4)


def test_crystals_from_files(folder: Path) -> None:
    cell = Atoms(
        "Si2", [[0, 0, 0], [1.35, 1.35, 1.35]], cell=np.full((3, 3), 2.7) - 2.7 * np.eye(3), pbc=True
    )
    write_frames(folder / "cell.xyz", [cell])
    report = run(folder, [{"kind": "cohesive_energy", "structure": "cell.xyz"}])
    assert report is not None
    (row,) = json.loads((report.parent / "properties.json").read_text())["rows"]
    assert (row["crystal"], round(row["value"], 3)) == ("Si", -4.336)


def test_bad_input(folder: Path) -> None:
    for properties, words in (
        ([], "needs the section properties"),
        ([{"kind": "cohesion", **CRYSTAL}], "cohesion|cohesive_energy"),
        ([{"kind": "cohesive_energy"}], "needs lattice_param"),
        ([{"kind": "cohesive_energy", **CRYSTAL, "structure": "a.xyz"}], "give a structure, or"),
        ([{"kind": "surface_energy", **CRYSTAL, "layer": 3}], "layers"),
        ([{"kind": "elastic_constants", **CRYSTAL, "components": ["C77"]}], "C77"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(folder, properties, dry_run=True)
    crystal = bulk("Si")
    crystal.positions[1] = np.nan
    write_frames(folder / "lost.xyz", [crystal])
    with pytest.raises(DataError, match=r"atom 1 is not finite in frame 0 of \S*lost\.xyz"):
        run(folder, [{"kind": "lattice_constant", "structure": "lost.xyz"}], dry_run=True)
    copper = {"lattice_param": 3.6, "lattice_type": "fcc", "elements": ["Cu"]}
    other = {"kind": "lattice_constant", **copper}
    here = {"kind": "lattice_constant", **CRYSTAL, "simulator_path": "/PATH/TO/lmp"}
    # Told before anything is computed, in a rehearsal too.
    for dry_run in (True, False):
        with pytest.raises(PotentialError, match=r"Cu.*properties\[1\]"):
            run(folder, [*SETTINGS[:1], other], dry_run=dry_run)
        with pytest.raises(ConfigError, match="simulator_path needs the program"):
            run(folder, [here], dry_run=dry_run)
    with pytest.raises(ExecutionError, match="no property could be computed"):
        run(folder, SETTINGS[1:])


def test_text_of_a_table_is_read_back(folder: Path) -> None:
    config = read_config(Path(run_config(folder)))
    rows = computed_rows(StillingerWeber(SW, ["Si"]), config.properties)
    read = list(csv.reader(csv_text(rows).splitlines()))
    assert [float(line[3]) for line in read[1:]] == [row.value for row in rows]


def run_config(folder: Path) -> Path:
    run(folder, [{"kind": "elastic_constants", **CRYSTAL, "deformation_mag": None}], dry_run=True)
    return folder / "si.yaml"


def test_the_example_names_every_key(project: Path) -> None:
    path = project / "examples" / "configs" / "everything.yaml"
    entry = yaml.safe_load(path.read_text())["properties"][0]
    assert set(entry) == set(type(read_config(path).properties[0]).model_fields)
