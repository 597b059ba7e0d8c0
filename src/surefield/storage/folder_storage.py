"""A folder of extxyz files as a storage to read from: one file is one dataset."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn, final

from ase import Atoms

from surefield.errors import ConfigError, DataError
from surefield.storage.configuration import CONFIGURATION_ID
from surefield.storage.dataset import (
    Dataset,
    assign_ids,
    content_hash,
    entries_of,
    package_version,
    warn_of_foreign,
)
from surefield.storage.storage import Storage
from surefield.structures.compression import without_compression
from surefield.structures.read import Source

__all__ = ["FolderStorage", "extxyz_files"]

#: Names of files that hold structures, without a compression's.
SUFFIXES: Final = {".xyz", ".extxyz"}


@final
class FolderStorage(Storage):
    """Every extxyz file of a folder is a dataset of the name of the file; "train.xyz" is "train_0".

    Nothing is written. Other files are ignored with a warning, hidden ones without. Order, ids and content
    hashes are those that the same data have in a `LocalStorage`.

    Args:
        folder: with files .xyz or .extxyz, also compressed (.gz, .xz, .bz2).

    Raises:
        DataError: no such folder, or two files of one name.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        #: what was found in a file, by its path, size and times; that of the last change cannot be set
        self._seen: dict[tuple[Path, int, int, int], Dataset] = {}
        if not self._folder.is_dir():
            raise DataError(f"there is no folder {self._folder}")
        files = extxyz_files(self._folder)
        known = {file.name for file in files}
        entries = [entry.name for entry in self._folder.iterdir() if entry.name[0] != "."]
        warn_of_foreign(self._folder, [name for name in entries if name not in known])
        self._by_name()

    @property
    def url(self) -> str:
        """Path of the folder."""
        return str(self._folder.absolute())

    def new_dataset(self, name: str, data: Source, dataset_metadata: Mapping[str, Any] | None = None) -> str:
        """Refused with a `ConfigError`: the folder is read only."""
        self._refuse(f"store {name!r}")

    def add_data(self, handle: str, data: Source, dataset_metadata: Mapping[str, Any] | None = None) -> str:
        """Refused with a `ConfigError`: the folder is read only."""
        self._refuse(f"add to {handle!r}")

    def update_data(
        self, handle: str, data: Source, dataset_metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Refused with a `ConfigError`: the folder is read only."""
        self._refuse(f"update {handle!r}")

    def delete_dataset(self, handle: str) -> None:
        """Refused with a `ConfigError`: the folder is read only."""
        self._refuse(f"delete {handle!r}")

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            f"cannot {what}: {self.url} is a folder of extxyz files, which is only read",
            fix="copy it: LocalStorage(...).new_dataset(name, folder_storage.get_data(handle))",
        )

    def _datasets(self, name: str | None) -> list[Dataset]:
        files = self._by_name()
        chosen = files if name is None else {name: files[name]} if name in files else {}
        return [self._dataset(stem, path) for stem, path in sorted(chosen.items())]

    def _dataset(self, stem: str, path: Path) -> Dataset:
        state = path.stat()
        key = (path, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        if key not in self._seen:
            entries, source = entries_of(path)
            ids = assign_ids(entries, {})
            self._seen[key] = Dataset(
                name=stem,
                version=0,
                size=len(entries),
                hash=content_hash(zip(ids, [e.content for e in entries], strict=True)),
                created=datetime.fromtimestamp(state.st_mtime, UTC).isoformat(timespec="seconds"),
                package_version=package_version(),
                source=source,
                parent=None,
                metadata={},
            )
        return self._seen[key]

    def _read(self, dataset: Dataset) -> list[Atoms]:
        entries, _ = entries_of(self._by_name()[dataset.name])
        for entry, name in zip(entries, assign_ids(entries, {}), strict=True):
            entry.frame.info[CONFIGURATION_ID] = name
        return [entry.frame for entry in entries]

    def _by_name(self) -> dict[str, Path]:
        paths: dict[str, Path] = {}
        for path in extxyz_files(self._folder):
            stem = without_compression(path)[0].stem
            if stem in paths:
                raise DataError(
                    f"{paths[stem].name} and {path.name} in {self._folder} would both be the dataset {stem!r}"
                )
            paths[stem] = path
        return paths


def extxyz_files(folder: Path) -> list[Path]:
    """Visible extxyz files of a folder, compressed ones too, by name."""
    return [
        entry
        for entry in sorted(folder.iterdir())
        if entry.is_file() and entry.name[0] != "." and without_compression(entry)[0].suffix in SUFFIXES
    ]
