"""Results of scores in a storage: structures with theirs, and numbers of whole data sets as metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ase import Atoms

from surefield.errors import ConfigError
from surefield.scoring.results import METADATA
from surefield.storage import Storage
from surefield.storage.configuration import CONFIGURATION_ID
from surefield.structures.images import image_key

__all__ = ["add_structures", "add_to_metadata", "check_target", "with_results"]


def check_target(name: str | None, handle: str | None) -> None:
    """Refuse anything but one of name and handle."""
    if (name is None) == (handle is None):
        got = "neither" if name is None else "both"
        raise ConfigError("dataset_name or dataset_handle is needed, not both", got=got)


def add_structures(storage: Storage, handle: str, frames: Sequence[Atoms]) -> str:
    """Put structures into the next version: known ones in their place, others at the end."""
    stored = storage.get_data(handle)
    ids = {atoms.info[CONFIGURATION_ID] for atoms in stored}
    keys = {image_key(atoms) for atoms in stored}
    known, new = [], []
    for atoms in frames:
        given = atoms.info.get(CONFIGURATION_ID)
        there = image_key(atoms) in keys if given is None else str(given) in ids
        (known if there else new).append(atoms)
    if known:
        handle = storage.update_data(handle, known)
    return storage.add_data(handle, new) if new else handle


def add_to_metadata(storage: Storage, handle: str, results: Sequence[Mapping[str, Any]], key: str) -> str:
    """Make the next version with the same structures, and results in its metadata."""
    entries = with_results(storage.describe(handle).metadata, results, key)
    first = storage.get_data(handle, {"index": "0:1"})
    return storage.update_data(handle, first, entries)


def with_results(
    metadata: Mapping[str, Any], results: Sequence[Mapping[str, Any]], key: str
) -> dict[str, Any]:
    """Metadata of a data set with results, and with what determined them, by their key."""
    entries = dict(metadata)
    for result in results:
        about = {**entries.get(METADATA, {}), key: result[METADATA]}
        entries |= {key: result[key], METADATA: about}
    return entries
