"""Manifest and attached files of a saved potential: names, hashes, and what must not be changed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.files import json_text

__all__ = [
    "FORMAT",
    "MANIFEST",
    "attachments",
    "check_files",
    "checked_facts",
    "file_hash",
    "manifest_hash",
    "read_manifest",
    "refuse_twice",
]

#: Raised when the meaning of a manifest changes; newer ones are refused.
FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
#: Entries that the registry writes itself.
_OWN: Final = frozenset(
    {
        "base_id",
        "date",
        "files",
        "format",
        "hash",
        "kim_id",
        "model",
        "package_version",
        "parent",
        "species",
        "units",
        "version",
    }
)


def checked_facts(manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the caller writes into a manifest, as JSON gives it back.

    Raises:
        ConfigError: an entry that the registry writes itself, or that JSON has no form for.
    """
    clash = sorted(set(manifest or {}) & _OWN)
    if clash:
        raise ConfigError(f"the registry itself writes {clash[0]!r} of a manifest; give it another name")
    try:
        return json.loads(json_text(dict(manifest or {})))
    except DataError as error:
        raise ConfigError(f"manifest: {error}") from None


def attachments(files: Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, Path]:
    """Files to attach by the names they get; folders file by file.

    Raises:
        DataError: a file is missing, a name leads elsewhere, or two are the same.
    """
    named = list(files.items()) if isinstance(files, Mapping) else [(Path(file).name, file) for file in files]
    attached: list[tuple[str, Path]] = []
    for name, source in named:
        path = Path(source)
        if not PurePosixPath(name).parts or not _is_inside(name):
            raise DataError("not the name of an attached file", got=repr(name))
        if path.is_dir():
            inside = sorted(entry for entry in path.rglob("*") if entry.is_file())
            attached += [(f"{name}/{entry.relative_to(path).as_posix()}", entry) for entry in inside]
        elif path.is_file():
            attached.append((name, path))
        else:
            raise DataError(f"there is no file {path} to attach")
    refuse_twice([name for name, _ in attached])
    return dict(attached)


def refuse_twice(names: Sequence[str]) -> None:
    """Refuse a name that is given to two attached files."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        fix = f"give them names: {{'a/{twice[0]}': path, ...}}"
        raise DataError(f"two attached files have the name {twice[0]!r}", fix=fix)


def read_manifest(folder: Path, kim_id: str) -> dict[str, Any]:
    """Manifest of a version, checked against its own hash.

    Raises:
        PotentialError: damaged, changed, or of a newer version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
        version, said = manifest["format"], manifest.pop("hash")
        safe = all(_is_inside(name) for name in manifest["files"])
        fits = manifest["kim_id"] == kim_id and said == manifest_hash(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PotentialError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    if version > FORMAT:
        raise PotentialError(f"{path} was written by a newer version; update surefield")
    if not (safe and fits):
        raise PotentialError(f"{path} was changed: it does not match its hash; use another copy")
    return manifest | {"hash": said}


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Check every file of a version against the hash in its manifest.

    Raises:
        PotentialError: a file is missing or was changed.
    """
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise PotentialError(f"{name} of {manifest['kim_id']} is missing: {path}; use another copy")
        if file_hash(path) != expected:
            raise PotentialError(f"{name} of {manifest['kim_id']} was changed: {path}; use another copy")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_hash(record: Mapping[str, Any]) -> str:
    """Hash of a manifest without the entry `hash`."""
    return hashlib.sha256(json_text(record).encode()).hexdigest()


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name
