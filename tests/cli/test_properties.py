"""`surefield properties`: the table on terminal, page and disk, with the numbers of the library."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from dataclasses import asdict
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
from surefield.properties import table
from surefield.properties.config import LatticeConstantConfig
from surefield.properties.table import KeptRows, Row, computed_rows, csv_text
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


class Killed(BaseException):
    """No one catches it."""


SEVERAL = [
    {"kind": "cohesive_energy", **CRYSTAL},
    {"kind": "lattice_constant", **CRYSTAL},
    {"kind": "cohesive_energy", "structure": "cell.xyz"},
]


def test_what_is_done_when_it_is_killed_is_not_done_again(
    folder: Path, monkeypatch: Any, capsys: Any
) -> None:
    cell = bulk("Si", a=5.5)
    write_frames(folder / "cell.xyz", [cell])
    computed: list[str] = []

    def result(prop: Any, model: Any) -> Any:
        if computed == ["CohesiveEnergy", "LatticeConstant"] and not was_killed:
            raise Killed
        computed.append(type(prop).__name__)
        return compute(prop, model)

    compute, was_killed = table._result, False
    monkeypatch.setattr(table, "_result", result)
    with pytest.raises(Killed):
        run(folder, SEVERAL, validation=0.0)
    kept = sorted((folder / "runs" / "si-properties" / "properties").iterdir())
    assert len(kept) == 2
    kept[0].write_text(kept[0].read_text()[:-20])  # as a disk may damage it
    was_killed = True
    # the crystal of another property is none of those that are done: still the run is another one
    write_frames(folder / "cell.xyz", [bulk("Si", a=5.4)])
    with pytest.raises(ConfigError, match="cell, positions of the crystal 2"):
        run(folder, SEVERAL, validation=0.0)
    write_frames(folder / "cell.xyz", [cell])
    with pytest.raises(ConfigError, match=r"another configuration.*max_steps"):
        run(folder, [{**SEVERAL[0], "max_steps": 7}, *SEVERAL[1:]], validation=0.0)
    report = run(folder, SEVERAL, validation=0.0)
    assert report is not None
    assert sorted(computed[2:]) in (
        ["CohesiveEnergy", "CohesiveEnergy"],
        ["CohesiveEnergy", "LatticeConstant"],
    )
    assert "of diamond Si: done before" in capsys.readouterr().out
    rows = json.loads((report.parent / "properties.json").read_text())["rows"]
    model = sf.load(folder / "runs" / "si-train" / "potential.npz")
    whole = computed_rows(model, read_config(folder / "si.yaml").properties)
    assert rows == [asdict(row) for row in whole]


def test_rows_are_kept_for_one_model_one_crystal_and_one_setting(tmp_path: Path) -> None:
    config = LatticeConstantConfig(**CRYSTAL)
    row = Row("lattice_constant", "diamond Si", "a", 0.1 + 0.2, None, "Å")
    KeptRows(tmp_path, "one").write(config, [row])
    assert KeptRows(tmp_path, "one").read(config) == [row]
    assert KeptRows(tmp_path, "other").read(config) is None
    assert KeptRows(tmp_path, "one").read(config.model_copy(update={"max_steps": 7})) is None


@pytest.mark.slow  # another process imports and compiles
def test_killed_by_the_system_it_goes_on(folder: Path) -> None:
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom surefield.cli.jobs import run_verb\n"
        "from surefield.properties import table\nfirst = table._result\n"
        "def second(prop, model):\n    table._result = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return first(prop, model)\ntable._result = second\n"
        "run_verb('properties', Path('si.yaml'), [], dry_run=False, overwrite=False)\n"
    )
    run(folder, SEVERAL[:2], dry_run=True)
    process = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    (kept,) = (folder / "runs" / "si-properties" / "properties").iterdir()
    before = kept.stat().st_mtime_ns
    report = run(folder, SEVERAL[:2])
    assert report is not None
    assert kept.stat().st_mtime_ns == before
    assert len(json.loads((report.parent / "properties.json").read_text())["rows"]) == 2


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
