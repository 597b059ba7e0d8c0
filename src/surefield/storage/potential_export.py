"""Saved potentials for other programs: a KIM-style archive, LAMMPS files, one file of our own."""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

from surefield.errors import ExecutionError, PotentialError, check_known
from surefield.files import atomic_path, write_atomic

__all__ = ["export_version"]

_KINDS: Final = ("kim", "lammps", "surefield")
_BUILD: Final = "CMakeLists.txt"
_SPEC: Final = "kimspec.edn"
#: Files that LAMMPS reads, by the end of their names.
_LAMMPS: Final = (
    ".snapcoeff",
    ".snapparam",
    ".mod",
    ".lmp",
    ".sw",
    ".tersoff",
    ".eam",
    ".eam.alloy",
    ".eam.fs",
    ".table",
    "params.txt",
)


def export_version(folder: Path, manifest: Mapping[str, Any], kind: str, target: Path) -> Path:
    """Write a saved version for use elsewhere; see `PotentialRegistry.export`.

    Args:
        folder: of the version, its hashes checked.
        manifest: of the version.
        kind: "kim", "lammps" or "surefield".
        target: folder to write to.

    Raises:
        ConfigError: unknown kind.
        PotentialError: no files of that kind were saved.
        ExecutionError: it is there already, or cannot be written.
    """
    check_known([kind], _KINDS, "unknown kind of export {}")
    kim_id = manifest["kim_id"]
    attached = [name.removeprefix("files/") for name in manifest["files"] if name.startswith("files/")]
    chosen = {} if kind == "surefield" else _chosen(kind, folder / "files", attached)
    if kind != "surefield" and not chosen:
        raise PotentialError(
            f"{kim_id} was saved without files for {kind!r}",
            got=", ".join(attached) or "no attached files",
            expected=f"a {_BUILD} of a KIM model, or a folder 'kim'"
            if kind == "kim"
            else f"files ending in {', '.join(_LAMMPS)}, or a folder 'lammps'",
            fix="export as 'surefield', or save it through a handle that has such files",
        )
    goal = target / (kim_id + {"kim": ".txz", "lammps": "", "surefield": ".npz"}[kind])
    if goal.exists():
        raise ExecutionError(f"{goal} is there already; delete it first or choose another folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
        if kind == "surefield":
            write_atomic(goal, (folder / "potential.npz").read_bytes())
        elif kind == "lammps":
            _copy_folder(goal, folder / "files", chosen)
        else:
            _write_archive(goal, folder / "files", chosen, manifest)
    except OSError as error:
        raise ExecutionError(f"cannot write {goal}: {error.strerror or error}") from error
    return goal


def _chosen(kind: str, files: Path, attached: list[str]) -> dict[str, str]:
    """Attached files of a kind: name in the export to name among the attached."""
    kept = {name.removeprefix(f"{kind}/"): name for name in attached if name.startswith(f"{kind}/")}
    if kept:
        return kept
    if kind == "lammps":
        return {PurePosixPath(name).name: name for name in attached if name.lower().endswith(_LAMMPS)}
    build = next((name for name in attached if PurePosixPath(name).name == _BUILD), None)
    if build is None:
        return {}
    # The build file of a KIM model names its parameter files.
    text = (files / build).read_text("utf-8", errors="replace")
    beside = {PurePosixPath(name).name: name for name in attached}
    words = set(re.findall(r"[^\s\"'();]+", text)) | {_BUILD, _SPEC, "LICENSE", "README.md"}
    return {name: path for name, path in beside.items() if name in words}


def _copy_folder(goal: Path, files: Path, chosen: Mapping[str, str]) -> None:
    temporary = goal.with_name(f".{goal.name}.{secrets.token_hex(6)}")
    try:
        for name, source in chosen.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files / source, path)
        os.rename(temporary, goal)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_archive(goal: Path, files: Path, chosen: Mapping[str, str], manifest: Mapping[str, Any]) -> None:
    """Archive with one folder of the full id, as KIM's collections take it; the same bytes every time."""
    kim_id = manifest["kim_id"]
    content = {name: (files / source).read_bytes() for name, source in chosen.items()}
    build = content.get(_BUILD)
    if build is not None:
        # The id was not known when the file was made; KIM wants it as the name of the project.
        named = re.sub(r"(?i)(\bproject\s*\(\s*)[^\s)]+", rf"\g<1>{kim_id}", build.decode(), count=1)
        content[_BUILD] = named.encode()
    content.setdefault(_SPEC, _spec(manifest, content.get(_BUILD, b"").decode()).encode())
    date = int(datetime.fromisoformat(manifest["date"]).timestamp())
    with atomic_path(goal) as temporary, tarfile.open(temporary, "w:xz") as archive:
        for name in sorted(content):
            entry = tarfile.TarInfo(f"{kim_id}/{name}")
            entry.size, entry.mtime, entry.mode = len(content[name]), date, 0o644
            archive.addfile(entry, io.BytesIO(content[name]))


def _spec(manifest: Mapping[str, Any], build: str) -> str:
    """Metadata of a KIM item, in KIM's format EDN."""
    driver = re.search(r'DRIVER_NAME\s+"?([^\s")]+)', build)
    parent = manifest["parent"]
    entries: dict[str, Any] = {
        "extended-id": manifest["kim_id"],
        "kim-item-type": "portable-model",
        "kim-api-version": "2.2",
        "title": f"{manifest['model']['type']} of {' '.join(manifest['species'])}, trained with surefield",
        "species": manifest["species"],
        "potential-type": manifest["model"]["type"],
        "publication-year": manifest["date"][:4],
        "description": f"surefield {manifest['package_version']}, manifest {manifest['hash']}",
    }
    if driver is not None:
        entries["model-driver"] = driver[1]
    if parent is not None:
        entries["content-origin"] = f"made from {parent['kim_id']}"
    # Texts and lists of texts have the same form in EDN and JSON.
    lines = [f'"{key}" {json.dumps(value)}' for key, value in sorted(entries.items())]
    return "{" + "\n ".join(lines) + "}\n"
