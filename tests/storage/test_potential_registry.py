from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import surefield
from surefield.errors import ConfigError, DataError, ExecutionError, PotentialError
from surefield.potentials import ZBL, MomentNetwork, Potential
from surefield.potentials.saving import pack
from surefield.storage import PotentialRegistry, StorageWarning, potential_registry


@pytest.fixture
def registry(tmp_path: Path) -> PotentialRegistry:
    return PotentialRegistry(tmp_path / "my potentials")


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class Handle:
    """Handle with one file for LAMMPS."""

    model_name_prefix = "MyModel"

    def __init__(self, model: Potential, kim_id: str | None = None) -> None:
        self.model = model
        self.kim_id = kim_id

    def settings(self) -> dict[str, Any]:
        return {"inner": 0.7}

    def export_files(self, folder: Path) -> list[Path]:
        (folder / "lammps").mkdir()
        (folder / "lammps" / "zbl.in").write_text("pair_style zbl 0.7 1.4\n")
        return [folder / "lammps" / "zbl.in"]


def test_what_is_saved_comes_back(
    registry: PotentialRegistry, copper_network: MomentNetwork, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x.txt").write_text("x")
    given = {"trainer": {"class": "T"}, "datasets": [{"id": "a_0", "hash": "0"}], "seed": 1, "loss": 1 / 3}
    files = [tmp_path / "config.yaml", tmp_path / "more"]
    kim_id = registry.save(copper_network, prefix="Fit_Snap", manifest=given, files=files)
    assert re.fullmatch(r"Fit_Snap_Cu__SF_\d{12}_000", kim_id)
    potential, manifest = registry.load(kim_id)
    assert type(potential) is MomentNetwork
    for name, array in pack(copper_network).items():
        np.testing.assert_array_equal(pack(potential)[name], array)
    assert {key: manifest[key] for key in given} == given
    assert (manifest["kim_id"], manifest["version"], manifest["parent"]) == (kim_id, 0, None)
    assert manifest["species"] == ["Cu"]
    assert manifest["units"]["forces"] == "eV/Å"
    assert manifest["model"]["type"] == "MomentNetwork"
    assert manifest["package_version"] == surefield.__version__
    base = registry.root / kim_id.rpartition("_")[0] / "000"
    assert names(base) == ["files/config.yaml", "files/more/x.txt", "manifest.json", "potential.npz"]
    (line,) = registry.list_potentials()
    assert (line.kim_id, line.kind, line.species, line.folder) == (kim_id, "MomentNetwork", ("Cu",), base)


def test_new_next_and_fork(registry: PotentialRegistry, tmp_path: Path) -> None:
    zbl = ZBL(["Si", "C"])
    (tmp_path / "a").write_text("a")
    first = registry.save(zbl, prefix="ZBL", files=[tmp_path / "a"])
    assert "ZBL_CSi__SF_" in first
    second = registry.save(zbl, prefix="ZBL", parent=first)
    third = registry.save(zbl, prefix="ZBL", parent=first)
    fork = registry.save(zbl, prefix="Fork", parent=third, fork=True)
    other = registry.save(zbl, prefix="ZBL")
    base = first.rpartition("_")[0]
    assert [first, second, third] == [f"{base}_{v:03d}" for v in range(3)]
    assert fork.endswith("_000")
    assert len({x.rpartition("_")[0] for x in (first, fork, other)}) == 3
    assert registry.parents(third) == [first]
    assert registry.parents(fork) == [third, first]
    assert registry.parents(other) == []
    _, manifest = registry.load(fork)
    origin = registry.manifest(third)
    assert manifest["parent"] == {"kim_id": third, "version": 2, "hash": origin["hash"]}
    assert "files/a" in registry.manifest(first)["files"]
    assert "files/a" not in registry.manifest(second)["files"]
    # deletion: one version, by its full id; the next version is the largest that is left + 1
    registry.delete(second)
    assert not registry.holds(second)
    assert registry.save(zbl, prefix="ZBL", parent=first) == f"{base}_003"
    registry.delete(third)
    assert registry.parents(fork) == [third]
    for wrong in (base, "ZBL", "", "../..", first[:-1]):
        with pytest.raises(PotentialError, match="no potential"):
            registry.delete(wrong)
    registry.delete(other)
    assert not (registry.root / other.rpartition("_")[0]).exists()
    assert sorted(p.kim_id for p in registry.list_potentials()) == sorted([first, f"{base}_003", fork])


def test_handles_are_saved_with_their_files(registry: PotentialRegistry, tmp_path: Path) -> None:
    zbl = ZBL(["Cu"])
    (tmp_path / "note.txt").write_text("n")
    first = registry.save_potential_files(Handle(zbl), [tmp_path / "note.txt"])
    assert first.startswith("MyModel_Cu__SF_")
    manifest = registry.manifest(first)
    assert manifest["potential"] == {"class": "Handle", "settings": {"inner": 0.7}}
    assert sorted(manifest["files"]) == ["files/lammps/zbl.in", "files/note.txt", "potential.npz"]
    assert registry.save_potential_files(Handle(zbl, first)) == first[:-1] + "1"
    forked = registry.save_potential_files(Handle(zbl, first), fork_potential=True)
    assert registry.parents(forked) == [first]
    # an id of another registry is no parent here
    assert registry.save_potential_files(Handle(zbl, "MO_123456789012_000")).endswith("_000")
    assert registry.save_potential_files(zbl).startswith("surefield_Cu__SF_")


def test_changed_files_are_refused(registry: PotentialRegistry, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    kim_id = registry.save(ZBL(["Cu"]), prefix="ZBL", files=[tmp_path / "a"])
    folder = registry.list_potentials()[0].folder
    (folder / "files" / "a").write_text("b")
    with pytest.raises(PotentialError, match=r"files/a of .* was changed"):
        registry.load(kim_id)
    (folder / "files" / "a").unlink()
    with pytest.raises(PotentialError, match=r"files/a of .* is missing"):
        registry.load(kim_id)
    text = (folder / "manifest.json").read_text()
    for changed, words in [
        (text.replace('"Cu"', '"Au"'), "does not match its hash"),
        (text.replace('"format": 1', '"format": 2'), "newer version"),
        (text.replace("files/a", "../a"), "does not match its hash"),
        (text[:-20], "is damaged"),
        ("[]", "is damaged"),
    ]:
        (folder / "manifest.json").write_text(changed)
        with pytest.raises(PotentialError, match=words):
            registry.load(kim_id)
    with pytest.warns(StorageWarning, match="left out of the list"):
        assert registry.list_potentials() == []


def test_a_manifest_cannot_name_files_elsewhere(registry: PotentialRegistry) -> None:
    kim_id = registry.save(ZBL(["Cu"]), prefix="ZBL")
    path = registry.list_potentials()[0].folder / "manifest.json"
    record = json.loads(path.read_text())
    record["files"]["../../../secret"] = "0"
    del record["hash"]
    record["hash"] = potential_registry.manifest_hash(record)
    path.write_text(json.dumps(record))
    with pytest.raises(PotentialError, match="was changed"):
        registry.load(kim_id)


def test_bad_input_leaves_nothing(registry: PotentialRegistry, tmp_path: Path) -> None:
    zbl = ZBL(["Cu"])
    kim_id = registry.save(zbl, prefix="ZBL")
    before = names(registry.root)
    (tmp_path / "x").mkdir()
    for folder in (tmp_path, tmp_path / "x"):
        (folder / "same").write_text("")
    same: list[str | Path] = [tmp_path / "same", tmp_path / "x" / "same"]
    for prefix in ("", "1a", "a b", "a__b", "_a", "a/b", "../a"):
        with pytest.raises(ConfigError, match="first part of an id"):
            registry.save(zbl, prefix=prefix)
    with pytest.raises(DataError, match="two attached files have the name 'same'"):
        registry.save(zbl, prefix="a", files=same)
    with pytest.raises(DataError, match="no file"):
        registry.save(zbl, prefix="a", files=[tmp_path / "none"])
    with pytest.raises(DataError, match="not the name of an attached file"):
        registry.save(zbl, prefix="a", files={"../x": tmp_path / "same"})
    with pytest.raises(ConfigError, match="itself writes 'hash'"):
        registry.save(zbl, prefix="a", manifest={"hash": "0"})
    with pytest.raises(PotentialError, match="did you mean"):
        registry.save(zbl, prefix="a", parent=kim_id[:-1] + "7")
    with pytest.raises(PotentialError, match=r"got a potential of Au; expected Cu; fork it"):
        registry.save(ZBL(["Au"]), prefix="a", parent=kim_id)
    with pytest.raises(PotentialError, match="the registry is empty"):
        PotentialRegistry(tmp_path / "empty").load(kim_id)
    assert names(registry.root) == before
    assert len(list(registry.root.iterdir())) == 1


def test_a_full_disk_leaves_nothing(
    registry: PotentialRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zbl = ZBL(["Cu"])
    kim_id = registry.save(zbl, prefix="ZBL")
    before = sorted(registry.root.rglob("*"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    for parent in (None, kim_id):
        with pytest.raises(ExecutionError, match="no space left on device; nothing was saved"):
            registry.save(zbl, prefix="ZBL", parent=parent)
    assert sorted(registry.root.rglob("*")) == before


SAVER = """
import sys
from surefield.potentials import ZBL
from surefield.storage import PotentialRegistry

registry = PotentialRegistry(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    print(registry.save(ZBL(["Cu"]), prefix="ZBL", parent=sys.argv[2]))
"""


def test_two_processes_get_two_versions(registry: PotentialRegistry) -> None:
    kim_id = registry.save(ZBL(["Cu"]), prefix="ZBL")
    environment = os.environ | {"PYTHONPATH": str(Path(surefield.__file__).parents[1])}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", SAVER, str(registry.root), kim_id]
    savers = [
        subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) for _ in range(2)
    ]
    for saver in savers:
        assert saver.stdout is not None
        assert saver.stdout.readline() == "ready\n"
    for saver in savers:
        assert saver.stdin is not None
        saver.stdin.write("go\n")
        saver.stdin.flush()
    found = [name for saver in savers for name in saver.communicate(timeout=120)[0].split()]
    assert sorted(found) == [f"{kim_id[:-3]}{v:03d}" for v in range(1, 21)]
    for name in found:
        assert registry.load(name)[1]["kim_id"] == name
