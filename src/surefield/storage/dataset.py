"""Datasets: handles with versions, ids of configurations, content hashes, and where the data came from."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms

from surefield.errors import ConfigError, DataError
from surefield.files import json_text
from surefield.storage.configuration import CONFIGURATION_ID, configuration_bytes
from surefield.structures.images import image_key
from surefield.structures.label_sources import has_stale_results
from surefield.structures.read import Frames, Source, read_frames

__all__ = [
    "Dataset",
    "PackedConfiguration",
    "StorageWarning",
    "assign_ids",
    "check_metadata",
    "check_name",
    "content_hash",
    "entries_of",
    "package_version",
    "provenance",
    "split_handle",
    "warn_of_foreign",
]

#: Content hash of a dataset without configurations, from which the others are made.
EMPTY: Final = hashlib.sha256(b"surefield dataset 1").hexdigest()
_KEY_DIGITS: Final = 24
_MAX_SOURCES: Final = 20


class StorageWarning(UserWarning):
    """Something in a storage was left out: a foreign file, results of another geometry."""


@dataclass(frozen=True)
class Dataset:
    """One version of a dataset; its content never changes.

    Attributes:
        name: as given to `new_dataset`.
        version: counted from 0.
        size: number of configurations.
        hash: of ids and content in their order, 64 hexadecimal digits; the same in every storage.
        created: date and time, UTC.
        package_version: of surefield, when this version was stored.
        source: files (or "memory") that the data added by this version came from.
        parent: handle of the version that this one was made from; None for the first.
        metadata: what the user gave.
    """

    name: str
    version: int
    size: int
    hash: str
    created: str
    package_version: str
    source: tuple[str, ...]
    parent: str | None
    metadata: Mapping[str, Any]

    @property
    def handle(self) -> str:
        """Name and version: "name_0"."""
        return f"{self.name}_{self.version}"


@dataclass(frozen=True)
class PackedConfiguration:
    """One configuration on its way into a storage.

    Attributes:
        id: given by the user in `info['configuration_id']`; None if not.
        key: id that it gets otherwise, made of its geometry.
        content: hash of the payload.
        payload: all of it but the id (`configuration_bytes`).
        frame: the structure.
    """

    id: str | None
    key: str
    content: str
    payload: bytes
    frame: Atoms


def check_name(name: object) -> str:
    """Name of a dataset or a database.

    Raises:
        ConfigError: empty, a separator, "..", a control character or blanks at its ends.
    """
    fine = isinstance(name, str) and name == name.strip() and name not in ("", ".") and ".." not in name
    if not fine or any(c in "/\\:" or not c.isprintable() for c in str(name)):
        raise ConfigError(
            "not the name of a dataset", got=repr(name), expected="one part of a path, without '..'"
        )
    return str(name)


def warn_of_foreign(folder: Path, names: Sequence[str]) -> None:
    """Warn, in the name of the caller's caller, of entries of a folder that are no part of a storage."""
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        shown = ", ".join(sorted(names)[:3])
        warnings.warn(
            f"{folder} holds what is no part of the storage and is ignored: {shown}{more}",
            StorageWarning,
            stacklevel=3,
        )


def split_handle(text: str) -> tuple[str, int] | None:
    """Name and version of a handle, cut at the last underscore; None if no version stands there."""
    name, underscore, digits = text.rpartition("_")
    canonical = digits.isascii() and digits.isdigit() and str(int(digits)) == digits
    return (name, int(digits)) if underscore and name and canonical else None


def check_metadata(metadata: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Metadata that JSON has a form for.

    Raises:
        ConfigError: no mapping, or an entry that is no data.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise ConfigError(f"dataset_metadata must be a dict, got {type(metadata).__name__}")
    try:
        json_text(metadata)
    except DataError as error:
        raise ConfigError(f"dataset_metadata: {error}") from None
    return metadata


def entries_of(data: Source) -> tuple[list[PackedConfiguration], tuple[str, ...]]:
    """Configurations of a source, ready to be stored, and the files they are from.

    Raises:
        DataError: nothing to store, unreadable, no structure, or an entry that cannot be stored.
    """
    frames = read_frames(data)
    if not len(frames):
        raise DataError("there are no configurations to store")
    stale = sum(has_stale_results(atoms) for atoms in frames)
    if stale:
        warnings.warn(
            f"{stale} of {len(frames)} structures moved after their calculation: these results are not "
            "those of the structure and are not stored",
            StorageWarning,
            stacklevel=4,
        )
    return [_entry(atoms, frames.origin(i)) for i, atoms in enumerate(frames)], _sources(frames)


def _entry(atoms: Atoms, where: str) -> PackedConfiguration:
    payload = configuration_bytes(atoms, where)
    key = f"cfg_{image_key(atoms)[:_KEY_DIGITS]}"
    return PackedConfiguration(
        _given_id(atoms, where), key, hashlib.sha256(payload).hexdigest(), payload, atoms
    )


def _given_id(atoms: Atoms, where: str) -> str | None:
    entry = atoms.info.get(CONFIGURATION_ID)
    if entry is None:
        return None
    # extxyz reads an id of digits as a number
    text = str(entry) if isinstance(entry, str | int | np.integer) and not isinstance(entry, bool) else ""
    if not text.strip() or not text.isprintable():
        expected = "text in one line, or an integer"
        raise DataError(f"info[{CONFIGURATION_ID!r}]", where=where, got=repr(entry), expected=expected)
    return text


def _sources(frames: Frames) -> tuple[str, ...]:
    names = dict.fromkeys(origin.partition(" of ")[2] or "memory" for origin in frames.origins)
    files = tuple(names)
    if len(files) <= _MAX_SOURCES:
        return files
    return (*files[: _MAX_SOURCES - 1], f"and {len(files) - _MAX_SOURCES + 1} more")


def assign_ids(entries: Sequence[PackedConfiguration], present: Mapping[str, str]) -> list[str]:
    """Ids of configurations that join a dataset: their own, otherwise made of their geometry.

    A configuration that is there again gets a number behind the id of the first.

    Args:
        entries: what joins.
        present: id to content of those configurations of the dataset that count.

    Raises:
        DataError: an id given by the user that another configuration has already.
    """
    taken = dict(present)
    copies: Counter[str] = Counter()
    ids: list[str | None] = [None] * len(entries)
    # Ids of the user first: a made one gives way.
    for with_id in (True, False):
        for i, entry in enumerate(entries):
            if (entry.id is not None) is not with_id:
                continue
            name = entry.key if entry.id is None else entry.id
            if with_id and name in taken and taken[name] != entry.content:
                raise DataError(
                    "two configurations of one dataset have the same id",
                    where=f"configuration {i} of the data",
                    got=repr(name),
                    fix=f"delete info[{CONFIGURATION_ID!r}] of a new one, or replace the old one with "
                    "update_data",
                )
            ids[i] = free = _free(name, taken, copies)
            taken[free] = entry.content
    return [str(name) for name in ids]


def _free(name: str, taken: Mapping[str, str], copies: Counter[str]) -> str:
    free = name
    while free in taken:
        copies[name] += 1
        free = f"{name}_{copies[name]}"
    return free


def content_hash(members: Iterable[tuple[str, str]], start: str = EMPTY) -> str:
    """Hash of a dataset from (id, content) of its configurations; goes on from the hash of those before."""
    digest = start
    for name, content in members:
        digest = hashlib.sha256(f"{digest} {content} {name}".encode()).hexdigest()
    return digest


def package_version() -> str:
    """Version of surefield as installed; the package itself may not be imported from down here."""
    try:
        return version("surefield")
    except PackageNotFoundError:
        return "unknown"


def provenance(source: Sequence[str], parent: str | None, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a storage writes down beside a new version."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "package_version": package_version(),
        "source": list(source),
        "parent": parent,
        "metadata": dict(metadata),
    }
