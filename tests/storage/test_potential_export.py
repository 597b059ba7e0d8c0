from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from surefield.errors import ConfigError, ExecutionError, PotentialError
from surefield.potentials import ZBL, load_potential
from surefield.storage import PotentialRegistry

BUILD = """cmake_minimum_required(VERSION 3.10)
project(placeholder LANGUAGES CXX)
find_package(KIM-API 2.2 REQUIRED CONFIG)
add_kim_api_model_library(
  NAME            ${PROJECT_NAME}
  DRIVER_NAME     "ZBL__MD_000000000000_000"
  PARAMETER_FILES "zbl.params"
  )
"""


@pytest.fixture
def registry(tmp_path: Path) -> PotentialRegistry:
    return PotentialRegistry(tmp_path / "potentials")


def attached(folder: Path, **texts: str) -> dict[str, str | Path]:
    files: dict[str, str | Path] = {}
    for i, (name, text) in enumerate(texts.items()):
        path = folder / f"file{i}"
        path.write_text(text)
        files[name.replace("__", "/").replace("_dot_", ".")] = path
    return files


def test_kim_archive(registry: PotentialRegistry, tmp_path: Path) -> None:
    files = attached(tmp_path, CMakeLists_dot_txt=BUILD, zbl_dot_params="0.7\n", metrics_dot_md="x")
    first = registry.save(ZBL(["Cu", "Au"]), prefix="ZBL", files=files)
    kim_id = registry.save(ZBL(["Cu", "Au"]), prefix="ZBL", parent=first, files=files)
    out = tmp_path / "out"
    path = registry.export(kim_id, "kim", out)
    assert path == out / f"{kim_id}.txz"
    with tarfile.open(path, "r:xz") as archive:
        content = {m.name: archive.extractfile(m).read().decode() for m in archive.getmembers()}  # type: ignore[union-attr]
    assert sorted(content) == [f"{kim_id}/{n}" for n in ("CMakeLists.txt", "kimspec.edn", "zbl.params")]
    assert content[f"{kim_id}/zbl.params"] == "0.7\n"
    assert f"project({kim_id} LANGUAGES CXX)" in content[f"{kim_id}/CMakeLists.txt"]
    spec = content[f"{kim_id}/kimspec.edn"]
    assert spec.startswith("{")
    assert f'"extended-id" "{kim_id}"' in spec
    assert '"species" ["Cu", "Au"]' in spec
    assert '"model-driver" "ZBL__MD_000000000000_000"' in spec
    assert f'"content-origin" "made from {first}"' in spec
    # the same archive every time
    assert registry.export(kim_id, "kim", tmp_path / "again").read_bytes() == path.read_bytes()


def test_folders_named_after_the_kind_come_first(registry: PotentialRegistry, tmp_path: Path) -> None:
    texts = {
        "kim__CMakeLists_dot_txt": BUILD,
        "kim__own_dot_txt": "1",
        "zbl_dot_params": "2",
        "x_dot_sw": "3",
    }
    kim_id = registry.save(ZBL(["Cu"]), prefix="ZBL", files=attached(tmp_path, **texts))
    with tarfile.open(registry.export(kim_id, "kim", tmp_path), "r:xz") as archive:
        inside = sorted(Path(name).name for name in archive.getnames())
    assert inside == ["CMakeLists.txt", "kimspec.edn", "own.txt"]
    folder = registry.export(kim_id, "lammps", tmp_path)
    assert [(p.name, p.read_text()) for p in folder.iterdir()] == [("x.sw", "3")]


def test_own_file(registry: PotentialRegistry, tmp_path: Path) -> None:
    kim_id = registry.save(ZBL(["Cu"], inner=0.5), prefix="ZBL")
    path = registry.export(kim_id, "surefield", tmp_path)
    assert path.name == f"{kim_id}.npz"
    assert load_potential(path).inner == 0.5  # type: ignore[attr-defined]
    with pytest.raises(ExecutionError, match="is there already"):
        registry.export(kim_id, "surefield", tmp_path)


@pytest.mark.parametrize("kind", ["kim", "lammps"])
def test_what_was_not_saved_is_refused(registry: PotentialRegistry, tmp_path: Path, kind: str) -> None:
    kim_id = registry.save(ZBL(["Cu"]), prefix="ZBL", files=attached(tmp_path, note_dot_md="x"))
    with pytest.raises(PotentialError, match=rf"without files for '{kind}'; got note\.md; expected"):
        registry.export(kim_id, kind, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_kinds_and_changed_files(registry: PotentialRegistry, tmp_path: Path) -> None:
    kim_id = registry.save(ZBL(["Cu"]), prefix="ZBL")
    with pytest.raises(ConfigError, match="unknown kind of export 'lamps'; did you mean 'lammps'"):
        registry.export(kim_id, "lamps", tmp_path)
    (registry.list_potentials()[0].folder / "potential.npz").write_bytes(b"other")
    with pytest.raises(PotentialError, match="was changed"):
        registry.export(kim_id, "surefield", tmp_path)
